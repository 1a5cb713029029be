"""A terminal that is closed, and one that is resized."""

from __future__ import annotations

import signal
import termios
from collections.abc import Callable
from pathlib import Path

from harness import processes
from harness.marks import rsgun_only
from harness.server import serving
from harness.terminal import Terminal
from harness.waiting import DEADLINE, eventually, wait_gone
from harness.wire import Connection

pytestmark = rsgun_only


def master_of(session: int) -> processes.Process:
    """The master in this session."""

    def find() -> list[processes.Process]:
        family = processes.family(session, "no marker")
        return [each for each in family if each.title.startswith("rsgun: master")]

    [found] = eventually(find, "there is a master")
    return found


def test_closed_terminal_ends_the_server(terminal: Callable[..., Terminal]) -> None:
    window = terminal(*serving("lab:app", "-w", "2"))
    window.wait_for(b"running on")
    window.close()
    assert window.process.wait(DEADLINE) == 0
    eventually(
        lambda: not processes.family(window.process.pid, "no marker"), "nobody is left behind"
    )


def test_closed_terminal_of_a_shell_ends_the_server(terminal: Callable[..., Terminal]) -> None:
    """The shell leads the session, and passes the signal on."""
    line = " ".join(f"'{word}'" for word in serving("lab:app"))
    window = terminal("bash", "--norc", "-i", "-c", f"{line}; true")
    window.wait_for(b"running on")
    master = master_of(window.process.pid)
    window.close()
    assert wait_gone(master.pid)


def test_nohup_keeps_the_server_and_hup_still_reloads(
    terminal: Callable[..., Terminal], tmp_path: Path
) -> None:
    log = tmp_path / "error.log"
    window = terminal("nohup", *serving("lab:app", "--error-logfile", str(log)))
    eventually(lambda: log.exists() and "running on" in log.read_text(), "it serves")
    window.close()
    eventually(lambda: "the terminal was closed" in log.read_text(), "it has noticed")
    assert "Reloading" not in log.read_text()
    window.process.send_signal(signal.SIGHUP)
    eventually(lambda: "Reload complete" in log.read_text(), "it reloads")
    window.process.send_signal(signal.SIGTERM)
    assert window.process.wait(DEADLINE) == 0


def test_hup_in_a_terminal_reloads(terminal: Callable[..., Terminal]) -> None:
    window = terminal(*serving("lab:app"))
    window.wait_for(b"running on")
    window.process.send_signal(signal.SIGHUP)
    window.wait_for(b"Reload complete")


def test_resized_terminal_changes_nothing(terminal: Callable[..., Terminal]) -> None:
    window = terminal(*serving("lab:app"))
    window.wait_for(b"running on")
    workers = [
        each.pid
        for each in processes.family(window.process.pid, "no marker")
        if each.title.startswith("rsgun: worker")
    ]
    termios.tcsetwinsize(window.screen, (10, 20))
    window.process.send_signal(signal.SIGWINCH)
    window.process.send_signal(signal.SIGHUP)
    window.wait_for(b"Reload complete")
    assert b"told to end" not in window.shown
    assert workers


STOPPED_BY_THE_TERMINAL = """
import os
import signal
import subprocess
import sys

SET = [sys.executable, "-c", "import tty; tty.setcbreak(0)"]

async def app(scope, receive, send):
    assert scope["type"] == "http"
    default = lambda: signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    child = subprocess.Popen(SET, preexec_fn=default)
    _, status = os.waitpid(child.pid, os.WUNTRACED)
    child.kill()
    child.wait()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"%d" % os.WIFSTOPPED(status)})
"""


def in_the_background(*line: str, first: str = "true") -> list[str]:
    """A shell with job control that runs this command as a background job."""
    job = " ".join(f"'{word}'" for word in line)
    return ["bash", "--norc", "-i", "-c", f"{first}; {job} & wait"]


def test_terminal_that_stops_who_uses_it_from_the_background_asks_for_no_workers(
    terminal: Callable[..., Terminal], tmp_path: Path
) -> None:
    """The kernel tells the whole group, and uses the signals that change their number."""
    (tmp_path / "stops.py").write_text(STOPPED_BY_THE_TERMINAL)
    place = ["--app-dir", str(tmp_path), "--uds", str(tmp_path / "socket")]
    window = terminal(*in_the_background(*serving("stops:app", "-w", "2", *place)))
    window.wait_for(b"running on")
    with Connection.open(str(tmp_path / "socket")) as connection:
        assert connection.get("/", close=True).body == b"1"
    master_of(window.process.pid).send_signal(signal.SIGTTIN)
    window.wait_for(b"Number of workers changed")
    assert b"changed from 2 to 3" in window.shown


def test_terminal_that_stops_who_writes_to_it_shows_the_log(
    terminal: Callable[..., Terminal],
) -> None:
    line = serving("lab:app", "-w", "2")
    window = terminal(*in_the_background(*line, first="stty tostop"))
    window.wait_for(b"running on")
    master_of(window.process.pid).send_signal(signal.SIGTERM)
    window.wait_for(b"Finished server process")
