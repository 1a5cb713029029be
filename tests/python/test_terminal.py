"""A terminal that is closed, and one that is resized."""

from __future__ import annotations

import signal
import termios
from collections.abc import Callable
from pathlib import Path

from harness import processes
from harness.server import serving
from harness.target import rsgun_only
from harness.terminal import Terminal
from harness.waiting import DEADLINE, eventually, wait_gone

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
