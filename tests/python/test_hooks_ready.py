"""when_ready: what it starts in the fork server is there for each generation."""

from __future__ import annotations

import os
import signal
import socket

import pytest
from harness.hooks import RECORDS, Hooked, Recorded
from harness.marks import rsgun_only
from harness.server import free_port
from harness.waiting import eventually

pytestmark = rsgun_only

EXPORTER = """
import socket, threading

def serve(listener):
    while True:
        client, _ = listener.accept()
        with client:
            client.sendall(str(os.getpid()).encode())

def when_ready(server):
    record("when_ready")
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", PORT))
    listener.listen()
    threading.Thread(target=serve, args=(listener,), daemon=True, name="exporter").start()
"""
"""A small server in a thread, as prometheus_flask_exporter and others start it."""


def answered_by(port: int) -> int | None:
    """The process that answers there."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
            return int(client.recv(100) or 0)
    except OSError:
        return None


@pytest.fixture
def exporter(hooked: Hooked) -> tuple[Recorded, int]:
    """A server whose fork server has a server of its own, and the port of that."""
    port = free_port()
    recorded = hooked("-w", "2", base=RECORDS, conf=EXPORTER.replace("PORT", str(port)))
    (fork_server,) = recorded.server.fork_servers()
    assert answered_by(port) == fork_server.pid
    return recorded, port


def another(recorded: Recorded, port: int) -> int:
    """Waits until the fork server that is the only one answers; returns its pid."""

    def answers() -> int | bool:
        servers = recorded.server.fork_servers()
        return len(servers) == 1 and answered_by(port) == servers[0].pid and servers[0].pid

    found = eventually(answers, "the only fork server answers")
    assert isinstance(found, int)
    return found


def test_server_of_a_hook_survives_reloads(exporter: tuple[Recorded, int]) -> None:
    recorded, port = exporter
    pids = {another(recorded, port)}
    for generation in (2, 3):
        recorded.server.send_signal(signal.SIGHUP)
        recorded.server.wait_for_generation(generation, 2)
        recorded.server.wait_for_line("Reload complete")
        pids.add(another(recorded, port))
    assert len(pids) == 3
    assert len(recorded.records("when_ready")) == 3
    assert "has raised" not in "\n".join(recorded.server.lines())


def test_server_of_a_hook_survives_its_fork_server(exporter: tuple[Recorded, int]) -> None:
    recorded, port = exporter
    before = another(recorded, port)
    os.kill(before, signal.SIGKILL)
    recorded.server.wait_for_line("Fork server of generation 1 failed")
    assert another(recorded, port) != before
    assert len(recorded.records("when_ready")) == 2


def test_server_of_a_hook_survives_an_upgrade(exporter: tuple[Recorded, int]) -> None:
    recorded, port = exporter
    before = another(recorded, port)
    recorded.server.send_signal(signal.SIGUSR2)
    recorded.server.wait_for_line("Upgrade complete", deadline=30)
    assert another(recorded, port) != before
    assert len(recorded.records("when_ready")) == 2
    assert "has raised" not in "\n".join(recorded.server.lines())


def test_reload_that_fails_calls_nothing(exporter: tuple[Recorded, int]) -> None:
    recorded, port = exporter
    before = another(recorded, port)
    (recorded.folder / "main.py").write_text("raise RuntimeError('broken')\n")
    recorded.server.tolerates_tracebacks = True
    recorded.server.send_signal(signal.SIGHUP)
    recorded.server.wait_for_line("Reload failed")
    assert another(recorded, port) == before
    assert recorded.server.stop() == 0
    assert len(recorded.records("when_ready")) == 1


def test_threads_of_a_hook_cost_the_state_of_hooks_which_is_said(hooked: Hooked) -> None:
    conf = (
        EXPORTER.replace("PORT", "0")
        + """
def on_starting(server):
    server.token = 42

def post_fork(server, worker):
    record("post_fork", token=getattr(server, "token", None))
"""
    )
    recorded = hooked(base=RECORDS, conf=conf)
    assert recorded.wait("post_fork")[0]["token"] is None
    recorded.server.wait_for_line(
        r"1 thread besides the main one \(.*exporter.*\); so workers are started afresh .* what "
        "on_starting, when_ready, on_reload or pre_fork have set is not there in post_fork"
    )
