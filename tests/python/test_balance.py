"""Connections are shared fairly among the workers, and none waits for a busy one."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from harness.load import Load, nothing_lost, under_load, until
from harness.marks import rsgun_only
from harness.server import Server, port_is_free
from harness.sources import versioned
from harness.streams import answer
from harness.waiting import eventually, wait_gone
from harness.wire import Connection

pytestmark = rsgun_only

Serve = Callable[..., Server]
Module = Callable[[str, str], Path]
Start = Callable[..., Server]

APP = """
import os
import time


async def app(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError("only http")
    if scope["path"] == "/block":
        print("blocked", os.getpid(), flush=True)
        while not os.path.exists("released"):
            time.sleep(0.02)
    if scope["path"] == "/work":
        end = time.perf_counter() + 0.0003
        while time.perf_counter() < end:
            pass
    body = str(os.getpid()).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""

MANNERS = pytest.mark.parametrize(
    "manner", [(), ("--reuse-port",)], ids=["one queue", "reuse-port"]
)


@pytest.fixture
def start(serve: Serve, module: Module, tmp_path: Path) -> Start:
    def begin(workers: int, *arguments: str) -> Server:
        module("main", APP)
        server = serve(
            "main:app",
            *("--app-dir", str(tmp_path), "-w", str(workers), "-t", "0", "--no-access-log"),
            *arguments,
        )
        server.wait_for_workers(workers)
        return server

    return begin


RATE = 10
"""Requests per second of each client: few enough for any machine, so that it is not its
scheduler that decides which worker answers how many."""


async def requests_of_each(port: int, clients: int, each: int) -> tuple[Counter[str], Counter[str]]:
    """How many of the clients, which keep their connections, and of their requests each
    worker has."""
    connections: Counter[str] = Counter()
    requests: Counter[str] = Counter()

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(each):
            writer.write(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
            worker = (await answer(reader))[1].decode()
            requests[worker] += 1
            await asyncio.sleep(1 / RATE)
        connections[worker] += 1
        writer.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())
    return connections, requests


@MANNERS
def test_keep_alive_clients_are_shared_fairly(start: Start, manner: tuple[str, ...]) -> None:
    """40 clients, 4 workers: the busiest answers at most 1.3 times what the idlest does."""
    server = start(4, *manner)
    total: Counter[str] = Counter()
    for _ in range(5):
        connections, requests = asyncio.run(requests_of_each(server.port, 40, 10))
        print(connections, requests)
        # One that the machine holds up while they come has fewer of this round.
        assert len(connections) == 4
        assert all(7 <= count <= 13 for count in connections.values()), connections
        total += requests
    assert max(total.values()) <= 1.3 * min(total.values()), total


async def rounds_until_all_are_served(port: int, busy: int, newcomers: int) -> float:
    """How many answers each of the clients that are there and ask without a pause has got
    when the last of those that come at once has its first one."""
    answers = 0
    first = asyncio.Event()

    async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"GET /work HTTP/1.1\r\nHost: test\r\n\r\n")
        await answer(reader)

    async def client() -> None:
        nonlocal answers
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            while True:
                await ask(reader, writer)
                answers += 1
                if answers >= 5 * busy:
                    first.set()
        finally:
            writer.close()

    async def newcomer() -> asyncio.StreamWriter:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await ask(reader, writer)
        return writer

    clients = [asyncio.create_task(client()) for _ in range(busy)]
    await asyncio.wait_for(first.wait(), 30)
    before = answers
    opened = await asyncio.wait_for(asyncio.gather(*(newcomer() for _ in range(newcomers))), 30)
    rounds = (answers - before) / busy
    for task in clients:
        task.cancel()
    await asyncio.gather(*clients, return_exceptions=True)
    for writer in opened:
        writer.close()
    return rounds


def test_a_burst_is_let_in_within_few_rounds(start: Start) -> None:
    """48 clients that come at once while two workers are under load by 32: one connection
    in each round of the event loops would need a dozen rounds and more."""
    server = start(2)
    rounds = [asyncio.run(rounds_until_all_are_served(server.port, 32, 48)) for _ in range(5)]
    print(rounds)
    assert sorted(rounds)[2] <= 6, rounds


BUSY = """
import os
import time


def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/hold":
        print("holds", os.getpid(), flush=True)
        while not os.path.exists("released"):
            time.sleep(0.02)
    start_response("200 OK", [])
    return [str(os.getpid()).encode()]
"""


