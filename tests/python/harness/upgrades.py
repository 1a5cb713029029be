"""Servers that are upgraded: SIGUSR2, and what there is to be seen of it."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest

from harness.load import Load
from harness.server import Server
from harness.sources import versioned
from harness.target import binary, brings_its_extension
from harness.waiting import BOOT, eventually

Upgradable = Callable[..., Server]
"""The fixture that starts one."""

COMPLETE = r"^INFO: .*Upgrade complete"
FAILED = r"^ERROR: .*Upgrade failed, this program goes on: "

GATED = versioned("second", gate="'go'")
"""An application whose start waits for a file `go`."""


def place(source: Path, target: Path) -> None:
    """Puts a copy in the place of a file, as an installer does: a new file, moved there."""
    fresh = target.with_name(f".{target.name}-fresh")
    shutil.copy(source, fresh)
    fresh.replace(target)


def python() -> list[str]:
    """The interpreter of the tests: the copy lies beside none."""
    return ["--python", sys.executable]


def upgrade(server: Server) -> int:
    """Sends SIGUSR2; returns where the output about it begins."""
    since = server.output.mark()
    server.send_signal(signal.SIGUSR2)
    return since


def rsgunctl(control: Path, *arguments: str) -> str:
    """What ``rsgunctl status`` prints."""
    command = [str(binary().with_name("rsgunctl")), "status", "--socket", str(control), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout


def program_of(pid: int) -> tuple[int, int]:
    """Which file a process runs."""
    found = os.stat(f"/proc/{pid}/exe")
    return found.st_dev, found.st_ino


@contextmanager
def load_on(server: Server, *, is_stopped: bool = False) -> Iterator[Load]:
    """Clients of both kinds while the block runs; nothing of theirs may be lost. Where the
    server is stopped, they may be refused."""
    load = Load(server.port, "/slow?30", keep_alive=8, one_shot=8)
    thread = Thread(target=lambda: asyncio.run(load.run()))
    thread.start()
    try:
        yield load
    finally:
        load.stop()
        thread.join()
    for account in (load.keep_alive, load.one_shot):
        lost = [how for how in account.lost if not (is_stopped and "Refused" in how)]
        assert account.answered and not lost, str(account)


def wait_for_service(load: Load, version: str) -> None:
    """Waits until a worker of this version answers new clients."""
    answers = load.one_shot.answers
    eventually(lambda: answers[version] > 10, f"{version} serves", BOOT)


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A copy of rsgun that a test may replace, in a directory as a release has it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    source = binary().resolve()
    place(source, folder / "rsgun")
    if brings_its_extension():
        for name in ("librsgun_worker.so", "deps/librsgun_worker.so"):
            found = source.parent / name
            if found.exists():
                (folder / "librsgun_worker.so").symlink_to(found)
                break
    return folder / "rsgun"


@pytest.fixture
def upgradable(
    launch: Callable[..., Server],
    module: Callable[[str, str], Path],
    installed: Path,
    tmp_path: Path,
) -> Upgradable:
    """Serves version ``first`` of ``main`` with the copy."""

    def begin(*arguments: str, workers: int = 2, **more: object) -> Server:
        if not (tmp_path / "main.py").exists():
            module("main", versioned("first"))
        places = {"--port", "-b", "--fd"}
        port = () if places & set(arguments) else ("--port", "0")
        command = [str(installed), "main:app", "--app-dir", str(tmp_path), "-w", str(workers)]
        server = launch([*command, *python(), *port, *arguments], **more)
        server.wait_until_running()
        server.wait_for_workers(workers)
        return server

    return begin
