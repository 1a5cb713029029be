"""`rsgun.Server` in a program with an event loop of its own."""

from __future__ import annotations

import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from harness.marks import rsgun_only
from harness.programs import HELPERS, succeed
from harness.server import Server

pytestmark = rsgun_only

Program = Callable[..., Server]

PRELUDE = (
    HELPERS
    + """
import asyncio, contextlib, os, signal, socket, sys, threading, time
import rsgun

class Hall:
    def __init__(self, name="hall"):
        self.name = name
        self.seen = []

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                self.seen.append(message["type"].partition(".")[2])
                await send({"type": message["type"] + ".complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        if scope["path"] == "/slow":
            self.seen.append("slow")
            try:
                await asyncio.sleep(30)
            finally:
                self.seen.append("slow has ended")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": self.name.encode()})
"""
)


@pytest.fixture
def succeeds(program: Program) -> Callable[..., Server]:
    """Runs a program that checks for itself what it sees."""
    return partial(succeed, program, PRELUDE)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_server_in_a_running_loop(succeeds: Callable[..., Server], loop: str) -> None:
    succeeds(
        f"""
import uvloop

async def main():
    app = Hall()
    server, task = await begin(app, log_level="warning")
    assert len(server.sockets) == 1 and port_of(server) > 0
    answers = await asyncio.gather(*(get(port_of(server)) for _ in range(20)))
    assert answers == ["hall"] * 20
    server.should_exit = True
    await task
    assert app.seen == ["startup", "shutdown"]
    assert server.started and not server.servers
    assert len(asyncio.all_tasks()) == 1, asyncio.all_tasks()

factory = {{"asyncio": None, "uvloop": uvloop.new_event_loop}}[{loop!r}]
with asyncio.Runner(loop_factory=factory) as runner:
    runner.run(main())
"""
    )


def test_one_after_the_other_in_one_loop(succeeds: Callable[..., Server]) -> None:
    """Timers and requests of an earlier server leave a later one alone."""
    succeeds(
        """
async def main():
    for number in range(5):
        app = Hall(f"hall {number}")
        server, task = await begin(app, graceful_timeout=1)
        assert await get(port_of(server)) == f"hall {number}"
        slow = asyncio.create_task(get(port_of(server), "/slow"))
        await until(lambda: "slow" in app.seen)
        server.should_exit = True
        if number % 2:
            server.force_exit = True
        await task
        assert app.seen[-2:] == ["slow has ended", "shutdown"], app.seen
        with contextlib.suppress(Exception):
            await slow
    app = Hall("the last one")
    server, task = await begin(app)
    await asyncio.sleep(1.2)
    assert not task.done()
    assert await get(port_of(server)) == "the last one"
    server.should_exit = True
    await task
    before = set(os.listdir("/proc/self/fd"))
    for _ in range(20):
        server, task = await begin(Hall())
        assert await get(port_of(server)) == "hall"
        server.should_exit = True
        await task
    assert len(set(os.listdir("/proc/self/fd")) - before) <= 1

asyncio.run(main())
"""
    )


def test_a_request_that_outlives_its_server_leaves_the_next_alone(
    succeeds: Callable[..., Server],
) -> None:
    succeeds(
        """
class Stubborn(Hall):
    release = None
    async def __call__(self, scope, receive, send):
        if scope["type"] == "http" and scope["path"] == "/stuck":
            self.seen.append("stuck")
            while not self.release.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await self.release.wait()
        await super().__call__(scope, receive, send)

async def main():
    old = Stubborn("old")
    old.release = asyncio.Event()
    server, task = await begin(old, graceful_timeout=1)
    stuck = asyncio.create_task(get(port_of(server), "/stuck"))
    await until(lambda: "stuck" in old.seen)
    server.should_exit = True
    await task
    new = Hall("new")
    server, task = await begin(new, graceful_timeout=30)
    slow = asyncio.create_task(get(port_of(server), "/slow"))
    await until(lambda: "slow" in new.seen)
    old.release.set()
    await asyncio.sleep(0.1)
    assert await get(port_of(server)) == "new"
    server.should_exit = True
    await asyncio.sleep(0.2)
    assert not task.done(), "it waits for the request of its own"
    server.force_exit = True
    await task
    for each in (stuck, slow):
        with contextlib.suppress(Exception):
            await each

asyncio.run(main())
"""
    )


