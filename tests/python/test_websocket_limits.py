"""Slow, silent, and many WebSockets: what they may cost."""

from __future__ import annotations

import asyncio
import re
import resource
import select
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from harness.clients import connect, run
from harness.frames import BINARY, CLOSE, PING, PONG, TEXT, Socket, frame
from harness.marks import rsgun_only
from harness.server import Server
from harness.waiting import DEADLINE, QUIET, eventually
from harness.wire import Connection

pytestmark = rsgun_only

Serve = Callable[..., Server]
KIBIBYTE = 1024


@pytest.fixture
def server(shared: Serve) -> Server:
    return shared("sockets:app")


# --- limits -----------------------------------------------------------------------


def test_send_waits_for_a_slow_client(server: Server) -> None:
    since = server.output.mark()
    with Socket.open(server.address, "/push?50000", receive_buffer=4096) as socket:
        server.wait_for_line("noted pushed 10$", since=since)

        def pushed() -> int:
            numbers = [line.split()[2] for line in server.lines(None, since) if "pushed" in line]
            return int(numbers[-1])

        def stalled() -> bool:
            before = pushed()
            select.select([], [], [], QUIET)
            return pushed() == before

        eventually(stalled, "the application waits")
        stopped_at = pushed()
        assert stopped_at < 500
        for _ in range(stopped_at + 20):
            assert len(socket.receive().payload) == 50_000
        eventually(lambda: pushed() > stopped_at, "the application goes on")


def test_slow_application_stops_reading(serve: Serve) -> None:
    server = serve("sockets:app", "--ws-max-queue", "4", "--ws-ping-interval", "0")
    message = frame(BINARY, bytes(50_000))
    with Socket.open(server.address, "/slow") as socket:
        taken = socket.connection.stalls(message, 200 * len(message))
        # The buffers of the system take some megabytes.
        assert taken < 190 * len(message)
        worker = server.workers()[0]
        assert resident(worker.pid) < 300 << 20
        # What was cut goes on where it was.
        rest = -taken % len(message)
        assert server.get("/go").text == "plain"
        if rest:
            socket.send(message[-rest:])
        count = -(-taken // len(message))
        assert [int(socket.receive().payload) for _ in range(count)] == list(range(1, count + 1))
        socket.close()


def test_pings_keep_a_silent_client(serve: Serve) -> None:
    server = serve("sockets:app", "--ws-ping-interval", "0.1", "--ws-ping-timeout", "60")
    with Socket.open(server.address) as socket:
        for _ in range(5):
            assert socket.receive().opcode == PING
            socket.send(frame(PONG))
        socket.close()


def test_client_that_does_not_answer_pings_is_dropped(serve: Serve) -> None:
    server = serve("sockets:app", "--ws-ping-interval", "0.1", "--ws-ping-timeout", "0.3")
    with Socket.open(server.address) as socket:
        assert socket.receive().opcode == PING
        found = socket.receive()
        assert (found.opcode, found.code) == (CLOSE, 1011)
        assert socket.ends()
    server.wait_for_line("noted disconnect 1006 no answer to a ping")


def test_slow_application_is_no_silent_client(serve: Serve) -> None:
    arguments = ("--ws-max-queue", "1", "--ws-ping-interval", "0.1", "--ws-ping-timeout", "0.1")
    server = serve("sockets:app", *arguments)
    # They are there before the first ping is due.
    early = frame(TEXT, b"x") * 3
    with Socket.open(server.address, "/slow", early=early) as socket:
        assert socket.connection.silent(1), "neither pinged nor dropped while it is not read"
        server.get("/go")
        received = [socket.receive() for _ in range(3)]
        assert [found.payload for found in received] == [b"1", b"2", b"3"]


def test_flood_of_pings_does_not_pile_up(serve: Serve) -> None:
    server = serve("sockets:app")
    with Socket.open(server.address, receive_buffer=4096) as socket:
        worker = server.workers()[0]
        before = resident(worker.pid)
        pings = frame(PING, bytes(125)) * 8_000
        assert socket.connection.stalls(pings, 40 * len(pings), DEADLINE) == 40 * len(pings)
        assert resident(worker.pid) - before < 8 << 20
        socket.send(frame(PING, b"last"))
        while (found := socket.receive()).payload != b"last":
            assert found.opcode == PONG
        socket.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--ws", "legacy"), "it is none of `auto`, `none`"),
        (("--ws-max-size", "0"), "is not a whole number from 1"),
        (("--ws-max-queue", "0"), "is not a whole number from 1"),
        (("--ws-ping-interval", "often"), "is not a number of seconds"),
        (("--ws-ping-timeout", "-1"), "is not a number of seconds"),
    ],
)
def test_wrong_settings(
    run: Callable[..., object], arguments: tuple[str, ...], message: str
) -> None:
    ended = run("sockets:app", *arguments)
    assert ended.returncode != 0  # type: ignore[attr-defined]
    assert message in ended.stderr  # type: ignore[attr-defined]


# --- many -------------------------------------------------------------------------


def test_broadcast(serve: Serve) -> None:
    server = serve("sockets:app", "--no-access-log")

    async def work() -> None:
        sockets = [await connect(server, "/room") for _ in range(200)]
        for number in range(10):
            await sockets[number].send(f"message {number} " + "x" * 200)
        for socket in sockets:
            found = [(await socket.recv())[:9] for _ in range(10)]
            assert sorted(found) == [f"message {number}" for number in range(10)]
        await asyncio.gather(*(socket.close() for socket in sockets))

    run(work())


def resident(pid: int) -> int:
    """Bytes of memory that a process occupies."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.search(r"^Rss:\s+(\d+) kB", text, re.MULTILINE)
    assert found
    return int(found[1]) * KIBIBYTE


def test_memory_of_idle_connections(serve: Serve) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 5_000
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, wanted + 500), hard), hard))
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    count = max(500, min(wanted, limit - 300))
    server = serve("sockets:app", "--no-access-log", "--ws-ping-interval", "0")
    sockets: list[Socket] = []

    def more(number: int) -> None:
        for _ in range(number):
            offer = [("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits")]
            sockets.append(Socket.open(server.address, headers=offer))

    try:
        more(200)
        worker = server.workers()[0]
        before = resident(worker.pid)
        more(count)
        each = (resident(worker.pid) - before) / count
        print(f"{each / KIBIBYTE:.1f} KiB for each of {count} idle connections")
        assert each < 12 * KIBIBYTE
        sockets[-1].text("still here")
        assert sockets[-1].receive().payload == b"still here"
    finally:
        for socket in sockets:
            socket.connection.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_plain_requests_are_served_beside(server: Server) -> None:
    with Socket.open(server.address) as socket:
        assert httpx.get(server.url + "/", trust_env=False).text == "plain"
        with Connection.open(server.address) as connection:
            assert connection.get("/").text == "plain"
        socket.close()
