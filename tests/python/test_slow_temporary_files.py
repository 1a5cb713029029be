"""What is too much for memory, on a disk that is slow or does not answer: nobody else waits."""

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
from harness.processes import Process
from harness.server import Server
from harness.waiting import eventually
from harness.wire import Connection

pytestmark = rsgun_only

Serve = Callable[..., Server]
Module = Callable[[str, str], Path]
Start = Callable[..., Server]

CONTENT = os.urandom(1 << 20) * 3
STREAM = b"".join(b"%07d\n" % number * 8192 for number in range(512))
SMALL = b"".join(b"%07d\n" % number * 128 for number in range(4096))

APP = """
    import pathlib, select

    over = set()

    def pieces(path, size, count):
        for number in range(count):
            yield b"%07d\\n" % number * size
        over.add(path)

    def again(gate):
        yield from pieces("/first", 8192, 128)
        while not gate.exists():
            select.select([], [], [], 0.01)
        yield from pieces("/second", 8192, 128)

    def app(environ, start_response):
        path, query = environ["PATH_INFO"], environ["QUERY_STRING"]
        start_response("200 OK", [])
        if path == "/ping":
            return [b"pong"]
        if path == "/over":
            return [str(query in over).encode()]
        if path == "/upload":
            return [environ["wsgi.input"].read()]
        if path == "/stream":
            return pieces(path, 8192, 512)
        if path == "/small":
            return pieces(path, 128, 4096)
        if path == "/again":
            return again(pathlib.Path(query))
        print(path, flush=True)
        environ["rsgun.timeout.extend"](100)
        while not pathlib.Path(query).exists():
            select.select([], [], [], 0.01)
        return [b"waited"]
"""


@pytest.fixture
def start(serve: Serve, module: Module, disk: Disk, tmp_path: Path) -> Start:
    def start(*arguments: str, refusal: int = errno.EAGAIN) -> Server:
        place = module("main", textwrap.dedent(APP)).parent
        options = ("--app-dir", str(place), "--threads", "2", *arguments)
        environment = disk.environment(tmp_path / "none", refusal)
        return serve("main:app", *options, environment=environment)

    return start


def spools(worker: Process, disk: Disk) -> list[Path]:
    """The files in which a worker keeps what is too much for memory."""
    files = worker.open_files().items()
    numbers = [number for number, name in files if name.startswith(str(disk.tmp))]
    return [Path(f"/proc/{worker.pid}/fd/{number}") for number in numbers]


def sockets(worker: Process) -> int:
    return sum(name.startswith("socket:") for name in worker.open_files().values())


def begin_upload(server: Server, length: int) -> Connection:
    """Sends the head of a request, and so much of its body."""
    connection = server.connect()
    connection.send(b"POST /upload HTTP/1.1\r\nHost: a\r\n")
    connection.send(b"Content-Length: %d\r\n\r\n" % len(CONTENT))
    connection.send(CONTENT[:length])
    return connection