def test_a_server_on_a_thread_as_in_a_test_suite(succeeds: Callable[..., Server]) -> None:
    succeeds(
        """
import urllib.request

apps = [Hall("one"), Hall("two"), Hall("three")]
servers = [rsgun.Server(rsgun.Config(app, port=0, loop="asyncio")) for app in apps]
threads = [threading.Thread(target=server.run) for server in servers]
for thread in threads:
    thread.start()
deadline = time.monotonic() + 30
while not all(server.started for server in servers):
    assert time.monotonic() < deadline
    time.sleep(0.005)
for _ in range(50):
    for app, server in zip(apps, servers):
        with urllib.request.urlopen(f"http://127.0.0.1:{port_of(server)}/") as answer:
            assert answer.read().decode() == app.name
for server in servers:
    server.should_exit = True
for thread in threads:
    thread.join(30)
    assert not thread.is_alive()
assert all(app.seen == ["startup", "shutdown"] for app in apps)
"""
    )


def test_a_second_server_on_a_thread_is_refused(succeeds: Callable[..., Server]) -> None:
    succeeds(
        """
async def main():
    server, task = await begin(Hall("first"))
    try:
        await begin(Hall("second"))
    except RuntimeError as error:
        assert "another server runs on this thread" in str(error)
    else:
        raise AssertionError("it was not refused")
    assert await get(port_of(server)) == "first"
    server.should_exit = True
    await task

asyncio.run(main())
"""
    )


def test_sockets_of_the_program(succeeds: Callable[..., Server], tmp_path: Path) -> None:
    succeeds(
        """
async def main():
    app = Hall()
    with socket.create_server(("127.0.0.1", 0)) as ours:
        for _ in range(2):
            server = rsgun.Server(rsgun.Config(app))
            task = asyncio.create_task(server.serve(sockets=[ours]))
            await until(lambda: server.started)
            assert port_of(server) == ours.getsockname()[1]
            assert await get(port_of(server)) == "hall"
            server.should_exit = True
            await task
        assert ours.fileno() > 0
        ours.getsockname()
    server = rsgun.Server(rsgun.Config(app, uds="app.sock"))
    task = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    assert os.path.exists("app.sock")
    server.should_exit = True
    await task
    assert not os.path.exists("app.sock")

asyncio.run(main())
"""
    )


def test_streams_of_a_server_end_with_it(succeeds: Callable[..., Server]) -> None:
    """And those of the next one last."""
    succeeds(
        """
from sse_starlette import EventSourceResponse

async def app(scope, receive, send):
    assert scope["type"] == "http"

    async def events():
        yield {"data": "first"}
        await asyncio.sleep(1000)

    await EventSourceResponse(events(), ping=1)(scope, receive, send)

async def main():
    for _ in range(2):
        server, task = await begin(app, graceful_timeout=300)
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
        writer.write(b"GET / HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
        await asyncio.wait_for(reader.readuntil(b": ping"), 30)
        server.should_exit = True
        assert (await asyncio.wait_for(reader.read(), 30)).endswith(b"\\r\\n0\\r\\n\\r\\n")
        writer.close()
        await asyncio.wait_for(task, 30)

asyncio.run(main())
"""
    )


def test_a_cancelled_task_runs_the_shutdown(succeeds: Callable[..., Server]) -> None:
    succeeds(
        """
async def main():
    app = Hall()
    server, task = await begin(app)
    slow = asyncio.create_task(get(port_of(server), "/slow"))
    await until(lambda: "slow" in app.seen)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        pass
    else:
        raise AssertionError("the cancellation was swallowed")
    assert app.seen == ["startup", "slow", "slow has ended", "shutdown"], app.seen
    with contextlib.suppress(Exception):
        await slow
    server, task = await begin(Hall())
    assert await get(port_of(server)) == "hall"
    server.should_exit = True
    await task

asyncio.run(main())
"""
    )


