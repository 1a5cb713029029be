"""Files whose disk is slow, or does not answer: whoever wants others does not wait for them."""

from __future__ import annotations

import errno
import os
import signal
import tempfile
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.preload import compile_library
from harness.processes import Process
from harness.server import Server
from harness.target import rsgun_only
from harness.waiting import eventually
from harness.wire import Connection

pytestmark = rsgun_only

Serve = Callable[..., Server]
Module = Callable[[str, str], Path]

CONTENT = os.urandom(1 << 20) * 3
STREAM = b"".join(b"%07d\n" % number * 8192 for number in range(512))

DISK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

/* Reading the file SLOW waits until the file GATE is there. What does not want to wait
   gets the error REFUSAL. */
ssize_t preadv2(int fd, const struct iovec *iov, int count, off_t offset, int flags)
{
    static ssize_t (*next)(int, const struct iovec *, int, off_t, int);
    const char *slow = getenv("SLOW");
    char link[64], name[4096];

    if (!next)
        next = dlsym(RTLD_NEXT, "preadv2");
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, name, sizeof name - 1);
    name[length < 0 ? 0 : length] = 0;
    if (slow && strcmp(name, slow) == 0) {
        if (flags & RWF_NOWAIT) {
            errno = atoi(getenv("REFUSAL"));
            return -1;
        }
        while (access(getenv("GATE"), F_OK) != 0)
            usleep(2000);
    }
    return next(fd, iov, count, offset, flags);
}

/* Writing to a file without a name makes the file WRITING, and waits for GATE, too. */
ssize_t pwrite64(int fd, const void *data, size_t length, off_t offset)
{
    static ssize_t (*next)(int, const void *, size_t, off_t);
    const char *writing = getenv("WRITING");
    char link[64], name[4096] = "";

    if (!next)
        next = dlsym(RTLD_NEXT, "pwrite64");
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    if (writing && readlink(link, name, sizeof name - 1) > 0 && strstr(name, " (deleted)")) {
        fclose(fopen(writing, "w"));
        while (access(getenv("GATE"), F_OK) != 0)
            usleep(2000);
    }
    return next(fd, data, length, offset);
}
"""

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
            if environ["PATH_INFO"] == "/stream":
                return (b"%07d\\n" % number * 8192 for number in range(512))
            if environ["PATH_INFO"] == "/upload":
                return [environ["wsgi.input"].read()]
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


@pytest.fixture(scope="session")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that makes one file slow for the processes that load it."""
    return compile_library(DISK, tmp_path_factory.mktemp("disk"))


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    path = tmp_path / "slow.bin"
    path.write_bytes(CONTENT)
    return path.resolve()


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """Whatever waits for the disk goes on when this file is there."""
    return tmp_path / "gate"


@pytest.fixture
def writing(tmp_path: Path) -> Path:
    """It is there when somebody waits for the disk with what is to be kept there."""
    return tmp_path / "writing"


@pytest.fixture
def start(
    serve: Serve, module: Module, disk: Path, slow: Path, gate: Path, writing: Path
) -> Callable[..., Server]:
    def start(interface: str, *arguments: str, refusal: int = errno.EAGAIN) -> Server:
        place = module("main", textwrap.dedent(APPS[interface])).parent
        environment = {
            "LD_PRELOAD": str(disk),
            "SLOW": str(slow),
            "GATE": str(gate),
            "WRITING": str(writing),
            "REFUSAL": str(refusal),
        }
        options = ("--app-dir", str(place), "--interface", interface, *arguments)
        return serve("main:app", *options, environment=environment)

    return start


def begin(server: Server, path: Path) -> Connection:
    """Asks for a file, and takes the head of the answer."""
    connection = server.connect()
    connection.request(str(path))
    return connection


@pytest.mark.parametrize("refusal", [errno.EAGAIN, errno.EOPNOTSUPP], ids=errno.errorcode.get)
@pytest.mark.parametrize("interface", APPS)
def test_nobody_else_waits(
    start: Callable[..., Server], slow: Path, gate: Path, interface: str, refusal: int
) -> None:
    server = start(interface, refusal=refusal)
    [worker] = server.wait_for_workers(1)
    with begin(server, slow) as connection:
        eventually(lambda: str(slow) in worker.open_files().values(), "the file is being sent")
        for _ in range(20):
            assert server.get("/ping").body == b"pong"
        gate.touch()
        assert connection.response().body == CONTENT


def test_a_client_that_leaves_meanwhile(
    start: Callable[..., Server], slow: Path, gate: Path
) -> None:
    server = start("asgi")
    [worker] = server.wait_for_workers(1)
    with begin(server, slow):
        eventually(lambda: str(slow) in worker.open_files().values(), "the file is being sent")
    assert server.get("/ping").body == b"pong"
    gate.touch()
    eventually(lambda: str(slow) not in worker.open_files().values(), "the file is closed")
    assert server.get("/ping").body == b"pong"


@pytest.mark.parametrize("interface", APPS)
def test_a_stop_does_not_wait_for_ever(
    start: Callable[..., Server], slow: Path, interface: str
) -> None:
    """A disk that never answers holds a worker no longer than a request that never ends."""
    server = start(interface, "--graceful-timeout", "1")
    [worker] = server.wait_for_workers(1)
    with begin(server, slow):
        eventually(lambda: str(slow) in worker.open_files().values(), "the file is being sent")
        server.send_signal(signal.SIGTERM)
        assert server.wait() == 0
    assert "killed" not in server.report()


def spools(worker: Process) -> list[str]:
    """The files in which a worker keeps what is too much for memory."""
    folder = tempfile.gettempdir()
    files = worker.open_files().values()
    return [name for name in files if name.startswith(folder) and name.endswith("(deleted)")]


class TestAnswersForSlowClients:
    def test_nobody_else_waits(
        self, start: Callable[..., Server], gate: Path, writing: Path
    ) -> None:
        """Neither for the interpreter's lock, nor for the thread of the connections."""
        server = start("wsgi", "--threads", "2")
        with Connection.open(server.address, receive_buffer=4096) as connection:
            connection.request("/stream", version="1.0")
            eventually(writing.exists, "a part of the answer goes to disk")
            assert server.get("/ping").body == b"pong"
            # The client takes what is in memory, and asks for more with that.
            received = b""
            while not connection.silent():
                received += connection.receive()
            assert server.get("/ping").body == b"pong"
            gate.touch()
            received += connection.rest()
            assert received.partition(b"\r\n\r\n")[2] == STREAM

    def test_a_client_that_leaves_meanwhile(
        self, start: Callable[..., Server], gate: Path, writing: Path
    ) -> None:
        server = start("wsgi", "--threads", "2")
        [worker] = server.wait_for_workers(1)
        with Connection.open(server.address, receive_buffer=4096) as connection:
            connection.request("/stream")
            eventually(writing.exists, "a part of the answer goes to disk")
        assert server.get("/ping").body == b"pong"
        gate.touch()
        eventually(lambda: not spools(worker), "what nobody wants is given back")
        assert server.get("/ping").body == b"pong"

    def test_a_stop_does_not_wait_for_ever(
        self, start: Callable[..., Server], writing: Path
    ) -> None:
        server = start("wsgi", "--threads", "2", "--graceful-timeout", "1")
        with Connection.open(server.address, receive_buffer=4096) as connection:
            connection.request("/stream")
            eventually(writing.exists, "a part of the answer goes to disk")
            server.send_signal(signal.SIGTERM)
            assert server.wait() == 0
        assert "killed" not in server.report()
