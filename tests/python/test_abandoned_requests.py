"""`--cancel-on-disconnect`: requests whose clients have left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from harness.marks import rsgun_only
from harness.server import Server
from harness.target import environment_for, supported

pytestmark = rsgun_only

Start = Callable[..., Server]

APP = """
import asyncio
from contextlib import suppress

async def later():
    await asyncio.sleep(0.05)
    print("background done", flush=True)

async def app(scope, receive, send):
    if scope["type"] != "http":
        raise NotImplementedError
    path = scope["path"][1:]
    print("start", path, flush=True)
    head = {"type": "http.response.start", "status": 200, "headers": []}
    try:
        if path == "stream":
            await send(head)
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
        if path == "background":
            await send(head)
            await send({"type": "http.response.body", "body": b"answered"})
            await later()
            return
        if path != "quick":
            await asyncio.sleep(30 if path != "short" else 0.3)
    except asyncio.CancelledError:
        print("cancelled", path, flush=True)
        if path == "stubborn":
            await asyncio.sleep(0)
            print("cleaned up", flush=True)
            return
        raise
    print("end", path, flush=True)
    with suppress(OSError):
        await send(head)
        await send({"type": "http.response.body", "body": b"done"})
"""


@pytest.fixture(params=supported(), ids=lambda version: f"python{version[0]}.{version[1]}")
def start(
    request: pytest.FixtureRequest, serve: Callable[..., Server], tmp_path: Path
) -> Callable[..., Server]:
    """Starts the application with each Python: tasks begin in another way from 3.12 on."""
    (tmp_path / "main.py").write_text(APP)

    def begin(*arguments: str) -> Server:
        python = environment_for(request.param)
        return serve("main:app", "--app-dir", str(tmp_path), *arguments, python=python)

    return begin


@pytest.mark.timeout(600)
@pytest.mark.parametrize("path", ["sleep", "stream", "stubborn"])
def test_a_request_is_cancelled_when_its_client_leaves(start: Start, path: str) -> None:
    server = start("--cancel-on-disconnect")
    connection = server.connect()
    connection.request(f"/{path}")
    server.wait_for_line(f"^start {path}$")
    connection.close()
    server.wait_for_line(f"^cancelled {path}$")
    if path == "sleep":
        server.wait_for_line(r'"GET /sleep HTTP/1.1" 499$')
    if path == "stubborn":
        server.wait_for_line("^cleaned up$")
    assert server.get("/quick").text == "done"
    assert server.stop() == 0
    assert not [line for line in server.lines("stderr") if "exception" in line]


# More than is read ahead of the application, but all of it gets into the server's socket:
# what does not would hold up the end of the connection.
UNREAD = {
    "incomplete": b"Content-Length: 1000\r\n\r\nabc",
    "complete": b"Content-Length: 150000\r\n\r\n" + bytes(150_000),
    "unfinished": b"Content-Length: 9000000\r\n\r\n" + bytes(150_000),
    "expected": b"Content-Length: 1000\r\nExpect: 100-continue\r\n\r\n",
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("body", UNREAD)
def test_whose_body_was_not_read(start: Start, body: str) -> None:
    server = start("--cancel-on-disconnect")
    with server.connect() as connection:
        connection.send(b"POST /sleep HTTP/1.1\r\nHost: test\r\n" + UNREAD[body])
        server.wait_for_line("^start sleep$")
    server.wait_for_line("^cancelled sleep$")
    assert server.get("/quick").text == "done"


@pytest.mark.timeout(600)
def test_a_client_that_left_before_its_request_began(start: Start) -> None:
    server = start("--cancel-on-disconnect")
    for _ in range(20):
        with server.connect() as connection:
            connection.request("/sleep")
    with server.connect() as connection:
        connection.request("/sleep")
        connection.finish_sending()
    assert server.get("/quick").text == "done"
    # Nothing is left that a stop would have to wait for.
    assert server.stop(deadline=10) == 0
    started = server.lines("stdout").count("start sleep")
    assert server.lines("stdout").count("cancelled sleep") == started


@pytest.mark.timeout(600)
def test_what_is_answered_goes_on(start: Start) -> None:
    server = start("--cancel-on-disconnect")
    with server.connect() as connection:
        assert connection.get("/background").text == "answered"
    server.wait_for_line("^background done$")


@pytest.mark.timeout(600)
def test_nobody_is_cancelled_who_has_not_asked(start: Start) -> None:
    server = start()
    with server.connect() as connection:
        connection.request("/short")
        server.wait_for_line("^start short$")
    server.wait_for_line("^end short$")
    assert "cancelled short" not in server.lines()
