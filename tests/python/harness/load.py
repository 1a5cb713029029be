"""Many clients at once, and an account of every request.

A request is *lost* when the client has sent it, or tried to connect for it, and did
not get a complete, correct answer. A connection that the server has announced to close
is opened anew without that; one that it closes silently costs a request, unless it may
have been idle for so long that the server need not keep it (:data:`KEPT`).
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from harness.streams import answer
from harness.waiting import DEADLINE, PATIENCE, DeadlineMissed

KEPT = 1.0
"""Seconds after its last request for which a connection is used again. A worker that drains
closes one that is idle for two, and a machine that stands still lets it be idle."""
PAUSE = 0.01
"""Seconds before a client whose request was lost comes again. A refusal comes at once, so
that a client without patience would let nobody else run."""

SLOWEST = 12 * PATIENCE
"""Seconds within which every answer must have come. One that waits for a worker that is
gone takes longer; the machine may stand still for some."""


@dataclass
class Account:
    """What became of the requests of one kind of client."""

    answered: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    answers: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        return (
            f"{self.answered} answered, {sum(self.lost.values())} lost {dict(self.lost)}, "
            f"slowest {self.slowest * 1000:.0f} ms, {dict(self.answers)}"
        )


class Load:
    """Clients that ask until they are told to stop."""

    def __init__(self, port: int, path: str, *, keep_alive: int, one_shot: int) -> None:
        self.port = port
        self.path = path
        self.keep_alive = Account()
        self.one_shot = Account()
        self._stopping = False
        self._sizes = (keep_alive, one_shot)

    async def run(self) -> None:
        """Runs all clients until :meth:`stop`."""
        keep_alive, one_shot = self._sizes
        async with asyncio.TaskGroup() as group:
            for _ in range(keep_alive):
                group.create_task(self._keep_alive_client())
            for _ in range(one_shot):
                group.create_task(self._one_shot_client())

    def stop(self) -> None:
        """Lets each client finish its request and end."""
        self._stopping = True

    async def _keep_alive_client(self) -> None:
        streams = None
        asked = 0.0
        while not self._stopping:
            closes = True
            try:
                if streams and time.monotonic() - asked > KEPT:
                    streams[1].close()
                    streams = None
                asked = time.monotonic()
                if streams is None:
                    try:
                        streams = await asyncio.open_connection("127.0.0.1", self.port)
                    except OSError as error:
                        self.keep_alive.lost["connect: " + describe(error)] += 1
                        await asyncio.sleep(PAUSE)
                        continue
                closes = await self._ask(self.keep_alive, *streams, close=False)
            except (OSError, ValueError, asyncio.IncompleteReadError, TimeoutError) as error:
                self.keep_alive.lost[describe(error)] += 1
                await asyncio.sleep(PAUSE)
            if closes and streams:
                streams[1].close()
                streams = None
        if streams:
            streams[1].close()

    async def _one_shot_client(self) -> None:
        while not self._stopping:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError as error:
                self.one_shot.lost["connect: " + describe(error)] += 1
                await asyncio.sleep(PAUSE)
                continue
            try:
                await self._ask(self.one_shot, reader, writer, close=True)
            except (OSError, ValueError, asyncio.IncompleteReadError, TimeoutError) as error:
                self.one_shot.lost[describe(error)] += 1
            writer.close()

    async def _ask(
        self,
        account: Account,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        close: bool,
    ) -> bool:
        """One request; returns whether the server closes the connection."""
        began = time.monotonic()
        closing = "Connection: close\r\n" if close else ""
        writer.write(f"GET {self.path} HTTP/1.1\r\nHost: load\r\n{closing}\r\n".encode())
        async with asyncio.timeout(20):
            closes, body = await answer(reader)
        account.answered += 1
        account.answers[body.decode().split()[0]] += 1
        account.slowest = max(account.slowest, time.monotonic() - began)
        return closes


def describe(error: BaseException) -> str:
    """A short name for a loss."""
    if isinstance(error, asyncio.IncompleteReadError):
        return f"end after {len(error.partial)} bytes" if error.partial else "end without answer"
    if isinstance(error, ValueError):
        return str(error)
    return type(error).__name__


async def until(check: Callable[[], bool], what: str, deadline: float = DEADLINE) -> None:
    """As ``eventually``, while the load goes on."""
    try:
        async with asyncio.timeout(deadline):
            while not check():
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise DeadlineMissed(f"not within {deadline:.0f} s: {what}") from None


def under_load(
    load: Load, story: Callable[[], Awaitable[None]], *, account: Account | None = None
) -> None:
    """Runs the load while the story happens, which begins when ``account`` fills."""
    account = account or load.keep_alive

    async def both() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(load.run())
            try:
                await until(lambda: account.answered > 100, "the load has begun")
                await story()
                answered = load.one_shot.answered
                await until(lambda: load.one_shot.answered > answered + 50, "the load goes on")
            finally:
                load.stop()

    asyncio.run(both())
    print(f"keep-alive: {load.keep_alive}\none-shot: {load.one_shot}")


def nothing_lost(load: Load) -> None:
    """Every request was answered."""
    assert not load.keep_alive.lost, str(load.keep_alive)
    assert not load.one_shot.lost, str(load.one_shot)
