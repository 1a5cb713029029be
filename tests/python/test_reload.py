"""SIGHUP: new code takes over when it serves, and not before; broken code never does."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.marks import rsgun_only
from harness.server import Server
from harness.sources import answer, versioned
from harness.waiting import BOOT, eventually, wait_gone

pytestmark = rsgun_only

Serve = Callable[..., Server]
Module = Callable[[str, str], Path]
Start = Callable[..., Server]


@pytest.fixture(params=[(), ("--preload",)], ids=["plain", "preload"])
def start(request: pytest.FixtureRequest, serve: Serve, module: Module, tmp_path: Path) -> Start:
    """Serves version ``first`` of ``main``, with and without --preload."""

    def begin(*arguments: str, source: str | None = None, workers: int = 2) -> Server:
        module("main", source or versioned("first"))
        server = serve(
            "main:app", "--app-dir", str(tmp_path), "-w", str(workers), *request.param, *arguments
        )
        server.wait_for_workers(workers)
        return server

    return begin


def reload(server: Server) -> int:
    """Sends SIGHUP; returns where the output about it begins."""
    since = server.output.mark()
    server.send_signal(signal.SIGHUP)
    return since


def is_calm(server: Server) -> bool:
    """Whether a reload has come to its end: two workers of a single later generation."""
    titles = [process.title for process in server.workers() + server.fork_servers()]
    generations = {title[title.index("[gen ") :] for title in titles if "[gen " in title}
    return len(titles) == 3 and len(generations) == 1 and generations != {"[gen 1]"}


STARTUP_FAILED = (
    "await send({'type': 'lifespan.startup.failed', 'message': 'cannot start now'}); return"
)

BROKEN = {
    "syntax error": ("def app(:\n", "SyntaxError"),
    "import error": ("import no_such_module_here\n", "no_such_module_here"),
    "exception": ("raise RuntimeError('broken by the deployment')\n", "broken by the deployment"),
    "exit": ("import sys\nsys.exit(1)\n", "SystemExit"),
    "attribute missing": ("application = None\n", "app"),
    "not callable": ("app = 5\n", "callable"),
    "lifespan": (
        versioned("second", startup=STARTUP_FAILED),
        "cannot start now",
    ),
    "hard exit": ("import os\nos._exit(1)\n", "code 1"),
    "crash": ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n", "SIGSEGV"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_broken_code_keeps_the_old_one_serving(start: Start, module: Module, how: str) -> None:
    server = start()
    before = {worker.pid for worker in server.workers()}
    source, text = BROKEN[how]
    module("main", source)
    server.tolerates_tracebacks = True
    since = reload(server)
    server.wait_for_line(r"(?i)^(ERROR|CRITICAL): .*(reload|generation)", since=since)
    server.wait_for_line(re.escape(text), stream="stderr", since=since)
    server.wait_for_generation(1, 2)
    assert {worker.pid for worker in server.workers()} == before
    for _ in range(10):
        assert server.get().text.startswith("first ")
    assert server.process.poll() is None

    module("main", versioned("third"))
    reload(server)
    eventually(lambda: server.get().text.startswith("third "), "the repaired code", BOOT)


def test_new_code_is_served(start: Start, module: Module) -> None:
    server = start()
    before = {worker.pid for worker in server.workers()}
    module("main", versioned("second"))
    reload(server)
    server.wait_for_generation(2, 2)
    assert not before & {worker.pid for worker in server.workers()}
    for _ in range(10):
        assert server.get().text.startswith("second ")


def test_master_stays(start: Start, module: Module) -> None:
    server = start()
    for number in (2, 3):
        module("main", versioned(f"number {number}".replace(" ", "-")))
        reload(server)
        server.wait_for_generation(number, 2)
        assert answer(server.get().text)[2] == server.pid


ONCE = "os.path.exists('once') and os._exit(1); open('once', 'w').close()"


def test_failure_after_the_first_worker_was_replaced(start: Start, module: Module) -> None:
    """The log says who serves what, and what to do."""
    server = start("--reload-probation", "0")
    module("main", versioned("second", startup=ONCE))
    since = reload(server)
    server.wait_for_line(
        r"It had replaced 1 worker before it failed, and generation 2 serves there", since=since
    )
    if "--preload" in server.arguments:
        server.wait_for_line(
            "these go back to the code of generation 1, one at a time", since=since
        )
        server.wait_for_generation(1, 2)
    else:
        server.wait_for_line("these stay, so two versions of the code answer: correct", since=since)
        eventually(
            lambda: {answer(server.get().text)[0] for _ in range(10)} == {"first", "second"},
            "both versions",
        )
    module("main", versioned("third"))
    reload(server)
    server.wait_for_generation(3, 2)


def test_fewer_workers(serve: Serve, module: Module, tmp_path: Path) -> None:
    """Those that the new configuration does without are not exchanged first."""
    module("main", versioned("first"))
    file = tmp_path / "rsgun.toml"
    file.write_text("workers = 3\n")
    server = serve("main:app", "--app-dir", str(tmp_path), "-c", str(file))
    server.wait_for_workers(3)
    file.write_text("workers = 1\n")
    since = reload(server)
    server.wait_for_line("Number of workers changed from 3 to 1", since=since)
    server.wait_for_generation(2, 1)
    assert sum("started [" in line for line in server.lines(since=since)) == 1


def test_old_code_serves_until_the_new_is_ready(
    start: Start, module: Module, tmp_path: Path
) -> None:
    """A slow start costs nothing: somebody serves at every moment."""
    server = start("--reload-probation", "0", workers=1)
    module("main", versioned("second", gate="'go'"))
    since = reload(server)
    server.wait_for_line("^starting second", since=since)
    for _ in range(20):
        assert server.get().text.startswith("first ")
    (tmp_path / "go").touch()
    eventually(lambda: server.get().text.startswith("second "), "the new code")
    server.wait_for_generation(2, 1)
    for _ in range(5):
        assert server.get().text.startswith("second ")


def test_request_in_flight_is_answered_by_the_old_code(
    start: Start, module: Module, tmp_path: Path
) -> None:
    server = start(workers=1)
    with server.connect() as connection:
        connection.request("/wait")
        server.wait_for_line("^waiting in first")
        module("main", versioned("second"))
        reload(server)
        eventually(lambda: server.get().text.startswith("second "), "the new code", BOOT)
        (tmp_path / "released").touch()
        assert connection.response().text.startswith("first ")
    server.wait_for_generation(2, 1)


def test_idle_connection_is_told_to_close(start: Start, module: Module) -> None:
    """It does not hold up the old worker for longer than a moment."""
    server = start(workers=1)
    with server.connect() as connection:
        assert connection.get("/").text.startswith("first ")
        module("main", versioned("second"))
        reload(server)
        server.wait_for_generation(2, 1)
        assert connection.ended()


def test_listener_is_the_same_socket(serve: Serve, module: Module, tmp_path: Path) -> None:
    """Same inode and same queue: a connection that waits there is not lost."""
    module("main", versioned("first"))
    path = tmp_path / "socket"
    server = serve("main:app", "--app-dir", str(tmp_path), "--uds", str(path))
    before = path.stat().st_ino
    module("main", versioned("second"))
    reload(server)
    eventually(
        lambda: server.get(address=str(path)).text.startswith("second "), "the new code", BOOT
    )
    assert path.stat().st_ino == before


def test_two_hups_at_once(start: Start, module: Module) -> None:
    """The last code wins, and nothing is left of those between."""
    server = start()
    module("main", versioned("second"))
    reload(server)
    module("main", versioned("third"))
    reload(server)
    eventually(lambda: server.get().text.startswith("third "), "the last code", BOOT)
    eventually(lambda: is_calm(server), "one generation alone", BOOT)
    assert {answer(server.get().text)[0] for _ in range(10)} == {"third"}


def test_ten_hups_in_a_row(start: Start) -> None:
    server = start()
    for _ in range(10):
        reload(server)
    eventually(lambda: is_calm(server), "one generation alone", 2 * BOOT)
    assert server.get().status == 200


def test_term_during_a_reload(start: Start, module: Module) -> None:
    server = start()
    module(
        "main",
        versioned("second", top="print('loading second', flush=True); import time; time.sleep(30)"),
    )
    server.tolerates_tracebacks = True
    since = reload(server)
    server.wait_for_line("loading second", since=since)
    assert server.stop(deadline=10) == 0
    assert not server.leftovers()


def test_worker_that_dies_during_a_reload(start: Start, module: Module) -> None:
    server = start()
    victim = server.workers()[0]
    module(
        "main",
        versioned(
            "second", startup="print('starting second', flush=True); await asyncio.sleep(0.5)"
        ),
    )
    since = reload(server)
    server.wait_for_line("starting second", since=since)
    os.kill(victim.pid, signal.SIGKILL)
    assert wait_gone(victim.pid)
    server.wait_for_generation(2, 2)
    assert server.get().text.startswith("second ")


def test_new_worker_that_never_becomes_ready(start: Start, module: Module, tmp_path: Path) -> None:
    """The boot has a limit, and the old code serves on."""
    configuration = tmp_path / "rsgun.toml"
    configuration.write_text("boot-timeout = 60\n")
    server = start("-c", str(configuration))
    configuration.write_text("boot-timeout = 1\n")
    module("main", versioned("second", startup="await asyncio.sleep(100)"))
    server.tolerates_tracebacks = True
    since = reload(server)
    server.wait_for_line(r"(?i)^(ERROR|CRITICAL): .*(reload|generation)", since=since)
    server.wait_for_generation(1, 2)
    assert server.get().text.startswith("first ")


def test_lifespan_of_the_old_code_is_shut_down(start: Start, module: Module) -> None:
    server = start(source=versioned("first", shutdown="print('first stopped', flush=True)"))
    module("main", versioned("second"))
    reload(server)
    server.wait_for_generation(2, 2)
    eventually(lambda: server.lines("stdout").count("first stopped") == 2, "two shutdowns")


def test_number_of_workers_stays_as_ttin_made_it(start: Start, module: Module) -> None:
    server = start(workers=1)
    server.send_signal(signal.SIGTTIN)
    server.wait_for_workers(2)
    module("main", versioned("second"))
    reload(server)
    server.wait_for_generation(2, 2)


def test_symbolic_link_to_a_release(serve: Serve, tmp_path: Path) -> None:
    """A deployment that switches a link: the reload follows it."""
    for release in ("one", "two"):
        (tmp_path / release).mkdir()
        (tmp_path / release / "main.py").write_text(versioned(release))
    current = tmp_path / "current"
    current.symlink_to("one")
    server = serve("main:app", "--app-dir", str(current))
    assert server.get().text.startswith("one ")
    fresh = tmp_path / "fresh"
    fresh.symlink_to("two")
    fresh.replace(current)
    reload(server)
    eventually(lambda: server.get().text.startswith("two "), "the new release", BOOT)


def test_log_tells_about_the_reload(start: Start, module: Module) -> None:
    server = start()
    module("main", versioned("second"))
    since = reload(server)
    server.wait_for_generation(2, 2)
    server.wait_for_line("generation 2", stream="stderr", since=since)


def test_settings_that_need_a_restart_are_named(serve: Serve, tmp_path: Path) -> None:
    configuration = tmp_path / "rsgun.toml"
    configuration.write_text("backlog = 100\n")
    server = serve("lab:app", "-c", str(configuration))
    configuration.write_text(f'backlog = 200\npid = "{tmp_path / "pid"}"\ntimeout = 50\n')
    server.send_signal(signal.SIGHUP)
    server.wait_for_line("^WARNING: .* they need a restart: (pid, backlog|backlog, pid)$")
    server.wait_for_line("Reload complete")
    configuration.write_text("backlog = 100\n")
    since = server.output.mark()
    server.send_signal(signal.SIGHUP)
    server.wait_for_line("Reload complete", since=since)
    assert not [line for line in server.lines("stderr", since) if line.startswith("WARNING")]
