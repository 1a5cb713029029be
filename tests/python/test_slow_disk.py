"""Files whose disk is slow, or does not answer: whoever wants others does not wait for them."""

from __future__ import annotations

import errno
import os
import signal
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.disk import Disk
from harness.marks import rsgun_only
from harness.server import Server
from harness.waiting import eventually
from harness.wire import Connection

pytestmark = rsgun_only

Serve = Callable[..., Server]
Start = Callable[..., Server]
Module = Callable[[str, str], Path]

CONTENT = os.urandom(1 << 20) * 3

APPS = {
    "asgi": """
        async def app(scope, receive, send):
            start = {"type": "http.response.start", "status": 200, "headers": []}
            await send(start)
            if scope["path"] == "/ping":
                await send({"type": "http.response.body", "body": b"pong"})
            else:
                await send({"type": "http.response.pathsend", "path": scope["path"]})
        """,
    "wsgi": """
        def app(environ, start_response):
            start_response("200 OK", [])
            if environ["PATH_INFO"] == "/ping":
                return [b"pong"]
            return environ["wsgi.file_wrapper"](open(environ["PATH_INFO"], "rb"))
        """,
    "rsgi": """
        async def app(scope, protocol):
            if scope.path == "/ping":
                protocol.response_bytes(200, [], b"pong")
            else:
                protocol.response_file(200, [], scope.path)
        """,
}


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    path = tmp_path / "slow.bin"
    path.write_bytes(CONTENT)
    return path.resolve()


@pytest.fixture
def start(serve: Serve, module: Module, disk: Disk, slow: Path) -> Start:
    """Starts a server whose disk does not let the file be read."""
    disk.hold("read")

    def start(interface: str, *arguments: str, refusal: int = errno.EAGAIN) -> Server:
        place = module("main", textwrap.dedent(APPS[interface])).parent
        options = ("--app-dir", str(place), "--interface", interface, *arguments)
        return serve("main:app", *options, environment=disk.environment(slow, refusal))

    return start


def begin(server: Server, path: Path) -> Connection:
    """Asks for a file, and takes the head of the answer."""
    connection = server.connect()
    connection.request(str(path))
    return connection


@pytest.mark.parametrize("refusal", [errno.EAGAIN, errno.EOPNOTSUPP], ids=errno.errorcode.get)
@pytest.mark.parametrize("interface", APPS)
def test_nobody_else_waits(
    start: Start, slow: Path, disk: Disk, interface: str, refusal: int
) -> None:
    server = start(interface, refusal=refusal)
    [worker] = server.wait_for_workers(1)
    with begin(server, slow) as connection:
        eventually(lambda: str(slow) in worker.open_files().values(), "the file is being sent")
        for _ in range(20):
            assert server.get("/ping").body == b"pong"
        disk.release("read")
        assert connection.response().body == CONTENT


def test_a_client_that_leaves_meanwhile(start: Start, slow: Path, disk: Disk) -> None:
    server = start("asgi")
    [worker] = server.wait_for_workers(1)
    with begin(server, slow):
        eventually(lambda: str(slow) in worker.open_files().values(), "the file is being sent")
    assert server.get("/ping").body == b"pong"
    disk.release("read")
    eventually(lambda: str(slow) not in worker.open_files().values(), "the file is closed")
    assert server.get("/ping").body == b"pong"


@pytest.mark.parametrize("interface", APPS)
def test_a_stop_does_not_wait_for_ever(start: Start, slow: Path, interface: str) -> None:
    """A disk that never answers holds a worker no longer than a request that never ends."""
    server = start(interface, "--graceful-timeout", "1")
    [worker] = server.wait_for_workers(1)
    with begin(server, slow):
        eventually(lambda: str(slow) in worker.open_files().values(), "the file is being sent")
        server.send_signal(signal.SIGTERM)
        assert server.wait() == 0
    assert "killed" not in server.report()
