"""--drain-delay: after TERM the server goes on for a while, so that balancers notice."""

from __future__ import annotations

import os
import signal
import time
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

ANNOUNCED = r"Shutting down in \d+ s \(--drain-delay\)"


def term(server: Server, **where: int) -> None:
    """Sends SIGTERM and waits until the delay has begun."""
    server.send_signal(signal.SIGTERM)
    server.wait_for_line(ANNOUNCED, **where)


def knows(server: Server) -> bool:
    """Whether an answer on a connection that asks to be kept says that it ends."""
    with server.connect() as connection:
        return connection.get("/ping").header("connection") == "close"


def test_new_connections_are_served_during_the_delay(serve: Serve) -> None:
    server = serve("lab:app", "-w", "2", "--drain-delay", "600")
    server.wait_for_workers(2)
    term(server)
    for _ in range(10):
        assert server.get("/ping").body == b"pong"
    assert server.stop() == 0
    assert not server.leftovers()


def test_the_delay_ends_by_itself(serve: Serve) -> None:
    server = serve("lab:app", "--drain-delay", "2")
    began = time.monotonic()
    term(server)
    assert server.wait() == 0
    assert time.monotonic() - began >= 2


def test_answers_during_the_delay_end_their_connections(serve: Serve) -> None:
    """A client that keeps its connection alive goes elsewhere."""
    server = serve("lab:app", "--drain-delay", "60")
    with server.connections(2) as (idle, new):
        assert idle.get("/ping").header("connection") is None
        term(server)
        # The order may reach the worker after the line has reached us.
        eventually(lambda: knows(server), "the order has arrived")
        for connection in (idle, new):
            assert connection.get("/ping").header("connection") == "close"
    server.stop()


def test_request_that_is_longer_than_the_delay_is_answered(serve: Serve) -> None:
    server = serve("lab:app", "--drain-delay", "1")
    with server.connect() as connection:
        connection.request("/announced?2500")
        server.wait_for_line("serving /announced")
        term(server)
        assert connection.response().text == "slept 2500"
    assert server.wait() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_second_signal_ends_the_delay(serve: Serve, number: int) -> None:
    server = serve("lab:app", "--drain-delay", "600")
    term(server)
    assert server.stop(number) == 0


def test_term_to_the_whole_process_group(serve: Serve) -> None:
    """Workers do not take the same signal for an order to leave."""
    server = serve("lab:app", "-w", "2", "--drain-delay", "600")
    before = {worker.pid for worker in server.wait_for_workers(2)}
    os.killpg(server.pid, signal.SIGTERM)
    server.wait_for_line(ANNOUNCED)
    end = time.monotonic() + 1
    while time.monotonic() < end:
        assert server.get("/ping").body == b"pong"
    assert {worker.pid for worker in server.workers()} == before
    assert server.stop() == 0
    assert not [line for line in server.lines("stderr") if line.startswith("ERROR")]


def test_worker_that_dies_during_the_delay_is_replaced(serve: Serve) -> None:
    server = serve("lab:app", "--drain-delay", "600")
    (victim,) = server.wait_for_workers(1)
    term(server)
    os.kill(victim.pid, signal.SIGKILL)
    assert wait_gone(victim.pid)
    eventually(lambda: knows(server), "the new worker is told as well")
    server.stop()


def test_boot_is_stopped_without_delay(serve: Serve, module: Module, tmp_path: Path) -> None:
    module(
        "main", versioned("first", startup="print('starting', flush=True); await asyncio.sleep(60)")
    )
    server = serve("main:app", "--app-dir", str(tmp_path), "--drain-delay", "600", wait=False)
    server.wait_for_line("starting")
    assert server.stop() == 0


def test_delay_is_changed_by_a_reload(serve: Serve, tmp_path: Path) -> None:
    config = tmp_path / "rsgun.toml"
    config.write_text("drain-delay = 0\n")
    server = serve("lab:app", "-c", str(config))
    config.write_text("drain-delay = 600\n")
    server.send_signal(signal.SIGHUP)
    server.wait_for_generation(2, 1)
    server.wait_for_line("Reload complete")
    term(server)
    assert server.stop() == 0
