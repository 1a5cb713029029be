"""``gunicorn.socket``: WSGI applications that serve WebSockets themselves."""

from __future__ import annotations

import hashlib
import signal
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import socketio
from harness.clients import connect, run
from harness.frames import HANDSHAKE
from harness.marks import rsgun_only
from harness.server import Server
from harness.waiting import eventually
from harness.wire import Connection
from websockets.exceptions import ConnectionClosed

pytestmark = rsgun_only

Serve = Callable[..., Server]
Module = Callable[[str, str], Path]
PIECE = bytes(range(256)) * 256
"""64 KiB."""


PATCHES = {
    "gevent": "from gevent import monkey; monkey.patch_all(thread=False)",
    "eventlet": "import eventlet; eventlet.monkey_patch(thread=False)",
}
READER = """
import threading

def app(environ, start_response):
    connection = environ["gunicorn.socket"]
    connection.sendall(b"HTTP/1.1 101 Switching Protocols\\r\\nUpgrade: lines\\r\\n\\r\\n")
    read = threading.Thread(target=lambda: connection.sendall(connection.recv(100)))
    read.start()
    read.join()
    raise StopIteration
"""


def processor_ticks(pid: int) -> int:
    """Hundredths of a second that a process has computed."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


@pytest.fixture
def server(shared: Serve) -> Server:
    return shared("lent_socket:app", "--threads", "8")


def ask(server: Server, path: str, early: bytes = b"") -> Connection:
    """Sends a handshake; its answer is the caller's affair."""
    connection = server.connect()
    connection.request(path, headers=HANDSHAKE, after=early)
    return connection


def take(server: Server, path: str = "/echo", early: bytes = b"") -> Connection:
    """A connection that the application has taken."""
    connection = ask(server, path, early)
    response = connection.head()
    assert (response.status, response.header("upgrade")) == (101, "lines")
    return connection


def gate() -> str:
    """The name of something that one request waits for and another one opens."""
    return uuid.uuid4().hex


def open_gate(server: Server, name: str) -> None:
    assert server.get(f"/open-gate?{name}").body == b"open"


def logged(server: Server, path: str, status: int, since: int) -> None:
    server.wait_for_line(rf'"GET {path} HTTP/1\.1" {status} ', since=since)


class TestFlaskSock:
    @pytest.fixture
    def server(self, shared: Serve) -> Server:
        return shared("lent_socket:flask", "--threads", "20")

    def succeed(self, server: Server, work: Awaitable[None]) -> None:
        """Runs a client, of which the log has the handshake and no error."""
        since = server.output.mark()
        run(work)
        logged(server, "/echo", 101, since)
        assert server.tracebacks(since) == 0

    def test_messages(self, server: Server) -> None:
        async def work() -> None:
            async with connect(server, "/echo", max_size=None) as socket:
                for message in ("text", "grün", b"\0\xff", "x" * 100_000, PIECE * 64):
                    await socket.send(message)
                    assert await socket.recv() == message
                await socket.send("enough")
                with pytest.raises(ConnectionClosed):
                    await socket.recv()
                assert socket.close_code == 1000

        self.succeed(server, work())

    def test_client_closes(self, server: Server) -> None:
        """A thread of the library's answers it, while the request ends already."""

        async def work() -> None:
            for code in range(4300, 4320):
                async with connect(server, "/echo") as socket:
                    await socket.close(code)
                    assert socket.close_code == code

        self.succeed(server, work())

    def test_many_at_once(self, server: Server) -> None:
        async def work() -> None:
            sockets = [await connect(server, "/echo") for _ in range(15)]
            for number, socket in enumerate(sockets):
                await socket.send(str(number))
            for number, socket in enumerate(sockets):
                assert await socket.recv() == str(number)
            assert server.get("/ping").body == b"pong"
            for socket in sockets:
                await socket.close()

        run(work())

    @pytest.mark.parametrize("transports", [["websocket"], None], ids=["websocket", "upgrade"])
    def test_socketio(self, server: Server, transports: list[str] | None) -> None:
        async def work() -> None:
            client = socketio.AsyncClient()
            await client.connect(server.url, transports=transports)
            assert client.transport() == "websocket"
            for data in ("text", {"a": [1, "grün"]}, b"\0\xff", "x" * 100_000):
                assert await client.call("echo", data) == data
            await client.disconnect()

        run(work())


