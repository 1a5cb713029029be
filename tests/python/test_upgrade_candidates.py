"""A candidate that serves already, and is killed, stopped, or hangs: no request of it is lost."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from harness import processes
from harness.marks import rsgun_only
from harness.server import Server
from harness.sources import answer, versioned
from harness.upgrades import (
    FAILED,
    Upgradable,
    load_on,
    rsgunctl,
    upgrade,
    wait_for_service,
)
from harness.waiting import BOOT, eventually, wait_gone
from harness.wire import Connection

pytestmark = rsgun_only

Module = Callable[[str, str], Path]


def candidate(server: Server) -> processes.Process:
    """The new program, while it is on trial."""
    (found,) = server.titled(r"^rsgun: candidate")
    return found


def fork_server_of_the_candidate(server: Server) -> processes.Process:
    """The one from which its worker comes."""
    (found,) = (each for each in server.fork_servers() if each.title.endswith("[gen 2]"))
    return found


def ask_the_candidate(server: Server, stack: ExitStack, path: str) -> tuple[Connection, int]:
    """A request that its worker has begun, and the pid of that one."""

    def ask() -> tuple[Connection, int] | None:
        connection = stack.enter_context(server.connect())
        version, pid, _ = answer(connection.get("/").text)
        if version != "second":
            return None
        connection.request(path)
        return connection, pid

    found = eventually(ask, "a request to the new program")
    assert found is not None
    return found


ENDS_OF_CANDIDATES = {
    "its fork server is killed": (fork_server_of_the_candidate, signal.SIGKILL, "SIGKILL"),
    "it is killed": (candidate, signal.SIGKILL, "SIGKILL before it had taken over: see"),
    "it is told to end": (candidate, signal.SIGTERM, "it was told to end"),
}


@pytest.mark.parametrize("how", ENDS_OF_CANDIDATES)
def test_worker_of_a_candidate_that_fails_answers_its_requests(
    upgradable: Upgradable, module: Module, how: str
) -> None:
    """It serves beside the others already, on their listeners."""
    server = upgradable("--no-access-log", "--reload-probation", "60")
    before = {process.pid for process in server.family()}
    module("main", versioned("second"))
    with load_on(server) as load:
        since = upgrade(server)
        wait_for_service(load, "second")
        victim, number, reason = ENDS_OF_CANDIDATES[how]
        os.kill(victim(server).pid, number)
        server.wait_for_line(f"{FAILED}.*{reason}", since=since)
        eventually(lambda: {p.pid for p in server.family()} == before, "the candidate is gone")
        answered = load.one_shot.answered
        eventually(lambda: load.one_shot.answered > answered + 50, "the others go on")


def test_long_request_of_a_candidate_that_fails(
    upgradable: Upgradable, module: Module, tmp_path: Path
) -> None:
    """As long as it takes the candidate is there, and another upgrade waits."""
    server = upgradable("--reload-probation", "60")
    module("main", versioned("second"))
    since = upgrade(server)
    with ExitStack() as stack:
        waiting, _ = ask_the_candidate(server, stack, "/wait")
        os.kill(fork_server_of_the_candidate(server).pid, signal.SIGKILL)
        server.wait_for_line(FAILED, since=since)
        module("main", versioned("third"))
        server.wait_for_line(r"Upgrade asked for; it follows", since=upgrade(server))
        server.wait_for_line(r"^WARNING: .*Upgrade refused", since=upgrade(server))
        assert server.titled(r"^rsgun: candidate")
        (tmp_path / "released").touch()
        assert waiting.response().text.startswith("second ")
    eventually(lambda: server.get().text.startswith("third "), "the next upgrade", BOOT)


@contextmanager
def hung_orphan(
    upgradable: Upgradable, module: Module, *arguments: str
) -> Iterator[tuple[Server, int]]:
    """A candidate was killed, and its worker hangs: the server and that worker."""
    server = upgradable("--reload-probation", "60", "--timeout", "0", *arguments)
    module("main", versioned("second"))
    since = upgrade(server)
    with ExitStack() as stack:
        _, worker = ask_the_candidate(server, stack, "/block")
        os.kill(candidate(server).pid, signal.SIGKILL)
        server.wait_for_line(FAILED + ".*SIGKILL", since=since)
        yield server, worker


def killed(worker: int) -> str:
    """The line about the end of that worker."""
    return rf"Worker 1 \[pid {worker}\] did not end within [\d.]+ s and was killed"


def test_worker_that_hangs_does_not_outlive_its_candidate_for_long(
    upgradable: Upgradable, module: Module, tmp_path: Path
) -> None:
    control = tmp_path / "control.sock"
    arguments = ("--graceful-timeout", "1", "--control-socket", str(control))
    with hung_orphan(upgradable, module, *arguments) as (server, worker):
        before = {process.pid for process in server.family()} - {worker}
        status = json.loads(rsgunctl(control, "--json"))
        shown = [one["phase"] for one in status["workers"] if one["pid"] == worker]
        assert shown == ["draining"]
        server.wait_for_line(killed(worker))
        server.wait_for_line("Its requests and stacks are not known")
        assert wait_gone(worker)
        eventually(lambda: len(server.family()) == 4, "master, fork server, two workers")
        assert {process.pid for process in server.family()} <= before


@pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["plain", "preload"])
def test_import_that_hangs_does_not_outlive_the_candidate_for_long(
    upgradable: Upgradable, module: Module, preload: tuple[str, ...]
) -> None:
    """In its fork server, or its worker; and it minds no signal."""
    server = upgradable("--graceful-timeout", "1", "--timeout", "0", *preload)
    before = {process.pid for process in server.family()}
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    module(
        "main", versioned("second", top=f"{deaf}; print('imports', flush=True); time.sleep(600)")
    )
    since = upgrade(server)
    server.wait_for_line("^imports$", since=since)
    os.kill(candidate(server).pid, signal.SIGKILL)
    server.wait_for_line(FAILED + ".*SIGKILL", since=since)
    eventually(lambda: {p.pid for p in server.family()} == before, "all of it is gone")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_ends_the_worker_that_a_candidate_has_left_behind(
    upgradable: Upgradable, module: Module, number: signal.Signals
) -> None:
    with hung_orphan(upgradable, module, "--graceful-timeout", "1") as (server, worker):
        assert server.stop(number, 12) == 0
        assert [line for line in server.lines() if re.search(killed(worker), line)]
    assert not server.leftovers(0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_quick_stop_does_not_wait_for_the_requests_of_a_candidate(
    upgradable: Upgradable, module: Module, number: signal.Signals
) -> None:
    server = upgradable("--reload-probation", "60")
    module("main", versioned("second"))
    upgrade(server)
    with ExitStack() as stack:
        ask_the_candidate(server, stack, "/wait")
        assert server.stop(number, 10) == 0
    assert not server.leftovers()


def test_stop_while_the_candidate_serves_loses_nothing(
    upgradable: Upgradable, module: Module
) -> None:
    server = upgradable("--no-access-log", "--reload-probation", "60")
    module("main", versioned("second"))
    with load_on(server, is_stopped=True) as load:
        upgrade(server)
        wait_for_service(load, "second")
        server.send_signal(signal.SIGTERM)
        assert server.wait() == 0
        assert not server.leftovers()