def test_a_shutdown_that_hangs_is_left(succeeds: Callable[..., Server]) -> None:
    server = succeeds(
        """
async def app(scope, receive, send):
    assert scope["type"] == "lifespan"
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await asyncio.Event().wait()

async def main():
    server, task = await begin(app, graceful_timeout=1)
    server.should_exit = True
    await task

asyncio.run(main())
"""
    )
    server.wait_for_line("the lifespan shutdown did not end within 1 seconds")


def test_a_start_that_fails_raises(succeeds: Callable[..., Server]) -> None:
    succeeds(
        """
async def broken(scope, receive, send):
    raise RuntimeError("on purpose")

async def refuses(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})

async def failure(app, **settings):
    try:
        await begin(app, **settings)
    except rsgun.StartupError as error:
        return error.exit_code, str(error)
    raise AssertionError("it has started")

async def main():
    code, text = await failure(broken, lifespan="on")
    assert code == 3 and "on purpose" in text, text
    code, text = await failure(refuses)
    assert code == 3 and "no database" in text, text
    code, text = await failure("nowhere:app")
    assert code == 3 and 'no module "nowhere"' in text, text
    code, text = await failure("asyncio:nothing_there")
    assert code == 4, text
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = rsgun.Server(rsgun.Config(Hall(), port=taken.getsockname()[1]))
        try:
            await server.serve()
        except rsgun.StartupError as error:
            assert error.exit_code == 1 and "127.0.0.1" in str(error), error
        else:
            raise AssertionError("it has started")
    try:
        await begin(Hall(), workers=2)
    except rsgun.ConfigError as error:
        assert isinstance(error, ValueError) and "workers" in str(error), error
    else:
        raise AssertionError("it has started")
    server, task = await begin(Hall())
    assert await get(port_of(server)) == "hall"
    server.should_exit = True
    await task

asyncio.run(main())
"""
    )


def test_a_factory_and_a_limit_of_requests(succeeds: Callable[..., Server]) -> None:
    succeeds(
        """
async def main():
    server, task = await begin(Hall, factory=True, limit_max_requests=3)
    port = port_of(server)
    assert [await get(port) for _ in range(3)] == ["hall"] * 3
    await asyncio.wait_for(task, 30)

asyncio.run(main())
"""
    )


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [(signal.SIGTERM, -signal.SIGTERM, []), (signal.SIGINT, 0, ["interrupted"])],
)
def test_the_program_learns_of_signals(
    program: Program, number: int, code: int, said: list[str]
) -> None:
    source = """
async def main():
    app = Hall()
    app.seen = Told()
    await rsgun.Server(rsgun.Config(app, port=0)).serve()

class Told:
    def append(self, event):
        print(event, flush=True)

try:
    asyncio.run(main())
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""
    server = program(PRELUDE + source)
    assert server.stop(number) == code
    assert server.lines("stdout") == ["startup", "shutdown", *said]


def test_a_thread_of_a_worker_may_run_a_server(
    serve: Callable[..., Server], module: Callable[[str, str], Path], package: dict[str, str]
) -> None:
    source = """
class Both(Hall):
    async def __call__(self, scope, receive, send):
        if scope["type"] == "http" and scope["path"] == "/metrics":
            self.name = str(port_of(server))
        await super().__call__(scope, receive, send)

server = rsgun.Server(rsgun.Config(Hall("metrics"), port=0, loop="asyncio"))
threading.Thread(target=server.run, daemon=True).start()
while not server.started:
    time.sleep(0.005)
app = Both()
"""
    path = module("main", PRELUDE + source)
    arguments = ["--app-dir", str(path.parent), "--uds", "app.sock"]
    server = serve("main:app", *arguments, environment=package, wait=False)
    server.wait_for_line("running on unix:")
    outer = str(path.parent / "app.sock")
    inner = int(server.get("/metrics", address=outer).text)
    assert server.get(address=("127.0.0.1", inner)).text == "metrics"
    assert server.get(address=outer).status == 200