class TestOffer:
    def test_only_for_a_handshake(self, server: Server) -> None:
        assert server.get("/offered").body == b"False"
        with ask(server, "/offered") as connection:
            assert connection.response().body == b"True"

    def test_not_without_websockets(self, serve: Serve) -> None:
        server = serve("lent_socket:app", "--ws", "none")
        with ask(server, "/offered") as connection:
            assert connection.response().body == b"False"

    def test_answer_in_the_usual_way(self, server: Server) -> None:
        """The connection goes on after it."""
        with ask(server, "/refuse") as connection:
            assert connection.response().status == 403
            assert connection.get("/offered").body == b"False"

    @pytest.mark.parametrize("path", ["/early-boom", "/early-stop"])
    def test_exception_before_the_head(self, server: Server, path: str) -> None:
        server.tolerates_tracebacks = True
        since = server.output.mark()
        with ask(server, path) as connection:
            assert connection.response().status == 500
        server.wait_for_line(f"exception in the application, GET {path}", since=since)

    def test_too_late(self, server: Server) -> None:
        """Who has answered has no socket any more."""
        since = server.output.mark()
        name = gate()
        with ask(server, f"/both?{name}") as connection:
            assert connection.response().body == b"an answer"
            open_gate(server, name)
        server.wait_for_line("^noted BrokenPipeError$", since=since)

    def test_socket_that_is_closed_at_once(self, serve: Serve) -> None:
        """Nobody looks at it again and again."""
        server = serve("lent_socket:app", "--threads", "2")
        (worker,) = server.workers()
        name = gate()
        with ask(server, f"/closer?{name}") as connection:
            before = processor_ticks(worker.pid)
            assert connection.silent(1.0)
            assert processor_ticks(worker.pid) - before < 50
            open_gate(server, name)
            assert connection.response().body == b"an answer"

    def test_handshake_in_http_1_0(self, server: Server) -> None:
        since = server.output.mark()
        with server.connect() as connection:
            connection.request("/offered", headers=HANDSHAKE, version="1.0")
            assert connection.response().body == b"False"
        server.wait_for_line("WebSocket handshake from .* in HTTP/1.0", since=since)


class TestTaken:
    def test_bytes_both_ways(self, server: Server) -> None:
        since = server.output.mark()
        with take(server) as connection:
            for data in (b"x", b"hello\n", PIECE):
                connection.send(data)
                found = b""
                while len(found) < len(data):
                    found += connection.receive()
                assert found == data
            connection.finish_sending()
            assert connection.rest() == b"goodbye\n"
        logged(server, "/echo", 101, since)

    def test_what_comes_with_the_handshake(self, server: Server) -> None:
        with take(server, early=b"early\n") as connection:
            assert connection.receive() == b"early\n"

    def test_after_other_requests(self, server: Server) -> None:
        """The answers to those that were sent in one piece with it come first."""
        with server.connect() as connection:
            connection.request("/offered")
            connection.request("/offered")
            connection.request("/echo", headers=HANDSHAKE, after=b"early\n")
            assert [connection.response().body for _ in range(2)] == [b"False"] * 2
            assert connection.head().status == 101
            assert connection.receive() == b"early\n"

    @pytest.mark.parametrize(
        "path", ["/quick", "/quiet", "/late", "/generator", "/started-generator"]
    )
    def test_ends_at_once(self, server: Server, path: str) -> None:
        for _ in range(20):
            since = server.output.mark()
            with take(server, path) as connection:
                assert b"".join(iter(connection.receive, b"")) == b"hello\n"
            logged(server, path, 101, since)
            assert server.tracebacks(since) == 0

    def test_head_in_pieces(self, server: Server) -> None:
        since = server.output.mark()
        name = gate()
        with ask(server, f"/pieces?{name}") as connection:
            server.wait_for_line("^noted the beginning$", since=since)
            # The server has seen it when it has answered this.
            open_gate(server, name)
            assert connection.head().status == 101
            assert connection.rest() == b"hello\n"
        server.wait_for_line(rf'"GET /pieces\?{name} HTTP/1\.1" 101 ', since=since)

    @pytest.mark.parametrize("path", ["/boom", "/refused"])
    def test_exception(self, server: Server, path: str) -> None:
        server.tolerates_tracebacks = True
        since = server.output.mark()
        with take(server, path) as connection:
            assert connection.rest() == b"hello\n"
        server.wait_for_line(f"exception in the application, GET {path}", since=since)
        logged(server, path, 101, since)

    def test_another_answer(self, server: Server) -> None:
        since = server.output.mark()
        with ask(server, "/teapot") as connection:
            assert connection.head().status == 418
            assert connection.rest() == b"no"
        logged(server, "/teapot", 418, since)

    def test_client_that_leaves(self, server: Server) -> None:
        name = gate()
        with take(server, f"/echo?{name}") as connection:
            connection.reset()
        server.wait_for_line(f"^noted the end {name}$")

    def test_thread_that_outlives_the_request(self, server: Server) -> None:
        """It reads the end of the socket with that of the request."""
        since = server.output.mark()
        name = gate()
        with take(server, f"/kept?{name}") as connection:
            open_gate(server, name)
            server.wait_for_line("^noted the end of the thread$", since=since)
            assert connection.ended()

    def test_thread_that_holds_the_socket(self, server: Server) -> None:
        """The connection ends with the request all the same, or a moment later."""
        name = gate()
        with take(server, f"/stuck?{name}") as connection:
            assert connection.ended()
        open_gate(server, name)

    def test_nothing_is_left(self, server: Server) -> None:
        server.tolerates_tracebacks = True
        (worker,) = server.workers()

        def open_sockets() -> int:
            files = worker.open_files().values()
            return sum(path.startswith("socket:") for path in files)

        server.get("/offered")
        before = eventually(open_sockets, "sockets")
        for path in ("/quick", "/refuse", "/early-boom"):
            for _ in range(5):
                with ask(server, path) as connection:
                    connection.head()
        eventually(lambda: open_sockets() <= before, "as many sockets as before")


