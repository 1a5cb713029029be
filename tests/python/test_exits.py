"""Applications that call `sys.exit()` while a server works for them.

asyncio lets `SystemExit` and `KeyboardInterrupt` of a task out of the event loop, and that
of a worker would end with all its requests. In the request's own task they are like any
exception (test_misbehaving_apps.py); here they come from tasks of the application's own,
in which most frameworks run their views.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness.frames import CLOSE, Socket
from harness.marks import rsgun_only
from harness.server import Server
from harness.target import environment_for, supported

pytestmark = rsgun_only

Serve = Callable[..., Server]
Write = Callable[[str, str], Path]

LOOPS = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
VERSIONS = pytest.mark.parametrize(
    "version", supported(), ids=lambda version: f"{version[0]}.{version[1]}"
)

COMMON = """
import asyncio
import sys

GATE = asyncio.Event()

async def passes():
    print("waits", flush=True)
    await GATE.wait()

async def leaves():
    await asyncio.sleep(0)
    sys.exit(7)
"""

PLAIN = (
    COMMON
    + """
kept = set()

async def interrupts():
    raise KeyboardInterrupt

async def answer(send, text):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": text.encode()})

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            print(message["type"], flush=True)
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
    path = scope["path"]
    if path == "/wait":
        await passes()
    elif path == "/go":
        GATE.set()
    elif path in ("/exit", "/interrupt"):
        async with asyncio.TaskGroup() as group:
            group.create_task(leaves() if path == "/exit" else interrupts())
    elif path == "/background":
        task = asyncio.create_task(leaves())
        kept.add(task)
        await asyncio.wait({task})
    elif path == "/callback":
        asyncio.get_running_loop().call_soon(sys.exit, 7)
        await asyncio.sleep(0.01)
    await answer(send, "done")
"""
)

FASTAPI = (
    COMMON
    + """
from contextlib import asynccontextmanager
from fastapi import FastAPI

@asynccontextmanager
async def lifespan(app):
    yield
    print("lifespan.shutdown", flush=True)

app = FastAPI(lifespan=lifespan)

@app.middleware("http")
async def through(request, call_next):
    return await call_next(request)

@app.get("/wait")
async def wait():
    await passes()
    return "done"

@app.get("/go")
async def go():
    GATE.set()

@app.get("/exit")
async def exit():
    sys.exit(7)
"""
)

QUART = (
    COMMON
    + """
from quart import Quart

app = Quart(__name__)

@app.after_serving
async def stop():
    print("lifespan.shutdown", flush=True)

@app.get("/wait")
async def wait():
    await passes()
    return "done"

@app.get("/go")
async def go():
    GATE.set()
    return ""

@app.get("/exit")
async def exit():
    sys.exit(7)
"""
)

DJANGO = (
    COMMON
    + """
import django
from django.conf import settings

settings.configure(SECRET_KEY="x", ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__)
django.setup()

from django.core.asgi import get_asgi_application
from django.http import HttpResponse
from django.urls import path

async def wait(request):
    await passes()
    return HttpResponse("done")

async def go(request):
    GATE.set()
    return HttpResponse("")

async def exit(request):
    sys.exit(7)

def exit_in_a_thread(request):
    sys.exit(7)

