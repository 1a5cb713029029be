"""How a worker comes from the fork server: what the application has at its first moment."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.marks import rsgun_only
from harness.server import Server
from harness.sources import answer, versioned
from harness.waiting import eventually

pytestmark = rsgun_only

Serve = Callable[..., Server]
Module = Callable[[str, str], Path]

TRACER = """
import os
import threading

print("interpreter", os.getpid(), flush=True)
threading.Thread(target=threading.Event().wait, daemon=True).start()
"""
"""Starts a thread before anything else runs, as tracers do."""


def pids(server: Server, word: str) -> list[int]:
    """Those that have printed a word, and their pid after it."""
    lines = [line.split() for line in server.lines("stdout")]
    return sorted(int(line[1]) for line in lines if line[0] == word)


def started_with_a_thread(serve: Serve, module: Module, *arguments: str) -> Server:
    folder = module("main", versioned("1")).parent
    module("sitecustomize", TRACER)
    return serve(
        "main:app",
        *("--app-dir", str(folder), "-w", "2", *arguments),
        environment={"PYTHONPATH": str(folder)},
    )


def test_workers_are_started_by_exec_if_the_fork_server_has_a_thread(
    serve: Serve, module: Module
) -> None:
    """A lock that a thread holds would stay locked in a fork."""
    server = started_with_a_thread(serve, module)
    workers = [worker.pid for worker in server.wait_for_workers(2)]
    (fork_server,) = server.fork_servers()
    expected = sorted([fork_server.pid, *workers])
    eventually(lambda: pids(server, "interpreter") == expected, "an interpreter for each")
    server.wait_for_line("^WARNING: .* has 1 thread .* started afresh", stream="stderr")
    _, pid, parent = answer(server.get().text)
    assert pid in workers
    assert parent == server.pid


def test_workers_are_forked_all_the_same_if_exec_would_lose_the_application(
    serve: Serve, module: Module
) -> None:
    server = started_with_a_thread(serve, module, "--preload")
    server.wait_for_workers(2)
    server.wait_for_line("^WARNING: .* has 1 thread .* do not exist in the workers")
    assert server.get().text.startswith("1 ")
    (fork_server,) = server.fork_servers()
    assert server.stop() == 0
    assert pids(server, "interpreter") == [fork_server.pid]


def test_what_is_printed_before_the_fork_is_printed_once(
    serve: Serve, module: Module, tmp_path: Path
) -> None:
    """What Python holds back would otherwise be in the memory of each worker."""
    module("main", versioned("1", top="print('loaded')"))
    server = serve("main:app", "--app-dir", str(tmp_path), "--preload", "-w", "3")
    server.wait_for_workers(3)
    assert server.stop() == 0
    assert server.lines("stdout") == ["loaded"]


SUBREAPER = "import ctypes; ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)"
"""PR_SET_CHILD_SUBREAPER, as applications that start programs set it."""


@pytest.mark.parametrize("threads", [False, True], ids=["alone", "with a thread"])
def test_workers_are_those_of_the_master_if_the_application_wants_orphans(
    serve: Serve, module: Module, threads: bool
) -> None:
    top = f"import threading; {SUBREAPER}"
    if threads:
        top += "; threading.Thread(target=threading.Event().wait, daemon=True).start()"
    folder = module("main", versioned("1", top=top)).parent
    server = serve("main:app", "--app-dir", str(folder), "--preload")
    [worker] = server.wait_for_workers(1)
    assert worker.parent == server.pid
    worker.send_signal(signal.SIGKILL)
    server.wait_for_line("was killed by SIGKILL; replacing it", stream="stderr")
    eventually(lambda: answer(server.get().text)[1] != worker.pid, "another worker")
    assert answer(server.get().text)[2] == server.pid
