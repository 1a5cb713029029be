"""Signals in unusual places and at unusual moments: to workers, during boot and reload."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from harness import processes
from harness.marks import rsgun_only
from harness.server import Server
from harness.sources import answer, versioned
from harness.waiting import eventually, wait_gone
from harness.wire import Connection

pytestmark = rsgun_only

Serve = Callable[..., Server]
Module = Callable[[str, str], Path]

OF_THE_MASTER = [
    signal.SIGHUP,
    signal.SIGUSR2,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGWINCH,
    signal.SIGCHLD,
]

GATED = """
import os
import time

print("importing", flush=True)
while not os.path.exists({gate!r}):
    time.sleep(0.01)
"""


def gated(version: str, gate: Path) -> str:
    """A version whose import waits until a file is there."""
    return versioned(version, top=GATED.format(gate=str(gate)))


@pytest.mark.parametrize("number", OF_THE_MASTER, ids=lambda number: number.name)
def test_worker_and_fork_server_ignore_what_is_the_masters(serve: Serve, number: int) -> None:
    """An operator may send it to the whole group."""
    server = serve("lab:app")
    (worker,) = server.wait_for_workers(1)
    (fork_server,) = server.fork_servers()
    with server.connect() as connection:
        connection.request("/announced?300")
        server.wait_for_line("serving /announced")
        os.kill(worker.pid, number)
        os.kill(fork_server.pid, number)
        assert connection.response().text == "slept 300"
    assert server.get("/ping").body == b"pong"
    assert [process.pid for process in server.workers()] == [worker.pid]
    assert [process.pid for process in server.fork_servers()] == [fork_server.pid]


QUICK = [signal.SIGINT, signal.SIGQUIT]

ENDLESS = {
    "asgi": """
import asyncio

async def app(scope, receive, send):
    assert scope["type"] == "http"
    print("serving", flush=True)
    await asyncio.sleep(60)
""",
    "wsgi": """
import time

def app(environ, start_response):
    print("serving", flush=True)
    time.sleep(60)
""",
}


@pytest.mark.parametrize("number", QUICK, ids=lambda number: number.name)
@pytest.mark.parametrize("interface", ENDLESS)
def test_worker_stops_quickly_and_is_replaced(
    serve: Serve, module: Module, tmp_path: Path, number: int, interface: str
) -> None:
    module("main", ENDLESS[interface])
    server = serve("main:app", "--app-dir", str(tmp_path))
    (worker,) = server.wait_for_workers(1)
    with server.connect() as connection:
        connection.request("/")
        server.wait_for_line("^serving")
        since = server.output.mark()
        os.kill(worker.pid, number)
        server.wait_for_line(rf"{worker.pid}\b.* leaves, without having been told to; replacing it")
        assert wait_gone(worker.pid)
        server.wait_for_line(r"Worker 1 started", since=since)
    server.wait_for_workers(1)


FORKS = """
import os
import time

async def app(scope, receive, send):
    assert scope["type"] == "http"
    child = os.fork()
    if child == 0:
        print("forked", flush=True)
        while True:
            time.sleep(60)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(child).encode()})
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, *QUICK], ids=lambda number: number.name)
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_signal_to_a_process_that_the_application_has_forked(
    serve: Serve, module: Module, tmp_path: Path, number: int, loop: str
) -> None:
    """It is not the worker's, whose handlers the process has inherited."""
    module("main", FORKS)
    arguments = ["--app-dir", str(tmp_path), "--loop", loop, "--keep-alive", "600"]
    server = serve("main:app", *arguments)
    (worker,) = server.wait_for_workers(1)
    with server.connect() as connection:
        child = int(connection.get("/").text)
        server.wait_for_line("^forked")
        since = server.output.mark()
        os.kill(child, number)
        if number == signal.SIGTERM:
            assert wait_gone(child)
        assert connection.silent(0.5)
    if number != signal.SIGTERM:
        os.kill(child, signal.SIGKILL)
        assert wait_gone(child)
    assert not [line for line in server.lines(since=since) if "leaves" in line]
    assert [each.pid for each in server.titled("^rsgun: worker")] == [worker.pid]


