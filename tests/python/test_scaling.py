"""--min-workers and --max-workers: the number of workers follows the load."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness.marks import rsgun_only
from harness.server import Server
from harness.wire import Truncated

pytestmark = rsgun_only

Serve = Callable[..., Server]
Module = Callable[[str, str], Path]

BLOCKS = """
import time

async def app(scope, receive, send):
    assert scope["type"] == "http"
    if scope["path"] == "/block":
        time.sleep(0.3)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"done"})
"""


@contextmanager
def load(server: Server, clients: int) -> Iterator[None]:
    """Clients that block one worker each for most of the time."""
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            try:
                server.get("/block")
            except (OSError, Truncated):
                return

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


@pytest.mark.timeout(300)
def test_workers_come_with_the_load_and_go_without_it(
    serve: Serve, module: Module, tmp_path: Path
) -> None:
    module("blocks", BLOCKS)
    server = serve("blocks:app", "--app-dir", str(tmp_path), "--max-workers", "2")
    server.wait_for_workers(1)
    with load(server, 6):
        server.wait_for_line(r"Number of workers changed from 1 to 2: for .* busy", deadline=60)
        server.wait_for_workers(2)
    server.wait_for_line(r"Number of workers changed from 2 to 1: for .* busy", deadline=120)
    server.wait_for_workers(1)
    assert server.get().text == "done"


def test_ttin_and_ttou_stay_within_the_bounds(serve: Serve) -> None:
    server = serve("lab:app", "--min-workers", "1", "--max-workers", "2")
    server.wait_for_workers(1)
    server.send_signal(signal.SIGTTIN)
    server.wait_for_workers(2)
    server.send_signal(signal.SIGTTIN)
    server.wait_for_line("The number of workers stays 2: it is the limit")
    server.send_signal(signal.SIGTTOU)
    server.wait_for_workers(1)
    server.send_signal(signal.SIGTTOU)
    server.wait_for_line("The number of workers stays 1: it is the limit")


def test_begins_with_the_fewest(serve: Serve) -> None:
    server = serve("lab:app", "--min-workers", "2", "--max-workers", "3")
    server.wait_for_workers(2)


@pytest.mark.parametrize(
    "arguments", [("--min-workers", "3", "--max-workers", "2"), ("--max-workers", "513")]
)
def test_bounds_are_checked(run: Callable[..., object], arguments: tuple[str, ...]) -> None:
    result = run("lab:app", *arguments)
    assert result.returncode in (1, 2)
    assert "-workers" in result.stderr
