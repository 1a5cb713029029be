"""Chaos: signals, deaths, and recycling at random under every kind of load.

``RSGUN_CHAOS_SECONDS`` is how long each case lasts and ``RSGUN_CHAOS_SEED`` what happens
in which order; the seed is printed. ``make soak`` goes on for hours. What is lost is
reported with what was done and what the server wrote at that time.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from pathlib import Path

import pytest
from conftest import remember
from harness.chaos import Account, Chaos
from harness.contestants import Contestant, torment
from harness.marks import rsgun_only
from harness.server import Server, port_is_free

SECONDS = float(os.environ.get("RSGUN_CHAOS_SECONDS", "15"))
SEED = int(os.environ.get("RSGUN_CHAOS_SEED", "0")) or random.randrange(1, 1 << 30)

pytestmark = [rsgun_only, pytest.mark.slow, pytest.mark.timeout(SECONDS * 2 + 180)]


@pytest.fixture(autouse=True)
def _tell_the_seed() -> None:
    print(f"RSGUN_CHAOS_SEED={SEED}")


def verdict(account: Account, servers: list[Server]) -> None:
    print(account)
    log = [line for server in servers for line in server.output.timed()]
    try:
        assert not account.lost, f"{account}\n{account.around_losses(log)}"
        assert account.answered.total() > 100
        for server in servers:
            assert not server.leftovers(40)
            assert not server.noise()
    finally:
        for server in servers:
            server.kill()


@pytest.mark.parametrize("manner", [(), ("--preload",), ("--reuse-port",)], ids=" ".join)
def test_nothing_is_lost(
    request: pytest.FixtureRequest, tmp_path: Path, manner: tuple[str, ...]
) -> None:
    contestant = Contestant("rsgun", tmp_path, *manner)
    remember(request.node, contestant.server)
    try:
        account = asyncio.run(torment(contestant, seed=SEED, seconds=SECONDS))
        assert contestant.server.wait() == 0
        verdict(account, [contestant.server])
    finally:
        contestant.server.kill()


@pytest.mark.parametrize("manner", [(), ("--preload",), ("--reuse-port",)], ids=" ".join)
def test_death_of_the_master(
    request: pytest.FixtureRequest, tmp_path: Path, manner: tuple[str, ...]
) -> None:
    """Its workers answer what they have; the next master finds the addresses free."""
    servers = []
    first = Contestant("rsgun", tmp_path, *manner)
    chaos = Chaos(first.address, first.path, seed=SEED)

    def start() -> None:
        server = Server(first.server.arguments, cwd=tmp_path)
        servers.append(server)
        remember(request.node, server)

    servers.append(first.server)
    remember(request.node, first.server)

    async def story() -> None:
        for _ in range(3):
            master = servers[-1]
            chaos.may_be_gone = True
            chaos.kill(master.pid)
            chaos.account.done["master killed"] += 1
            await chaos.until(lambda: port_is_free(first.port), "the address is free")
            start()
            await asyncio.to_thread(servers[-1].wait_until_running)
            chaos.may_be_gone = False
            before = chaos.account.answered.total()
            await chaos.until(
                lambda before=before: chaos.account.answered.total() > before + 50,
                "the next master serves",
            )
        chaos.may_be_gone = True
        servers[-1].send_signal(signal.SIGTERM)
        await asyncio.to_thread(servers[-1].wait)

    try:
        verdict(asyncio.run(chaos.run(story)), servers)
    finally:
        for server in servers:
            server.kill()
