"""What comes while a program is exchanged: other signals, and deaths."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.marks import rsgun_only
from harness.sources import versioned
from harness.upgrades import (
    COMPLETE,
    FAILED,
    GATED,
    Upgradable,
    upgrade,
)
from harness.waiting import eventually, wait_gone

pytestmark = rsgun_only

Module = Callable[[str, str], Path]


def test_second_one_is_refused(upgradable: Upgradable, module: Module, tmp_path: Path) -> None:
    server = upgradable()
    module("main", GATED)
    since = upgrade(server)
    server.wait_for_line(r"Upgrading: rsgun .* boots", since=since)
    server.wait_for_line(r"^WARNING: .*Upgrade refused", since=upgrade(server))
    (tmp_path / "go").touch()
    server.wait_for_line(COMPLETE, since=since, deadline=30)
    server.wait_for_generation(2, 2)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_stop_ends_the_candidate_too(
    upgradable: Upgradable, module: Module, number: signal.Signals
) -> None:
    server = upgradable()
    module("main", GATED)
    since = upgrade(server)
    server.wait_for_line(r"Upgrading: rsgun .* boots", since=since)
    assert server.stop(number) == 0
    assert not server.leftovers()
    assert not [line for line in server.lines(since=since) if re.search(FAILED, line)]


def test_reload_waits_for_the_new_program(
    upgradable: Upgradable, module: Module, tmp_path: Path
) -> None:
    server = upgradable()
    module("main", GATED)
    since = upgrade(server)
    server.wait_for_line(r"Upgrading: rsgun .* boots", since=since)
    module("main", versioned("third"))
    server.send_signal(signal.SIGHUP)
    server.wait_for_line(r"Reload asked for; it follows", since=since)
    (tmp_path / "go").touch()
    server.wait_for_generation(3, 2, 40)
    assert server.get().text.startswith("third ")


def test_signals_at_every_moment_are_carried_out(upgradable: Upgradable) -> None:
    """TTIN and TTOU in turn, the next as soon as the one before has counted: so one is under
    way at every moment, also while the program is exchanged, and each one counts."""
    server = upgradable(workers=1)
    since = upgrade(server)
    sent = 0

    def one_more() -> bool:
        nonlocal sent
        mark = server.output.mark()
        before, after = (1, 2) if sent % 2 == 0 else (2, 1)
        server.send_signal(signal.SIGTTIN if sent % 2 == 0 else signal.SIGTTOU)
        sent += 1
        changed = rf"Number of workers changed from {before} to {after}"
        server.wait_for_line(changed, since=mark, deadline=30)
        lines = server.lines(since=since)
        over = [index for index, line in enumerate(lines) if "has taken over" in line]
        return bool(over) and sum("Number of workers" in line for line in lines[over[0] :]) > 5

    eventually(one_more, "the new program", 60)
    server.wait_for_line(COMPLETE, since=since, deadline=60)
    changes = sum("Number of workers changed" in line for line in server.lines(since=since))
    assert changes == sent
    server.wait_for_generation(2, 1 + sent % 2, 40)


def test_workers_leave_when_the_new_master_is_killed(upgradable: Upgradable) -> None:
    server = upgradable("--graceful-timeout", "5")
    server.wait_for_line(COMPLETE, since=upgrade(server), deadline=30)
    server.wait_for_generation(2, 2)
    left = [process.pid for process in server.family() if process.pid != server.pid]
    server.tolerates_exit = {-signal.SIGKILL}
    os.kill(server.pid, signal.SIGKILL)
    for pid in left:
        assert wait_gone(pid)
    with pytest.raises(OSError, match="refused"):
        server.connect()


def test_nobody_is_left_when_the_master_is_killed_meanwhile(
    upgradable: Upgradable, module: Module
) -> None:
    server = upgradable("--graceful-timeout", "5")
    module("main", GATED)
    since = upgrade(server)
    server.wait_for_line(r"Upgrading: rsgun .* boots", since=since)
    left = [process.pid for process in server.family() if process.pid != server.pid]
    os.kill(server.pid, signal.SIGKILL)
    for pid in left:
        assert wait_gone(pid)
    with pytest.raises(OSError, match="refused"):
        server.connect()