class TestUploads:
    def test_nobody_else_waits(self, start: Start, disk: Disk) -> None:
        server = start()
        disk.hold("write")
        with begin_upload(server, 1 << 20) as connection:
            eventually(lambda: disk.count("write"), "a part of the body goes to disk")
            for _ in range(20):
                assert server.get("/ping").body == b"pong"
            disk.release("write")
            connection.send(CONTENT[1 << 20 :])
            assert connection.response().body == CONTENT
            # And the connection goes on.
            connection.request("/ping")
            assert connection.response().body == b"pong"

    def test_what_comes_meanwhile_waits_with_the_client(self, start: Start, disk: Disk) -> None:
        server = start()
        [worker] = server.wait_for_workers(1)
        peak = worker.memory_peak()
        disk.hold("write")
        with server.connect() as connection:
            connection.send(b"POST /upload HTTP/1.1\r\nHost: a\r\n")
            connection.send(b"Content-Length: %d\r\n\r\n" % (1 << 28))
            assert connection.stalls(bytes(1 << 16), 1 << 28) < 1 << 26
            assert disk.count("write") == 1
            assert server.get("/ping").body == b"pong"
            assert worker.memory_peak() - peak < 8 << 20
            disk.release("write")

    def test_many_of_them_leave_threads_for_others(self, start: Start, disk: Disk) -> None:
        """What is read from other disks needs such threads, too."""
        server = start()
        [worker] = server.wait_for_workers(1)
        before = sockets(worker)
        disk.hold("write")
        uploads = [begin_upload(server, (1 << 19) + 1) for _ in range(24)]
        eventually(lambda: disk.count("write") == 16, "as many write as may")
        assert server.get("/ping").body == b"pong"
        assert disk.count("write") == 16
        # Those that have no thread yet are not written any more when their clients leave.
        for upload in uploads[4:]:
            upload.reset()
        eventually(lambda: sockets(worker) == before + 4, "the clients have left")
        assert server.get("/ping").body == b"pong"
        disk.release("write")
        for upload in uploads[:4]:
            upload.send(CONTENT[(1 << 19) + 1 :])
            assert upload.response().body == CONTENT
            upload.close()
        eventually(lambda: not spools(worker, disk), "what nobody wants is given back")

    def test_a_client_that_leaves_meanwhile(self, start: Start, disk: Disk) -> None:
        server = start()
        [worker] = server.wait_for_workers(1)
        disk.hold("write")
        with begin_upload(server, 1 << 20) as connection:
            eventually(lambda: disk.count("write"), "a part of the body goes to disk")
            connection.reset()
        assert server.get("/ping").body == b"pong"
        disk.release("write")
        eventually(lambda: not spools(worker, disk), "what nobody wants is given back")
        assert server.get("/ping").body == b"pong"

    def test_nobody_waits_while_its_file_is_closed(self, start: Start, disk: Disk) -> None:
        server = start()
        with begin_upload(server, 1 << 20) as connection:
            eventually(lambda: disk.count("write"), "a part of the body goes to disk")
            disk.hold("close")
            connection.reset()
        eventually(lambda: disk.count("close"), "the file is closed")
        assert server.get("/ping").body == b"pong"
        disk.release("close")

    def test_nor_when_a_thread_does_that(self, start: Start, disk: Disk, tmp_path: Path) -> None:
        """A request that was answered while it waited for a thread."""
        server = start("--request-timeout", "1")
        gate = tmp_path / "gate"
        with server.connections(2) as waiting:
            for number, each in enumerate(waiting):
                each.request(f"/wait/{number}?{gate}")
                server.wait_for_line(f"^/wait/{number}$")
            with begin_upload(server, len(CONTENT)) as connection:
                assert connection.response().status == 504
            disk.hold("close")
            gate.touch()
            for each in waiting:
                assert each.response().body == b"waited"
        eventually(lambda: disk.count("close"), "the file is closed")
        assert server.get("/ping").body == b"pong"
        disk.release("close")

    def test_a_client_that_does_not_go_on(self, start: Start, disk: Disk) -> None:
        """It is answered, and that is in the log, although the disk is not through."""
        server = start("--client-timeout", "1", "--access-logfile", "-")
        disk.hold("write")
        with begin_upload(server, (1 << 19) + 1) as connection:
            eventually(lambda: disk.count("write"), "a part of the body goes to disk")
            assert connection.response().status == 408
            server.wait_for_line('"POST /upload HTTP/1.1" 408')
        assert server.get("/ping").body == b"pong"
        disk.release("write")

    def test_a_stop_does_not_wait_for_ever(self, start: Start, disk: Disk) -> None:
        server = start("--graceful-timeout", "1")
        disk.hold("write")
        with begin_upload(server, 1 << 20):
            eventually(lambda: disk.count("write"), "a part of the body goes to disk")
            server.send_signal(signal.SIGTERM)
            assert server.wait() == 0
        assert "killed" not in server.report()

    def test_a_stop_lets_it_arrive(self, start: Start, disk: Disk) -> None:
        server = start()
        disk.hold("write")
        with begin_upload(server, 1 << 20) as connection:
            eventually(lambda: disk.count("write"), "a part of the body goes to disk")
            server.send_signal(signal.SIGTERM)
            server.wait_until_refusing()
            disk.release("write")
            connection.send(CONTENT[1 << 20 :])
            response = connection.response()
            assert response.body == CONTENT
            assert response.closes
        assert server.wait() == 0

    @pytest.mark.parametrize("at_once", [True, False], ids=["the first part", "a later part"])
    def test_a_disk_that_is_full(self, start: Start, disk: Disk, at_once: bool) -> None:
        server = start()
        if at_once:
            disk.fail("write")
        with begin_upload(server, 1 << 20) as connection:
            eventually(lambda: disk.count("write"), "a part of the body goes to disk")
            disk.fail("write")
            connection.send(CONTENT[1 << 20 :])
            assert connection.response().status == 500
        server.wait_for_line(
            r"the body of POST /upload cannot be kept on disk: No space left on device.*"
            rf"is there room in {disk.tmp}\? \(TMPDIR\)"
        )
        assert server.get("/ping").body == b"pong"


