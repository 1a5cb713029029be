"""Stops and deaths at awkward moments: early in a boot, late in a request."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

from harness.server import Server, port_is_free
from harness.target import command
from harness.waiting import eventually

Serve = Callable[..., Server]
Module = Callable[[str, str], Path]

LIFESPAN = """
import asyncio
import os

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        print("lifespan over", flush=True)
        await send({"type": "lifespan.shutdown.complete"})
        return
"""
"""The beginning of an application that says when its lifespan is over."""

BACKGROUND = (
    LIFESPAN
    + """
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})
    await asyncio.sleep(1.0)
    print("background done", flush=True)
"""
)

ANSWERED = (
    LIFESPAN
    + """
    print("working", flush=True)
    while not os.path.exists("released"):
        await asyncio.sleep(0.02)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})
    print("answered", flush=True)
"""
)


def test_work_after_the_response_is_finished_at_a_stop(
    serve: Serve, module: Module, tmp_path: Path
) -> None:
    module("background", BACKGROUND)
    server = serve("background:app", "--app-dir", str(tmp_path), "--no-access-log")
    assert server.get("/").status == 200
    server.send_signal(signal.SIGTERM)
    assert server.wait(10) == 0
    assert server.lines("stdout") == ["background done", "lifespan over"]


def test_request_is_answered_before_the_lifespan_shutdown(
    serve: Serve, module: Module, tmp_path: Path
) -> None:
    module("main", ANSWERED)
    server = serve("main:app", "--app-dir", str(tmp_path), "--no-access-log")
    with server.connect() as connection:
        connection.request("/")
        server.wait_for_line("^working$")
        server.send_signal(signal.SIGTERM)
        eventually(lambda: port_is_free(server.port), "nobody listens any more")
        (tmp_path / "released").touch()
        assert connection.response().body == b"ok"
    assert server.wait() == 0
    assert server.lines("stdout") == ["working", "answered", "lifespan over"]


def test_healthy_workers_outlive_the_graceful_timeout(
    serve: Serve, module: Module, tmp_path: Path
) -> None:
    """A big preloaded application makes the double fork slow, and the moment long in
    which a worker is not yet the master's child."""
    module("big", "BALLAST = bytearray(b'x') * (200 << 20)\n" + BACKGROUND)
    server = serve(
        "big:app",
        "--app-dir",
        str(tmp_path),
        "--preload",
        "-w",
        "3",
        "--graceful-timeout",
        "1",
    )
    before = {worker.pid for worker in server.wait_for_workers(3)}
    began = time.monotonic()
    eventually(lambda: time.monotonic() - began > 2.5, "twice the graceful time-out", 5)
    assert {worker.pid for worker in server.workers()} == before


def test_interrupted_startup_is_not_an_error(
    launch: Callable[..., Server], module: Module, tmp_path: Path
) -> None:
    """Whenever CTRL+C comes, nothing of it looks like a fault of the application."""
    module(
        "slow",
        """
from contextlib import asynccontextmanager
import asyncio
from starlette.applications import Starlette

@asynccontextmanager
async def lifespan(app):
    print("in the startup", flush=True)
    await asyncio.sleep(30)
    yield

app = Starlette(lifespan=lifespan)
""",
    )
    server = launch(command("slow:app", "--port", "0", "-w", "3", "--app-dir", str(tmp_path)))
    server.wait_for_line("in the startup")
    server.send_signal(signal.SIGINT)
    assert server.wait(10) == 0
    assert not [line for line in server.lines("stderr") if "ERROR" in line or "Traceback" in line]


def test_worker_that_imports_ends_at_once(
    launch: Callable[..., Server], module: Module, tmp_path: Path
) -> None:
    """It reads no order, and has nothing to lose."""
    module("slow", "import time\nprint('importing', flush=True)\ntime.sleep(30)\n")

    def takes() -> float:
        server = launch(command("slow:app", "--port", "0", "--app-dir", str(tmp_path)))
        server.wait_for_line("importing")
        began = time.monotonic()
        server.send_signal(signal.SIGINT)
        assert server.wait() == 0
        return time.monotonic() - began

    # Whatever else the machine does, one of several is fast.
    assert min(takes() for _ in range(3)) < 0.9


def test_traceback_that_is_no_text_is_logged(serve: Serve, module: Module, tmp_path: Path) -> None:
    module(
        "bytes_in_names",
        "async def app(scope, receive, send):\n"
        "    assert scope['type'] == 'http'\n"
        "    raise ValueError('name \\udcff')\n",
    )
    server = serve("bytes_in_names:app", "--app-dir", str(tmp_path))
    server.tolerates_tracebacks = True
    assert server.get("/").status == 500
    server.wait_for_line(r"ValueError: name \\udcff$", stream="stderr")
