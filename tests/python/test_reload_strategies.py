"""How a reload exchanges the workers: probation, one by one, all at once, some missing."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.marks import rsgun_only
from harness.server import Server
from harness.sources import versioned
from harness.waiting import eventually, wait_gone

pytestmark = rsgun_only

Serve = Callable[..., Server]
Module = Callable[[str, str], Path]
Start = Callable[..., Server]

OF_ITS_OWN = "f'go-{os.getpid()}'"
"""What each worker waits for in its start."""


@pytest.fixture
def start(serve: Serve, module: Module, tmp_path: Path) -> Start:
    """Serves version ``first`` of ``main``."""

    def begin(*arguments: str, workers: int = 2) -> Server:
        module("main", versioned("first"))
        server = serve("main:app", "--app-dir", str(tmp_path), "-w", str(workers), *arguments)
        server.wait_for_workers(workers)
        return server

    return begin


def generations(server: Server) -> list[int]:
    """The generation of each worker that lives."""
    found = (re.search(r"\[gen (\d+)\]", worker.title) for worker in server.workers())
    return sorted(int(match[1]) for match in found if match)


def reload(server: Server) -> int:
    """Sends SIGHUP; returns where the output about it begins."""
    since = server.output.mark()
    server.send_signal(signal.SIGHUP)
    return since


class TestProbation:
    def test_first_new_worker_serves_beside_all_old_ones(
        self, start: Start, module: Module
    ) -> None:
        server = start("--reload-probation", "30")
        before = {worker.pid for worker in server.workers()}
        module("main", versioned("second"))
        since = reload(server)
        server.wait_for_line(r"Worker 1 started \[.*generation 2\]", since=since)
        eventually(lambda: server.get().text.startswith("second "), "an answer of the new code")
        assert before < {worker.pid for worker in server.workers()}

    @pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["plain", "preload"])
    def test_crash_keeps_the_old_workers(
        self, start: Start, module: Module, preload: tuple[str, ...]
    ) -> None:
        server = start("--reload-probation", "30", *preload)
        before = {worker.pid for worker in server.workers()}
        module("main", versioned("second"))
        since = reload(server)
        server.wait_for_line(r"Worker 1 started \[.*generation 2\]", since=since)
        (canary,) = (worker for worker in server.workers() if "[gen 2]" in worker.title)
        os.kill(canary.pid, signal.SIGSEGV)
        server.wait_for_line(
            r"^ERROR: .*Reload failed, generation 1 stays .* was killed by SIGSEGV", since=since
        )
        server.wait_for_generation(1, 2)
        assert {worker.pid for worker in server.workers()} == before
        assert server.get().text.startswith("first ")

    def test_too_much_memory_keeps_the_old_workers(self, start: Start, module: Module) -> None:
        server = start("--reload-probation", "30", "--hard-max-rss", "150M")
        before = {worker.pid for worker in server.workers()}
        module("main", versioned("second", top="HELD = b'x' * (200 << 20)"))
        since = reload(server)
        server.wait_for_line(
            r"^ERROR: .*Reload failed, generation 1 stays .*memory.*--hard-max-rss", since=since
        )
        server.wait_for_generation(1, 2)
        assert {worker.pid for worker in server.workers()} == before

    def test_without_probation_old_workers_go_at_once(self, start: Start, module: Module) -> None:
        server = start("--reload-probation", "0", workers=1)
        module("main", versioned("second"))
        reload(server)
        server.wait_for_generation(2, 1)


def starting(server: Server) -> list[int]:
    """The pids of the workers that have begun to start, in order."""
    words = (line.split() for line in server.lines("stdout"))
    return [int(found[2]) for found in words if found[:1] == ["starting"]]


def wait_for_starts(server: Server, count: int) -> list[int]:
    """Waits until so many workers have begun to start."""
    return eventually(
        lambda: (found := starting(server)) and len(found) >= count and found,
        f"{count} starts",
    )


def test_parallel_starts_all_others_at_once(start: Start, module: Module, tmp_path: Path) -> None:
    server = start("--reload-strategy", "parallel", "--reload-probation", "0", workers=3)
    module("main", versioned("second", gate=OF_ITS_OWN))
    reload(server)
    (first,) = wait_for_starts(server, 1)
    assert generations(server) == [1, 1, 1, 2], "more than the first new worker"
    (tmp_path / f"go-{first}").touch()
    # Neither waits for the other.
    for pid in wait_for_starts(server, 3):
        (tmp_path / f"go-{pid}").touch()
    server.wait_for_generation(2, 3)
    assert server.get().text.startswith("second ")


def test_workers_may_be_missing(start: Start, module: Module, tmp_path: Path) -> None:
    """Never more workers than usual, but for the first new one."""
    server = start("--reload-max-unavailable", "1", "--reload-probation", "0", workers=3)
    module("main", versioned("second", gate=OF_ITS_OWN))
    reload(server)
    # An old one drains before its successor is ready.
    for number, there in enumerate(([1, 1, 1, 2], [1, 2, 2], [2, 2, 2]), 1):
        pid = wait_for_starts(server, number)[-1]
        eventually(lambda there=there: generations(server) == there, f"workers of {there}")
        assert len(starting(server)) == number
        (tmp_path / f"go-{pid}").touch()
    server.wait_for_generation(2, 3)


def test_strategy_is_checked(run: Callable[..., object]) -> None:
    result = run("lab:app", "--reload-strategy", "blue-green")
    assert result.returncode == 2
    assert "--reload-strategy" in result.stderr
    assert "rolling" in result.stderr


def test_broken_code_and_ttin_harm_nobody(start: Start, module: Module) -> None:
    """The worker that is to be added cannot start; those that serve are not touched."""
    server = start()
    before = {worker.pid for worker in server.workers()}
    module("main", "raise RuntimeError('broken on the disk')\n")
    server.tolerates_tracebacks = True
    since = server.output.mark()
    server.send_signal(signal.SIGTTIN)
    server.wait_for_line(r"^ERROR: .*Worker 3 .*could not start", since=since)
    assert "broken on the disk" in "\n".join(server.lines("stderr", since))
    assert before <= {worker.pid for worker in server.workers()}
    for _ in range(5):
        assert server.get().text.startswith("first ")
    module("main", versioned("second"))
    server.wait_for_line(r"Worker 3 started", since=since)


def test_worker_killed_while_it_drains_changes_nothing(start: Start, module: Module) -> None:
    server = start("--reload-probation", "0", workers=1)
    (old,) = server.workers()
    with server.connect() as connection:
        connection.request("/wait")
        server.wait_for_line("^waiting in first")
        module("main", versioned("second"))
        since = reload(server)
        server.wait_for_line("Reload complete", since=since)
        os.kill(old.pid, signal.SIGKILL)
        assert wait_gone(old.pid)
    server.wait_for_generation(2, 1)
