"""Logs into a pipe that nobody reads for a while: a pager, a collector that hangs."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import shutil
import signal
import socket
import struct
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from harness.marks import rsgun_only
from harness.server import Server, serving
from harness.target import APPS
from harness.waiting import DEADLINE, DeadlineMissed, eventually

pytestmark = rsgun_only

Launch = Callable[..., Server]
Module = Callable[[str, str], Path]
Serve = Callable[..., Server]

PAGE = 4096
LEAD = """
import os, sys
pipe = int(sys.argv[1])
os.dup2(pipe, 1)
os.dup2(pipe, 2)
os.close(pipe)
os.execvp(sys.argv[2], sys.argv[2:])
"""
"""Runs a command with its output in an inherited pipe."""
LINES = re.compile(r"^WARNING:  Lines were lost before this one.*: (\d+)$", re.MULTILINE)
REQUESTS = re.compile(r"^WARNING:  Lines of the access log were lost.*: (\d+)$", re.MULTILINE)


class Collector:
    """Reads a small pipe when it is told to."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        fcntl.fcntl(self.reader, fcntl.F_SETPIPE_SZ, PAGE)
        self.shown = ""

    def close(self) -> None:
        os.close(self.reader)
        os.close(self.writer)

    def stop_up(self) -> None:
        """Leaves no room in the pipe."""
        # An open file of its own: that of the server is not to be touched.
        own = os.open(f"/proc/self/fd/{self.writer}", os.O_WRONLY | os.O_NONBLOCK)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(own, b"." * (PAGE - 1) + b"\n")
        os.close(own)

    def read(self) -> None:
        """Takes what lies in the pipe."""
        while select.select([self.reader], [], [], 0)[0]:
            self.shown += os.read(self.reader, PAGE).decode()

    def waiting(self) -> int:
        """How many bytes lie in the pipe."""
        return struct.unpack("i", fcntl.ioctl(self.reader, termios.FIONREAD, bytes(4)))[0]

    def wait_for(self, pattern: str | re.Pattern[str]) -> re.Match[str]:
        """Reads until it has come."""

        def look() -> re.Match[str] | None:
            self.read()
            return re.search(pattern, self.shown)

        try:
            found = eventually(look, str(pattern))
        except DeadlineMissed as missed:
            raise DeadlineMissed(f"{missed}\n{self.shown}") from None
        assert found
        return found


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


def into(collector: Collector, command: Sequence[str]) -> list[str]:
    """A command whose output goes to the collector."""
    return [sys.executable, "-c", LEAD, str(collector.writer), *command]


@pytest.fixture
def collected(
    launch: Launch, collector: Collector, tmp_path: Path
) -> Iterator[Callable[..., Server]]:
    """Starts a server that logs into the collector, and listens at a socket."""

    def start(app: str, *arguments: str, prefix: Sequence[str] = ()) -> Server:
        address = str(tmp_path / "socket")
        command = [*prefix, *serving(app, "--uds", address, *arguments)]
        server = launch(into(collector, command), pass_fds=[collector.writer])
        server._address = address
        collector.wait_for("running on")
        return server

    yield start
    # What is said at the end finds room.
    collector.read()


@pytest.mark.parametrize("app", ["lab:app", "wsgi_lab:app"])
def test_workers_serve_on(collected: Callable[..., Server], collector: Collector, app: str) -> None:
    server = collected(app)
    [worker] = server.wait_for_workers(1)
    server.get("/ping?before")
    collector.wait_for("before")
    collector.stop_up()
    for number in range(30):
        assert server.get(f"/ping?{number}").status == 200
    collector.read()
    assert "/ping?1" not in collector.shown
    server.get("/ping?afterwards")
    lost = int(collector.wait_for(REQUESTS)[1])
    # The last one may have found room again.
    assert lost + len(re.findall(r"/ping\?\d+ ", collector.shown)) == 30
    assert lost >= 29
    # That the access log cannot be written.
    assert collector.wait_for(LINES)[1] == "1"
    collector.wait_for("afterwards")
    assert [each.pid for each in server.workers()] == [worker.pid]
    assert os.get_blocking(collector.writer), "the pipe is as it was for everybody else"
    assert server.stop() == 0


