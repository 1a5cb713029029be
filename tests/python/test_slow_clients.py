"""Clients that take their time, over an answer or over a request."""

from __future__ import annotations

import select
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from apps.large import body
from harness.server import Server
from harness.waiting import DEADLINE, eventually
from harness.wire import Connection

Serve = Callable[..., Server]

SIZE = 20_000_000
APPS = ["large:asgi", "large:wsgi"]


def let_pass(seconds: float) -> None:
    """Waits while nothing is to happen."""
    until = time.monotonic() + seconds
    eventually(lambda: time.monotonic() >= until, "time passes")


def begin(server: Server, path: str, version: str = "1.1") -> Connection:
    """Asks, and takes only the first bytes of the answer."""
    connection = Connection.open(server.address, receive_buffer=65536)
    connection.send(f"GET {path} HTTP/{version}\r\nHost: test\r\n\r\n".encode())
    connection.peeked = connection.receive()
    return connection


def finish(connection: Connection) -> bytes:
    """Takes the rest of the answer; returns its body."""
    received = connection.peeked
    length = int(received.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    head = received.index(b"\r\n\r\n") + 4
    parts = [received]
    missing = head + length - len(received)
    while missing > 0 and (data := connection.receive()):
        parts.append(data)
        missing -= len(data)
    return b"".join(parts)[head:]


def wait_for_reset(connection: Connection) -> None:
    """Waits until the connection has been reset, and takes nothing of what came before."""
    poll = select.poll()
    # An error is always reported.
    poll.register(connection.socket, 0)
    assert poll.poll(DEADLINE * 1000), "it is not reset"


def take_all(connection: Connection, taken: list[int]) -> None:
    """Reads to the end of the stream; notes how many bytes come each time."""
    while data := connection.receive():
        taken.append(len(data))


@pytest.mark.parametrize("app", APPS)
class TestAnswer:
    """A large answer arrives whole, however slowly the client takes it."""

    def test_without_keep_alive(self, serve: Serve, app: str) -> None:
        server = serve(app, "--keep-alive", "0")
        with begin(server, f"/{SIZE}") as connection:
            assert finish(connection) == body(SIZE)
            assert connection.ended()

    def test_beyond_the_keep_alive_time(self, serve: Serve, app: str) -> None:
        server = serve(app, "--keep-alive", "1")
        with begin(server, f"/{SIZE}") as connection:
            let_pass(2.5)
            # Most of it has not been sent yet. From its end on it counts as idle.
            began = time.monotonic()
            assert finish(connection) == body(SIZE)
            assert connection.ended()
            assert time.monotonic() - began >= 1

    @pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM], ids=["HUP", "TERM"])
    def test_when_the_worker_stops(self, serve: Serve, app: str, number: int) -> None:
        server = serve(app)
        with begin(server, f"/{SIZE}") as connection:
            since = server.output.mark()
            server.send_signal(number)
            said = "Reloading" if number == signal.SIGHUP else "Shutting down"
            server.wait_for_line(said, since=since)
            let_pass(3)
            assert finish(connection) == body(SIZE)
        if number == signal.SIGTERM:
            assert server.wait() == 0

    def test_the_end_of_a_stream(self, serve: Serve, app: str) -> None:
        server = serve(app, "--keep-alive", "1")
        with begin(server, f"/stream/{SIZE}") as connection:
            let_pass(2.5)
            received = connection.peeked
            parts = [received]
            while not parts[-1].endswith(b"0\r\n\r\n"):
                parts.append(connection.receive())
                assert parts[-1], "the stream breaks off"
            size = sum(map(len, parts))
            assert size > SIZE


