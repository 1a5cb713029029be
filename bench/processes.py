"""The processes of a server under test: started, watched, counted, and ended by pid."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
START_DEADLINE = 30.0
STOP_DEADLINE = 10.0
POLL_INTERVAL = 0.02


class BenchmarkError(Exception):
    """Something that makes the measurement worthless, with what to do about it."""


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat after the command name."""
    # The command name may hold spaces and parentheses; nothing after it does.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def process_tree(root: int) -> list[int]:
    """Return the pids of a process and of all its descendants."""
    parents: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                parent = int(_stat(int(entry))[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
            parents.setdefault(parent, []).append(int(entry))
    tree = [root]
    for pid in tree:
        tree.extend(parents.get(pid, ()))
    return tree


def cpu_seconds(root: int) -> float:
    """Return the CPU time that a process tree has used, user and system.

    Counts what the processes used themselves and what their ended children used.
    """
    ticks = 0
    for pid in process_tree(root):
        try:
            fields = _stat(pid)
        except (FileNotFoundError, ProcessLookupError):
            continue
        ticks += sum(int(value) for value in fields[11:15])
    return ticks / TICKS_PER_SECOND


def free_port() -> int:
    """Return a TCP port that nobody uses at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A running server; leaving the `with` block ends all its processes."""

    def __init__(self, name: str, command: list[str], port: int, cores: set[int]) -> None:
        """Start `command`, which will listen on `port`, on the given cores."""
        self.name = name
        self.port = port
        self._command = command
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `stop`)
        self._seen: dict[int, int] = {}
        # The affinity is inherited: set around the start, restored at once.
        own_cores = os.sched_getaffinity(0)
        os.sched_setaffinity(0, cores)
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise BenchmarkError(f"{name} cannot be started: {error}") from error
        finally:
            os.sched_setaffinity(0, own_cores)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The process that was started."""
        return self._process.pid

    def output(self) -> str:
        """Return what the server has printed."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace").strip()

    def fetch(self, path: str) -> tuple[int, bytes]:
        """Request `path` once and return status and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def wait_until_right(self, path: str, body: bytes) -> None:
        """Wait until the server answers, and check that it answers `body`."""
        deadline = time.monotonic() + START_DEADLINE
        while True:
            if self._process.poll() is not None:
                raise BenchmarkError(
                    f"{self.name} ended with exit code {self._process.returncode} at start: "
                    f"{' '.join(self._command)}\n{self.output()}"
                )
            try:
                status, received = self.fetch(path)
            except (OSError, http.client.HTTPException) as error:
                if time.monotonic() > deadline:
                    raise BenchmarkError(
                        f"{self.name} did not answer within {START_DEADLINE:.0f} s ({error}): "
                        f"{' '.join(self._command)}\n{self.output()}"
                    ) from error
                time.sleep(POLL_INTERVAL)
                continue
            if (status, received) != (200, body):
                raise BenchmarkError(
                    f"{self.name} answered {path} with status {status} and {received[:80]!r}, "
                    f"expected 200 and {body[:80]!r}\n{self.output()}"
                )
            self.remember_processes()
            return

    def remember_processes(self) -> None:
        """Note which processes belong to the server, for the case that it dies."""
        for pid in process_tree(self.pid):
            if (started := _start_time(pid)) is not None:
                self._seen[pid] = started

    def stop(self) -> None:
        """Ask the server to end, and kill by pid what is left of it."""
        if self._process.poll() is None:
            self.remember_processes()
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_DEADLINE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for pid, started in self._seen.items():
            # A pid that somebody else has got by now has another start time.
            if _start_time(pid) == started:
                os.kill(pid, signal.SIGKILL)
        self._log.close()


def _start_time(pid: int) -> int | None:
    """Return when a process started, in ticks since boot, or nothing if it is gone."""
    try:
        return int(_stat(pid)[19])
    except (FileNotFoundError, ProcessLookupError):
        return None
