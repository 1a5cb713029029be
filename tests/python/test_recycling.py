"""Recycling: workers are replaced before they do harm, and nobody notices."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from harness.load import SLOWEST, Load, nothing_lost, under_load, until
from harness.marks import rsgun_only
from harness.server import Server
from harness.sources import answer, versioned
from harness.waiting import PATIENCE, eventually, wait_gone
from harness.wire import Connection

pytestmark = rsgun_only

Serve = Callable[..., Server]
Module = Callable[[str, str], Path]

GROWS = """
import os

HELD = []


async def app(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError("only http")
    if scope["path"] == "/grow":
        HELD.append(bytearray(os.urandom(1 << 20)) * int(scope["query_string"]))
    body = str(os.getpid()).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""

SPENT = r"Worker \d \[pid (\d+)\] has answered (\d+) requests \(--max-requests\); replacing it"


def pid_of(server: Server) -> int:
    return answer(server.get().text)[1]


def recycled(server: Server, pattern: str = SPENT) -> list[int]:
    """The pids of the workers of which the log says that they are replaced."""
    found = (re.search(pattern, line) for line in server.lines("stderr"))
    return [int(match[1]) for match in found if match]


@pytest.mark.parametrize("flag", ["--max-requests", "--limit-max-requests"])
def test_max_requests(serve: Serve, module: Module, tmp_path: Path, flag: str) -> None:
    module("main", versioned("1"))
    server = serve("main:app", "--app-dir", str(tmp_path), flag, "5")
    first = pid_of(server)
    for _ in range(3):
        assert pid_of(server) == first
    assert not recycled(server)
    pid_of(server)
    found = server.wait_for_line(SPENT, stream="stderr")
    assert (int(found[1]), found[2]) == (first, "5")
    assert wait_gone(first)
    assert pid_of(server) != first
    server.wait_for_workers(1)


def test_jitter_spreads_the_number(serve: Serve, module: Module, tmp_path: Path) -> None:
    module("main", versioned("1"))
    server = serve(
        "main:app", "--app-dir", str(tmp_path), "--max-requests", "5", "--max-requests-jitter", "20"
    )

    def counts() -> list[int]:
        found = (re.search(SPENT, line) for line in server.lines("stderr"))
        return [int(match[2]) for match in found if match]

    def some_were_replaced() -> bool:
        pid_of(server)
        return len(counts()) >= 6

    eventually(some_were_replaced, "six replacements", 60)
    assert len(set(counts())) > 1
    assert all(5 <= count <= 25 for count in counts())


def test_jitter_alone_replaces_nobody(serve: Serve, module: Module, tmp_path: Path) -> None:
    module("main", versioned("1"))
    server = serve("main:app", "--app-dir", str(tmp_path), "--max-requests-jitter", "2")
    assert len({pid_of(server) for _ in range(30)}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["plain", "preload"])
def test_max_requests_under_load(
    serve: Serve, module: Module, tmp_path: Path, preload: tuple[str, ...]
) -> None:
    """No request is lost, and there are always two workers that serve."""
    module("main", versioned("1"))
    server = serve(
        "main:app",
        *("--app-dir", str(tmp_path), "-w", "2", "--max-requests", "50", "--no-access-log"),
        *preload,
    )
    server.wait_for_workers(2)
    load = Load(server.port, "/slow?5", keep_alive=6, one_shot=6)

    async def story() -> None:
        await until(lambda: len(recycled(server)) >= 8, "eight replacements", 60)

    under_load(load, story)
    nothing_lost(load)
    assert max(load.keep_alive.slowest, load.one_shot.slowest) < SLOWEST
    # From ready to told to go there is always a successor that was ready before.
    starts = [line for line in server.lines("stderr") if re.search(r"Worker \d started", line)]
    spent = recycled(server)
    assert len(spent) == len(set(spent))
    assert len(starts) >= len(spent)


def test_open_requests_are_finished(serve: Serve, module: Module, tmp_path: Path) -> None:
    """A long answer of a worker that is replaced is not cut short."""
    module("main", versioned("1"))
    server = serve("main:app", "--app-dir", str(tmp_path), "--max-requests", "3")
    with server.connect() as connection, server.connect() as idle:
        connection.request("/wait")
        first = {answer(idle.get("/").text)[1]} | {pid_of(server) for _ in range(2)}
        server.wait_for_line(SPENT, stream="stderr")
        eventually(lambda: pid_of(server) not in first, "another worker")
        assert idle.ended(), "it drains"
        (tmp_path / "released").touch()
        response = connection.response()
        assert answer(response.text)[1] in first
        assert response.header("connection") == "close"


def test_max_lifetime(serve: Serve, module: Module, tmp_path: Path) -> None:
    module("main", versioned("1"))
    server = serve("main:app", "--app-dir", str(tmp_path), "-w", "2", "--max-lifetime", "2")
    first = {worker.pid for worker in server.wait_for_workers(2)}
    pattern = r"Worker \d \[pid (\d+)\] has served for [\d.]+ s \(--max-lifetime\); replacing it"
    eventually(lambda: set(recycled(server, pattern)) >= first, "both are replaced")
    for pid in first:
        assert wait_gone(pid)
    assert pid_of(server) not in first


LIFETIME = r"Worker \d \[pid (\d+)\] has served for ([\d.]+) s \(--max-lifetime\); replacing it"


@pytest.mark.parametrize(("jitter", "longest"), [(None, 1.3), ("4", 5.3)])
def test_jitter_of_the_lifetime(
    serve: Serve, module: Module, tmp_path: Path, jitter: str | None, longest: float
) -> None:
    """How long each one has served is told as of the moment when it was due."""
    module("main", versioned("1"))
    more = ("--max-lifetime-jitter", jitter) if jitter else ()
    arguments = ("--app-dir", str(tmp_path), "-w", "4", "--max-lifetime", "1", *more)
    server = serve("main:app", *arguments)

    def served() -> list[float]:
        found = (re.search(LIFETIME, line) for line in server.lines("stderr"))
        return [float(match[2]) for match in found if match]

    eventually(lambda: len(served()) >= 8, "eight replacements", 60)
    assert all(1 <= seconds <= longest * PATIENCE for seconds in served())
    if jitter:
        assert max(served()) - min(served()) > 0.5


ADMITTED = """
async def admitted():
    while not os.path.exists("open"):
        try:
            os.remove("token")
        except FileNotFoundError:
            await asyncio.sleep(0.01)
        else:
            break
"""

REASONS = {
    "--max-requests": ("5", r"has answered 5 requests \(--max-requests\)"),
    "--max-lifetime": ("4", r"has served for [\d.]+ s \(--max-lifetime\)"),
    "--max-rss": ("1M", r"holds [\d.]+ MiB of memory, more than 1 MiB \(--max-rss\)"),
}


@pytest.mark.parametrize("flag", REASONS)
def test_one_at_a_time(serve: Serve, module: Module, tmp_path: Path, flag: str) -> None:
    """Three workers are due at the same moment, and each start waits for a token."""
    value, reason = REASONS[flag]
    pattern = rf"Worker \d \[pid (\d+)\] {reason}; replacing it"
    (tmp_path / "open").touch()
    module("main", versioned("1", top=ADMITTED, startup="await admitted()"))
    server = serve("main:app", "--app-dir", str(tmp_path), "-w", "3", flag, value)
    first = {worker.pid for worker in server.wait_for_workers(3)}
    for pid in first:
        server.wait_for_line(rf"Worker \d started \[pid {pid}\b")
    (tmp_path / "open").unlink()

    def being_replaced() -> list[int]:
        return recycled(server, pattern)

    def starting() -> set[int]:
        return {worker.pid for worker in server.workers()} - first - replacements

    replacements: set[int] = set()
    with ExitStack() as stack:
        waiting: dict[int, Connection] = {}

        def meet_all() -> bool:
            connection = stack.enter_context(server.connect())
            waiting.setdefault(answer(connection.get("/").text)[1], connection)
            return set(waiting) == first

        eventually(meet_all, "a connection to each of them")
        for connection in waiting.values():
            for _ in range(4):
                assert connection.get("/").header("connection") != "close"
            connection.request("/wait")
        for count in range(1, 4):
            (new,) = eventually(starting, f"replacement {count}")
            # The others, and this one, serve until then.
            assert pid_of(server) in first | replacements
            for connection in waiting.values():
                connection.silent(0.1)
            assert (len(being_replaced()), starting()) == (count, {new}), "one at a time"
            since = server.output.mark()
            (tmp_path / "token").touch()
            server.wait_for_line(rf"Worker \d started \[pid {new}\b", since=since)
            replacements.add(new)
        assert set(being_replaced()) == first
        eventually(lambda: pid_of(server) in replacements, "the new ones serve")
        (tmp_path / "released").touch()
        for pid, connection in waiting.items():
            response = connection.response()
            assert answer(response.text)[1] == pid
            assert response.header("connection") == "close"
            assert connection.ended()
            assert wait_gone(pid)
    (tmp_path / "open").touch()


def test_broken_code_keeps_the_worker_that_is_due(
    serve: Serve, module: Module, tmp_path: Path
) -> None:
    module("main", versioned("1"))
    server = serve("main:app", "--app-dir", str(tmp_path), "--max-requests", "5")
    first = pid_of(server)
    server.tolerates_tracebacks = True
    module("main", "raise RuntimeError('broken on disk')")
    for _ in range(10):
        assert pid_of(server) == first
    server.wait_for_line("broken on disk")
    for _ in range(10):
        assert pid_of(server) == first
    module("main", versioned("repaired"))
    eventually(lambda: server.get().text.startswith("repaired"), "the repaired code", 60)


def test_max_rss(serve: Serve, module: Module, tmp_path: Path) -> None:
    module("main", GROWS)
    server = serve("main:app", "--app-dir", str(tmp_path), "--max-rss", "150M")
    first = int(server.get("/grow?10").text)
    assert int(server.get("/grow?200").text) == first
    pattern = (
        r"Worker 1 \[pid (\d+)\] holds [\d.]+ MiB of memory, more than 150 MiB \(--max-rss\); "
        r"replacing it"
    )
    assert int(server.wait_for_line(pattern, stream="stderr", deadline=30)[1]) == first
    assert wait_gone(first)
    assert int(server.get("/pid").text) != first
    assert not [line for line in server.lines("stderr") if "killed" in line]


@pytest.mark.parametrize("size", ["1.5G", "-1", "much", "512 MX"])
def test_size_that_is_none(run: Callable[..., Any], size: str) -> None:
    ended = run("lab:app", f"--max-rss={size}")
    assert ended.returncode in (1, 2)
    assert "is not a size such as `512M` or `2G`" in ended.stderr


def test_hard_max_rss(serve: Serve, module: Module, tmp_path: Path) -> None:
    module("main", GROWS)
    server = serve(
        "main:app", "--app-dir", str(tmp_path), "--max-rss", "1G", "--hard-max-rss", "150M"
    )
    first = int(server.get("/pid").text)
    pattern = (
        r"Worker 1 \[pid (\d+)\] holds [\d.]+ MiB of memory, more than 150 MiB "
        r"\(--hard-max-rss\), and is killed; replacing it"
    )
    with server.connect() as connection:
        # Perhaps it is killed before it has answered.
        connection.request("/grow?200")
        assert int(server.wait_for_line(pattern, stream="stderr", deadline=30)[1]) == first
    assert wait_gone(first)
    assert int(server.get("/pid").text) != first