def test_an_upload_that_is_not_wanted(serve: Serve, tmp_path: Path) -> None:
    """The client is in the middle of it when it is answered, and reads that afterwards."""
    (tmp_path / "main.py").write_text(
        """
async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 413, "headers": []})
        await send({"type": "http.response.body", "body": b"too large"})
"""
    )
    server = serve("main:app", "--app-dir", str(tmp_path))

    def arrives() -> bool:
        with server.connect() as connection:
            connection.send(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5000000\r\n\r\n")
            try:
                for _ in range(10):
                    let_pass(0.3)
                    connection.send(bytes(500_000))
                response = connection.response()
            except ConnectionError:
                return False
        assert (response.status, response.body) == (413, b"too large")
        return True

    # The server waits a second for more of it; a machine that stands still is longer silent.
    assert any(arrives() for _ in range(3))


def test_waits_that_are_cancelled_leave_nothing_behind(serve: Serve, tmp_path: Path) -> None:
    """As those of Starlette's ``request.is_disconnected()`` in the loop of a stream."""
    (tmp_path / "main.py").write_text(
        """
import asyncio
import gc

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    await receive()
    before = sum(isinstance(thing, asyncio.Future) for thing in gc.get_objects())
    for _ in range(1000):
        waits = asyncio.ensure_future(receive())
        await asyncio.sleep(0)
        waits.cancel()
        await asyncio.wait([waits])
    del waits
    gc.collect()
    after = sum(isinstance(thing, asyncio.Future) for thing in gc.get_objects())
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"%d" % (after - before)})
"""
    )
    server = serve("main:app", "--app-dir", str(tmp_path), "--loop", "asyncio")
    assert int(server.get("/").body) < 10


@pytest.mark.parametrize("app", APPS)
class TestTimeout:
    """A client that does nothing is given up on after --client-timeout."""

    def test_one_that_takes_nothing_is_reset(self, serve: Serve, app: str) -> None:
        server = serve(app, "--client-timeout", "1")
        with begin(server, f"/{SIZE}") as connection:
            wait_for_reset(connection)
            taken: list[int] = []
            with pytest.raises(ConnectionResetError):
                take_all(connection, taken)
            assert sum(taken) < SIZE

    def test_one_that_takes_it_slowly_is_not(self, serve: Serve, app: str) -> None:
        server = serve(app, "--client-timeout", "6")
        with begin(server, f"/{SIZE}") as connection:
            taken = len(connection.peeked)
            for _ in range(7):
                let_pass(1)
                until = taken + 2_000_000
                while taken < until:
                    data = connection.receive()
                    assert data, f"the answer breaks off after {taken} bytes"
                    taken += len(data)

    def test_a_stream_that_breaks_off_does_not_look_complete(self, serve: Serve, app: str) -> None:
        """Under HTTP/1.0 only the end of the connection tells the end (RFC 9112, 6.3)."""
        server = serve(app, "--client-timeout", "1")
        with begin(server, f"/stream/{SIZE}", "1.0") as connection:
            wait_for_reset(connection)
            with pytest.raises(ConnectionResetError):
                take_all(connection, [])

    @pytest.mark.parametrize(
        "framing", ["Content-Length: 10\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n3\r\nabc"]
    )
    def test_a_body_that_does_not_come_is_408(self, serve: Serve, app: str, framing: str) -> None:
        server = serve(app, "--client-timeout", "1")
        with server.connect() as connection:
            connection.send(f"POST /echo HTTP/1.1\r\nHost: test\r\n{framing}".encode())
            response = connection.response()
            assert (response.status, response.closes) == (408, True)
            assert connection.ended()
        server.wait_for_line('"POST /echo HTTP/1.1" 408 Request Timeout')
        if app == "large:asgi":
            server.wait_for_line("the client has left")

    def test_a_head_that_does_not_end(self, serve: Serve, app: str) -> None:
        server = serve(app, "--client-timeout", "1", "--keep-alive", "1")
        with server.connect() as connection:
            connection.send(b"GET / HTTP/1.1\r\nHost: te")
            assert connection.ended()

    def test_the_application_may_take_longer(self, serve: Serve, app: str) -> None:
        """Neither an upload that is complete nor an idle connection is the client's delay."""
        server = serve(app, "--client-timeout", "1", "--keep-alive", "60")
        with server.connect() as connection:
            connection.send(b"POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\n\r\nabc")
            assert connection.response().body == b"abc"
            let_pass(2.5)
            assert connection.get("/5").body == body(5)
