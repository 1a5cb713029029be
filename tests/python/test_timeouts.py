"""Time-outs: what hangs is found, explained in the log, and ended."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from harness.entries import shows
from harness.marks import rsgun_only
from harness.server import Server
from harness.sources import versioned
from harness.waiting import wait_gone
from harness.wire import Truncated

pytestmark = rsgun_only

Serve = Callable[..., Server]
Module = Callable[[str, str], Path]

HANGS = """
import asyncio
import ctypes
import os
import threading
import time


def hold_the_lock_in_c():
    mutex = ctypes.create_string_buffer(64)
    library = ctypes.PyDLL(None)
    library.pthread_mutex_lock(mutex)
    library.pthread_mutex_lock(mutex)


def sleep_in_c():
    ctypes.PyDLL(None).sleep(60)
    hold_the_lock_in_c()


def spin():
    while True:
        pass


def deadlock():
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def hold_the_lock_in_a_thread():
    thread = threading.Thread(target=hold_the_lock_in_c)
    thread.start()
    thread.join()


async def wait_in_the_background():
    await asyncio.sleep(1000)


async def answer(send, text):
    headers = [(b"content-length", str(len(text)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})


async def app(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError("only http")
    path = scope["path"]
    if path == "/pid":
        await answer(send, str(os.getpid()))
    elif path == "/task":
        scope["state"]["task"] = TASKS.append(asyncio.create_task(wait_in_the_background()))
        await answer(send, "made")
    elif path == "/callback":
        asyncio.get_running_loop().call_soon(spin)
        await asyncio.sleep(1000)
    elif path == "/blocking":
        time.sleep(1000)
    else:
        globals()[path[1:].replace("-", "_")]()


TASKS = []
"""


@pytest.fixture
def hangs(serve: Serve, module: Module, tmp_path: Path) -> Callable[..., Server]:
    def start(*arguments: str, source: str = HANGS, **more: object) -> Server:
        module("hangs", source)
        return serve("hangs:app", "--app-dir", str(tmp_path), *arguments, **more)

    return start


STUCK = r"Worker \d \[pid (\d+)\] has been stuck for [\d.]+ s \(--timeout\) and is killed"


@pytest.mark.parametrize(
    ("path", "frame"),
    [
        ("/hold-the-lock-in-c", "in hold_the_lock_in_c"),
        ("/sleep-in-c", "in sleep_in_c"),
        ("/hold-the-lock-in-a-thread", "in hold_the_lock_in_c"),
        ("/spin", "in spin"),
        ("/callback", "in spin"),
        ("/blocking", "in app"),
        ("/deadlock", "in deadlock"),
    ],
)
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_worker_that_is_stuck(
    hangs: Callable[..., Server], path: str, frame: str, loop: str
) -> None:
    """The stacks and the request are in the log, the next request is served."""
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    server = hangs("-t", "2", "--loop", loop)
    victim = int(server.get("/pid").text)
    with server.connect() as connection:
        connection.request(f"{path}?secret=1")
        found = server.wait_for_line(STUCK, stream="stderr")
        assert int(found[1]) == victim
        with pytest.raises((Truncated, OSError)):
            connection.response()
    assert wait_gone(victim)
    shows(server, STUCK, rf"GET {path}\S* \([\d.]+ s\)", rf"hangs\.py.*{frame}$")
    assert server.get("/pid").text != str(victim)
    assert sum(bool(re.search(STUCK, line)) for line in server.lines()) == 1
    assert not [line for line in server.lines("stderr") if "SIGABRT" in line]


def test_tasks_are_shown_where_python_can_run(hangs: Callable[..., Server]) -> None:
    server = hangs("-t", "2")
    with server.connect() as idle, server.connect() as connection:
        assert idle.get("/task").text == "made"
        connection.request("/spin")
        server.wait_for_line(STUCK, stream="stderr")
        with pytest.raises((Truncated, OSError)):
            connection.response()
    shows(server, STUCK, "in wait_in_the_background")


def test_other_workers_serve_meanwhile(hangs: Callable[..., Server]) -> None:
    server = hangs("-t", "2", "-w", "2")
    server.wait_for_workers(2)
    with server.connect() as stuck:
        stuck.request("/spin")
        found = server.wait_for_line(STUCK, stream="stderr")
        for _ in range(20):
            assert server.get("/pid").text != found[1]
        with pytest.raises((Truncated, OSError)):
            stuck.response()
    server.wait_for_workers(2)


def test_timeout_0_waits(hangs: Callable[..., Server]) -> None:
    server = hangs("-t", "0", "--graceful-timeout", "1")
    with server.connect() as connection:
        connection.request("/blocking")
        connection.silent(2.5)
        assert not [line for line in server.lines("stderr") if "stuck" in line]
        server.stop()
    shows(
        server,
        r"did not end within 6(\.\d)? s and was killed: its requests had 1 s "
        r"\(--graceful-timeout\), and 5 s were for",
        "GET /blocking",
        "in app$",
    )


HANGS_AT_EXIT = """
import ctypes

library = ctypes.CDLL(None)
library.__cxa_atexit(library.pause, None, None)

async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})
"""
"""Hangs when its interpreter has ended, and with it the handler that writes stacks."""


def test_worker_that_hangs_at_its_exit_has_not_crashed(serve: Serve, module: Module) -> None:
    folder = module("main", HANGS_AT_EXIT).parent
    server = serve("main:app", "--app-dir", str(folder), "--graceful-timeout", "1")
    server.wait_for_workers(1)
    since = server.output.mark()
    server.send_signal(signal.SIGTERM)
    server.wait_for_line(r"^WARNING: .*did not end within 6(\.\d)? s", since=since, deadline=20)
    assert server.wait() == 0
    text = "\n".join(server.lines(since=since))
    assert "It could not write its stacks." in text
    assert "SIGSEGV" not in text


def test_idle_worker_is_not_stuck(hangs: Callable[..., Server]) -> None:
    """A server with a short time-out and nothing to do."""
    server = hangs("-t", "2")
    pid = server.get("/pid").text
    with server.connect() as connection:
        connection.silent(4)
    assert server.get("/pid").text == pid


def test_paused_container(hangs: Callable[..., Server]) -> None:
    """Whole process trees are frozen and thawed: nobody was at fault."""
    server = hangs("-t", "2", "-w", "2")
    before = {worker.pid for worker in server.wait_for_workers(2)}
    with server.connect() as connection:
        with paused(server):
            connection.silent(4)
        assert connection.get("/pid").status == 200
        connection.silent(2.5)
    assert {worker.pid for worker in server.workers()} == before
    assert not [line for line in server.lines("stderr") if "stuck" in line]


@contextmanager
def paused(server: Server) -> Iterator[None]:
    """Nobody of the server runs, as in a container that is paused."""
    family = server.family()

    def send_all(number: signal.Signals) -> None:
        for process in family:
            # It may be about to end.
            with suppress(ProcessLookupError):
                process.send_signal(number)

    send_all(signal.SIGSTOP)
    try:
        yield
    finally:
        send_all(signal.SIGCONT)


WAITS = {
    "asgi": versioned("first"),
    "wsgi": """
