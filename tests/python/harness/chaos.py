"""Clients of every kind, an account of each request, and what is done to the server.

A request is *lost* when a client has connected or tried to, and did not get a complete,
correct answer. Whatever a worker that is killed with SIGKILL had accepted goes with it,
under every server; it is counted apart, as *killed*. To know which, the worker is stopped
first, and the kernel asked which connections it holds.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import sys
import time
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

from .load import KEPT
from .ownership import other_ends, sockets_of
from .processes import look
from .streams import answer
from .target import APPS
from .waiting import PATIENCE

sys.path.append(str(APPS))
from chaos_app import parts

ANSWER_LIMIT = 30.0 * PATIENCE
"""Seconds after which an answer is taken for lost."""

BEFORE_LOSS = 3.0
AFTER_LOSS = 1.0
"""Seconds around a loss of which a report tells."""

FAILURES = (OSError, ValueError, EOFError, TimeoutError)

Address = tuple[str, int] | str


@dataclass
class Account:
    """What became of all requests."""

    answered: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    killed: int = 0
    refused: int = 0
    """Only while the server is meant to be gone."""
    slowest: float = 0.0
    done: Counter[str] = field(default_factory=Counter)
    """What was done to the server."""
    diary: list[tuple[float, str]] = field(default_factory=list, repr=False)
    """Whatever was done or lost, each with its time."""
    losses: list[float] = field(default_factory=list, repr=False)
    """When something was lost."""

    def lose(self, what: str) -> None:
        """Counts a request as lost."""
        self.lost[what] += 1
        self.losses.append(self.note(f"lost: {what}"))

    def note(self, what: str) -> float:
        """Adds to the diary; returns the time."""
        now = time.monotonic()
        self.diary.append((now, what))
        return now

    def around_losses(self, log: list[tuple[float, str]]) -> str:
        """What was done and what the server wrote right before and after each loss."""
        return "\n".join(
            f"{at - self.diary[0][0]:8.3f} {text}"
            for at, text in sorted([*self.diary, *log])
            if any(loss - BEFORE_LOSS <= at <= loss + AFTER_LOSS for loss in self.losses)
        )

    def __str__(self) -> str:
        return (
            f"answered {self.answered.total()} {dict(self.answered)}, "
            f"lost {self.lost.total()} {dict(self.lost)}, killed {self.killed}, "
            f"refused {self.refused}, slowest {self.slowest * 1000:.0f} ms, "
            f"done {dict(self.done)}"
        )


class Client:
    """One client: asks again and again until it is told to stop."""

    def __init__(self, chaos: Chaos, kind: str, address: Address, seed: int) -> None:
        self.chaos = chaos
        self.kind = kind
        self.address = address
        self.random = random.Random(seed)
        self.name = f"{kind} {'unix' if isinstance(address, str) else 'tcp'}"
        self.socket: socket.socket | None = None
        self.doomed = False
        self._asked = 0.0
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def run(self) -> None:
        account = self.chaos.account
        while not self.chaos.over:
            began = time.monotonic()
            if began - self._asked > KEPT:
                self._close()
            self._asked = began
            step = "connect"
            try:
                async with asyncio.timeout(ANSWER_LIMIT):
                    if self._streams is None:
                        await self._connect()
                    step = "answer"
                    closes = await self._ask()
            except FAILURES as error:
                refused = isinstance(error, ConnectionRefusedError | FileNotFoundError)
                if step == "connect" and refused and self.chaos.may_be_gone:
                    account.refused += 1
                    await asyncio.sleep(0.02)
                elif self.doomed:
                    account.killed += 1
                else:
                    account.lose(f"{self.name}, {step}: {describe(error)}")
                closes = True
            else:
                account.answered[self.name] += 1
                account.slowest = max(account.slowest, time.monotonic() - began)
            if closes:
                self._close()
            await asyncio.sleep(self.random.uniform(0, self.chaos.pause))
        self._close()

    async def _connect(self) -> None:
        is_unix = isinstance(self.address, str)
        # Known before it is connected: a worker may have accepted it before this task
        # comes to know.
        self.socket = socket.socket(socket.AF_UNIX if is_unix else socket.AF_INET)
        self.socket.setblocking(False)
        await asyncio.get_running_loop().sock_connect(self.socket, self.address)
        connect = asyncio.open_unix_connection if is_unix else asyncio.open_connection
        self._streams = await connect(sock=self.socket)

    def _close(self) -> None:
        if self._streams:
            self._streams[1].close()
        elif self.socket:
            self.socket.close()
        self._streams = self.socket = None
        self.doomed = False

    async def _ask(self) -> bool:
        """One request of this client's kind; whether the connection ends with it."""
        assert self._streams
        reader, writer = self._streams
        one_shot = self.kind == "one-shot" or self.random.random() < 0.05
        closing = "Connection: close\r\n" if one_shot else ""
        host = f"Host: chaos\r\n{closing}"
        if self.kind == "upload":
            expected = await self._upload(writer, host)
        elif self.kind == "stream":
            count = self.random.randrange(1, 12)
            writer.write(f"GET /stream?{count} HTTP/1.1\r\n{host}\r\n".encode())
            expected = b"".join(parts(count)) + b"end"
        else:
            path = self.random.choice(["/", "/", f"/slow?{self.random.randrange(40)}"])
            writer.write(f"GET {path} HTTP/1.1\r\n{host}\r\n".encode())
            expected = None
        closes, body = await answer(reader)
        if expected is not None and body != expected:
            raise ValueError(f"wrong answer of {len(body)} bytes")
        if expected is None:
            int(body)
        return closes or one_shot

    async def _upload(self, writer: asyncio.StreamWriter, host: str) -> bytes:
        data = self.random.randbytes(self.random.choice([10, 5_000, 150_000]))
        chunked = self.random.random() < 0.5
        framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(data)}"
        writer.write(f"POST /upload HTTP/1.1\r\n{host}{framing}\r\n\r\n".encode())
        piece = max(len(data) // 4, 1)
        for start in range(0, len(data), piece):
            part = data[start : start + piece]
            writer.write(b"%x\r\n%b\r\n" % (len(part), part) if chunked else part)
            await writer.drain()
            await asyncio.sleep(self.random.uniform(0, 0.01))
        if chunked:
            writer.write(b"0\r\n\r\n")
        return f"{len(data)} {zlib.crc32(data)}".encode()


def describe(error: BaseException) -> str:
    """A short name for a loss."""
    if isinstance(error, asyncio.IncompleteReadError):
        return "cut short" if error.partial else "end without answer"
    if isinstance(error, ValueError):
        return str(error)
    return type(error).__name__


class Chaos:
    """A load on a server, and the means to do it harm."""

    def __init__(
        self, tcp: Address, unix: str | None, *, seed: int, clients: int = 3, pause: float = 0.03
    ) -> None:
        self.account = Account()
        self.random = random.Random(seed)
        self.pause = pause
        self.over = False
        self.may_be_gone = False
        self.account.note("begin")
        addresses = [tcp, *([unix] if unix else [])]
        self.clients = [
            Client(self, kind, address, self.random.randrange(1 << 30))
            for kind in ("keep-alive", "keep-alive", "one-shot", "one-shot", "upload", "stream")
            for address in addresses
            for _ in range(clients)
        ]

    async def run(self, story: Callable[[], Awaitable[None]]) -> Account:
        """Keeps the load up while the story goes on."""
        async with asyncio.TaskGroup() as group:
            for client in self.clients:
                group.create_task(client.run())
            try:
                await self.until(lambda: self.account.answered.total() > 50, "the load has begun")
                await story()
            finally:
                self.over = True
        return self.account

    async def mayhem(self, actions: dict[str, Callable[[], object]], seconds: float) -> None:
        """Does one thing after the other to the server, in an order that the seed decides."""
        end = time.monotonic() + seconds
        names = sorted(actions)
        while time.monotonic() < end:
            name = self.random.choice(names)
            self.account.note(name)
            if actions[name]() is not False:
                self.account.done[name] += 1
            await asyncio.sleep(self.random.uniform(0.1, 1.2))

    async def until(
        self, check: Callable[[], object], what: str, deadline: float = 30 * PATIENCE
    ) -> None:
        """Waits for a state while the load goes on."""
        end = time.monotonic() + deadline
        while not check():
            if time.monotonic() > end:
                raise AssertionError(f"not within {deadline:.0f} s: {what}; {self.account}")
            await asyncio.sleep(0.05)

    def kill(self, pid: int) -> bool:
        """Kills a process, and remembers which connections die with it; False when there
        is no such process."""
        try:
            os.kill(pid, signal.SIGSTOP)
            self._wait_until_stopped(pid)
            held = sockets_of(pid)
        except (ProcessLookupError, FileNotFoundError):
            return False
        open_ones = {client.socket: client for client in self.clients if client.socket}
        doomed = [
            open_ones[one] for one, inode in other_ends(list(open_ones)).items() if inode in held
        ]
        for client in doomed:
            client.doomed = True
        with suppress(ProcessLookupError):
            # The server may have killed it in the same moment.
            os.kill(pid, signal.SIGKILL)
        self.account.note(f"killed {pid}, which held {len(doomed)} connections")
        return True

    def _wait_until_stopped(self, pid: int) -> None:
        while (found := look(pid)) and found.state not in "TZX":
            time.sleep(0.0005)
        if not found or not found.alive:
            raise ProcessLookupError(pid)
