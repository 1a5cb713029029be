"""Workers and fork servers that die: replaced at once, and the log says why."""

from __future__ import annotations

import os
import re
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.marks import rsgun_only
from harness.processes import Process
from harness.server import Server
from harness.sources import versioned
from harness.target import APPS
from harness.waiting import eventually, wait_gone
from harness.wire import Truncated

pytestmark = rsgun_only

Serve = Callable[..., Server]
Module = Callable[[str, str], Path]

CRASHES = """
import ctypes
import os
import signal
import sys
import threading
import time


def fault():
    ctypes.string_at(0)


async def app(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError("only http")
    path = scope["path"]
    if path == "/exit":
        os._exit(7)
    if path == "/exit-0":
        os._exit(0)
    if path == "/fault":
        fault()
    if path == "/abort":
        os.abort()
    if path == "/kill-itself":
        os.kill(os.getpid(), signal.SIGKILL)
    if path == "/term-itself":
        os.kill(os.getpid(), signal.SIGTERM)
    if path == "/exit-in-thread":
        threading.Thread(target=os._exit, args=(9,)).start()
        time.sleep(60)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(os.getpid()).encode()})
"""


@pytest.fixture
def server(serve: Serve, module: Module, tmp_path: Path) -> Server:
    module("crashes", CRASHES)
    server = serve("crashes:app", "--app-dir", str(tmp_path))
    server.wait_for_workers(1)
    server.tolerates_tracebacks = True
    return server


def replaced(server: Server, old: int) -> Process:
    """Waits for the worker that follows."""

    def successor() -> Process | None:
        others = [worker for worker in server.workers() if worker.pid != old]
        return others[0] if others else None

    return eventually(successor, "a new worker")


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/exit", "code 7"),
        ("/exit-0", "code 0"),
        ("/fault", "SIGSEGV"),
        ("/abort", "SIGABRT"),
        ("/kill-itself", "SIGKILL"),
        ("/exit-in-thread", "code 9"),
    ],
)
def test_worker_that_dies_in_a_request(server: Server, path: str, reason: str) -> None:
    """The log says how it ended and which request it was serving."""
    (worker,) = server.workers()
    with server.connect() as connection:
        connection.request(path)
        with pytest.raises((Truncated, ConnectionResetError)):
            connection.response()
    line = server.wait_for_line(rf"\b{worker.pid}\b.*{reason}|{reason}.*\b{worker.pid}\b").string
    assert line.startswith(("ERROR", "WARNING", "CRITICAL"))
    server.wait_for_line(rf"GET {path}\b", stream="stderr")
    replaced(server, worker.pid)
    assert server.get("/").status == 200


