"""A disk that is full, or a file that may not grow: the server says so once and goes on."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness.marks import rsgun_only
from harness.server import RUNNING, Server, free_port, is_listening, serving
from harness.waiting import eventually

pytestmark = rsgun_only

Serve = Callable[..., Server]
Launch = Callable[..., Server]

ACCESS = r"^ERROR: +the access log cannot be written: "
ERROR = r"^ERROR: +the log cannot be written: "


def said(server: Server, text: str) -> int:
    return sum(text in line for line in server.lines("stderr"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False).returncode != 0:
        pytest.skip("a file system can only be mounted by root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Takes all the room that is left."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            pass
    return ballast


def test_access_log(serve: Serve) -> None:
    server = serve("lab:app", "--access-logfile", "/dev/full")
    for _ in range(50):
        assert server.get("/ping").body == b"pong"
    server.wait_for_line(ACCESS + "No space left on device", stream="stderr")
    assert server.stop() == 0
    assert said(server, "access log cannot be written") == 1


def test_own_log(launch: Launch) -> None:
    """It is said on standard error, once by each process."""
    port = free_port()
    server = launch(
        serving("lab:app", "-b", f"127.0.0.1:{port}", "--error-logfile", "/dev/full", "-w", "2")
    )
    server.wait_for_line(ERROR + "No space left on device", stream="stderr")
    server.wait_for_workers(2)
    eventually(lambda: is_listening(port), "it listens")
    for _ in range(20):
        assert server.get("/ping", address=("127.0.0.1", port)).body == b"pong"
    server.send_signal(signal.SIGHUP)
    server.wait_for_generation(2, 2)
    assert server.get("/ping", address=("127.0.0.1", port)).body == b"pong"
    assert server.stop() == 0
    # One master, two fork servers, four workers.
    assert 1 <= said(server, "the log cannot be written") <= 7


def test_disk_that_fills_and_is_emptied(serve: Serve, small_disk: Path) -> None:
    access = small_disk / "access.log"
    server = serve("lab:app", "--access-logfile", str(access))
    assert server.get("/ping?before").status == 200
    eventually(lambda: "before" in access.read_text(), "a line")
    ballast = fill(small_disk)
    for _ in range(100):
        assert server.get("/ping?" + "x" * 1000).body == b"pong"
    server.wait_for_line(ACCESS + "No space left on device", stream="stderr")
    ballast.unlink()

    def logged_again() -> bool:
        server.get("/ping?afterwards")
        return "afterwards" in access.read_text()

    eventually(logged_again, "lines are written again")
    assert said(server, "access log cannot be written") == 1


def test_pidfile(launch: Launch, small_disk: Path) -> None:
    """It would be empty, and name nobody: the start fails, says why, and leaves nothing."""
    ballast = fill(small_disk)
    path = small_disk / "pid"
    server = launch(serving("lab:app", "--pid", str(path)))
    assert server.wait() == 1
    server.wait_for_line(f"^ERROR: +--pid: cannot write the pidfile {path}: No space left")
    server.wait_for_line("Name a file in a directory .* where root may write and the disk has room")
    assert [entry.name for entry in small_disk.iterdir()] == [ballast.name]


def test_limit_on_the_size_of_files(launch: Launch, tmp_path: Path) -> None:
    """``ulimit -f``: the signal of the kernel does not end anybody."""
    limit = 256 * 1024
    error, access = tmp_path / "error.log", tmp_path / "access.log"
    for file in (error, access):
        file.write_text("an old line of the log\n" * (limit // 23 - 100))
    command = serving(
        "lab:app",
        *("-w", "2", "--log-level", "debug"),
        *("--error-logfile", str(error), "--access-logfile", str(access)),
    )
    server = launch(["sh", "-c", f"ulimit -f {limit // 512}; exec {shlex.join(command)}"])
    found = eventually(lambda: RUNNING.search(error.read_text()), "it runs")
    address = ("127.0.0.1", int(found["port"]))
    workers = {worker.pid for worker in server.wait_for_workers(2)}
    for _ in range(40):
        assert server.get("/ping?" + "x" * 1000, address=address).body == b"pong"
    assert access.stat().st_size <= limit

    def master_log_is_full() -> bool:
        server.send_signal(signal.SIGUSR1)
        return said(server, "the log cannot be written: File too large") > 0

    eventually(master_log_is_full, "the log of the master has reached its limit")
    assert server.get("/ping", address=address).body == b"pong"
    assert {worker.pid for worker in server.workers()} == workers
    assert server.stop() == 0
