"""The process tree, as /proc shows it."""

from __future__ import annotations

import os
import re
import signal
from dataclasses import dataclass
from pathlib import Path

from .waiting import wait_gone


@dataclass(frozen=True)
class Process:
    """One process at the moment it was looked at."""

    pid: int
    parent: int
    session: int
    state: str
    title: str

    @property
    def alive(self) -> bool:
        """Whether it is more than an exit status that nobody has read yet."""
        return self.state not in "ZX"

    def send_signal(self, number: int) -> None:
        """Sends a signal to it."""
        os.kill(self.pid, number)

    def memory_peak(self) -> int:
        """The most bytes of memory that it ever held."""
        return status_field(self.pid, "VmHWM")

    def open_files(self) -> dict[int, str]:
        """Its descriptors and what they refer to."""
        found = {}
        folder = Path(f"/proc/{self.pid}/fd")
        for entry in folder.iterdir():
            try:
                found[int(entry.name)] = os.readlink(entry)
            except FileNotFoundError:
                continue
        return found

    def threads(self) -> int:
        """How many threads it has."""
        return len(list(Path(f"/proc/{self.pid}/task").iterdir()))


def status_field(pid: int, name: str) -> int:
    """A memory figure of /proc/PID/status, in bytes."""
    text = Path(f"/proc/{pid}/status").read_text()
    found = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
    assert found, f"{name} of process {pid}"
    return int(found[1]) * 1024


def look(pid: int) -> Process | None:
    """The process with this id, or None."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        title = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat[stat.rindex(")") + 2 :].split()
    return Process(
        pid=pid,
        parent=int(fields[1]),
        session=int(fields[3]),
        state=fields[0],
        title=title.rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace"),
    )


def all_processes() -> list[Process]:
    """Every process of the machine."""
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return [process for pid in pids if (process := look(pid))]


def carries(pid: int, marker: str) -> bool:
    """Whether a process was started with this text in its environment."""
    try:
        return marker.encode() in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False


def family(session: int, marker: str) -> list[Process]:
    """The processes of a session, and those that left it but carry its marker.

    Titles may overwrite the environment and a process may leave its session, so
    that each of the two signs alone would miss some.
    """
    return [
        process
        for process in all_processes()
        if process.alive and (process.session == session or carries(process.pid, marker))
    ]


def end(processes: list[Process]) -> None:
    """Kills these processes and waits until they are gone."""
    for process in processes:
        try:
            os.kill(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    for process in processes:
        wait_gone(process.pid, 5)
