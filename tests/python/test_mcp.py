"""An MCP server through the real server, called by the client of the same package."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx2
import mcp
import pytest
from harness.marks import rsgun_only
from harness.server import Server
from harness.waiting import DEADLINE
from mcp.client.streamable_http import streamable_http_client

pytestmark = rsgun_only

Serve = Callable[..., Server]

MODES = pytest.mark.parametrize("mode", ["auto", "legacy"])
"""One request for each call, as protocol versions from 2026 on have it; and sessions."""


def run(work: Awaitable[None]) -> None:
    asyncio.run(asyncio.wait_for(work, 2 * DEADLINE))  # type: ignore[arg-type]


@asynccontextmanager
async def client_for(server: Server, mode: str = "auto") -> AsyncIterator[mcp.Client]:
    # Without the proxy that the environment may name.
    async with httpx2.AsyncClient(trust_env=False, timeout=DEADLINE) as http:
        transport = streamable_http_client(f"{server.url}/mcp", http_client=http)
        async with mcp.Client(transport, mode=mode, read_timeout_seconds=DEADLINE) as client:
            yield client


@MODES
def test_tools_and_resources(shared: Serve, mode: str) -> None:
    async def work() -> None:
        async with client_for(server, mode) as client:
            names = {tool.name for tool in (await client.list_tools()).tools}
            assert names == {"add", "worker", "count", "seen", "forever"}
            answer = await client.call_tool("add", {"a": 2, "b": 40})
            assert answer.structured_content == {"result": 42}
            wrong = await client.call_tool("add", {"a": "two", "b": 40})
            assert wrong.is_error
            [text] = (await client.read_resource("text://greeting")).contents
            assert text.text == "Hello from rsgun\n" * 10_000

    server = shared("mcp_app:app")
    run(work())


@MODES
def test_every_report_arrives_by_itself(shared: Serve, mode: str) -> None:
    async def work() -> None:
        heard: list[tuple[float, float | None, str | None]] = []
        tasks = []

        async with client_for(server, mode) as client, client_for(server) as other:

            async def note(progress: float, total: float | None, message: str | None) -> None:
                heard.append((progress, total, message))
                tasks.append(asyncio.create_task(other.call_tool("seen")))

            arguments = {"to": 30, "waits": True}
            answer = await client.call_tool("count", arguments, progress_callback=note)
            await asyncio.gather(*tasks)
        assert answer.content[0].text == "counted to 30"
        assert heard == [(number, 30, f"at {number}") for number in range(1, 31)]

    server = shared("mcp_app:app")
    run(work())


@MODES
def test_a_call_that_nobody_wants_any_more_is_cancelled(shared: Serve, mode: str) -> None:
    async def work() -> None:
        begun = asyncio.Event()

        async def note(progress: float, *_: object) -> None:
            if progress == 5:
                begun.set()

        async with client_for(server, mode) as client:
            call = asyncio.create_task(client.call_tool("forever", progress_callback=note))
            await begun.wait()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await asyncio.to_thread(server.wait_for_line, "^mcp tool ended", since=since)
            # The client and its session are as good as before.
            answer = await client.call_tool("add", {"a": 1, "b": 2})
            assert answer.structured_content == {"result": 3}

    server = shared("mcp_app:app")
    since = server.output.mark()
    run(work())


def test_a_call_outlives_a_reload(serve: Serve) -> None:
    """The old worker ends its streams, while the next one takes new calls."""

    async def work() -> None:
        begun = asyncio.Event()

        async def note(*_: object) -> None:
            begun.set()

        async with client_for(server) as client:
            before = (await client.call_tool("worker")).structured_content
            call = asyncio.create_task(
                client.call_tool("count", {"to": 150}, progress_callback=note)
            )
            await begun.wait()
            server.send_signal(signal.SIGHUP)
            assert (await call).content[0].text == "counted to 150"
            await asyncio.to_thread(server.wait_for_generation, 2, 1)
            assert (await client.call_tool("worker")).structured_content != before

    server = serve("mcp_app:app")
    run(work())


def test_without_sessions_any_worker_answers(serve: Serve) -> None:
    async def work() -> None:
        workers = set()
        while len(workers) < 2:
            async with client_for(server, "legacy") as client:
                answer = await client.call_tool("add", {"a": 20, "b": 22})
                assert answer.structured_content == {"result": 42}
                workers.add((await client.call_tool("worker")).structured_content["result"])

    server = serve("mcp_app:json_app", "-w", "2")
    run(work())
