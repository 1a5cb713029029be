"""Hooks that raise, exit, or hang: nobody is harmed."""

from __future__ import annotations

import os
import signal
import time

import pytest
from harness.hooks import Hooked
from harness.marks import rsgun_only
from harness.waiting import DEADLINE

pytestmark = rsgun_only

ALL_HOOKS = {
    "on_starting": "server",
    "when_ready": "server",
    "on_reload": "server",
    "pre_fork": "server, worker",
    "post_fork": "server, worker",
    "post_worker_init": "worker",
    "pre_request": "worker, req",
    "post_request": "worker, req, environ, resp",
    "child_exit": "server, worker",
    "worker_exit": "server, worker",
    "nworkers_changed": "server, new, old",
    "on_exit": "server",
    "worker_int": "worker",
    "worker_abort": "worker",
    "pre_exec": "server",
}


DECIDING = ("on_starting", "post_fork", "post_worker_init")
"""Those whose SystemExit is a decision: test_hooks_app.py."""


@pytest.mark.parametrize("what", ["raise RuntimeError('of the hook')", "raise SystemExit(5)"])
def test_every_hook_raises_and_nobody_is_harmed(hooked: Hooked, what: str) -> None:
    names = [name for name in ALL_HOOKS if "Exit" not in what or name not in DECIDING]
    hooks = "".join(f"\ndef {name}({ALL_HOOKS[name]}):\n    {what}\n" for name in names)
    base = "bind = '127.0.0.1:0'\nwsgi_app = 'main:app'\nworkers = 2\n"
    recorded = hooked(conf=hooks, base=base)
    server = recorded.server
    server.tolerates_tracebacks = True
    for _ in range(5):
        assert server.get().status == 200
    victim = server.wait_for_workers(2)[0]
    os.kill(victim.pid, signal.SIGKILL)
    server.send_signal(signal.SIGTTIN)
    server.wait_for_line("Number of workers changed from 2 to 3")
    server.wait_for_line("Worker 3 started")
    server.send_signal(signal.SIGHUP)
    server.wait_for_generation(2, 3)
    server.wait_for_line("Reload complete")
    assert server.get().status == 200
    os.kill(server.wait_for_workers(3)[0].pid, signal.SIGABRT)
    server.wait_for_line("the hook worker_abort has raised")
    server.wait_for_line("exited with code 1; replacing it")
    server.wait_for_generation(2, 3)
    server.send_signal(signal.SIGUSR2)
    server.wait_for_line("Upgrade complete", deadline=30)
    server.wait_for_generation(3, 3)
    assert server.get().status == 200
    assert server.stop(signal.SIGINT) == 0
    for name in names:
        server.wait_for_line(f"the hook {name} has raised")
    text = "\n".join(server.lines("stderr"))
    assert "<rsgun/" not in text.split("the hook on_exit has raised")[1]
    assert not server.leftovers()


def test_on_exit_that_hangs(hooked: Hooked) -> None:
    recorded = hooked(conf="\nimport time\ndef on_exit(server):\n    time.sleep(600)\n")
    assert recorded.server.stop(deadline=2 * DEADLINE) == 0
    assert not recorded.server.leftovers()


def test_second_interrupt_does_not_wait_for_on_exit(hooked: Hooked) -> None:
    hanging = "\nimport time\ndef on_exit(server):\n    record('hanging')\n    time.sleep(600)\n"
    recorded = hooked(conf=hanging)
    recorded.server.send_signal(signal.SIGINT)
    recorded.wait("hanging")
    began = time.monotonic()
    recorded.server.send_signal(signal.SIGINT)
    recorded.server.wait_for_line("Ending at once")
    assert recorded.server.wait() == 0
    # Without the second one the hook has five seconds.
    assert time.monotonic() - began < 4
