"""A WSGI application that a Python program serves in its own process."""

from __future__ import annotations

import signal
from collections.abc import Callable
from functools import partial

import pytest
from harness.marks import rsgun_only
from harness.programs import HELPERS, succeed
from harness.server import Server
from harness.target import interpreters, lend_package, supported

pytestmark = rsgun_only

Program = Callable[..., Server]

PRELUDE = (
    HELPERS
    + """
import asyncio, os, signal, threading, time
import rsgun

class Hall:
    def __init__(self, name="hall"):
        self.name = name
        self.seen = []
        self.go_on = threading.Event()

    def __call__(self, environ, start_response):
        if environ["PATH_INFO"] == "/slow":
            self.seen.append("slow")
            self.go_on.wait(30)
            self.seen.append("slow has ended")
        if environ["PATH_INFO"] == "/fails":
            raise RuntimeError("on purpose")
        start_response("200 OK", [("Content-Type", "text/plain")])
        flags = [environ[f"wsgi.{name}"] for name in ("multithread", "multiprocess", "run_once")]
        return [f"{self.name} {flags} {os.getpid()}".encode()]
"""
)


@pytest.fixture
def succeeds(program: Program) -> Callable[..., Server]:
    """Runs a program that checks for itself what it sees."""
    return partial(succeed, program, PRELUDE)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_run_serves_an_object_until_it_is_stopped(program: Program, number: int) -> None:
    source = "rsgun.run(Hall(), port=0, threads=4)\nprint('after it', flush=True)\n"
    server = program(PRELUDE + source)
    server.tolerates_tracebacks = True
    assert server.get().text == f"hall [True, False, False] {server.pid}"
    assert len(server.family()) == 1
    assert server.get("/fails").status == 500
    server.wait_for_line("RuntimeError: on purpose")
    assert server.stop(number) == 0
    assert server.lines("stdout")[-1] == "after it"


def test_a_factory_and_its_name(program: Program) -> None:
    source = "rsgun.run(lambda: Hall('made'), port=0, factory=True, interface='wsgi')\n"
    server = program(PRELUDE + source)
    assert server.get().text.startswith("made [False, False, False]")


def test_settings_that_need_a_master_are_refused(succeeds: Callable[..., Server]) -> None:
    succeeds(
        """
try:
    rsgun.run(Hall(), port=0, workers=2)
except rsgun.ConfigError as error:
    assert "workers" in str(error), error
else:
    raise AssertionError("it has run")
"""
    )


def test_in_a_running_loop(succeeds: Callable[..., Server]) -> None:
    """The loop goes on while the application works in its threads."""
    succeeds(
        """
async def main():
    app = Hall()
    server, task = await begin(app, threads=3, log_level="warning")
    port = port_of(server)
    answers = await asyncio.gather(*(get(port) for _ in range(40)))
    assert answers == [f"hall [True, False, False] {os.getpid()}"] * 40, answers
    slow = asyncio.create_task(get(port, "/slow"))
    await until(lambda: app.seen)
    assert (await get(port)).startswith("hall")
    # What was accepted is answered.
    server.should_exit = True
    asyncio.get_running_loop().call_later(0.2, app.go_on.set)
    await task
    assert (await slow).startswith("hall")
    assert app.seen == ["slow", "slow has ended"]
    assert server.started and not server.servers
    assert len(asyncio.all_tasks()) == 1, asyncio.all_tasks()

asyncio.run(main())
assert not [thread for thread in threading.enumerate() if thread.name.startswith("rsgun")]
"""
    )


def test_one_after_the_other_and_several_at_a_time(succeeds: Callable[..., Server]) -> None:
    succeeds(
        """
async def main():
    for number in range(4):
        server, task = await begin(Hall(f"hall-{number}"), limit_max_requests=3)
        port = port_of(server)
        for _ in range(3):
            assert (await get(port)).startswith(f"hall-{number} ")
        await asyncio.wait_for(task, 30)

asyncio.run(main())

servers = [rsgun.Server(rsgun.Config(Hall(f"at-{number}"), port=0)) for number in range(3)]
threads = [threading.Thread(target=server.run) for server in servers]
for thread in threads:
    thread.start()

async def look():
    await until(lambda: all(server.started for server in servers))
    for number, server in enumerate(servers):
        assert (await get(port_of(server))).startswith(f"at-{number} ")
        server.should_exit = True

asyncio.run(look())
for thread in threads:
    thread.join(30)
    assert not thread.is_alive()
"""
    )


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_loop_that_goes_on_keeps_nothing_of_it(
    succeeds: Callable[..., Server], loop: str
) -> None:
    succeeds(
        f"""
import gc, weakref
import uvloop

async def serve_once():
    app = Hall()
    server, task = await begin(app, threads=2)
    assert (await get(port_of(server))).startswith("hall ")
    server.should_exit = True
    await task
    return weakref.ref(app), weakref.ref(server)

def descriptors():
    return len(os.listdir("/proc/self/fd"))

async def main():
    await serve_once()
    gc.collect()
    before = descriptors()
    left = [each for _ in range(3) for each in await serve_once()]
    gc.collect()
    alive = [str(each()) for each in left if each() is not None]
    assert not alive, alive
    assert descriptors() == before

factory = {{"asyncio": None, "uvloop": uvloop.new_event_loop}}[{loop!r}]
with asyncio.Runner(loop_factory=factory) as runner:
    runner.run(main())
"""
    )


