"""An address that the configuration no longer names: who has come is served, who comes
later is refused, and nobody is reset."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.load import Load
from harness.marks import rsgun_only
from harness.server import Server, free_port
from harness.sources import versioned
from harness.target import command
from harness.waiting import DEADLINE

pytestmark = rsgun_only

Launch = Callable[..., Server]
Module = Callable[[str, str], Path]

REFUSED = "connect: ConnectionRefusedError"

WSGI = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "4")])
    return [b"wsgi"]
"""

APPLICATIONS = {"asgi": versioned("asgi"), "wsgi": WSGI}


async def refused(load: Load) -> None:
    """Lets clients ask until the address is gone, which the last ones find out."""
    accounts = (load.keep_alive, load.one_shot)
    try:
        async with asyncio.timeout(DEADLINE):
            while not all(account.lost for account in accounts):
                await asyncio.sleep(0.01)
    except TimeoutError:
        pytest.fail(f"nobody was refused: {accounts[0]}; {accounts[1]}")
    finally:
        load.stop()


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR2], ids=lambda it: it.name)
@pytest.mark.parametrize("interface", APPLICATIONS)
def test_clients_of_a_removed_address_are_served_or_refused(
    launch: Launch, module: Module, tmp_path: Path, number: int, interface: str
) -> None:
    module("main", APPLICATIONS[interface])
    kept, gone = (f"127.0.0.1:{free_port()}" for _ in range(2))
    file = tmp_path / "rsgun.toml"

    def listen(*addresses: str) -> None:
        file.write_text(f"bind = {list(addresses)}\nworkers = 2\naccess-log = false\n")

    listen(kept, gone)
    server = launch(command("main:app", "--app-dir", str(tmp_path), "-c", str(file)))
    server.wait_until_running()
    server.wait_for_workers(2)

    async def story(load: Load) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(load.run())
            while load.one_shot.answered < 50:
                await asyncio.sleep(0.01)
            server.send_signal(number)
            await refused(load)

    for generation in (2, 4):
        load = Load(int(gone.split(":")[1]), "/", keep_alive=4, one_shot=12)
        listen(kept)
        asyncio.run(story(load))
        for account in (load.keep_alive, load.one_shot):
            assert set(account.lost) == {REFUSED}, str(account)
        server.wait_for_line(rf"(Reload|Upgrade) complete.*generation {generation}$")
        listen(kept, gone)
        server.send_signal(signal.SIGHUP)
        server.wait_for_line(rf"Reload complete.*generation {generation + 1}$")
