"""WSGI: clients that connect while those who are connected keep every thread at work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from harness.load import Load
from harness.marks import rsgun_only
from harness.server import Server
from harness.waiting import DEADLINE

pytestmark = rsgun_only

REGULARS = 32
NEWCOMERS = 20
ROUNDS = 20
"""How often everybody else may be served while one newcomer waits for an answer."""


def test_newcomers_are_served_under_load(serve: Callable[..., Server]) -> None:
    server = serve("wsgi_lab:bare", "--threads", "1")
    load = Load(server.port, "/sleep?0.001", keep_alive=REGULARS, one_shot=0)
    regulars = load.keep_alive

    async def newcomers() -> int:
        while regulars.answered < REGULARS:
            await asyncio.sleep(0)
        longest = 0
        for _ in range(NEWCOMERS):
            before = regulars.answered
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"GET /ping HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert b"pong" in await reader.read()
            writer.close()
            longest = max(longest, regulars.answered - before)
        load.stop()
        return longest

    async def story() -> int:
        async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
            group.create_task(load.run())
            return await group.create_task(newcomers())

    assert asyncio.run(story()) < ROUNDS * REGULARS
    assert not regulars.lost, regulars
