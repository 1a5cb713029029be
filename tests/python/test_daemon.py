"""rsgun in the background."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness import processes
from harness.about import ABOUT_ITSELF, about
from harness.marks import rsgun_only
from harness.server import clean_environment, free_port, serving
from harness.target import binary
from harness.waiting import BOOT, DEADLINE, eventually, wait_gone
from harness.wire import Connection

pytestmark = rsgun_only


@dataclass
class Outcome:
    """How a launch ended, and the master that it left."""

    code: int
    errors: str
    pid: int | None
    port: int

    def family(self) -> list[processes.Process]:
        """All processes of the daemon: it has a session of its own."""
        return processes.family(self.pid, "no marker") if self.pid else []

    def workers(self) -> list[processes.Process]:
        """Its workers."""
        return [each for each in self.family() if each.title.startswith("rsgun: worker")]

    def stop(self) -> None:
        """Ends it gracefully."""
        assert self.pid
        os.kill(self.pid, signal.SIGTERM)
        assert wait_gone(self.pid)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Callable[..., Outcome]]:
    """Starts rsgun in the background; everything is ended by its process id."""
    started: list[Outcome] = []

    def start(
        app: str = "lab:app", *arguments: str, stdin: socket.socket | int = subprocess.DEVNULL
    ) -> Outcome:
        port = free_port()
        pidfile = tmp_path / "rsgun.pid"
        place = [] if "--fd" in arguments else ["-b", f"127.0.0.1:{port}"]
        line = serving(app, "-D", "-p", str(pidfile), *place, *arguments)
        # A file, since a pipe that the daemon holds on to would never end.
        with (tmp_path / "terminal").open("w+") as terminal:
            done = subprocess.run(
                line,
                cwd=tmp_path,
                env=clean_environment(),
                stdin=stdin,
                stdout=terminal,
                stderr=terminal,
                timeout=BOOT,
                check=False,
            )
            terminal.seek(0)
            errors = terminal.read()
        pid = int(pidfile.read_text()) if done.returncode == 0 else None
        outcome = Outcome(done.returncode, errors, pid, port)
        started.append(outcome)
        return outcome

    yield start
    for outcome in started:
        if outcome.pid and processes.look(outcome.pid):
            os.kill(outcome.pid, signal.SIGTERM)
            wait_gone(outcome.pid, 5)
        processes.end(outcome.family())


def test_returns_when_it_serves(daemon: Callable[..., Outcome], tmp_path: Path) -> None:
    outcome = daemon("lab:app", "-w", "2")
    assert (outcome.code, outcome.errors) == (0, "")
    with Connection.open(("127.0.0.1", outcome.port)) as connection:
        assert connection.get("/ping").body == b"pong"
    master = processes.look(outcome.pid or 0)
    assert master
    assert master.title == "rsgun: master [lab:app]"
    assert master.session == outcome.pid
    eventually(lambda: len(outcome.workers()) == 2, "both workers")
    outcome.stop()
    assert not outcome.family()
    assert not (tmp_path / "rsgun.pid").exists()


def test_holds_on_to_no_terminal(
    daemon: Callable[..., Outcome], public: Path, tmp_path: Path
) -> None:
    outcome = daemon("main:app", "--app-dir", str(public))
    assert outcome.errors == ""
    assert about(outcome.port)["streams"] == ["/dev/null"] * 3
    terminal = str(tmp_path / "terminal")
    for process in outcome.family():
        assert terminal not in process.open_files().values(), process
    status = Path(f"/proc/{outcome.pid}/stat").read_text()
    assert status[status.rindex(")") + 2 :].split()[4] == "0", "no controlling terminal"


def test_prints_into_the_log_file(daemon: Callable[..., Outcome], tmp_path: Path) -> None:
    (tmp_path / "noisy.py").write_text(ABOUT_ITSELF + "\nprint('loaded')\n")
    log = tmp_path / "error.log"
    outcome = daemon("noisy:app", "--app-dir", str(tmp_path), "--error-logfile", str(log))
    assert outcome.errors == ""
    assert about(outcome.port)["streams"] == ["/dev/null", str(log), str(log)]
    eventually(lambda: '"GET / HTTP/1.1" 200' in log.read_text(), "the access log too")
    assert "loaded\n" in log.read_text()
    assert "INFO:     rsgun running on" in log.read_text()
    log.rename(tmp_path / "error.log.1")
    assert outcome.pid
    os.kill(outcome.pid, signal.SIGUSR1)
    eventually(lambda: log.exists() and about(outcome.port)["streams"][1] == str(log), "rotated")


@pytest.mark.parametrize(
    ("source", "app", "code", "reason"),
    [
        ("raise ValueError('told in the terminal')", "broken:app", 3, "told in the terminal"),
        ("", "broken:app", 4, 'has no attribute "app"'),
        (None, "nothing:app", 3, "there is no module"),
    ],
)
def test_tells_why_it_could_not_start(
    daemon: Callable[..., Outcome],
    tmp_path: Path,
    source: str | None,
    app: str,
    code: int,
    reason: str,
) -> None:
    if source is not None:
        (tmp_path / "broken.py").write_text(source)
    outcome = daemon(app, "--app-dir", str(tmp_path))
    assert outcome.code == code
    assert reason in outcome.errors
    assert not (tmp_path / "rsgun.pid").exists()


def test_address_in_use(daemon: Callable[..., Outcome], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        address = f"127.0.0.1:{holder.getsockname()[1]}"
        log = tmp_path / "error.log"
        outcome = daemon("lab:app", "-b", address, "--error-logfile", str(log))
    assert outcome.code == 1
    assert outcome.errors.startswith(f"ERROR:    cannot listen on {address}")
    assert log.read_text() == outcome.errors
    assert not (tmp_path / "rsgun.pid").exists()


def test_standard_input_may_be_the_socket(daemon: Callable[..., Outcome], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        outcome = daemon("lab:app", "--fd", "0", stdin=listener)
        assert (outcome.code, outcome.errors) == (0, "")
        with Connection.open(listener.getsockname()) as connection:
            assert connection.get("/ping").body == b"pong"


def test_log_file_that_cannot_be_opened(daemon: Callable[..., Outcome]) -> None:
    outcome = daemon("lab:app", "--error-logfile", "/nowhere/error.log")
    assert outcome.code == 1
    assert "cannot open the log file /nowhere/error.log" in outcome.errors


def test_int_while_it_boots_ends_the_boot(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("open('began', 'w').close(); import time; time.sleep(60)")
    line = serving("slow:app", "-D", "-p", "slow.pid", "--app-dir", str(tmp_path))
    with (tmp_path / "terminal").open("w") as terminal:
        launcher = subprocess.Popen(
            line, cwd=tmp_path, env=clean_environment(), stdout=terminal, stderr=terminal
        )
        eventually((tmp_path / "began").exists, "the import has begun")
        pid = int((tmp_path / "slow.pid").read_text())
        family = processes.family(pid, "no marker")
        launcher.send_signal(signal.SIGINT)
        assert launcher.wait(DEADLINE) == 1
    for process in family:
        assert wait_gone(process.pid)
    assert not (tmp_path / "slow.pid").exists()


def test_winch_sends_the_workers_away(daemon: Callable[..., Outcome], tmp_path: Path) -> None:
    control = tmp_path / "control.sock"
    outcome = daemon("lab:app", "-w", "2", "--control-socket", str(control))
    assert outcome.pid

    def is_ready() -> bool:
        command = [str(binary().parent / "rsgunctl"), "ready", "--socket", str(control)]
        return subprocess.run(command, check=False, timeout=20).returncode == 0

    eventually(is_ready, "it is ready")
    os.kill(outcome.pid, signal.SIGWINCH)
    eventually(lambda: not outcome.workers(), "no worker is left")
    assert not is_ready()
    with Connection.open(("127.0.0.1", outcome.port)) as connection:
        connection.request("/ping")
        os.kill(outcome.pid, signal.SIGTTIN)
        assert connection.response().body == b"pong", "it has waited in the queue"
    eventually(lambda: len(outcome.workers()) == 2, "all are back")
    eventually(is_ready, "it is ready again")
    os.kill(outcome.pid, signal.SIGWINCH)
    eventually(lambda: not outcome.workers(), "no worker is left")
    os.kill(outcome.pid, signal.SIGHUP)
    eventually(lambda: len(outcome.workers()) == 2, "all are back")


def test_reload(daemon: Callable[..., Outcome]) -> None:
    outcome = daemon()
    assert outcome.pid
    os.kill(outcome.pid, signal.SIGHUP)
    eventually(
        lambda: [each.title for each in outcome.workers()] == ["rsgun: worker 1 [gen 2]"],
        "the second generation",
    )