class TestAnswersForSlowClients:
    def test_nobody_else_waits(self, start: Start, disk: Disk) -> None:
        """Neither for the interpreter's lock, nor for the thread of the connections."""
        server = start()
        disk.hold("write")
        with Connection.open(server.address, receive_buffer=4096) as connection:
            connection.request("/stream", version="1.0")
            eventually(lambda: disk.count("write"), "a part of the answer goes to disk")
            assert server.get("/ping").body == b"pong"
            # The client takes what is in memory, and asks for more with that.
            received = bytearray()
            while not connection.silent():
                received += connection.receive()
            assert server.get("/ping").body == b"pong"
            disk.release("write")
            received += connection.rest()
            assert received.partition(b"\r\n\r\n")[2] == STREAM

    @pytest.mark.parametrize("refusal", [errno.EAGAIN, errno.EOPNOTSUPP], ids=errno.errorcode.get)
    def test_nor_for_what_is_read_back(self, start: Start, disk: Disk, refusal: int) -> None:
        server = start(refusal=refusal)
        disk.hold("read")
        with Connection.open(server.address, receive_buffer=4096) as connection:
            connection.request("/stream", version="1.0")
            received = bytearray()
            while not connection.silent():
                received += connection.receive()
            assert disk.count("read") == 1
            for _ in range(20):
                assert server.get("/ping").body == b"pong"
            disk.release("read")
            received += connection.rest()
            assert received.partition(b"\r\n\r\n")[2] == STREAM

    def test_nor_for_what_is_given_back(self, start: Start, disk: Disk) -> None:
        """The client itself does not wait for that."""
        server = start()
        [worker] = server.wait_for_workers(1)
        disk.hold("punch", "close")
        with Connection.open(server.address, receive_buffer=4096) as connection:
            connection.request("/stream", version="1.0")
            eventually(lambda: server.get("/over?/stream").text == "True", "all is written")
            assert connection.rest().partition(b"\r\n\r\n")[2] == STREAM
        assert disk.count("punch") == 1
        assert server.get("/ping").body == b"pong"
        disk.release("punch")
        eventually(lambda: disk.count("close"), "the file is closed")
        assert server.get("/ping").body == b"pong"
        disk.release("close")
        eventually(lambda: not spools(worker, disk), "what nobody wants is given back")

    def test_the_disk_has_back_what_was_read(self, start: Start, disk: Disk) -> None:
        server = start()
        [worker] = server.wait_for_workers(1)
        with Connection.open(server.address, receive_buffer=4096) as connection:
            connection.request("/stream", version="1.0")
            eventually(lambda: server.get("/over?/stream").text == "True", "all is written")
            [spool] = spools(worker, disk)
            before = spool.stat().st_blocks
            received = bytearray()
            while len(received) < len(STREAM) // 2:
                received += connection.receive()
            after = spool.stat().st_blocks
            received += connection.rest()
            assert received.partition(b"\r\n\r\n")[2] == STREAM
        assert before - after >= 2 * (4 << 20) // 512

    @pytest.mark.parametrize("operation", ["punch", "truncate"])
    def test_what_is_kept_again(
        self, start: Start, disk: Disk, tmp_path: Path, operation: str
    ) -> None:
        """After all was read, the file is used once more, whatever is done to it meanwhile."""
        server = start()
        gate = tmp_path / "gate"
        first = b"".join(b"%07d\n" % number * 8192 for number in range(128))
        with Connection.open(server.address, receive_buffer=4096) as connection:
            connection.request(f"/again?{gate}", version="1.0")
            eventually(lambda: server.get("/over?/first").text == "True", "it waits")
            disk.hold(operation)
            received = bytearray()
            while not received.endswith(first):
                received += connection.receive()
            gate.touch()
            if operation == "truncate":
                eventually(lambda: disk.count("truncate"), "it begins anew")
                assert server.get("/ping").body == b"pong"
            else:
                eventually(lambda: server.get("/over?/second").text == "True", "all is written")
            disk.release(operation)
            assert connection.rest() == first

    def test_small_parts_go_to_disk_together(self, start: Start, disk: Disk) -> None:
        server = start()
        with Connection.open(server.address, receive_buffer=4096) as connection:
            connection.request("/small", version="1.0")
            eventually(lambda: server.get("/over?/small").text == "True", "all is written")
            assert connection.rest().partition(b"\r\n\r\n")[2] == SMALL
        assert 0 < disk.count("write") <= len(SMALL) // (64 << 10)

    def test_a_client_that_leaves_meanwhile(self, start: Start, disk: Disk) -> None:
        server = start()
        [worker] = server.wait_for_workers(1)
        disk.hold("write")
        with Connection.open(server.address, receive_buffer=4096) as connection:
            connection.request("/stream")
            eventually(lambda: disk.count("write"), "a part of the answer goes to disk")
        assert server.get("/ping").body == b"pong"
        disk.release("write")
        eventually(lambda: not spools(worker, disk), "what nobody wants is given back")
        assert server.get("/ping").body == b"pong"

    def test_nobody_waits_while_its_file_is_closed(self, start: Start, disk: Disk) -> None:
        server = start()
        with Connection.open(server.address, receive_buffer=4096) as connection:
            connection.request("/stream")
            eventually(lambda: server.get("/over?/stream").text == "True", "all is written")
            disk.hold("close")
            connection.reset()
        eventually(lambda: disk.count("close"), "the file is closed")
        assert server.get("/ping").body == b"pong"
        disk.release("close")

    def test_a_stop_does_not_wait_for_ever(self, start: Start, disk: Disk) -> None:
        server = start("--graceful-timeout", "1")
        disk.hold("write")
        with Connection.open(server.address, receive_buffer=4096) as connection:
            connection.request("/stream")
            eventually(lambda: disk.count("write"), "a part of the answer goes to disk")
            server.send_signal(signal.SIGTERM)
            assert server.wait() == 0
        assert "killed" not in server.report()
