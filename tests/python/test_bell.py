"""The bell by which other threads wake the thread of the connections, rung at a bad moment."""

from __future__ import annotations

import contextlib
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.marks import rsgun_only
from harness.preload import compile_library
from harness.server import Server
from harness.waiting import DeadlineMissed, eventually
from harness.wire import Connection

pytestmark = rsgun_only

RINGER = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

static __thread int holds;

/* The next ring of this thread waits: the file HELD gets the number of the bell, the ring
   goes on when the file GATE is there, and RUNG is made when it is done. */
void hold_next_ring(void)
{
    holds = 1;
}

static int is_eventfd(int fd)
{
    char link[64], name[64] = "";

    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    return readlink(link, name, sizeof name - 1) > 0 && strcmp(name, "anon_inode:[eventfd]") == 0;
}

static void leave(const char *name, int number)
{
    FILE *file = fopen(name, "w");

    fprintf(file, "%d", number);
    fclose(file);
}

ssize_t write(int fd, const void *data, size_t length)
{
    static ssize_t (*next)(int, const void *, size_t);

    if (!next)
        next = dlsym(RTLD_NEXT, "write");
    if (!holds || !is_eventfd(fd))
        return next(fd, data, length);
    holds = 0;
    leave(getenv("HELD"), fd);
    while (access(getenv("GATE"), F_OK) != 0)
        usleep(2000);
    ssize_t written = next(fd, data, length);
    leave(getenv("RUNG"), fd);
    return written;
}

/* No file is in memory: a thread beside the event loop reads each, and rings then. */
ssize_t preadv2(int fd, const struct iovec *iov, int count, off_t offset, int flags)
{
    static ssize_t (*next)(int, const struct iovec *, int, off_t, int);

    if (!next)
        next = dlsym(RTLD_NEXT, "preadv2");
    if (flags & RWF_NOWAIT) {
        errno = EAGAIN;
        return -1;
    }
    hold_next_ring();
    /* Only one that sleeps is rung. */
    usleep(100000);
    return next(fd, iov, count, offset, flags);
}
"""

APPS = {
    "asgi": """
        async def app(scope, receive, send):
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.pathsend", "path": __file__})
        """,
    "wsgi": """
        import ctypes, os, time

        def app(environ, start_response):
            write = start_response("200 OK", [])
            ctypes.CDLL(None).hold_next_ring()
            # Only one that sleeps is rung.
            while not os.path.exists(os.environ["HELD"]):
                write(b"x")
                time.sleep(0.001)
            return []
        """,
}


@pytest.fixture(scope="session")
def ringer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that holds back rings of the bell."""
    return compile_library(RINGER, tmp_path_factory.mktemp("ringer"))


def first_ring(server: Server, held: Path) -> Connection:
    """Asks until an answer has begun to ring: a thread that is awake is not rung."""
    for _ in range(10):
        connection = server.connect()
        connection.request("/")
        with contextlib.suppress(DeadlineMissed):
            eventually(lambda: is_written(held), "a ring has begun", deadline=3)
            return connection
        connection.close()
    raise AssertionError("no ring in ten answers")


def is_written(path: Path) -> bool:
    return path.exists() and bool(path.read_text())


@pytest.mark.parametrize("interface", APPS)
def test_a_ring_that_comes_late(
    serve: Callable[..., Server],
    module: Callable[[str, str], Path],
    ringer: Path,
    tmp_path: Path,
    interface: str,
) -> None:
    """A thread has begun to ring, the other one is awake and does its work before the ring
    can be heard: it is answered all the same, and does not wake that thread for ever."""
    place = module("main", textwrap.dedent(APPS[interface])).parent
    held, gate, rung = (tmp_path / name for name in ("held", "gate", "rung"))
    environment = {
        "LD_PRELOAD": str(ringer),
        "HELD": str(held),
        "GATE": str(gate),
        "RUNG": str(rung),
    }
    options = ("--app-dir", str(place), "--interface", interface)
    server = serve("main:app", *options, environment=environment)
    [worker] = server.wait_for_workers(1)
    with first_ring(server, held) as first, server.connect() as second:
        second.send(b"GET / HTTP/1.1\r\n\r\n")
        assert second.response().status == 400
        gate.touch()
        eventually(lambda: is_written(rung), "the ring is to be heard")
        info = Path(f"/proc/{worker.pid}/fdinfo/{rung.read_text()}")
        eventually(lambda: "eventfd-count:                0\n" in info.read_text(), "it was heard")
        assert first.response().status == 200
