"""A program ends while servers run on its threads: no thread spoils its exit code.

CPython ends such threads when it shuts down, wherever they are at that moment.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.marks import rsgun_only
from harness.programs import HELPERS
from harness.server import Server
from harness.target import interpreters, lend_package, supported

pytestmark = rsgun_only

Program = Callable[..., Server]

THREADS = (
    HELPERS
    + """
import asyncio, atexit, socket, sys, threading, time
import rsgun

begun = threading.Event()

def computes():
    begun.set()
    while True:
        sum(range(50))

async def ticks():
    begun.set()
    while True:
        await asyncio.sleep(0)

async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        asgi.ticking = asyncio.create_task(ticks()) if WHAT == "idle" else None
        await send({"type": "lifespan.startup.complete"})
        await receive()
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        while True:
            await send({"type": "websocket.send", "text": "x"})
            begun.set()
    if WHAT == "computes":
        computes()
    if WHAT == "stays":
        # The connection has nothing to do.
        await ticks()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    while True:
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        begun.set()

class Rsgi:
    def __rsgi_init__(self, loop):
        self.ticking = loop.create_task(ticks()) if WHAT == "idle" else None

    async def __rsgi__(self, scope, protocol):
        if scope.proto == "ws":
            transport = await protocol.accept()
            while True:
                await transport.send_str("x")
                begun.set()
        if WHAT == "computes":
            computes()
        if WHAT == "stays":
            await ticks()
        transport = protocol.response_stream(200, [])
        while True:
            await transport.send_bytes(b"x")
            begun.set()

def wsgi(environ, start_response):
    if WHAT == "computes":
        computes()
    start_response("200 OK", [])
    while True:
        yield b"x"
        begun.set()

def run(server):
    server.run()

def serve(server):
    asyncio.run(server.serve())

def ask(server):
    upgrade = ""
    if WHAT == "websocket":
        upgrade = (
            "Connection: Upgrade\\r\\nUpgrade: websocket\\r\\nSec-WebSocket-Version: 13\\r\\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\\r\\n"
        )
    with socket.create_connection(("127.0.0.1", port_of(server))) as client:
        client.sendall(f"GET / HTTP/1.1\\r\\nHost: x\\r\\n{upgrade}\\r\\n".encode())
        while client.recv(65536):
            pass

class LetsOthersRun:
    # The interpreter meets it while it ends, when modules have nothing in them any more.
    def __del__(self, sleep=time.sleep):
        sleep(0.05)

def begin(way, app):
    server = rsgun.Server(rsgun.Config(app, port=0, log_level="error", loop="asyncio"))
    threading.Thread(target=way, args=(server,), daemon=True).start()
    while not server.started:
        time.sleep(0.005)
    if WHAT != "idle":
        threading.Thread(target=ask, args=(server,), daemon=True).start()
    elif app is wsgi:
        begun.set()
    assert begun.wait(30)
    sys.keeps = LetsOthersRun()
"""
)

END = """
atexit.register(print, "the exit handlers have run", flush=True)
sys.exit(7)
"""

SITUATIONS = [
    *(("asgi", what) for what in ("idle", "computes", "stays", "streams", "websocket")),
    *(("Rsgi()", what) for what in ("idle", "computes", "stays", "streams", "websocket")),
    *(("wsgi", what) for what in ("idle", "computes", "streams")),
]

versions = pytest.mark.parametrize(
    "version", supported(), ids=lambda version: f"python{version[1]}"
)
ways = pytest.mark.parametrize("way", ["run", "serve"])


@pytest.mark.timeout(300)
@versions
@ways
@pytest.mark.parametrize(("app", "what"), SITUATIONS)
def test_servers_on_daemon_threads(
    program: Program,
    version: tuple[int, int],
    way: str,
    app: str,
    what: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    server = program(
        f"WHAT = {what!r}\n{THREADS}\nbegin({way}, {app})\n{END}",
        wait=False,
        python=interpreters()[version],
        environment=lend_package(tmp_path_factory.mktemp("lent")),
    )
    assert server.wait(60) == 7, server.report()
    assert "the exit handlers have run" in server.lines("stdout")


@versions
@ways
@pytest.mark.parametrize(("app", "what"), [("asgi", "idle"), ("asgi", "computes")])
def test_a_worker_with_a_server_on_a_daemon_thread(
    serve: Callable[..., Server],
    module: Callable[[str, str], Path],
    package: dict[str, str],
    version: tuple[int, int],
    way: str,
    app: str,
    what: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    source = (
        f"WHAT = {what!r}\n{THREADS}\nbegin({way}, {app})\n"
        + """
async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"outer"})
"""
    )
    path = module("main", source)
    server = serve(
        "main:app",
        *("--app-dir", str(path.parent), "--lifespan", "off", "--uds", "app.sock"),
        python=interpreters()[version],
        environment={**package, **lend_package(tmp_path_factory.mktemp("lent"))},
        wait=False,
    )
    server.wait_for_line("running on unix:")
    assert server.get(address=str(path.parent / "app.sock")).text == "outer"
    assert server.stop(signal.SIGTERM) == 0
    assert not [line for line in server.lines() if "killed" in line], server.report()
