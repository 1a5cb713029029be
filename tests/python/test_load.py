"""Reloads and deaths under load: no request is lost."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.load import SLOWEST, Load, nothing_lost, under_load, until
from harness.marks import rsgun_only
from harness.server import Server
from harness.sources import versioned
from harness.waiting import PATIENCE

pytestmark = [rsgun_only, pytest.mark.slow]

Serve = Callable[..., Server]
Module = Callable[[str, str], Path]


@pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["plain", "preload"])
def test_five_hups_with_four_workers(
    serve: Serve, module: Module, tmp_path: Path, preload: tuple[str, ...]
) -> None:
    module("main", versioned("version-1"))
    server = serve("main:app", "--app-dir", str(tmp_path), "-w", "4", "--no-access-log", *preload)
    server.wait_for_workers(4)
    load = Load(server.port, "/slow?5", keep_alive=12, one_shot=12)

    async def story() -> None:
        for number in range(2, 7):
            module("main", versioned(f"version-{number}"))
            server.send_signal(signal.SIGHUP)
            await until(
                lambda number=number: (
                    sorted(process.title for process in server.workers())
                    == [f"rsgun: worker {slot} [gen {number}]" for slot in (1, 2, 3, 4)]
                ),
                f"generation {number}, not {[p.title for p in server.workers()]}",
                30,
            )

    under_load(load, story)
    nothing_lost(load)
    for account in (load.keep_alive, load.one_shot):
        assert {f"version-{number}" for number in range(1, 7)} <= set(account.answers)
        assert account.slowest < SLOWEST


def test_hups_with_one_worker(serve: Serve, module: Module, tmp_path: Path) -> None:
    """Nobody else could answer in its place."""
    module("main", versioned("version-1"))
    server = serve("main:app", "--app-dir", str(tmp_path), "--no-access-log")
    load = Load(server.port, "/", keep_alive=6, one_shot=6)

    async def story() -> None:
        for number in (2, 3):
            module("main", versioned(f"version-{number}", startup="await asyncio.sleep(0.5)"))
            server.send_signal(signal.SIGHUP)
            await until(
                lambda number=number: (
                    [process.title for process in server.workers()]
                    == [f"rsgun: worker 1 [gen {number}]"]
                ),
                f"generation {number}",
                30,
            )

    under_load(load, story)
    nothing_lost(load)


@pytest.mark.timeout(180)
def test_boot_of_three_seconds_delays_nobody(serve: Serve, module: Module, tmp_path: Path) -> None:
    """Nothing is refused, and the worst latency is that of other times and 100 ms at most."""
    boot = "await asyncio.sleep(3)"
    module("main", versioned("version-1", startup=boot))
    server = serve("main:app", "--app-dir", str(tmp_path), "--no-access-log")
    # Those that wait for an answer leave the processors to the server that boots.
    load = Load(server.port, "/slow?20", keep_alive=3, one_shot=3)
    accounts = (load.keep_alive, load.one_shot)
    usual, reloading = [], []

    async def worst(over: Callable[[], bool]) -> float:
        for account in accounts:
            account.slowest = 0
        await until(over, "the end of a phase", 30 * PATIENCE)
        return max(account.slowest for account in accounts)

    async def story() -> None:
        for number in (2, 3, 4):
            answered = load.one_shot.answered + 200
            usual.append(await worst(lambda answered=answered: load.one_shot.answered > answered))
            module("main", versioned(f"version-{number}", startup=boot))
            server.send_signal(signal.SIGHUP)
            title = f"rsgun: worker 1 [gen {number}]"
            reloading.append(
                await worst(lambda title=title: [it.title for it in server.workers()] == [title])
            )

    under_load(load, story)
    nothing_lost(load)
    # Whatever else the machine does, one of several is undisturbed.
    assert min(reloading) < max(usual) + 0.1, (usual, reloading)


def test_broken_code_under_load(serve: Serve, module: Module, tmp_path: Path) -> None:
    module("main", versioned("good"))
    server = serve("main:app", "--app-dir", str(tmp_path), "-w", "2", "--no-access-log")
    server.wait_for_workers(2)
    server.tolerates_tracebacks = True
    load = Load(server.port, "/", keep_alive=6, one_shot=6)

    async def story() -> None:
        module("main", "raise RuntimeError('bad deployment')")
        for count in (1, 2):
            server.send_signal(signal.SIGHUP)
            await until(
                lambda count=count: (
                    sum("bad deployment" in line and "Error" in line for line in server.lines())
                    >= count
                ),
                "the failure is logged",
            )

    under_load(load, story)
    nothing_lost(load)
    assert set(load.keep_alive.answers) == {"good"}


def test_worker_killed_under_load_costs_only_what_it_was_serving(
    serve: Serve, module: Module, tmp_path: Path
) -> None:
    module("main", versioned("main"))
    server = serve("main:app", "--app-dir", str(tmp_path), "-w", "2", "--no-access-log")
    workers = server.wait_for_workers(2)
    load = Load(server.port, "/slow?5", keep_alive=6, one_shot=6)

    async def story() -> None:
        os.kill(workers[0].pid, signal.SIGKILL)
        await until(
            lambda: (
                workers[0].pid not in [w.pid for w in server.workers()]
                and len(server.workers()) == 2
            ),
            "a new worker",
        )

    under_load(load, story)
    assert not any(reason.startswith("connect") for reason in load.one_shot.lost), load.one_shot
    assert sum(load.one_shot.lost.values()) + sum(load.keep_alive.lost.values()) <= 12


def test_term_under_load_answers_everything_it_accepted(
    serve: Serve, module: Module, tmp_path: Path
) -> None:
    """After TERM a connection is refused, or its request is answered."""
    module("main", versioned("main"))
    server = serve("main:app", "--app-dir", str(tmp_path), "-w", "2", "--no-access-log")
    server.wait_for_workers(2)
    load = Load(server.port, "/slow?20", keep_alive=10, one_shot=10)

    async def both() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(load.run())
            await until(lambda: load.keep_alive.answered > 100, "the load has begun")
            server.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(server.wait) == 0
            load.stop()

    asyncio.run(both())
    for account in (load.keep_alive, load.one_shot):
        assert set(account.lost) == {"connect: ConnectionRefusedError"}, str(account)
