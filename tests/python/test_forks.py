"""How a worker comes out of its fork server: hooks, and what happens in the middle."""

from __future__ import annotations

import os
import platform
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.marks import rsgun_only
from harness.processes import Process
from harness.server import Server
from harness.sources import versioned
from harness.waiting import eventually, wait_gone

pytestmark = rsgun_only

Serve = Callable[..., Server]
Module = Callable[[str, str], Path]


def noted(server: Server, word: str) -> list[int]:
    """The process ids in lines of the application."""
    lines = [line.split() for line in server.lines("stdout")]
    return sorted(int(line[1]) for line in lines if line[0] == word)


def test_hooks_run_once_on_each_side(serve: Serve, module: Module, tmp_path: Path) -> None:
    """It is one fork, of the fork server, as far as a library can see."""
    top = """
def note(word):
    print(word, os.getpid(), flush=True)

os.register_at_fork(
    before=lambda: note("before"),
    after_in_parent=lambda: note("parent"),
    after_in_child=lambda: note("child"),
)
"""
    module("main", versioned("only", top=top))
    server = serve("main:app", "--app-dir", str(tmp_path), "--preload", "-w", "3")
    workers = sorted(worker.pid for worker in server.wait_for_workers(3))
    (fork_server,) = server.fork_servers()
    eventually(lambda: noted(server, "child") == workers, "the hooks of the workers")
    assert noted(server, "before") == [fork_server.pid] * 3
    eventually(lambda: noted(server, "parent") == [fork_server.pid] * 3, "those of the parent")


def test_hook_that_starts_threads(serve: Serve, module: Module, tmp_path: Path) -> None:
    top = """
import threading
import time

def start():
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()

os.register_at_fork(after_in_parent=start)
"""
    module("main", versioned("only", top=top))
    server = serve("main:app", "--app-dir", str(tmp_path), "--preload")
    for count in (2, 3):
        server.send_signal(signal.SIGTTIN)
        server.wait_for_line(rf"Worker {count} started")
    server.wait_for_line(r"^WARNING: .*thread")
    assert len(server.workers()) == 3


def test_audit_hook_that_refuses_forks(serve: Serve, module: Module, tmp_path: Path) -> None:
    top = """
def refuse(event, _):
    if event == "os.fork" and os.path.exists("refused"):
        raise RuntimeError("no forks today")

sys.addaudithook(refuse)
"""
    module("main", versioned("only", top=top))
    server = serve("main:app", "--app-dir", str(tmp_path), "--preload")
    (tmp_path / "refused").touch()
    server.send_signal(signal.SIGTTIN)
    server.wait_for_line("no forks today")
    (tmp_path / "refused").unlink()
    server.wait_for_line("Worker 2 started")


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two processors")
def test_worker_knows_its_processor(serve: Serve, module: Module, tmp_path: Path) -> None:
    """The C library reads it where the kernel writes it, in each thread (rseq)."""
    top = """
import ctypes

def processors():
    all_of_them = sorted(os.sched_getaffinity(0))
    for number in all_of_them:
        os.sched_setaffinity(0, {number})
        yield ctypes.CDLL(None).sched_getcpu() == number
    os.sched_setaffinity(0, all_of_them)
"""
    module(
        "main", versioned("only", top=top, startup="print('right', set(processors()), flush=True)")
    )
    server = serve("main:app", "--app-dir", str(tmp_path), "--preload", "-w", "2")
    eventually(lambda: server.lines("stdout").count("right {True}") == 2, "both are right")


REFUSES_VFORK = """
import ctypes
import struct

def refuse():
    # clone(2) with CLONE_VFORK is EPERM: as seccomp(2) understands it.
    program = [
        (0x20, 0, 0, 0),
        (0x15, 0, 3, 56),
        (0x20, 0, 0, 16),
        (0x45, 0, 1, 0x4000),
        (0x06, 0, 0, 0x50001),
        (0x06, 0, 0, 0x7FFF0000),
    ]
    text = b"".join(struct.pack("HBBI", *line) for line in program)
    held = ctypes.create_string_buffer(text)
    libc = ctypes.CDLL(None, use_errno=True)
    filters = struct.pack("HP", len(program), ctypes.addressof(held))
    assert libc.prctl(38, 1, 0, 0, 0) == 0, "PR_SET_NO_NEW_PRIVS"
    assert libc.prctl(22, 2, filters, 0, 0) == 0, "PR_SET_SECCOMP"

refuse()
"""

