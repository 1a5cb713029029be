"""What hooks know of the other workers, and of how many there are to be."""

from __future__ import annotations

import os
import signal

import pytest
from harness.hooks import RECORDS, Hooked, Recorded
from harness.marks import rsgun_only
from harness.waiting import eventually

pytestmark = rsgun_only

NUMBERED = """
def on_starting(server):
    server._reserve = set()

def nworkers_changed(server, new_value, old_value):
    server._count = new_value

def _next_id(server):
    if server._reserve:
        return server._reserve.pop()
    used = {worker._id for worker in server.WORKERS.values() if worker.alive}
    free = set(range(1, server._count + 1)) - used
    return free.pop()

def on_reload(server):
    server._reserve = set(range(1, server.cfg.workers + 1))

def pre_fork(server, worker):
    worker._id = _next_id(server)

def post_fork(server, worker):
    record("post_fork", id=worker._id, age=worker.age)
"""
"""The recipe for numbers of workers that is found most often. It has no child_exit."""


def ids(recorded: Recorded, count: int) -> list[object]:
    """The numbers that so many workers have got."""
    return sorted(record["id"] for record in recorded.wait("post_fork", count))  # type: ignore[type-var]


THREAD = """
import threading

threading.Thread(target=threading.Event().wait, daemon=True).start()
"""


@pytest.mark.parametrize("more", ["", THREAD], ids=["plain", "threads"])
def test_numbers_of_workers(hooked: Hooked, more: str) -> None:
    """Also where the fork server has a thread, and forks in another way."""
    recorded = hooked("-w", "3", "--preload", base=RECORDS, conf=NUMBERED + more)
    server = recorded.server
    assert ids(recorded, 3) == [1, 2, 3]
    for _ in range(2):
        recorded.forget()
        victim = server.wait_for_workers(3)[1].pid
        os.kill(victim, signal.SIGKILL)
        server.wait_for_line(rf"pid {victim}\] .*replacing it")
        assert ids(recorded, 1) <= [3]
        server.wait_for_workers(3)
    recorded.forget()
    server.send_signal(signal.SIGTTIN)
    assert ids(recorded, 1) == [4]
    server.wait_for_workers(4)
    recorded.forget()
    server.send_signal(signal.SIGHUP)
    server.wait_for_line("Reload complete")
    numbers = ids(recorded, 4)
    assert len(set(numbers)) == 4, numbers
    recorded.forget()
    os.kill(server.wait_for_workers(4)[0].pid, signal.SIGKILL)
    assert ids(recorded, 1) <= [4]
    assert "has raised" not in "\n".join(server.lines())


def test_number_of_a_worker_that_is_recycled(hooked: Hooked) -> None:
    recorded = hooked("--max-requests", "2", base=RECORDS, conf=NUMBERED)
    for count in (2, 3):
        recorded.server.get()
        recorded.server.get()
        assert set(ids(recorded, count)) == {1}
        recorded.server.wait_for_workers(1)
    assert "has raised" not in "\n".join(recorded.server.lines())


EXEC = """
import threading

def when_ready(server):
    threading.Thread(target=threading.Event().wait, daemon=True).start()
"""

LOOKING = """
def pre_fork(server, worker):
    record("pre_fork", known=sorted(server.WORKERS))
"""


@pytest.mark.parametrize(
    ("conf", "arguments"),
    [("", ()), (EXEC, ()), (EXEC, ("--preload",))],
    ids=["forked", "by exec", "forked twice"],
)
def test_siblings_are_known_by_their_pids(
    hooked: Hooked, conf: str, arguments: tuple[str, ...]
) -> None:
    recorded = hooked("-w", "3", *arguments, base=RECORDS, conf=LOOKING + conf)
    server = recorded.server
    workers = sorted(worker.pid for worker in server.wait_for_workers(3))
    seen = recorded.records("pre_fork")
    assert [len(record["known"]) for record in seen] == [0, 1, 2]  # type: ignore[arg-type]
    recorded.forget()
    server.send_signal(signal.SIGTTIN)
    assert recorded.wait("pre_fork")[0]["known"] == workers


def test_dead_workers_are_forgotten_without_a_hook(hooked: Hooked) -> None:
    recorded = hooked("-w", "2", base=RECORDS, conf=LOOKING)
    victim, other = (worker.pid for worker in recorded.server.wait_for_workers(2))
    recorded.forget()
    os.kill(victim, signal.SIGKILL)
    assert recorded.wait("pre_fork")[0]["known"] == [other]


SOFT_START = """
import signal

expected = 3
soft = True

def pre_fork(server, worker):
    worker.tells = soft

def post_worker_init(worker):
    if worker.tells:
        os.kill(worker.ppid, signal.SIGTTIN)

def nworkers_changed(server, new_value, old_value):
    global soft
    record("changed", new=new_value, old=old_value)
    if new_value >= expected:
        soft = False
"""


def test_soft_start_ends_after_a_reload_too(hooked: Hooked) -> None:
    """Each worker asks for the next one until the hook sees that there are enough."""
    recorded = hooked(base=RECORDS, conf=SOFT_START)
    server = recorded.server
    server.wait_for_workers(3)
    changes = [(one["old"], one["new"]) for one in recorded.wait("changed", 3)]
    assert changes == [(None, 1), (1, 2), (2, 3)]
    recorded.forget()
    server.send_signal(signal.SIGHUP)
    server.wait_for_line("Reload complete")
    changes = [(one["old"], one["new"]) for one in recorded.wait("changed")]
    assert changes == [(3, 3)]
    server.wait_for_workers(3)
    assert server.stop() == 0
    assert len(recorded.records("changed")) == 1


def test_fork_server_that_replaces_a_dead_one_knows_the_number(hooked: Hooked) -> None:
    recorded = hooked("-w", "2", base=RECORDS, conf=SOFT_START.replace("3", "2"))
    server = recorded.server
    server.wait_for_workers(2)
    recorded.forget()
    (victim,) = server.fork_servers()
    os.kill(victim.pid, signal.SIGKILL)
    assert [(one["old"], one["new"]) for one in recorded.wait("changed")] == [(2, 2)]


def test_number_that_changes_during_a_reload(hooked: Hooked) -> None:
    """The new fork server hears of what the old one was told meanwhile."""
    recorded = hooked(
        "--reload-probation",
        "2",
        base=RECORDS,
        conf=SOFT_START.replace("soft = True", "soft = False"),
    )
    server = recorded.server
    recorded.forget()
    server.send_signal(signal.SIGHUP)
    server.wait_for_line("generation 2\\]")
    server.send_signal(signal.SIGTTIN)
    server.wait_for_line("Reload complete", deadline=20)
    (fork_server,) = eventually(
        lambda: len(server.fork_servers()) == 1 and server.fork_servers(), "one fork server"
    )  # type: ignore[misc]
    eventually(
        lambda: (
            [
                (one["old"], one["new"])
                for one in recorded.records("changed")
                if one["pid"] == fork_server.pid
            ]
            == [(1, 1), (1, 2)]
        ),
        "both changes",
    )
