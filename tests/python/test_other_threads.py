"""`receive()` and `send()` are called on another thread and awaited on the event loop's.

It is what `async_to_sync` of asgiref does, and so every adapter for WSGI in ASGI.
"""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest
from harness.frames import TEXT, Socket
from harness.server import Server
from harness.waiting import DEADLINE

Serve = Callable[..., Server]


@pytest.fixture
def server(shared: Serve) -> Server:
    return shared("threads:app")


def post(server: Server, path: str, body: bytes) -> str:
    answer = httpx.post(server.url + path, content=body, timeout=DEADLINE, trust_env=False)
    assert answer.status_code == 200
    return answer.text


@pytest.mark.parametrize("length", [0, 10, 3_000_000])
def test_requests(server: Server, length: int) -> None:
    assert post(server, "/", b"x" * length) == "x" * length


def test_wsgi_in_asgi(server: Server) -> None:
    assert post(server, "/wsgi", b"0123456789" * 20_000) == "0123456789 of 200000"


def test_coroutines_that_are_handed_over(server: Server) -> None:
    assert post(server, "/hand-over", b"body") == "body"


def test_websocket(server: Server) -> None:
    since = server.output.mark()
    with Socket.open(server.address) as socket:
        for text in ("one", "two", "x" * 100_000):
            socket.text(text)
            found = socket.receive()
            assert (found.opcode, found.payload.decode()) == (TEXT, text)
        socket.close(4000)
    server.wait_for_line("^noted disconnect 4000", since=since)


def test_awaiting_on_another_event_loop_fails_and_takes_nothing(server: Server) -> None:
    answer = post(server, "/elsewhere", b"body")
    assert "belong to the event loop's thread" in answer
    assert answer.endswith(": body")