import os
import time


def app(environ, start_response):
    while environ["PATH_INFO"] == "/wait" and not os.path.exists("released"):
        time.sleep(0.02)
    start_response("200 OK", [("Content-Length", "5")])
    return [b"first"]
""",
}


@pytest.mark.parametrize("timeout", ["0", "30"])
@pytest.mark.parametrize("length", [3, 6], ids=["ends before the deadline", "ends after it"])
@pytest.mark.parametrize("interface", WAITS)
def test_pause_is_not_counted_against_requests_of_a_worker_that_drains(
    serve: Serve, module: Module, tmp_path: Path, interface: str, length: int, timeout: str
) -> None:
    module("main", WAITS[interface])
    arguments = ("--app-dir", str(tmp_path), "-t", timeout, "--graceful-timeout", "5")
    server = serve("main:app", *arguments)
    with server.connect() as connection:
        connection.request("/wait")
        connection.silent(0.2)
        server.send_signal(signal.SIGTERM)
        server.wait_for_line("Shutting down")
        with paused(server):
            connection.silent(length)
        # Longer than the rest of the time, or than what is cancelled has to clean up.
        connection.silent(3)
        (tmp_path / "released").touch()
        assert connection.response().text.startswith("first")
    assert server.wait() == 0
    text = "\n".join(server.lines("stderr"))
    assert "did not end" not in text and "killed" not in text


def test_pause_is_not_counted_against_a_start(serve: Serve, module: Module, tmp_path: Path) -> None:
    body = "print('starts', flush=True); await asyncio.sleep(0.02)"
    wait = f"while not os.path.exists('released'): {body}"
    module("main", versioned("first", startup=wait))
    arguments = ("--app-dir", str(tmp_path), "--boot-timeout", "3", "-t", "0")
    server = serve("main:app", *arguments, wait=False)
    server.wait_for_line("^starts$")
    with paused(server):
        assert not wait_gone(server.pid, 4)
    assert not wait_gone(server.pid, 1)
    (tmp_path / "released").touch()
    server.wait_until_running()
    assert server.get().text.startswith("first ")


@pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["plain", "preload"])
def test_import_that_hangs(
    run: Callable[..., Any], module: Module, tmp_path: Path, preload: tuple[str, ...]
) -> None:
    module("hangs", f"{HANGS}\nhold_the_lock_in_c()\n")
    # Time enough for a busy machine to come that far.
    ended = run("hangs:app", "--app-dir", str(tmp_path), "--boot-timeout", "5", "-t", "1", *preload)
    assert ended.returncode == 3
    text = ended.stderr
    assert "was not ready within 5 s and was killed" in text
    assert re.search(r"hangs\.py\", line \d+ in hold_the_lock_in_c", text)
    assert re.search(r"hangs\.py\", line \d+ in <module>", text)


def test_lifespan_startup_that_hangs(
    run: Callable[..., Any], module: Module, tmp_path: Path
) -> None:
    module(
        "hangs",
        HANGS.replace('raise RuntimeError("only http")', "await receive()\n        deadlock()"),
    )
    ended = run("hangs:app", "--app-dir", str(tmp_path), "--boot-timeout", "5")
    assert ended.returncode == 3
    assert re.search(r"line \d+ in deadlock", ended.stderr)


def test_reload_to_code_that_hangs(hangs: Callable[..., Server], module: Module) -> None:
    server = hangs("--boot-timeout", "5")
    pid = server.get("/pid").text
    module("hangs", f"{HANGS}\nspin()\n")
    server.send_signal(signal.SIGHUP)
    shows(server, "Reload failed, generation 1 stays", "in spin$")
    assert server.get("/pid").text == pid