@pytest.mark.parametrize("number", QUICK, ids=lambda number: number.name)
def test_fork_server_leaves_a_quick_stop_to_the_master(serve: Serve, number: int) -> None:
    server = serve("lab:app")
    (fork_server,) = server.fork_servers()
    os.kill(fork_server.pid, number)
    before = [worker.pid for worker in server.wait_for_workers(1)]
    server.send_signal(signal.SIGTTIN)
    server.wait_for_workers(2)
    assert [process.pid for process in server.fork_servers()] == [fork_server.pid]
    assert before[0] in [worker.pid for worker in server.workers()]


def test_worker_that_computes_answers_term_afterwards(
    serve: Serve, module: Module, tmp_path: Path
) -> None:
    """Its event loop sees the signal when it comes round."""
    module(
        "computes",
        """
import time

async def app(scope, receive, send):
    assert scope["type"] == "http"
    print("computing", flush=True)
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"computed"})
""",
    )
    server = serve("computes:app", "--app-dir", str(tmp_path))
    (worker,) = server.wait_for_workers(1)
    with server.connect() as connection:
        connection.request("/")
        server.wait_for_line("computing")
        os.kill(worker.pid, signal.SIGTERM)
        assert connection.response().body == b"computed"
    server.wait_for_line(rf"\b{worker.pid}\b.* leaves, without having been told to; replacing it")
    eventually(lambda: worker.pid not in [each.pid for each in server.workers()], "it has left")
    assert server.get().body == b"computed"


def state(pid: int) -> str | None:
    """What the kernel says about a process: `T` is stopped, `Z` has ended."""
    found = processes.look(pid)
    return found.state if found else None


def test_worker_that_serves_before_the_master_knows_answers_what_it_has(
    serve: Serve, module: Module, tmp_path: Path
) -> None:
    """The server stops when its word that it is ready is still on the way."""
    gate = tmp_path / "gate"
    gate.touch()
    module("main", versioned("only", gate=repr(str(gate))))
    server = serve("main:app", "--app-dir", str(tmp_path))
    (first,) = server.wait_for_workers(1)
    gate.unlink()
    since = server.output.mark()
    server.send_signal(signal.SIGTTIN)
    server.wait_for_line("^starting", since=since)
    server.send_signal(signal.SIGSTOP)
    eventually(lambda: state(server.pid) == "T", "the master has stopped")
    gate.touch()
    with ExitStack() as stack:

        def second_is_asked() -> Connection | None:
            connection = stack.enter_context(server.connect())
            if answer(connection.get("/").text)[1] == first.pid:
                return None
            connection.request("/wait")
            server.wait_for_line("^waiting in only", since=since)
            return connection

        asked = eventually(second_is_asked, "a request to the second worker")
        server.send_signal(signal.SIGTERM)
        server.send_signal(signal.SIGCONT)
        server.wait_for_line("Shutting down", since=since)
        (tmp_path / "released").touch()
        assert asked.response().text.startswith("only ")
    assert server.wait() == 0


def test_sigchld_from_nobody_changes_nothing(serve: Serve) -> None:
    server = serve("lab:app")
    before = [worker.pid for worker in server.wait_for_workers(1)]
    for _ in range(20):
        server.send_signal(signal.SIGCHLD)
    assert server.get("/ping").body == b"pong"
    assert [worker.pid for worker in server.workers()] == before


