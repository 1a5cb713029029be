"""Recycling: workers are replaced before they do harm, and nobody notices."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness.load import Load
from harness.server import Server
from harness.sources import answer, versioned
from harness.target import rsgun_only
from harness.waiting import eventually, wait_gone
from test_load import SLOWEST, nothing_lost, under_load, until

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
