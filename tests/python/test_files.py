"""Files that the server sends for ASGI applications, named by http.response.pathsend."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlencode

import pytest
from harness.marks import rsgun_only
from harness.server import Server
from harness.waiting import eventually
from harness.wire import Connection, Truncated

pytestmark = rsgun_only

Serve = Callable[..., Server]

SMALL = bytes(range(256)) * 300
LARGE = os.urandom(1 << 20) * 30


@pytest.fixture
def server(shared: Serve) -> Server:
    return shared("files:app", "--lifespan", "off")


@pytest.fixture
def connection(server: Server) -> Connection:
    with server.connect() as connection:
        yield connection


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small é.bin"
    path.write_bytes(SMALL)
    return path


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "large.bin"
    path.write_bytes(LARGE)
    return path


def at(route: str, path: Path, **more: str) -> str:
    return f"{route}?{urlencode({'path': str(path), **more})}"


def begin(server: Server, target: str) -> Connection:
    """Asks, and takes only the head of the answer."""
    connection = Connection.open(server.address, receive_buffer=65536)
    connection.request(target)
    connection.first = connection.head()
    assert connection.first.status == 200
    return connection


def finish(connection: Connection) -> bytes:
    connection.body(connection.first)
    return connection.first.body


class TestHead:
    def test_it_is_offered(self, server: Server) -> None:
        assert server.get("/offers").body == b'{"http.response.pathsend": {}}'

    def test_the_length_is_that_of_the_file(self, connection: Connection, small: Path) -> None:
        for _ in range(2):
            response = connection.get(at("/file", small))
            assert (response.status, response.framing) == (200, "length")
            assert response.body == SMALL

    def test_of_one_that_has_grown_the_announced_part_is_sent(
        self, connection: Connection, small: Path
    ) -> None:
        response = connection.get(at("/file", small, **{"content-length": "1000"}))
        assert response.body == SMALL[:1000]
        assert connection.get(at("/file", small)).body == SMALL

    def test_chunks_that_the_application_announces_are_not_made(
        self, connection: Connection, small: Path
    ) -> None:
        response = connection.get(at("/file", small, **{"transfer-encoding": "chunked"}))
        assert (response.framing, response.body) == ("length", SMALL)

    def test_an_empty_file(self, connection: Connection, tmp_path: Path) -> None:
        empty = tmp_path / "empty"
        empty.touch()
        for _ in range(2):
            response = connection.get(at("/file", empty))
            assert (response.status, response.header("content-length")) == (200, "0")

    @pytest.mark.parametrize(
        ("method", "status", "length"),
        [("HEAD", 200, str(len(SMALL))), ("GET", 204, None), ("GET", 304, None)],
    )
    def test_answers_without_a_body(
        self, connection: Connection, small: Path, method: str, status: int, length: str | None
    ) -> None:
        for _ in range(2):
            response = connection.get(at("/file", small, status=str(status)), method=method)
            assert (response.status, response.body) == (status, b"")
            assert response.header("content-length") == length

    def test_an_old_client(self, server: Server, small: Path) -> None:
        with server.connect() as connection:
            response = connection.get(at("/file", small), version="1.0")
            assert (response.framing, response.body) == ("length", SMALL)


class TestMistakes:
    """Nothing is sent of an answer whose file cannot be."""

    @pytest.fixture(autouse=True)
    def _serves_on(self, server: Server, small: Path) -> None:
        server.tolerates_tracebacks = True
        yield
        assert server.get(at("/file", small)).body == SMALL

    @pytest.mark.parametrize(
        ("route", "name", "said"),
        [
            (
                "/file",
                "missing",
                r"FileNotFoundError: \[Errno 2\] No such file or directory: '.*/mi",
            ),
            ("/file", ".", "ValueError: .* is not a regular file"),
            ("/file", "pipe", "ValueError: .* is not a regular file"),
            ("/number", "x", "TypeError: http.response.pathsend: path must be a string, not int"),
            ("/pathless", "x", 'ValueError: http.response.pathsend without "path"'),
            ("/too-early", "x", "RuntimeError: .*http.response.start comes first"),
        ],
    )
    def test_it_is_a_500(
        self, server: Server, tmp_path: Path, route: str, name: str, said: str
    ) -> None:
        os.mkfifo(tmp_path / "pipe")
        since = server.output.mark()
        assert server.get(at(route, tmp_path / name)).status == 500
        server.wait_for_line(said, since=since)

    def test_a_file_that_is_too_short(self, server: Server, small: Path) -> None:
        since = server.output.mark()
        response = server.get(at("/file", small, **{"content-length": "1000000"}))
        assert response.status == 500
        server.wait_for_line(
            "the file is shorter than the content-length: 76800 bytes, not 1000000", since=since
        )

    def test_the_application_may_answer_otherwise(self, server: Server, tmp_path: Path) -> None:
        missing = tmp_path / "missing"
        response = server.get(at("/or-404", missing, status="404"))
        assert (response.status, response.text) == (404, str(missing))

    def test_after_a_part_of_the_body(self, server: Server, small: Path) -> None:
        since = server.output.mark()
        with server.connect() as connection:
            connection.request(at("/too-late", small))
            with pytest.raises(Truncated):
                connection.response()
        server.wait_for_line("pathsend.*: the body has begun already", since=since)

    def test_a_second_file(self, server: Server, small: Path) -> None:
        since = server.output.mark()
        assert server.get(at("/twice", small)).body == SMALL
        server.wait_for_line("pathsend.*: the response is complete", since=since)


class TestOnTheWay:
    def test_a_file_that_shrinks_breaks_off(self, server: Server, large: Path) -> None:
        since = server.output.mark()
        with begin(server, at("/file", large)) as connection:
            os.truncate(large, 1 << 20)
            with pytest.raises(Truncated):
                finish(connection)
        server.wait_for_line("a file that is being sent cannot be read", since=since)

    def test_a_file_that_is_replaced_does_not(self, server: Server, large: Path) -> None:
        with begin(server, at("/file", large)) as connection:
            other = large.with_name("other")
            other.write_bytes(b"other")
            other.replace(large)
            assert finish(connection) == LARGE

    def test_slow_clients_hold_up_nobody(self, server: Server, large: Path) -> None:
        [worker] = server.wait_for_workers(1)
        slow = [begin(server, at("/file", large)) for _ in range(20)]
        for _ in range(3):
            assert server.get(at("/file", large)).body == LARGE
        assert worker.memory_peak() < 150 << 20, "the files are in memory"
        for connection in slow:
            assert finish(connection) == LARGE
            connection.close()

    def test_one_that_takes_nothing_is_given_up_on(self, serve: Serve, large: Path) -> None:
        server = serve("files:app", "--lifespan", "off", "--client-timeout", "1")
        [worker] = server.wait_for_workers(1)
        with begin(server, at("/file", large)) as connection:
            assert str(large) in worker.open_files().values()
            eventually(lambda: str(large) not in worker.open_files().values(), "the file is closed")
            with pytest.raises((Truncated, ConnectionResetError)):
                finish(connection)

    def test_it_is_sent_to_its_end_when_the_server_stops(self, serve: Serve, large: Path) -> None:
        server = serve("files:app", "--lifespan", "off")
        with begin(server, at("/file", large)) as connection:
            since = server.output.mark()
            server.send_signal(signal.SIGTERM)
            server.wait_for_line("Shutting down", since=since)
            assert finish(connection) == LARGE
        assert server.wait() == 0

    def test_it_is_in_the_access_log(self, serve: Serve, small: Path) -> None:
        server = serve("files:app", "--lifespan", "off", "--access-log")
        assert server.get(at("/file", small)).body == SMALL
        server.wait_for_line(r'"GET /file\?path=\S+ HTTP/1.1" 200')


@pytest.mark.parametrize("app", ["files:starlette", "files:behind_middleware"])
class TestFileResponse:
    """Starlette's, and so FastAPI's."""

    def test_whole(self, shared: Serve, app: str, small: Path) -> None:
        with shared(app).connect() as connection:
            for _ in range(2):
                response = connection.get(at("/unopened", small))
                assert (response.status, response.framing) == (200, "length")
                assert response.body == SMALL
            response = connection.get(at("/unopened", small), method="HEAD")
            assert response.header("content-length") == str(len(SMALL))

    def test_parts(self, shared: Serve, app: str, small: Path) -> None:
        with shared(app).connect() as connection:
            headers = [("Range", "bytes=1000-1999")]
            response = connection.get(at("/any-part", small), headers=headers)
            assert (response.status, response.body) == (206, SMALL[1000:2000])
            headers = [("Range", "bytes=0-9,1000-1009")]
            response = connection.get(at("/any-part", small), headers=headers)
            assert response.status == 206
            assert (
                response.body.count(b"content-range") + response.body.count(b"Content-Range") == 2
            )
            assert connection.get(at("/any-part", small)).body == SMALL

    def test_missing(self, shared: Serve, app: str, tmp_path: Path) -> None:
        server = shared(app)
        server.tolerates_tracebacks = True
        since = server.output.mark()
        assert server.get(at("/unopened", tmp_path / "missing")).status == 500
        server.wait_for_line("missing does not exist", since=since)
