"""WebSockets of a worker that ends: applications and clients are told."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import pytest
from harness.frames import CLOSE, PING, PONG, TEXT, Socket, closing, frame
from harness.marks import rsgun_only
from harness.server import Server

pytestmark = rsgun_only

Serve = Callable[..., Server]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 1001), (signal.SIGHUP, 1012)], ids=["stop", "reload"]
)
def test_worker_that_drains(serve: Serve, number: int, code: int) -> None:
    server = serve("sockets:app")
    with Socket.open(server.address, "/lingering") as socket:
        server.send_signal(number)
        found = socket.receive()
        assert (found.opcode, found.code) == (CLOSE, code)
        server.wait_for_line(f"noted told {code}")
        socket.send(closing(code))
        assert socket.ends()
    server.wait_for_line("noted lifespan shutdown")
    lines = [line for line in server.lines("stdout") if line.startswith("noted")]
    assert lines == [f"noted told {code}", "noted cleaned up", "noted lifespan shutdown"]
    if number == signal.SIGHUP:
        with Socket.open(server.address) as socket:
            socket.text("the new one")
            assert socket.receive().payload == b"the new one"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=["stop", "reload"])
def test_the_application_is_told_before_the_client(serve: Serve, number: int) -> None:
    server = serve("sockets:app")
    with Socket.open(server.address, "/blocking") as socket:
        server.send_signal(number)
        found = socket.receive()
        assert found.opcode == CLOSE
        closed = time.monotonic()
        told = server.wait_for_line(r"^noted blocks (\S+)$")
        assert closed - float(told[1]) > 0.9
        socket.send(closing(found.code))
        assert socket.ends()


def test_messages_that_wait_are_answered_before_the_drain(serve: Serve) -> None:
    server = serve("sockets:app")
    with Socket.open(server.address, "/slow") as socket:
        socket.send(*[frame(TEXT, b"x")] * 5, frame(PING))
        assert socket.receive().opcode == PONG
        with server.connect() as connection:
            # The worker finds the order and the request at the same moment: it gives an
            # application that does not ask for its messages two seconds.
            (worker,) = server.workers()
            worker.send_signal(signal.SIGSTOP)
            server.send_signal(signal.SIGTERM)
            server.wait_for_line("Shutting down")
            connection.request("/go")
            worker.send_signal(signal.SIGCONT)
            assert connection.response().status == 200
        assert [socket.receive().payload for _ in range(5)] == [b"1", b"2", b"3", b"4", b"5"]
        assert socket.receive().code == 1001
        socket.send(closing(1001))
        assert socket.ends()
    assert server.wait() == 0


def test_drain_does_not_wait_for_ever(serve: Serve) -> None:
    server = serve("sockets:app", "--graceful-timeout", "1")
    with Socket.open(server.address, "/stubborn") as socket:
        server.send_signal(signal.SIGTERM)
        assert socket.receive().code == 1001
        assert server.wait(8) == 0
    lines = [line for line in server.lines("stdout") if line.startswith("noted")]
    assert lines == ["noted cancelled", "noted lifespan shutdown"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_quick_stop_closes_at_once(serve: Serve, number: int) -> None:
    server = serve("sockets:app")
    with (
        Socket.open(server.address, "/stubborn") as one,
        Socket.open(server.address) as other,
    ):
        start = time.monotonic()
        server.send_signal(number)
        for socket in (one, other):
            assert socket.receive().code == 1001
            assert socket.ends()
        assert server.wait() == 0
        # Nobody has answered the close frame, and nobody is waited for.
        assert time.monotonic() - start < 4
