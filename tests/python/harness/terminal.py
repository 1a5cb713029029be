"""A terminal to run programs in."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
from pathlib import Path

from . import processes
from .server import clean_environment
from .waiting import BOOT

TAKE = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""
"""Makes standard input the controlling terminal of a program, and becomes that."""


class Terminal:
    """A pseudo-terminal, and a program whose controlling terminal it is."""

    def __init__(self, line: list[str], folder: Path) -> None:
        self.screen, slave = pty.openpty()
        self.shown = b""

        self.process = subprocess.Popen(
            [sys.executable, "-c", TAKE, *line],
            cwd=folder,
            env=clean_environment(),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)

    def wait_for(self, text: bytes, *, again: bool = False) -> None:
        """Reads the screen until this appears; what is there already may not count."""
        start = len(self.shown) if again else 0
        while text not in self.shown[start:]:
            ready, _, _ = select.select([self.screen], [], [], BOOT)
            assert ready, self.shown.decode()
            try:
                self.shown += os.read(self.screen, 4096)
            except OSError:
                raise AssertionError(self.shown.decode()) from None

    def close(self) -> None:
        """Closes the window."""
        if self.screen >= 0:
            os.close(self.screen)
            self.screen = -1

    def type(self, text: bytes) -> None:
        """Presses keys."""
        os.write(self.screen, text)

    def end(self) -> None:
        """Closes the window and kills whatever ran in it."""
        self.close()
        processes.end(processes.family(self.process.pid, "no marker"))
        self.process.wait()