def test_who_reads_slowly_gets_every_line(
    collected: Callable[..., Server], collector: Collector
) -> None:
    server = collected("lab:app", "-w", "2")
    stopped = threading.Event()

    def read_slowly() -> None:
        while not stopped.wait(0.02):
            if select.select([collector.reader], [], [], 0)[0]:
                collector.shown += os.read(collector.reader, PAGE).decode()

    reader = threading.Thread(target=read_slowly)
    reader.start()
    try:
        for number in range(100):
            assert server.get(f"/ping?{number}-" + "x" * 1500).status == 200
    finally:
        stopped.set()
        reader.join()
    for number in range(100):
        collector.wait_for(rf'(?m)^INFO: .*"GET /ping\?{number}-x+ HTTP')
    assert "were lost" not in collector.shown
    assert server.stop() == 0


def test_the_master_goes_on(collected: Callable[..., Server], collector: Collector) -> None:
    server = collected("lab:app", "--no-access-log")
    [first] = server.wait_for_workers(1)
    collector.stop_up()
    os.kill(first.pid, signal.SIGKILL)
    eventually(lambda: [each.pid for each in server.workers()] not in ([], [first.pid]), "replaced")
    # The lines of that death and of this wish are lost.
    server.send_signal(signal.SIGTTIN)
    server.wait_for_workers(2)
    server.send_signal(signal.SIGHUP)
    server.wait_for_generation(2, 2)
    collector.read()
    server.send_signal(signal.SIGTTOU)
    assert int(collector.wait_for(LINES)[1]) > 2
    assert server.stop() == 0


def without_rights() -> list[str]:
    """What a command is started with that is to respect the mode of a file."""
    if os.geteuid() != 0:
        return []
    if not shutil.which("setpriv"):
        pytest.skip("there is no setpriv")
    return ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]


def test_pipe_of_another_user_does_not_hold_up_the_master(
    collected: Callable[..., Server], collector: Collector, module: Module, tmp_path: Path
) -> None:
    """As under supervisord, which makes the pipes before it becomes that user: the server
    cannot open them anew. A line that is longer than the room in the pipe must not wait."""
    os.fchmod(collector.writer, 0)
    module("changing", "import lab\napp = lab.app\n")
    arguments = ("--app-dir", str(tmp_path), "--pythonpath", str(APPS), "--preload")
    control = tmp_path / "control"
    arguments += ("--control-socket", str(control))
    server = collected("changing:app", *arguments, prefix=without_rights())
    server.wait_for_workers(1)
    collector.read()
    reason = "x" * 2 * PAGE
    module("changing", f"raise ValueError({reason!r})")
    server.send_signal(signal.SIGHUP)
    collector.wait_for("Reloading")
    eventually(lambda: collector.waiting() == PAGE, "why the reload has failed is being said")
    # A signal would interrupt whoever waits.
    with socket.socket(socket.AF_UNIX) as asks:
        asks.settimeout(DEADLINE)
        asks.connect(str(control))
        assert asks.recv(1) == b"{", "the master answers"
    collector.read()
    server.send_signal(signal.SIGTTIN)
    collector.wait_for(LINES)
    assert reason not in collector.shown
    assert server.stop() == 0


def test_access_log_that_is_a_named_pipe(serve: Serve, tmp_path: Path) -> None:
    access = tmp_path / "access"
    os.mkfifo(access)
    reader = os.open(access, os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, PAGE)
    server = serve("lab:app", "--access-logfile", str(access))
    count = 10
    began = time.monotonic()
    for number in range(count):
        assert server.get(f"/ping?{number}-" + "x" * 1500).status == 200
    assert time.monotonic() - began < DEADLINE
    server.wait_for_line("access log cannot be written: nobody reads it; lines are lost until")
    shown = ""

    def has_shown(what: str) -> bool:
        nonlocal shown
        with contextlib.suppress(BlockingIOError):
            shown += os.read(reader, 16 * PAGE).decode()
        return what in shown

    assert has_shown("/ping?0-")
    assert server.get("/ping?last").status == 200
    found = server.wait_for_line("Lines of the access log were lost, .* has read it: ([0-9]+)")
    # The line before may have found the room first.
    eventually(lambda: has_shown("/ping?last"), "the next line is written")
    assert len(shown.splitlines()) + int(found[1]) == count + 1
    assert re.fullmatch(r'(INFO: .* - "GET /ping\?\S+ HTTP/1.1" 200 OK\n)+', shown)
    assert server.stop() == 0
    os.close(reader)
