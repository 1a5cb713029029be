"""Frameworks that push: Socket.IO, GraphQL subscriptions, events, tokens, NiceGUI."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
import socketio
import websockets.asyncio.client as websockets
from harness.browser import Browser, needs_browser
from harness.clients import client_for, run
from harness.marks import rsgun_only
from harness.server import Server
from harness.waiting import DEADLINE, eventually
from socketio.exceptions import ConnectionError as Refused

pytestmark = rsgun_only

Serve = Callable[..., Server]


async def leave(server: Server, client: socketio.AsyncClient) -> None:
    """Disconnects in order, but does not sit out the poll that is still open then."""
    since = server.output.mark()
    leaving = asyncio.ensure_future(client.disconnect())
    await asyncio.to_thread(server.wait_for_line, "^socketio disconnect ", since=since)
    await client.eio.disconnect(abort=True)
    await leaving


IMPATIENT = ("--graceful-timeout", "1")
"""engine.io forgets the poll of a client that leaves: it ends after 45 seconds."""


class TestSocketIO:
    @pytest.mark.parametrize(
        ("transports", "ends_as"),
        [(["polling"], "polling"), (["websocket"], "websocket"), (None, "websocket")],
        ids=["polling", "websocket", "upgrade"],
    )
    def test_events(self, shared: Serve, transports: list[str] | None, ends_as: str) -> None:
        server = shared("socketio_app:app", *IMPATIENT)

        async def work() -> None:
            client = socketio.AsyncClient()
            counted: list[int] = []
            done = asyncio.Event()

            @client.on("counted")
            async def note(number: int) -> None:
                counted.append(number)
                if number == count - 1:
                    done.set()

            await client.connect(server.url, transports=transports, auth="me")
            assert client.transport() == ends_as
            for data in ("text", {"a": [1, "grün"]}, b"\0\xff", {"file": b"x" * 100_000}):
                assert await client.call("echo", data) == data
            await client.emit("count", count)
            await done.wait()
            assert counted == list(range(count))
            await leave(server, client)

        # The client takes at most 16 packets from an answer to a poll.
        count = 200 if ends_as == "websocket" else 10
        since = server.output.mark()
        run(work())
        server.wait_for_line("^socketio connect me (http|websocket)$", since=since)

    def test_room(self, shared: Serve) -> None:
        server = shared("socketio_app:app", *IMPATIENT)

        async def work() -> None:
            heard: list[asyncio.Future[str]] = []
            clients = []
            for transports in (["websocket"], ["polling"], None):
                client = socketio.AsyncClient()
                said = asyncio.get_running_loop().create_future()
                client.on("said", said.set_result)
                await client.connect(server.url, transports=transports)
                await client.call("join", "room")
                clients.append(client)
                heard.append(said)
            await clients[0].emit("say", ("room", "hello"))
            assert await asyncio.gather(*heard[1:]) == ["hello", "hello"]
            assert not heard[0].done()
            for client in clients:
                await leave(server, client)

        run(work())

    def test_refused_connection(self, shared: Serve) -> None:
        server = shared("socketio_app:app", *IMPATIENT)

        async def work() -> None:
            client = socketio.AsyncClient()
            with pytest.raises(Refused):
                await client.connect(server.url, auth="nobody", retry=False)
            await client.shutdown()

        run(work())

    def test_client_comes_back_after_a_reload(self, serve: Serve) -> None:
        server = serve("socketio_app:app")

        async def work() -> None:
            client = socketio.AsyncClient(reconnection_delay=0.1, reconnection_delay_max=0.5)
            await client.connect(server.url)
            before = await client.call("worker")
            again = asyncio.Event()
            client.on("connect", again.set)
            server.send_signal(signal.SIGHUP)
            await again.wait()
            assert await client.call("worker") != before
            await leave(server, client)

        run(work())
        server.wait_for_generation(2, 1)


class TestGraphQL:
    @pytest.fixture
    def server(self, shared: Serve) -> Server:
        return shared("graphql_app:app")

    def test_query(self, server: Server) -> None:
        with client_for(server) as client:
            answer = client.post("/", json={"query": '{ hello(name: "Ada") }'}).json()
        assert answer == {"data": {"hello": "Hello Ada"}}

    def connect(self, server: Server) -> websockets.connect:
        url = server.url.replace("http", "ws", 1)
        return websockets.connect(url, subprotocols=["graphql-transport-ws"], proxy=None)

    async def begin(self, socket: websockets.ClientConnection, *queries: str) -> None:
        """Initializes the connection and subscribes; the ids count from 1."""
        assert socket.subprotocol == "graphql-transport-ws"
        await socket.send(json.dumps({"type": "connection_init"}))
        assert json.loads(await socket.recv())["type"] == "connection_ack"
        for number, query in enumerate(queries, 1):
            message = {"id": str(number), "type": "subscribe", "payload": {"query": query}}
            await socket.send(json.dumps(message))

    def test_subscriptions(self, server: Server) -> None:
        async def work() -> None:
            async with self.connect(server) as socket:
                query = "subscription { count(upTo: 100) }"
                await self.begin(socket, query, query)
                found: dict[str, list[int]] = {"1": [], "2": []}
                open_ones = set(found)
                while open_ones:
                    message = json.loads(await socket.recv())
                    if message["type"] == "complete":
                        open_ones.discard(message["id"])
                    else:
                        found[message["id"]].append(message["payload"]["data"]["count"])
                assert found == {"1": list(range(100)), "2": list(range(100))}
                await socket.send(json.dumps({"type": "ping"}))
                assert json.loads(await socket.recv())["type"] == "pong"

        run(work())

    @pytest.mark.parametrize("leaves", [False, True], ids=["completed", "left"])
    def test_endless_subscription_ends(self, server: Server, leaves: bool) -> None:
        async def work() -> None:
            async with self.connect(server) as socket:
                await self.begin(socket, "subscription { forever }")
                for number in range(5):
                    message = json.loads(await socket.recv())
                    assert message["payload"]["data"]["forever"] == number
                if not leaves:
                    await socket.send(json.dumps({"id": "1", "type": "complete"}))
                    await asyncio.to_thread(
                        server.wait_for_line, "^graphql subscription ended", since=since
                    )

        since = server.output.mark()
        run(work())
        server.wait_for_line("^graphql subscription ended", since=since)


class TestServerSentEvents:
    def test_every_event_arrives_by_itself(self, shared: Serve) -> None:
        server = shared("streams:app")
        since = server.output.mark()
        with client_for(server) as client, client_for(server) as other:
            with client.stream("GET", "/events") as response:
                assert response.headers["content-type"].startswith("text/event-stream")
                lines = response.iter_lines()
                for number in range(20):
                    event = [next(lines) for _ in range(4)]
                    assert event == [f"id: {number}", "event: number", f"data: {number}", ""]
                    other.get("/seen")
            server.wait_for_line("^events ended", since=since)

    def test_pings(self, shared: Serve) -> None:
        server = shared("streams:app")
        with client_for(server) as client, client.stream("GET", "/events?ping=1") as response:
            assert next(line for line in response.iter_lines() if line.startswith(": ping"))

    def test_a_stop_ends_streams_at_once(self, serve: Serve) -> None:
        """As under uvicorn, and with the end that their clients expect."""
        server = serve("streams:app", "--graceful-timeout", "300")
        with client_for(server) as client, client.stream("GET", "/events") as response:
            lines = response.iter_lines()
            assert next(lines) == "id: 0"
            server.send_signal(signal.SIGTERM)
            assert list(lines)[-1] == ""
            assert server.wait() == 0
        assert "events ended" in server.lines("stdout")

    def test_a_stop_ends_streams_without_events(self, serve: Serve) -> None:
        server = serve("streams:app", "--graceful-timeout", "300")
        with server.connect() as connection:
            connection.request("/events?silent=1")
            server.wait_for_line("^events begun$", stream="stdout")
            server.send_signal(signal.SIGTERM)
            response = connection.response()
            assert (response.status, response.body) == (200, b"")
            assert server.wait() == 0
        assert "events ended" in server.lines("stdout")
        assert not [line for line in server.lines("stderr") if line.startswith("ERROR")]

    def test_a_reload_ends_streams_in_time(self, serve: Serve) -> None:
        server = serve("streams:app", "--graceful-timeout", "20")
        with client_for(server) as client, client.stream("GET", "/events") as response:
            lines = response.iter_lines()
            assert next(lines) == "id: 0"
            server.send_signal(signal.SIGHUP)
            assert list(lines)[-1] == ""
        server.wait_for_generation(2, 1)
        assert "events ended" in server.lines("stdout")
        # Those of the next generation last.
        with client_for(server) as client, client.stream("GET", "/events?ping=1") as response:
            assert next(line for line in response.iter_lines() if line.startswith(": ping"))

    def test_other_streams_have_the_graceful_timeout(self, serve: Serve) -> None:
        server = serve("streams:app", "--graceful-timeout", "1")
        with client_for(server) as client, client.stream("GET", "/feed") as response:
            lines = response.iter_lines()
            assert next(lines) == ": hello"
            server.send_signal(signal.SIGTERM)
            with pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked read"):
                list(lines)
            assert server.wait() == 0
        assert "feed ended" in server.lines("stdout")


class TestTokens:
    """Answers of a language model: many small parts, with pauses, for a long time."""

    def test_every_token_arrives_by_itself(self, shared: Serve) -> None:
        server = shared("streams:app")
        with (
            client_for(server) as client,
            client_for(server) as other,
            client.stream("GET", "/completion?tokens=50&waits=true") as response,
        ):
            for number, token in enumerate(tokens(response)):
                assert token["token"] == f" word{number}"
                other.get("/seen")
            assert number == 49

    def test_stream_outlives_a_reload(self, serve: Serve, tmp_path: Path) -> None:
        """What takes a language model ten minutes, in seconds: 600 pauses."""
        server = serve("streams:app")
        until = tmp_path / "enough"
        with client_for(server) as client:
            query = {"tokens": 600, "pause": 0.005, "until": str(until)}
            with client.stream("GET", "/completion", params=query) as response:
                stream = tokens(response)
                first = next(stream)
                server.send_signal(signal.SIGHUP)
                # The next generation answers, and the old one still streams.
                eventually(lambda: int(server.get("/worker").body) != first["worker"], "reload")
                until.touch()
                rest = list(stream)
        found = [first, *rest]
        assert len(found) >= 600
        assert found == [
            {"token": f" word{number}", "worker": first["worker"]} for number in range(len(found))
        ]
        server.wait_for_generation(2, 1)

    def test_streams_that_wait_end_with_their_clients(self, serve: Serve) -> None:
        """Without any further event, by which they would notice it; so none holds up a stop."""
        server = serve("streams:app", "--graceful-timeout", "300")
        with ExitStack() as clients:
            for _ in range(5):
                connection = clients.enter_context(server.connect())
                connection.request("/feed")
                assert connection.head().status == 200
        eventually(lambda: server.lines("stdout").count("feed ended") == 5, "the ends")
        assert server.stop() == 0
        assert not [line for line in server.lines() if line.startswith("reported")]

    @pytest.mark.parametrize("path", ["/flood", "/completion?tokens=1000000&pause=0.001"])
    def test_a_client_that_leaves_is_no_error(self, serve: Serve, path: str) -> None:
        server = serve("streams:app", "--graceful-timeout", "300")
        for _ in range(5):
            with server.connect() as connection:
                connection.request(path)
                assert connection.head().status == 200
                connection.receive()
        assert server.stop() == 0
        assert not [line for line in server.lines() if line.startswith("reported")]

    def test_many_streams(self, serve: Serve) -> None:
        server = serve("streams:app", "-w", "2")
        count, length = 60, 100

        async def one(client: httpx.AsyncClient) -> int:
            query = {"tokens": length, "pause": 0.01}
            async with client.stream("GET", "/completion", params=query) as response:
                lines = [line async for line in response.aiter_lines() if line]
            assert lines[-1] == "data: [DONE]"
            return len(lines) - 1

        async def work() -> None:
            limits = httpx.Limits(max_connections=count)
            async with httpx.AsyncClient(
                base_url=server.url, timeout=DEADLINE, trust_env=False, limits=limits
            ) as client:
                found = await asyncio.gather(*(one(client) for _ in range(count)))
            assert found == [length] * count

        run(work())


def tokens(response: httpx.Response) -> Iterator[dict[str, object]]:
    """The tokens of a completion, which must be complete."""
    for line in response.iter_lines():
        if line == "data: [DONE]":
            return
        if line:
            yield json.loads(line.removeprefix("data: "))
    raise AssertionError("the end of the answer is missing")


@needs_browser
@pytest.mark.timeout(180)
class TestNiceGUI:
    """A page whose state is the server's, as in Dash and Streamlit, in a browser."""

    def test_page(self, browser: Browser, serve: Serve) -> None:
        server = serve("nicegui_app:app")
        text = "document.body?.innerText"
        with browser.open(server.url) as page:
            worker = page.eventually(f"{text}.match(/worker [0-9]+/)?.[0]", "the page")
            for number in range(1, 6):
                page.run("[...document.querySelectorAll('button')].at(-1).click()")
                page.eventually(f"{text}.includes('{number} clicks')", "the answer to a click")
            page.eventually(f"parseInt({text}.match(/([0-9]+) ticks/)?.[1]) > 20", "the timer")
            # The state went with its worker: the page finds the next one and begins anew.
            server.send_signal(signal.SIGHUP)
            found = f"{text}.match(/worker [0-9]+/)?.[0]"
            page.eventually(f"{found} && {found} !== '{worker}' && {found}", "another worker")
            page.eventually(f"{text}.includes('0 clicks')", "the new page")