class TestSlow:
    def test_application_that_does_not_read(self, server: Server) -> None:
        total = 64 * 1024 * 1024
        name = gate()
        with take(server, f"/deaf?{name}") as connection:
            taken = connection.stalls(PIECE, total)
            assert taken < total
            open_gate(server, name)
            connection.finish_sending()
            whole, part = divmod(taken, len(PIECE))
            digest = hashlib.sha256(PIECE * whole + PIECE[:part]).hexdigest()
            assert connection.rest().decode() == f"{taken} {digest}\n"

    def test_client_that_does_not_read(self, serve: Serve) -> None:
        server = serve("lent_socket:app", "--threads", "8", "--client-timeout", "1")
        with take(server, "/talk"):
            noted = server.wait_for_line(r"^noted BrokenPipeError (\d+)$")
            assert int(noted[1]) < 32 * 1024 * 1024

    def test_one_thread_that_waits_for_its_client(self, serve: Serve) -> None:
        """It is not taken for one that hangs."""
        server = serve("lent_socket:app", "--threads", "1", "--timeout", "1")
        (worker,) = server.workers()
        with take(server) as connection:
            assert connection.silent(3.5)
            connection.send(b"there\n")
            assert connection.receive() == b"there\n"
        server.wait_for_line("every thread of this worker is held by a WebSocket")
        assert [each.pid for each in server.workers()] == [worker.pid]

    def test_client_of_one_thread_that_has_left(self, serve: Serve) -> None:
        """Nor is one whose client is gone: it may not know yet."""
        server = serve("lent_socket:app", "--threads", "1", "--timeout", "1")
        (worker,) = server.workers()
        connection = take(server, f"/deaf?{gate()}")
        connection.reset()
        with server.connect() as waiting:
            waiting.request("/offered")
            server.wait_for_line("every thread of this worker is held by a WebSocket")
            assert waiting.silent(2.5)
        assert worker.alive
        server.stop(signal.SIGINT)

    def test_hang_behind_a_slow_client(self, serve: Serve) -> None:
        """What is still on its way to a client keeps no thread."""
        server = serve("lent_socket:app", "--threads", "1", "--timeout", "1")
        server.tolerates_tracebacks = True
        (worker,) = server.workers()
        with Connection.open(server.address, receive_buffer=4096) as slow:
            slow.request("/leave-much", headers=HANDSHAKE)
            server.wait_for_line("^noted it is full$")
            with server.connect() as hanging:
                hanging.request("/hang")
                server.wait_for_line(rf"\[pid {worker.pid}\] has been stuck for .* is killed")

    def test_request_timeout_is_for_the_answer(self, serve: Serve) -> None:
        server = serve("lent_socket:app", "--request-timeout", "1")
        with take(server) as connection:
            assert connection.silent(2.5)
            connection.send(b"there\n")
            assert connection.receive() == b"there\n"


@pytest.mark.parametrize("library", PATCHES)
def test_patched_sockets(serve: Serve, module: Module, library: str) -> None:
    """The application's threads read from it all the same."""
    folder = module("main", PATCHES[library] + READER).parent
    server = serve("main:app", "--app-dir", str(folder))
    server.tolerates_tracebacks = True
    with take(server, "/") as connection:
        connection.send(b"hello\n")
        assert connection.rest() == b"hello\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=["stop", "reload"])
def test_worker_that_drains(serve: Serve, number: int) -> None:
    """The application reads the end, and has the last word."""
    server = serve("lent_socket:app", "--graceful-timeout", "60")
    with take(server) as connection:
        server.send_signal(number)
        assert connection.rest() == b"goodbye\n"
    server.wait_for_line("^noted the end ")
    if number == signal.SIGHUP:
        server.wait_for_generation(2, 1)
        with take(server) as connection:
            connection.send(b"the new one\n")
            assert connection.receive() == b"the new one\n"
    else:
        assert server.wait() == 0


def test_quick_stop(serve: Serve) -> None:
    server = serve("lent_socket:app")
    with take(server, "/deaf") as connection:
        server.send_signal(signal.SIGINT)
        assert connection.rest() == b""
    server.wait()