def test_wishes_during_the_boot_are_fulfilled_after_it(
    serve: Serve, module: Module, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    module("main", gated("first", gate))
    server = serve("main:app", "--app-dir", str(tmp_path), wait=False)
    server.wait_for_line("importing")
    server.send_signal(signal.SIGTTIN)
    server.wait_for_line("Number of workers changed from 1 to 2")
    server.send_signal(signal.SIGHUP)
    server.wait_for_line("Reload asked for")
    server.send_signal(signal.SIGUSR2)
    server.wait_for_line("Upgrade asked for; it follows")
    server.send_signal(signal.SIGUSR1)
    gate.touch()
    server.wait_until_running()
    server.wait_for_line("Upgrade complete", deadline=30)
    server.wait_for_line("Reload complete", deadline=30)
    server.wait_for_generation(3, 2)
    assert server.get().text.startswith("first ")


def test_wishes_during_a_reload_count_at_once(serve: Serve, module: Module, tmp_path: Path) -> None:
    """TTIN and TTOU change the number of workers; HUPs lead to one more reload."""
    gate = tmp_path / "gate"
    module("main", versioned("first"))
    server = serve("main:app", "--app-dir", str(tmp_path), "-w", "2")
    server.wait_for_workers(2)
    module("main", gated("second", gate))
    since = server.output.mark()
    server.send_signal(signal.SIGHUP)
    server.wait_for_line("importing", since=since)
    for number in (signal.SIGTTOU, signal.SIGHUP, signal.SIGUSR1, signal.SIGHUP):
        mark = server.output.mark()
        server.send_signal(number)
        if number != signal.SIGUSR1:
            server.wait_for_line(r"^INFO: ", stream="stderr", since=mark)
    assert server.get().text.startswith("first ")
    gate.touch()
    server.wait_for_generation(3, 1)
    assert server.get().text.startswith("second ")
    eventually(
        lambda: sum("Reload complete" in line for line in server.lines("stderr", since)) == 2,
        "the end of the second reload",
    )


def test_term_and_int_together_are_one_stop(serve: Serve) -> None:
    """As an impatient supervisor and a terminal send them."""
    server = serve("lab:app", "-w", "2")
    server.wait_for_workers(2)
    os.killpg(server.pid, signal.SIGTERM)
    os.killpg(server.pid, signal.SIGINT)
    assert server.wait() == 0
    assert not server.leftovers()


HANGS_UP = """
import os
import socket

for name in os.listdir("/proc/self/fd"):
    try:
        channel = socket.socket(fileno=os.dup(int(name)))
    except OSError:
        continue
    if channel.type == socket.SOCK_SEQPACKET:
        channel.shutdown(socket.SHUT_RDWR)

while True:
    time.sleep(1)
"""
"""What a process does first when it dies: it closes its channel."""


def test_term_to_the_group_is_a_stop_and_no_failure(
    serve: Serve, module: Module, tmp_path: Path
) -> None:
    """As supervisord sends it with ``stopasgroup``. When the master has seen the end of the
    channel, it finds TERM and the end of its fork server at the same moment."""
    module("main", "import time\n" + HANGS_UP)
    arguments = ["--app-dir", str(tmp_path), "--preload", "--log-level", "trace"]
    server = serve("main:app", *arguments, wait=False)
    server.wait_for_line("event: ForkServerClosed")
    (fork_server,) = server.fork_servers()
    server.send_signal(signal.SIGSTOP)
    eventually(lambda: state(server.pid) == "T", "the master has stopped")
    os.kill(fork_server.pid, signal.SIGTERM)
    eventually(lambda: state(fork_server.pid) == "Z", "the fork server has ended")
    server.send_signal(signal.SIGTERM)
    server.send_signal(signal.SIGCONT)
    assert server.wait() == 0
    assert not [line for line in server.lines("stderr") if line.startswith(("ERROR", "WARN"))]


IGNORES_CHILDREN = """
import signal

signal.signal(signal.SIGCHLD, signal.SIG_IGN)
"""


@pytest.mark.parametrize("configured", [False, True], ids=["application", "configuration"])
def test_code_that_ignores_sigchld(
    serve: Serve, module: Module, tmp_path: Path, *, configured: bool
) -> None:
    """The fork server then learns nothing of the process between it and the worker."""
    module("main", versioned("first", top="" if configured else IGNORES_CHILDREN))
    module("settings", IGNORES_CHILDREN)
    configuration = ["-c", str(tmp_path / "settings.py")] if configured else ["--preload"]
    server = serve("main:app", "--app-dir", str(tmp_path), *configuration)
    assert server.get().text.startswith("first ")


def test_signals_that_the_parent_has_blocked(serve: Serve) -> None:
    blocked = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    try:
        server = serve("lab:app", wait=False)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    server.wait_until_running()
    (worker,) = server.wait_for_workers(1)
    os.kill(worker.pid, signal.SIGKILL)
    server.wait_for_line("was killed by SIGKILL; replacing it")
    assert server.stop() == 0