NOTES_FORKS = """
os.register_at_fork(before=lambda: print("before", os.getpid(), flush=True))
"""


@pytest.mark.parametrize(
    ("top", "environment"),
    [
        ("", {"GLIBC_TUNABLES": "glibc.pthread.rseq=0"}),
        pytest.param(
            REFUSES_VFORK,
            {},
            marks=pytest.mark.skipif(platform.machine() != "x86_64", reason="numbers of x86-64"),
        ),
    ],
    ids=["C library", "kernel"],
)
def test_where_memory_cannot_be_lent(
    serve: Serve, module: Module, tmp_path: Path, top: str, environment: dict[str, str]
) -> None:
    """The process between fork server and worker is a fork of its own, which forks."""
    module("main", versioned("only", top=NOTES_FORKS + top))
    server = serve(
        "main:app", "--app-dir", str(tmp_path), "--preload", "-w", "2", environment=environment
    )
    server.wait_for_workers(2)
    (fork_server,) = server.fork_servers()
    between = set(noted(server, "before")) - {fork_server.pid}
    assert len(between) == 2
    assert server.get().text.startswith("only ")


SLOW_FORK = """
import ctypes
import time

def linger():
    if os.path.exists("slow"):
        print("forked", os.getpid(), flush=True)
        time.sleep(60)

# A handler of a C library runs in whoever calls fork(): in the process in between.
handler = ctypes.CFUNCTYPE(None)(linger)
ctypes.CDLL(None)["__register_atfork"](None, handler, None, None)
"""


class TestInTheMiddle:
    """The worker is there, and the process between fork server and worker not yet gone."""

    @pytest.fixture
    def server(self, serve: Serve, module: Module, tmp_path: Path) -> Server:
        module("main", versioned("only", top=SLOW_FORK))
        return serve("main:app", "--app-dir", str(tmp_path), "--preload")

    def between(self, server: Server, folder: Path) -> tuple[Process, Process, int]:
        """Fork server, the process between, and the worker."""
        (fork_server,) = server.fork_servers()
        (folder / "slow").touch()
        server.send_signal(signal.SIGTTIN)
        server.wait_for_line("^forked")
        (between,) = [
            each for each in server.titled("^rsgun: fork server") if each.parent == fork_server.pid
        ]
        assert noted(server, "forked") == [between.pid]
        (folder / "slow").unlink()

        def born() -> list[int]:
            return [each.pid for each in server.workers() if each.parent == between.pid]

        (worker,) = eventually(born, "a worker")
        return fork_server, between, worker

    def assert_serves(self, server: Server) -> None:
        for _ in range(20):
            assert server.get().text.startswith("only ")

    def test_it_is_killed(self, server: Server, tmp_path: Path) -> None:
        """Nobody takes that for the end of the server; the fork server, whose memory it had
        borrowed, ends too."""
        fork_server, between, worker = self.between(server, tmp_path)
        os.kill(between.pid, signal.SIGKILL)
        server.wait_for_line(rf"Worker 2 started \[pid {worker}\b")
        assert wait_gone(fork_server.pid)
        server.wait_for_line("^ERROR: .*between the fork server and a new worker was killed")
        self.assert_serves(server)
        server.send_signal(signal.SIGTTIN)
        server.wait_for_line("Worker 3 started")

    def test_the_fork_server_is_killed(self, server: Server, tmp_path: Path) -> None:
        fork_server, between, worker = self.between(server, tmp_path)
        os.kill(fork_server.pid, signal.SIGKILL)
        assert wait_gone(fork_server.pid)
        os.kill(between.pid, signal.SIGKILL)
        server.wait_for_line(rf"Worker 2 started \[pid {worker}\b")
        self.assert_serves(server)

    def test_the_master_is_killed(self, server: Server, tmp_path: Path) -> None:
        fork_server, between, worker = self.between(server, tmp_path)
        others = [each.pid for each in server.workers()]
        server.send_signal(signal.SIGKILL)
        os.kill(between.pid, signal.SIGKILL)
        for pid in (fork_server.pid, between.pid, worker, *others):
            assert wait_gone(pid)