@MANNERS
def test_a_burst_is_shared_by_workers_that_are_all_busy(
    serve: Serve, module: Module, tmp_path: Path, manner: tuple[str, ...]
) -> None:
    """What a WSGI worker takes it must answer itself, so it does not take all."""
    module("main", BUSY)
    server = serve(
        *("main:app", "--app-dir", str(tmp_path), "-w", "2", "-t", "0", "--threads", "1"), *manner
    )
    server.wait_for_workers(2)
    with ExitStack() as stack:
        holding: list[Connection] = []

        def both_are_busy() -> bool:
            # One that comes to the busy worker, because the other is slow to come, waits there.
            if len(holding) < 4:
                holding.append(stack.enter_context(server.connect()))
                holding[-1].request("/hold")
            return len({line for line in server.lines("stdout") if line.startswith("holds")}) == 2

        eventually(both_are_busy, "both workers are busy")
        with server.connections(16) as burst:
            for connection in burst:
                connection.request("/")
            (tmp_path / "released").touch()
            shares = Counter(connection.response().text for connection in burst)
        assert {connection.response().status for connection in holding} == {200}
    print(shares)
    assert max(shares.values()) <= 11, shares


@MANNERS
@pytest.mark.parametrize("workers", [2, 4])
def test_nobody_waits_for_a_worker_that_is_blocked(
    start: Start, tmp_path: Path, manner: tuple[str, ...], workers: int
) -> None:
    """As many as would fill the blocked one first: it holds the fewest connections."""
    server = start(workers, *manner)
    with server.connect() as stuck, server.connections(10) as held:
        assert {connection.get("/").status for connection in held} == {200}
        stuck.request("/block")
        blocked = server.wait_for_line(r"^blocked (\d+)")[1]
        for _ in range(100):
            with server.connect() as connection:
                assert connection.get("/", close=True).text != blocked
        with server.connections(20) as more:
            assert blocked not in {connection.get("/").text for connection in more}
        (tmp_path / "released").touch()
        assert stuck.response().text == blocked


class TestReusePort:
    """``--reuse-port``: a queue for each worker, and nothing is lost in it."""

    @pytest.mark.slow
    def test_reload_under_load(self, serve: Serve, module: Module, tmp_path: Path) -> None:
        module("main", versioned("version-1"))
        server = serve(
            "main:app",
            *("--app-dir", str(tmp_path), "-w", "3", "--no-access-log", "--reuse-port"),
        )
        server.wait_for_workers(3)
        load = Load(server.port, "/slow?5", keep_alive=6, one_shot=12)

        async def story() -> None:
            for number in (2, 3, 4):
                module("main", versioned(f"version-{number}"))
                server.send_signal(signal.SIGHUP)
                await until(
                    lambda number=number: (
                        sorted(process.title for process in server.workers())
                        == [f"rsgun: worker {slot} [gen {number}]" for slot in (1, 2, 3)]
                    ),
                    f"generation {number}",
                    30,
                )

        under_load(load, story)
        nothing_lost(load)

    @pytest.mark.slow
    def test_worker_killed_under_load(self, serve: Serve, module: Module, tmp_path: Path) -> None:
        """Only what it was serving is lost, not what waited in its queue."""
        module("main", versioned("main"))
        server = serve(
            "main:app",
            *("--app-dir", str(tmp_path), "-w", "3", "--no-access-log", "--reuse-port"),
        )
        load = Load(server.port, "/slow?5", keep_alive=0, one_shot=12)

        async def story() -> None:
            for _ in range(3):
                victim = server.wait_for_workers(3)[0]
                os.kill(victim.pid, signal.SIGKILL)
                await until(
                    lambda pid=victim.pid: pid not in [each.pid for each in server.workers()],
                    "its end",
                )
                await until(lambda: len(server.workers()) == 3, "a new worker")

        under_load(load, story, account=load.one_shot)
        assert not any(reason.startswith("connect") for reason in load.one_shot.lost), load.one_shot
        assert sum(load.one_shot.lost.values()) <= 3 * 12

    def test_queue_of_a_worker_that_is_gone(self, start: Start) -> None:
        """TTOU leaves a queue without an owner: the others take what arrives there."""
        server = start(3, "--reuse-port")
        for count in (2, 1):
            server.send_signal(signal.SIGTTOU)
            server.wait_for_workers(count)
            for _ in range(40):
                assert server.get("/").status == 200

    def test_more_workers_than_queues(self, start: Start) -> None:
        server = start(1, "--reuse-port")
        server.send_signal(signal.SIGTTIN)
        workers = server.wait_for_workers(2)

        def both() -> bool:
            with server.connections(10) as connections:
                answers = {int(connection.get("/").text) for connection in connections}
            return answers == {worker.pid for worker in workers}

        eventually(both, "both serve")

    def test_two_servers_share_a_port(self, start: Start) -> None:
        first = start(2, "--reuse-port")
        second = start(1, "--reuse-port", "-b", f"127.0.0.1:{first.port}")
        assert len([line for line in first.lines() if "running on" in line]) == 1
        theirs = {str(worker.pid) for worker in second.workers()}
        eventually(lambda: first.get("/").text in theirs, "an answer of the second server")
        assert second.stop() == 0
        for _ in range(20):
            assert first.get("/").text not in theirs

    def test_nothing_is_left_of_it(self, start: Start) -> None:
        server = start(2, "--reuse-port")
        server.send_signal(signal.SIGKILL)
        for worker in server.workers():
            assert wait_gone(worker.pid)
        assert not server.leftovers()
        assert port_is_free(server.port)
