"""A server under test: started, watched, and cleaned up to the last process."""

from __future__ import annotations

import fcntl
import os
import random
import re
import select
import signal
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from . import processes
from .target import APPS, TARGET, command
from .waiting import BOOT, DEADLINE, DeadlineMissed, eventually, wait_gone
from .wire import Connection, Response

RUNNING = re.compile(
    r"(?:rsgun|Uvicorn) running on (?:http://(?P<host>\[[^\]]+\]|[^:\s/]+):(?P<port>\d+)"
    r"|(?:socket |unix:)?(?P<path>\S+))",
)
"""The start-up line that tells where the server listens."""

NOISE = re.compile(r"^(Traceback \(most recent call last\)|thread .* panicked)|panicked at ")
"""What must not be on standard error unless a test says so."""

OWN_VARIABLES = re.compile(
    r"^(RSGUN|UVICORN|GUNICORN|GRANIAN|LISTEN_|NOTIFY_|WATCHDOG_|SUPERVISOR_)"
    r"|^(WEB_CONCURRENCY|PORT|HOST|DJANGO_SETTINGS_MODULE|PYTHONPATH|PYTHONHOME|VIRTUAL_ENV|FORWARDED_ALLOW_IPS)$"
    r"|^PYTHON(?!DONTWRITEBYTECODE)",
)


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of the tests without anything that a server would read."""
    kept = {name: value for name, value in os.environ.items() if not OWN_VARIABLES.match(name)}
    # A file that a test rewrites within the same second must not be served from a
    # cache that goes by the second.
    kept["PYTHONDONTWRITEBYTECODE"] = "1"
    kept.update(extra or {})
    return kept


@dataclass(frozen=True)
class Line:
    """A line of output, the stream that it came on, and when it came."""

    stream: str
    text: str
    at: float
    """On the clock of ``time.monotonic``."""


class Output:
    """All lines that a process tree writes, in the order of arrival.

    Whoever asks for lines gets everything that has been written until then, on all
    streams: what a process has written before an answer, or before a line on another
    stream, is never missing because the thread that reads its pipe had no turn yet.
    """

    def __init__(self) -> None:
        self._lines: list[Line] = []
        self._changed = threading.Condition()
        self._pipes: list[_Pipe] = []

    def follow(self, stream: str, pipe: IO[bytes]) -> threading.Thread:
        """Reads a pipe to its end, in a thread of its own while nobody asks."""
        followed = _Pipe(stream, pipe)
        with self._changed:
            self._pipes.append(followed)
        thread = threading.Thread(target=self._read, args=(followed,), daemon=True)
        thread.start()
        return thread

    def _read(self, pipe: _Pipe) -> None:
        ready = select.poll()
        ready.register(pipe.file, select.POLLIN)
        while not pipe.has_ended:
            ready.poll()
            with self._changed:
                if pipe.take(self._lines):
                    self._changed.notify_all()
        pipe.file.close()

    def _catch_up(self) -> None:
        """Takes what lies in the pipes; the lock must be held."""
        for pipe in self._pipes:
            if pipe.take(self._lines):
                self._changed.notify_all()

    def mark(self) -> int:
        """A position: what comes later is found with ``since``."""
        with self._changed:
            self._catch_up()
            return len(self._lines)

    def lines(self, stream: str | None = None, since: int = 0) -> list[str]:
        """The lines so far."""
        with self._changed:
            self._catch_up()
            return [line.text for line in self._lines[since:] if stream in (None, line.stream)]

    def timed(self) -> list[tuple[float, str]]:
        """The lines so far, each with its time."""
        with self._changed:
            self._catch_up()
            return [(line.at, line.text) for line in self._lines]

    def wait_for(
        self, pattern: str | re.Pattern[str], deadline: float, stream: str | None, since: int
    ) -> re.Match[str] | None:
        """The first match, or None at the deadline or when all pipes are closed."""
        expression = re.compile(pattern)
        end = time.monotonic() + deadline
        position = since
        with self._changed:
            while True:
                self._catch_up()
                for line in self._lines[position:]:
                    position += 1
                    if stream in (None, line.stream) and (found := expression.search(line.text)):
                        return found
                remaining = end - time.monotonic()
                if remaining <= 0 or all(pipe.has_ended for pipe in self._pipes):
                    return None
                self._changed.wait(remaining)

    def text(self) -> str:
        """Everything, for a failure report."""
        with self._changed:
            self._catch_up()
            return "\n".join(f"{line.stream:6} | {line.text}" for line in self._lines)


class _Pipe:
    """The reading end of a pipe, and the line that has begun to come out of it."""

    def __init__(self, stream: str, file: IO[bytes]) -> None:
        self.stream = stream
        self.file = file
        self.has_ended = False
        self._rest = b""
        os.set_blocking(file.fileno(), False)
        self._capacity = fcntl.fcntl(file, fcntl.F_GETPIPE_SZ)

    def take(self, lines: list[Line]) -> bool:
        """Adds what lies in it; returns whether there was anything, if only its end.

        No more than it can hold at a time, or a writer without end would never let go.
        """
        if self.has_ended:
            return False
        taken = 0
        while taken < self._capacity:
            try:
                data = os.read(self.file.fileno(), self._capacity)
            except BlockingIOError:
                break
            if not data:
                self.has_ended = True
                break
            taken += len(data)
            self._rest += data
        at = time.monotonic()
        *whole, self._rest = self._rest.split(b"\n")
        if self.has_ended and self._rest:
            whole.append(self._rest)
        lines += [Line(self.stream, raw.decode(errors="backslashreplace"), at) for raw in whole]
        return bool(whole) or self.has_ended


class Server:
    """One run of a server: a master and everything that it starts."""

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        cwd: Path,
        environment: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
        stdin: int | None = subprocess.DEVNULL,
        exact_environment: Mapping[str, str] | None = None,
    ) -> None:
        self.arguments = list(arguments)
        self.output = Output()
        self.marker = f"TEST_SUITE_RUN={uuid.uuid4().hex}"
        self.tolerates_tracebacks = False
        self.tolerates_exit: set[int] | None = None
        name, value = self.marker.split("=")
        base = clean_environment(environment) if exact_environment is None else exact_environment
        self.process = subprocess.Popen(
            self.arguments,
            cwd=cwd,
            env={**base, name: value},
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=tuple(pass_fds),
            start_new_session=True,
        )
        assert self.process.stdout and self.process.stderr
        self._readers = [
            self.output.follow("stdout", self.process.stdout),
            self.output.follow("stderr", self.process.stderr),
        ]
        self._address: tuple[str, int] | str | None = None

    @property
    def pid(self) -> int:
        """The process that was started."""
        return self.process.pid

    # --- what it says -----------------------------------------------------------

    def wait_for_line(
        self,
        pattern: str | re.Pattern[str],
        *,
        deadline: float = DEADLINE,
        stream: str | None = None,
        since: int = 0,
    ) -> re.Match[str]:
        """Waits for a line of output that matches."""
        found = self.output.wait_for(pattern, deadline, stream, since)
        if found is None:
            state = self.process.poll()
            fate = "still runs" if state is None else f"ended with {state}"
            raise DeadlineMissed(f"no line matches {pattern!r}; the server {fate}\n{self.report()}")
        return found

    def lines(self, stream: str | None = None, since: int = 0) -> list[str]:
        """The lines of output so far."""
        return self.output.lines(stream, since)

    def tracebacks(self, since: int = 0) -> int:
        """How many exceptions have been printed."""
        return sum("Traceback (most recent call last)" in line for line in self.lines(None, since))

    def report(self) -> str:
        """The command and all of its output."""
        return f"$ {' '.join(self.arguments)}\n{self.output.text()}"

    # --- where it listens -------------------------------------------------------

    def wait_until_running(self, deadline: float = BOOT) -> Server:
        """Waits for the start-up line, and for the application to be started."""
        found = self.wait_for_line(RUNNING, deadline=deadline)
        if found["port"]:
            self._address = (found["host"].strip("[]"), int(found["port"]))
        else:
            self._address = found["path"]
        return self

    @property
    def address(self) -> tuple[str, int] | str:
        """Host and port, or the path of the socket."""
        assert self._address is not None, "wait_until_running() first"
        return self._address

    @property
    def port(self) -> int:
        """The TCP port."""
        assert isinstance(self.address, tuple)
        return self.address[1]

    @property
    def url(self) -> str:
        """The start of every URL."""
        host, port = self.address
        return f"http://[{host}]:{port}" if ":" in str(host) else f"http://{host}:{port}"

    def connect(self, address: tuple[str, int] | str | None = None) -> Connection:
        """Opens a connection."""
        return Connection.open(self.address if address is None else address)

    def wait_until_refusing(self) -> None:
        """Waits until nobody listens any more: the workers have got the order to stop."""

        def refuses() -> bool:
            try:
                self.connect().close()
            except ConnectionRefusedError:
                return True
            return False

        eventually(refuses, "new connections are refused")

    @contextmanager
    def connections(self, count: int) -> Iterator[list[Connection]]:
        """Opens several connections, and closes them at the end."""
        with ExitStack() as stack:
            yield [stack.enter_context(self.connect()) for _ in range(count)]

    def get(self, path: str = "/", *, address: tuple[str, int] | str | None = None) -> Response:
        """One request on a connection of its own."""
        with self.connect(address) as connection:
            return connection.get(path, close=True)

    # --- its processes ----------------------------------------------------------

    def family(self) -> list[processes.Process]:
        """All its processes that live."""
        return processes.family(self.pid, self.marker)

    def titled(self, pattern: str) -> list[processes.Process]:
        """Those whose title matches."""
        return [process for process in self.family() if re.search(pattern, process.title)]

    def workers(self) -> list[processes.Process]:
        """The workers, by their title; with uvicorn, whoever answers."""
        if TARGET == "rsgun":
            return self.titled(r"^rsgun: worker ")
        return self.family()

    def fork_servers(self) -> list[processes.Process]:
        """The fork servers, by their title.

        For a moment a process between one of them and a new worker has the same title;
        it is a child of the fork server.
        """
        found = self.titled(r"^rsgun: fork server")
        pids = {process.pid for process in found}
        return [process for process in found if process.parent not in pids]

    def wait_for_workers(self, count: int) -> list[processes.Process]:
        """Waits until there are exactly so many workers."""

        def exactly() -> list[processes.Process] | bool:
            found = self.workers()
            return len(found) == count and (found or True)

        try:
            found = eventually(exactly, f"{count} workers", BOOT)
        except DeadlineMissed as missed:
            titles = [(process.pid, process.title) for process in self.family()]
            raise DeadlineMissed(f"{missed}, there are {titles}\n{self.report()}") from None
        return found if isinstance(found, list) else []

    def wait_for_generation(self, number: int, count: int, deadline: float = BOOT) -> None:
        """Waits until fork server and workers are of this generation, and no others are left."""
        expected = [f"rsgun: fork server [gen {number}]"]
        expected += [f"rsgun: worker {slot} [gen {number}]" for slot in range(1, count + 1)]

        def titles() -> list[str]:
            return sorted(
                process.title
                for process in self.family()
                if process.title.startswith(("rsgun: fork server", "rsgun: worker"))
            )

        try:
            eventually(lambda: titles() == expected, f"only generation {number}", deadline)
        except DeadlineMissed as missed:
            raise DeadlineMissed(f"{missed}, there are {titles()}\n{self.report()}") from None

    # --- its end ----------------------------------------------------------------

    def send_signal(self, number: int) -> None:
        """Sends a signal to the master."""
        os.kill(self.pid, number)

    def wait(self, deadline: float = DEADLINE) -> int:
        """Waits for its exit code; everything that it has written is then there."""
        try:
            return self.process.wait(deadline)
        except subprocess.TimeoutExpired:
            raise DeadlineMissed(f"still runs after {deadline:.0f} s\n{self.report()}") from None

    def stop(self, number: int = signal.SIGTERM, deadline: float = DEADLINE) -> int:
        """Sends a signal and waits for the exit code."""
        self.send_signal(number)
        return self.wait(deadline)

    def leftovers(self, deadline: float = DEADLINE) -> list[processes.Process]:
        """Processes that outlive the master for longer than the deadline."""
        end = time.monotonic() + deadline
        while (found := self.family()) and time.monotonic() < end:
            # One of them may have been forking, so this is not the end.
            for process in found:
                wait_gone(process.pid, end - time.monotonic())
        return found

    def close(self) -> list[str]:
        """Ends whatever still runs; returns what is wrong with how it ended."""
        wrong = []
        if self.process.poll() is None:
            self.send_signal(signal.SIGTERM)
            try:
                code = self.wait()
            except DeadlineMissed:
                wrong.append("it did not end on SIGTERM")
            else:
                expected = self.tolerates_exit or {0}
                if TARGET == "rsgun" and code not in expected:
                    wrong.append(f"it ended with {code} on SIGTERM")
        if self.process.poll() is not None:
            wrong += [
                f"process {process.pid} was left behind: {process.title}"
                for process in self.leftovers()
            ]
        self.kill()
        if not self.tolerates_tracebacks:
            wrong += [f"unexpected output: {line}" for line in self.noise()]
        return wrong

    def noise(self, since: int = 0) -> list[str]:
        """Lines of output that no healthy server writes."""
        return [line for line in self.lines(None, since) if NOISE.search(line)]

    def kill(self) -> None:
        """Kills all its processes."""
        processes.end(self.family())
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for reader in self._readers:
            reader.join(2)


def serving(app: str | None, *arguments: str, python: str | None = None) -> list[str]:
    """The command line for one of the applications beside this file, on a free port."""
    places = {"--port", "-b", "--bind", "--uds", "--fd", "--host"}
    given = {argument.split("=")[0] for argument in arguments}
    port = [] if places & given else ["--port", "0"]
    folder = [] if "--app-dir" in given else ["--app-dir", str(APPS)]
    return command(app, *folder, *port, *arguments, python=python)


RESERVED: list[socket.socket] = []
"""Names that this process holds, one for each port that :func:`free_port` has given."""


def free_port() -> int:
    """A port for this test alone; prefer ``--port 0`` where it can be used.

    It is none that the kernel hands out by itself, to somebody else's client or server,
    before the test uses it; and other processes of the suite, which take theirs here too,
    find the name taken that stands for it.
    """
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    candidates = list(range(max(1024, lowest // 2), lowest))
    random.shuffle(candidates)
    for port in candidates:
        name = socket.socket(socket.AF_UNIX)
        try:
            name.bind(f"\0rsgun-test-port-{port}")
        except OSError:
            name.close()
            continue
        RESERVED.append(name)
        if port_is_free(port):
            return port
    raise AssertionError("no port is free")


def is_listening(port: int) -> bool:
    """Whether somebody listens at a port. Only looks: to bind there, or to connect, would
    be in the way of a server that is about to."""
    tables = [Path("/proc/net/tcp"), Path("/proc/net/tcp6")]
    lines = [line for path in tables if path.exists() for line in path.read_text().splitlines()]
    rows = [line.split() for line in lines]
    return any(row[3] == "0A" and row[1].endswith(f":{port:04X}") for row in rows)


def port_is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a new server could bind here."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen()
        except OSError:
            return False
    return True