views = {"wait": wait, "go": go, "exit": exit, "exit-in-a-thread": exit_in_a_thread}
urlpatterns = [path(name, view) for name, view in views.items()]
app = get_asgi_application()
"""
)

TOLD = "the application called sys.exit"


@contextmanager
def undisturbed(server: Server) -> Iterator[int]:
    """A request that is answered at the end, whatever happens meanwhile."""
    server.tolerates_tracebacks = True
    since = server.output.mark()
    with server.connect() as waiting:
        waiting.request("/wait")
        server.wait_for_line("^waits$", since=since)
        yield since
        server.get("/go")
        assert "done" in waiting.response().text


def told_once(server: Server, since: int) -> None:
    """There is one line about the exit, and one traceback of it.

    In a group of anyio it is not alone: Starlette misses the response.
    """
    server.wait_for_line(TOLD, since=since)
    server.wait_for_line("SystemExit: 7", since=since)
    lines = server.lines("stderr", since)
    assert len([line for line in lines if TOLD in line]) == 1, lines
    assert len([line for line in lines if "   sys.exit(7)" in line]) <= 1, lines
    assert server.tracebacks(since) == 1 or any("Exception Group" in x for x in lines), lines


def ends_well(server: Server) -> None:
    """It has lost no worker, and its lifespan shutdown runs."""
    assert server.stop() == 0
    assert server.lines("stdout").count("lifespan.shutdown") == 1
    assert not [line for line in server.lines("stderr") if "worker" in line and "died" in line]


@LOOPS
@pytest.mark.parametrize(
    ("source", "path"),
    [
        (PLAIN, "/exit"),
        (FASTAPI, "/exit"),
        (QUART, "/exit"),
        (DJANGO, "/exit"),
        (DJANGO, "/exit-in-a-thread"),
    ],
    ids=["group", "fastapi", "quart", "django", "django-sync"],
)
def test_a_request_that_exits_is_a_500_and_no_more(
    serve: Serve, module: Write, source: str, path: str, loop: str
) -> None:
    server = serve("main:app", "--app-dir", str(module("main", source).parent), "--loop", loop)
    worker = server.workers()[0].pid
    with undisturbed(server) as since:
        assert server.get(path).status == 500
        told_once(server, since)
        assert server.get(path).status == 500
    assert [each.pid for each in server.workers()] == [worker]
    if source is not DJANGO:
        ends_well(server)


@LOOPS
@pytest.mark.parametrize("path", ["/background", "/callback"])
def test_what_runs_beside_a_request_may_exit(
    serve: Serve, module: Write, path: str, loop: str
) -> None:
    server = serve("main:app", "--app-dir", str(module("main", PLAIN).parent), "--loop", loop)
    with undisturbed(server) as since:
        assert server.get(path).text == "done"
        told_once(server, since)
    ends_well(server)


@LOOPS
def test_a_websocket_that_exits_is_closed(serve: Serve, module: Write, loop: str) -> None:
    server = serve("main:app", "--app-dir", str(module("main", PLAIN).parent), "--loop", loop)
    with undisturbed(server) as since, Socket.open(server.address, "/exit") as socket:
        found = socket.receive()
        assert (found.opcode, found.code) == (CLOSE, 1011)
        told_once(server, since)
    ends_well(server)


@LOOPS
def test_a_keyboard_interrupt_that_a_task_raises_is_the_same(
    serve: Serve, module: Write, loop: str
) -> None:
    server = serve("main:app", "--app-dir", str(module("main", PLAIN).parent), "--loop", loop)
    with undisturbed(server):
        assert server.get("/interrupt").status == 500
    ends_well(server)


@pytest.mark.timeout(600)
@VERSIONS
@LOOPS
@pytest.mark.parametrize("source", [PLAIN, FASTAPI], ids=["group", "fastapi"])
def test_so_it_is_with_every_python(
    serve: Serve, module: Write, version: tuple[int, int], loop: str, source: str
) -> None:
    place = str(module("main", source).parent)
    python = environment_for(version)
    server = serve("main:app", "--app-dir", place, "--loop", loop, python=python)
    with undisturbed(server) as since:
        assert server.get("/exit").status == 500
        told_once(server, since)
    ends_well(server)


@LOOPS
def test_threads_of_anyio_outlive_an_exit(serve: Serve, module: Write, loop: str) -> None:
    """anyio ties them to the task that the event loop runs to its end."""
    source = (
        FASTAPI
        + '\n\n@app.get("/thread")\ndef thread():\n    import threading\n'
        + ("    return threading.get_native_id()\n")
    )
    server = serve("main:app", "--app-dir", str(module("main", source).parent), "--loop", loop)
    with undisturbed(server):
        before = server.get("/thread").text
        assert server.get("/exit").status == 500
        assert {server.get("/thread").text for _ in range(5)} == {before}


def test_an_exit_before_it_serves_ends_the_start(run: Callable[..., object], module: Write) -> None:
    source = PLAIN.replace('print(message["type"], flush=True)', "await waits_for_an_exit()") + (
        "\n\nasync def waits_for_an_exit():\n"
        "    kept.add(asyncio.create_task(leaves()))\n"
        "    await GATE.wait()\n"
    )
    ended = run("main:app", "--app-dir", str(module("main", source).parent))
    assert ended.returncode == 3  # type: ignore[attr-defined]
    assert "SystemExit: 7" in ended.stderr  # type: ignore[attr-defined]


@LOOPS
@pytest.mark.parametrize("how", ["run", "server"])
def test_a_program_that_serves_goes_on(program: Callable[..., Server], loop: str, how: str) -> None:
    call = {
        "run": f"rsgun.run(app, port=0, loop={loop!r})",
        "server": f"rsgun.Server(rsgun.Config(app, port=0, loop={loop!r})).run()",
    }[how]
    server = program(
        PLAIN
        + f"""
if __name__ == "__main__":
    import rsgun, signal
    signal.signal(signal.SIGTERM, lambda *_: print("told of the signal", flush=True))
    {call}
    print("after it", flush=True)
"""
    )
    with undisturbed(server) as since:
        assert server.get("/exit").status == 500
        told_once(server, since)
    ends_well(server)
    assert server.lines("stdout")[-1] == "after it"
    assert ("told of the signal" in server.lines("stdout")) == (how == "server")


@LOOPS
def test_ctrl_c_still_reaches_the_program_after_an_exit(
    program: Callable[..., Server], loop: str
) -> None:
    server = program(
        PLAIN
        + f"""
if __name__ == "__main__":
    import rsgun
    try:
        rsgun.Server(rsgun.Config(app, port=0, loop={loop!r})).run()
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""
    )
    with undisturbed(server):
        assert server.get("/exit").status == 500
    assert server.stop(signal.SIGINT) == 0
    assert server.lines("stdout")[-2:] == ["lifespan.shutdown", "interrupted"]
