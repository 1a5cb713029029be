"""SIGUSR2 with a program, or an application, that is of no use: nothing changes."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.marks import rsgun_only
from harness.sources import versioned
from harness.target import ROOT, binary
from harness.upgrades import (
    COMPLETE,
    FAILED,
    Upgradable,
    place,
    program_of,
    rsgunctl,
    upgrade,
)
from harness.waiting import eventually

pytestmark = rsgun_only

Module = Callable[[str, str], Path]


BROKEN_PROGRAMS = {
    "missing": (None, "no file|No such file"),
    "not executable": ("#!/bin/sh\nexit 0\n", "Permission denied"),
    "fails": ("#!/bin/sh\nexit 1\n", "exited with code 1 before it had taken over, .*is it rsgun"),
    "ends": ("#!/bin/sh\nexit 0\n", "exited with code 0 before it had taken over, .*is it rsgun"),
    "crashes": ("#!/bin/sh\nkill -SEGV $$\n", "SIGSEGV"),
    "no program": ("just some text\n", "code 127|Exec format error"),
    "no interpreter": ("#!/nowhere/interpreter\n", "No such file"),
}


@pytest.mark.parametrize("how", BROKEN_PROGRAMS)
def test_broken_binary_changes_nothing(upgradable: Upgradable, installed: Path, how: str) -> None:
    server = upgradable()
    before = {worker.pid for worker in server.family()}
    text, reason = BROKEN_PROGRAMS[how]
    installed.unlink()
    if text is not None:
        installed.write_text(text)
        installed.chmod(0o644 if how == "not executable" else 0o755)
    since = upgrade(server)
    server.wait_for_line(f"{FAILED}.*({reason})", since=since)
    eventually(lambda: {p.pid for p in server.family()} == before, "the candidate is gone")
    for _ in range(10):
        assert server.get().text.startswith("first ")

    installed.unlink(missing_ok=True)
    place(binary(), installed)
    server.wait_for_line(COMPLETE, since=upgrade(server), deadline=30)


def test_program_that_cannot_take_over_runs_the_old_one_again(
    upgradable: Upgradable, installed: Path
) -> None:
    """Its candidate boots, but after the exec it misses something in the state."""
    control = installed.with_name("control.sock")
    server = upgradable("--preload", "--control-socket", str(control))
    old = program_of(server.pid)
    before = {process.pid for process in server.family()}
    known, other = b"descriptors_of_master", b"descriptors_of_nobody"
    # In an optimised program the names of fields are part of its instructions.
    plain = ROOT / "target" / "debug" / "rsgun"
    if not plain.exists():
        pytest.skip("needs a debug build: cargo build")
    text = plain.read_bytes()
    assert known in text
    installed.unlink()
    installed.write_bytes(text.replace(known, other))
    installed.chmod(0o755)
    since = upgrade(server)
    server.wait_for_line(FAILED + ".*cannot be understood.*descriptors_of_nobody", since=since)
    assert program_of(server.pid) == old
    eventually(lambda: {p.pid for p in server.family()} == before, "the others are gone")
    shown = rsgunctl(control)
    assert re.search("last upgrade: generation 2 FAILED.*descriptors_of_nobody", shown)
    for _ in range(10):
        assert server.get().text.startswith("first ")

    place(binary(), installed)
    server.wait_for_line(COMPLETE, since=upgrade(server), deadline=30)


OTHER_FORMAT = """#!{python}
import json
import os
import socket
import subprocess
import sys

master = socket.socket(fileno=3)
message, descriptors, _, _ = socket.recv_fds(master, 1 << 20, 250)
# A byte that says how it was sent comes first.
order = json.loads(message[1:])
order["Begin"]["format"] += 1
order["Begin"]["version"] = "99.0"
ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
os.dup2(theirs.fileno(), 9)
ours.set_inheritable(False)
theirs.close()
os.dup2(master.fileno(), 8, inheritable=False)
os.dup2(9, 3)
master.detach()
program = subprocess.Popen(["{program}", *sys.argv[1:]], pass_fds=[3])
for number in (3, 9):
    os.close(number)
socket.send_fds(ours, [message[:1], json.dumps(order).encode()], descriptors)
answer = ours.recv(1 << 20)
socket.socket(fileno=8).send(answer)
sys.exit(program.wait())
"""


def test_another_format_of_the_state_is_refused(upgradable: Upgradable, installed: Path) -> None:
    """The new program gets an order as a version with another format would give it."""
    server = upgradable()
    before = {process.pid for process in server.family()}
    installed.unlink()
    installed.write_text(OTHER_FORMAT.format(python=sys.executable, program=binary().resolve()))
    installed.chmod(0o755)
    since = upgrade(server)
    server.wait_for_line(
        FAILED + r".*the new program refuses: rsgun \S+ cannot take over from rsgun 99\.0, whose "
        r"state has the format 2 and not 1; restart the server to change to it$",
        since=since,
    )
    eventually(lambda: {p.pid for p in server.family()} == before, "the candidate is gone")
    assert server.get().text.startswith("first ")


BROKEN_APPLICATIONS = {
    "import error": ("import no_such_module_here\n", "no_such_module_here"),
    "attribute missing": ("application = None\n", "app"),
    "lifespan": (
        versioned(
            "second",
            startup="await send({'type': 'lifespan.startup.failed', 'message': 'not now'}); return",
        ),
        "not now",
    ),
    "crash": ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n", "SIGSEGV"),
}


@pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["plain", "preload"])
@pytest.mark.parametrize("how", BROKEN_APPLICATIONS)
def test_broken_application_changes_nothing(
    upgradable: Upgradable, module: Module, how: str, preload: tuple[str, ...]
) -> None:
    server = upgradable(*preload)
    server.tolerates_tracebacks = True
    before = {worker.pid for worker in server.family()}
    source, text = BROKEN_APPLICATIONS[how]
    module("main", source)
    since = upgrade(server)
    server.wait_for_line(FAILED, since=since, deadline=30)
    assert text in "\n".join(server.lines("stderr", since))
    eventually(lambda: {p.pid for p in server.family()} == before, "the candidate is gone")
    for _ in range(10):
        assert server.get().text.startswith("first ")


def test_slow_boot_is_given_up(upgradable: Upgradable, module: Module) -> None:
    server = upgradable("--boot-timeout", "5")
    before = {worker.pid for worker in server.family()}
    module("main", versioned("second", top="import time; time.sleep(600)"))
    since = upgrade(server)
    server.tolerates_tracebacks = True
    server.wait_for_line(FAILED + ".*not ready within 5 s", since=since, deadline=30)
    eventually(lambda: {p.pid for p in server.family()} == before, "the candidate is gone")
    assert server.get().text.startswith("first ")