def test_core_dump_is_told(serve: Serve, module: Module, tmp_path: Path) -> None:
    """Where one is written, which the limits and the system must allow."""
    module("crashes", CRASHES)
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    pattern = Path("/proc/sys/kernel/core_pattern").read_text().strip()
    if hard == 0 or pattern.startswith(("|", "/")):
        pytest.skip("core files are not allowed, or would be written elsewhere")
    before = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    try:
        server = serve("crashes:app", "--app-dir", str(tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, before)
    server.tolerates_tracebacks = True
    (worker,) = server.wait_for_workers(1)
    os.kill(worker.pid, signal.SIGSEGV)
    server.wait_for_line(rf"\b{worker.pid}\] was killed by SIGSEGV \(core dumped\)", deadline=60)


def test_idle_worker_that_is_killed(server: Server) -> None:
    (worker,) = server.workers()
    os.kill(worker.pid, signal.SIGKILL)
    server.wait_for_line(rf"\b{worker.pid}\b.*SIGKILL")
    assert int(server.get("/").text) == replaced(server, worker.pid).pid


def test_draining_worker_that_is_killed_says_what_it_was_serving(serve: Serve) -> None:
    server = serve("lab:app", "-w", "2")
    server.wait_for_workers(2)
    with server.connect() as connection:
        connection.request("/announced?60000")
        pid = int(server.wait_for_line(r"^serving /announced in (\d+)$")[1])
        os.kill(pid, signal.SIGTERM)
        server.wait_for_line(rf"\b{pid}\b.* leaves, without having been told to")
        os.kill(pid, signal.SIGKILL)
        server.wait_for_line(r"was killed by SIGKILL while serving GET /announced\?60000 \(")


def test_connections_wait_for_the_new_worker(server: Server) -> None:
    """Nothing is refused between the death and the replacement."""
    (worker,) = server.workers()
    os.kill(worker.pid, signal.SIGKILL)
    wait_gone(worker.pid)
    for _ in range(10):
        assert server.get("/").status == 200


def test_slot_number_is_kept(serve: Serve) -> None:
    server = serve("lab:app", "-w", "3")
    workers = server.wait_for_workers(3)
    second = next(worker for worker in workers if "worker 2 " in worker.title)
    os.kill(second.pid, signal.SIGKILL)
    assert wait_gone(second.pid)
    titles = eventually(
        lambda: (
            (found := sorted(worker.title for worker in server.workers()))
            and len(found) == 3
            and found
        ),
        "three workers",
    )
    assert titles == [f"rsgun: worker {number} [gen 1]" for number in (1, 2, 3)]


def test_others_serve_meanwhile(serve: Serve) -> None:
    server = serve("lab:app", "-w", "2")
    first, _ = server.wait_for_workers(2)
    os.kill(first.pid, signal.SIGKILL)
    for _ in range(20):
        assert server.get("/ping").body == b"pong"
    server.wait_for_workers(2)


def test_all_workers_at_once(serve: Serve) -> None:
    server = serve("lab:app", "-w", "3")
    old = {worker.pid for worker in server.wait_for_workers(3)}
    for pid in old:
        os.kill(pid, signal.SIGKILL)
    for pid in old:
        assert wait_gone(pid)
    new = {worker.pid for worker in server.wait_for_workers(3)}
    assert not new & old
    assert server.get("/ping").body == b"pong"


def test_no_zombies(serve: Serve) -> None:
    server = serve("lab:app", "-w", "2")
    for worker in server.wait_for_workers(2):
        os.kill(worker.pid, signal.SIGKILL)
        wait_gone(worker.pid)
        # Its number is free again only when somebody has read its exit status.
        eventually(lambda pid=worker.pid: not Path(f"/proc/{pid}").exists(), "the reaping")
    server.wait_for_workers(2)


def test_many_crashes_do_not_stop_the_master(server: Server) -> None:
    for _ in range(5):
        with server.connect() as connection:
            connection.request("/exit")
            with pytest.raises((Truncated, ConnectionResetError)):
                connection.response()
    assert server.get("/").status == 200
    assert server.process.poll() is None


def test_fork_server_that_is_killed(serve: Serve) -> None:
    """The workers stay; a new fork server is there when one is needed."""
    server = serve("lab:app", "-w", "2")
    workers = {worker.pid for worker in server.wait_for_workers(2)}
    (fork_server,) = server.fork_servers()
    os.kill(fork_server.pid, signal.SIGKILL)
    assert wait_gone(fork_server.pid)
    eventually(server.fork_servers, "a new fork server")
    assert server.get("/ping").body == b"pong"
    victim = workers.pop()
    os.kill(victim, signal.SIGKILL)
    assert wait_gone(victim)
    assert workers <= {worker.pid for worker in server.wait_for_workers(2)}
    assert server.get("/ping").body == b"pong"


def test_fork_server_and_all_workers_killed_together(serve: Serve) -> None:
    server = serve("lab:app", "-w", "2")
    family = [*server.wait_for_workers(2), *server.fork_servers()]
    for process in family:
        os.kill(process.pid, signal.SIGKILL)
    for process in family:
        assert wait_gone(process.pid)
    assert server.get("/ping").body == b"pong"
    server.wait_for_workers(2)


def test_code_that_has_become_broken_backs_off(
    serve: Serve, module: Module, tmp_path: Path
) -> None:
    """Without --preload a worker imports from disk: its death meets broken code.

    The others serve on, the failures are logged, and the log does not fill.
    """
    module("main", versioned("1"))
    server = serve("main:app", "--app-dir", str(tmp_path), "-w", "2")
    first, _ = server.wait_for_workers(2)
    server.tolerates_tracebacks = True
    module("main", "raise RuntimeError('broken on disk')")
    os.kill(first.pid, signal.SIGKILL)
    server.wait_for_line("broken on disk")
    with server.connect() as connection:
        for _ in range(20):
            assert connection.get("/").text.startswith("1 ")
        connection.silent(1.5)
    assert sum("broken on disk" in line for line in server.lines()) <= 12
    assert server.process.poll() is None
    module("main", versioned("repaired"))
    eventually(lambda: server.get().text.startswith("repaired"), "the repaired code", 60)


def test_worker_that_dies_soon_after_its_start_backs_off(
    serve: Serve, module: Module, tmp_path: Path
) -> None:
    """It has been ready, so the server has booted: it never ends, nor does it spin."""
    dies = "asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, os._exit, 7)"
    module("main", versioned("1", top="import signal", startup=dies))
    server = serve("main:app", "--app-dir", str(tmp_path))
    since = 0
    for delay in ("now", "in 0.1 s", "in 0.2 s", "in 0.4 s", "in 0.8 s", "in 1.6 s"):
        pattern = "" if delay == "now" else f" {delay}"
        started = server.wait_for_line(r"^INFO: .*Worker 1 started \[pid (\d+)", since=since)
        since = server.output.mark()
        os.kill(int(started[1]), signal.SIGUSR2)
        server.wait_for_line(rf"exited with code 7.*; replacing it{pattern}$", since=since)
    assert server.process.poll() is None
    module("main", versioned("repaired"))
    eventually(lambda: server.workers() and server.get().text.startswith("repaired"), "calm", 60)


def test_strangers_are_reaped(serve: Serve, module: Module, tmp_path: Path) -> None:
    """Orphans re-parent to the master; its log does not take them for workers."""
    module(
        "orphans",
        """
import os

async def app(scope, receive, send):
    assert scope["type"] == "http"
    if os.fork() == 0:
        if os.fork() == 0:
            os.execvp("sh", ["sh", "-c", "exit 3"])
        os._exit(0)
    os.wait()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body"})
""",
    )
    server = serve("orphans:app", "--app-dir", str(tmp_path))
    for _ in range(5):
        assert server.get().status == 200
    pids = {process.pid for process in server.family()}
    zombies = [
        path
        for path in Path("/proc").glob("[0-9]*/stat")
        if re.search(rf"\) Z {server.pid} ", _read(path))
    ]
    eventually(lambda: not any(") Z " in _read(path) for path in zombies), "no zombies")
    assert server.process.poll() is None
    assert {worker.pid for worker in server.workers()} <= pids
    assert not [line for line in server.lines("stderr") if "code 3" in line]


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def test_ttin_and_ttou(serve: Serve) -> None:
    server = serve("lab:app", "-w", "1")
    server.wait_for_workers(1)
    server.send_signal(signal.SIGTTIN)
    server.wait_for_workers(2)
    server.send_signal(signal.SIGTTIN)
    server.wait_for_workers(3)
    server.send_signal(signal.SIGTTOU)
    server.wait_for_workers(2)
    assert server.get("/ping").body == b"pong"


def test_ttou_never_removes_the_last_worker(serve: Serve) -> None:
    server = serve("lab:app", "-w", "2")
    server.wait_for_workers(2)
    for _ in range(3):
        since = server.output.mark()
        server.send_signal(signal.SIGTTOU)
        server.wait_for_line(".", stream="stderr", since=since)
    server.wait_for_workers(1)
    assert server.get("/ping").body == b"pong"


def test_ttou_lets_requests_finish(serve: Serve) -> None:
    server = serve("lab:app", "-w", "2")
    server.wait_for_workers(2)
    with server.connections(8) as connections:
        for connection in connections:
            connection.request("/announced?400")
        begun = re.compile("^serving /announced in")
        eventually(lambda: sum(map(bool, map(begun.match, server.lines()))) == 8, "all are served")
        server.send_signal(signal.SIGTTOU)
        assert {connection.response().text for connection in connections} == {"slept 400"}
    server.wait_for_workers(1)


def test_workers_that_leave_at_once_are_replaced_ever_later(serve: Serve, tmp_path: Path) -> None:
    """An application that tells its worker to end is followed by another one like it."""
    (tmp_path / "leaves.py").write_text(
        "import asyncio, lab, os, signal\n"
        "async def app(scope, receive, send):\n"
        "    if scope['type'] == 'lifespan':\n"
        "        loop = asyncio.get_running_loop()\n"
        "        loop.call_later(0.05, os.kill, os.getpid(), signal.SIGTERM)\n"
        "    await lab.app(scope, receive, send)\n"
    )
    place = ("--app-dir", str(tmp_path), "--pythonpath", str(APPS))
    server = serve("leaves:app", *place, "--lifespan", "on")
    server.wait_for_line("leaves, without having been told to; replacing it$")
    server.wait_for_line("leaves, without having been told to; replacing it in 0.1 s")
    server.wait_for_line("leaves, without having been told to; replacing it in 0.4 s")
    server.wait_for_line("Degraded")
    assert server.stop() == 0