def test_a_thread_that_does_not_end_is_left_behind(succeeds: Callable[..., Server]) -> None:
    """The program goes on meanwhile, and serves again."""
    server = succeeds(
        """
async def longest_gap(app):
    # How long the loop was held up while a server stopped whose thread hangs.
    server, task = await begin(app, graceful_timeout=1)
    slow = asyncio.create_task(get(port_of(server), "/slow"))
    await until(lambda: app.seen)
    gaps = []

    async def tick():
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.01)
            gaps.append(time.monotonic() - before)

    ticking = asyncio.create_task(tick())
    server.should_exit = True
    await asyncio.wait_for(task, 30)
    ticking.cancel()
    assert await slow == ""
    return max(gaps)

async def main():
    # The machine may be busy with something else for once.
    for _ in range(3):
        app = Hall()
        gap = await longest_gap(app)
        if gap < 0.4:
            break
    else:
        raise AssertionError(f"the loop stood still for {gap} s")
    server, task = await begin(Hall("next"))
    assert (await get(port_of(server))).startswith("next ")
    app.go_on.set()
    await until(lambda: len(app.seen) == 2)
    assert (await get(port_of(server))).startswith("next ")
    server.should_exit = True
    await task

asyncio.run(main())
"""
    )
    server.wait_for_line("1 request.s. did not end within the graceful time-out")


def test_cancelling_the_task_stops_it(succeeds: Callable[..., Server]) -> None:
    succeeds(
        """
async def main():
    app = Hall()
    server, task = await begin(app)
    assert (await get(port_of(server))).startswith("hall ")
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        pass
    else:
        raise AssertionError("it was not cancelled")
    assert not server.servers

asyncio.run(main())
"""
    )


UNENDING = """
import atexit, socket, sys

begun = []

def for_ever():
    begun.append(1)
    while True:
        time.sleep(0.0002)

class Last:
    def __del__(self):
        for_ever()

class Closing:
    def __iter__(self):
        return iter([b"x"])

    def close(self):
        for_ever()

class Reading:
    def read(self, size):
        for_ever()

def parts():
    yield b"x"
    for_ever()

def app(environ, start_response):
    start_response("200 OK", [])
    match environ["PATH_INFO"]:
        case "/computes":
            begun.append(1)
            while True:
                sum(range(50))
        case "/calls":
            begun.append(1)
            while True:
                start_response("200 OK", [], (None, None, None))
        case "/waits":
            for_ever()
        case "/generates":
            return parts()
        case "/closes":
            return Closing()
        case "/reads":
            return environ["wsgi.file_wrapper"](Reading())
        case "/drops":
            environ["last"] = Last()
            return [b"x"]

PATHS = ["/computes", "/calls", "/waits", "/generates", "/closes", "/reads", "/drops"]

class LetsOthersRun:
    # The interpreter meets it while it ends, when modules have nothing in them any more.
    def __del__(self, sleep=time.sleep):
        sleep(0.05)

async def main():
    server, task = await begin(app, threads=len(PATHS), log_level="error")
    clients = [asyncio.create_task(get(port_of(server), path)) for path in PATHS]
    await until(lambda: len(begun) == len(PATHS))
    server.should_exit = server.force_exit = True
    await task
    await asyncio.gather(*clients)

asyncio.run(main())
atexit.register(print, "the exit handlers have run", flush=True)
sys.keeps = LetsOthersRun()
sys.exit(7)
"""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("version", supported(), ids=lambda version: f"python{version[1]}")
def test_threads_that_never_end_do_not_spoil_the_exit_code(
    program: Program, version: tuple[int, int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """What they are at when the program ends differs from time to time."""
    environment = lend_package(tmp_path_factory.mktemp("lent"))
    for _ in range(4):
        server = program(
            PRELUDE + UNENDING,
            wait=False,
            python=interpreters()[version],
            environment=environment,
        )
        assert server.wait(60) == 7, server.report()
        assert "the exit handlers have run" in server.lines("stdout")
