"""Request bodies: framing, backpressure, bodies that nobody reads."""

from __future__ import annotations

import ast
from collections.abc import Callable

import pytest
from harness import processes
from harness.marks import differs
from harness.server import Server
from harness.waiting import QUIET
from harness.wire import Connection

Serve = Callable[..., Server]
MEGABYTE = 1 << 20


@pytest.fixture
def server(shared: Serve) -> Server:
    return shared("lab:app")


@pytest.fixture
def connection(server: Server) -> Connection:
    with server.connect() as connection:
        yield connection


def chunked(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (*parts, b""))


CHUNKED = [("Transfer-Encoding", "chunked")]


@pytest.mark.parametrize("size", [0, 1, 1000, 65536, 3 * MEGABYTE])
def test_body_with_length(connection: Connection, size: int) -> None:
    body = bytes(number % 251 for number in range(size))
    assert connection.get("/echo", method="POST", body=body).body == body


def test_body_in_chunks(connection: Connection) -> None:
    connection.request("/echo", method="POST", headers=CHUNKED)
    connection.send(chunked(b"one", b"two" * 5000, b"\0\r\n3"))
    assert connection.response().body == b"one" + b"two" * 5000 + b"\0\r\n3"


def test_chunk_extensions_and_trailers_are_not_part_of_the_body(connection: Connection) -> None:
    connection.request("/echo", method="POST", headers=CHUNKED)
    connection.send(b"3;name=value\r\nabc\r\n0;last\r\nX-Trailer: 1\r\n\r\n")
    assert connection.response().body == b"abc"
    assert connection.get("/ping").body == b"pong"


def test_body_one_byte_at_a_time(connection: Connection) -> None:
    request = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
    for byte in request:
        connection.send(bytes([byte]))
    assert connection.response().body == b"hello"


def test_chunked_body_one_byte_at_a_time(connection: Connection) -> None:
    head = b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    for byte in head + chunked(b"hel", b"lo"):
        connection.send(bytes([byte]))
    assert connection.response().body == b"hello"


def test_request_without_body_is_one_empty_message(connection: Connection) -> None:
    seen = ast.literal_eval(connection.get("/messages").text)
    assert [(message["type"], message["size"], message["more"]) for message in seen] == [
        ("http.request", 0, False)
    ]


def test_empty_body_is_one_empty_message(connection: Connection) -> None:
    seen = ast.literal_eval(connection.get("/messages", method="POST", body=b"").text)
    assert [(message["size"], message["more"]) for message in seen] == [(0, False)]


def test_empty_chunked_body_ends(connection: Connection) -> None:
    connection.request("/messages", method="POST", headers=CHUNKED)
    connection.send(chunked())
    seen = ast.literal_eval(connection.response().text)
    assert sum(message["size"] for message in seen) == 0
    assert seen[-1]["more"] is False


def test_messages_have_the_types_of_the_specification(connection: Connection) -> None:
    seen = ast.literal_eval(connection.get("/messages", method="POST", body=b"abc").text)
    for message in seen:
        assert message["type"] == "http.request"
        assert (
            message["shape"].items()
            <= {
                "type": "str",
                "body": "bytes",
                "more_body": "bool",
            }.items()
        )


def test_more_body_is_true_until_the_last_message(connection: Connection) -> None:
    connection.request("/messages", method="POST", headers=[("Content-Length", "400000")])
    for _ in range(4):
        connection.send(b"x" * 100_000)
    seen = ast.literal_eval(connection.response().text)
    assert sum(message["size"] for message in seen) == 400_000
    assert [message["more"] for message in seen] == [True] * (len(seen) - 1) + [False]


def test_first_part_of_a_body_arrives_before_the_rest_is_sent(connection: Connection) -> None:
    connection.request("/read-one", method="POST", headers=[("Content-Length", "10")])
    connection.send(b"first")
    assert ast.literal_eval(connection.response().text) == ("http.request", True)


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_50_mb_streamed(connection: Connection, server: Server, framing: str) -> None:
    part = b"0123456789abcdef" * 4096
    count = 50 * MEGABYTE // len(part)
    length = [("Content-Length", str(count * len(part)))]
    connection.request("/count", method="POST", headers=CHUNKED if framing == "chunked" else length)
    for _ in range(count):
        connection.send(b"%x\r\n%s\r\n" % (len(part), part) if framing == "chunked" else part)
    if framing == "chunked":
        connection.send(b"0\r\n\r\n")
    size, largest, _ = ast.literal_eval(connection.response().text)
    assert size == 50 * MEGABYTE
    assert largest <= 2 * MEGABYTE


def test_upload_waits_while_the_application_does_not_read(serve: Serve) -> None:
    """The kernel's buffers fill, not the memory of the worker."""
    server = serve("lab:app")
    size = 50 * MEGABYTE
    with server.connect() as connection:
        connection.request(
            "/upload-when-released?up", method="POST", headers=[("Content-Length", str(size))]
        )
        pid = int(server.get("/notes?up").text)
        before = processes.status_field(pid, "VmHWM")
        taken = connection.stalls(b"x" * 65536, size)
        assert taken < 20 * MEGABYTE
        growth = processes.status_field(pid, "VmHWM") - before
        assert growth < 8 * MEGABYTE, f"grew by {growth >> 10} kB"

        assert server.get("/release?up").status == 200
        remaining = size - taken
        while remaining:
            part = b"x" * min(65536, remaining)
            connection.send(part)
            remaining -= len(part)
        assert ast.literal_eval(connection.response().text)[0] == size
        growth = processes.status_field(pid, "VmHWM") - before
        assert growth < 16 * MEGABYTE, f"grew by {growth >> 10} kB"


def test_tiny_chunks_wait_in_small_numbers(serve: Serve) -> None:
    """Each takes more memory than its one byte."""
    server = serve("lab:app")
    count = 5000
    with server.connect() as connection:
        connection.request("/upload-when-released?up", method="POST", headers=CHUNKED)
        assert server.get("/notes?up").status == 200
        connection.send(b"1\r\nx\r\n" * count)
        assert server.get("/release?up").status == 200
        connection.send(b"0\r\n\r\n")
        size, largest, _ = ast.literal_eval(connection.response().text)
        assert size == count
        assert largest < 1100


@pytest.mark.parametrize("size", [10, 100_000])
def test_next_request_after_a_body_that_was_not_read(server: Server, size: int) -> None:
    """The connection serves the next request; the body is never taken for one."""
    with server.connect() as connection:
        body = b"GET /never HTTP/1.1\r\n" * (size // 21 + 1)
        response = connection.get("/ignore", method="POST", body=body)
        assert (response.body, response.closes) == (b"ignored", False)
        again = connection.get("/ping")
        assert (again.status, again.body) == (200, b"pong")


def test_answer_arrives_while_a_big_body_is_still_being_sent(server: Server) -> None:
    """A client that sends first and reads later gets the answer, not a reset."""
    with server.connect() as connection:
        headers = [("Content-Length", str(5 * MEGABYTE))]
        connection.request("/ignore", method="POST", headers=headers)
        response = connection.response()
        assert response.body == b"ignored"


def test_next_request_after_an_unread_chunked_body(server: Server) -> None:
    with server.connect() as connection:
        connection.request("/ignore", method="POST", headers=CHUNKED)
        connection.send(chunked(b"GET /never HTTP/1.1\r\n\r\n"))
        response = connection.response()
        assert (response.body, response.closes) == (b"ignored", False)
        again = connection.get("/ping")
        assert (again.status, again.body) == (200, b"pong")


class TestExpect:
    HEADERS = [("Content-Length", "5"), ("Expect", "100-continue")]

    def test_100_once_the_application_reads(self, server: Server) -> None:
        with server.connect() as connection:
            connection.request("/read-when-released?e1", method="POST", headers=self.HEADERS)
            assert server.get("/notes?e1").text == "started"
            assert connection.silent(), "100 Continue before the application asked for the body"
            server.get("/release?e1")
            assert connection.head().status == 100
            connection.send(b"hello")
            response = connection.response()
            assert (response.status, response.body, response.interim) == (200, b"hello", [])

    def test_none_when_the_application_answers_first(self, server: Server) -> None:
        with server.connect() as connection:
            connection.request("/ignore", method="POST", headers=self.HEADERS)
            response = connection.response()
            assert (response.status, response.body, response.interim) == (200, b"ignored", [])

    @differs("uvicorn", "does not say that it closes")
    def test_connection_ends_after_an_answer_without_100(self, server: Server) -> None:
        """The client may send the body or not; the server must not guess."""
        with server.connect() as connection:
            connection.request("/ignore", method="POST", headers=self.HEADERS)
            assert connection.response().closes
            connection.send(b"hello")
            assert connection.ended()

    def test_body_sent_without_waiting(self, server: Server) -> None:
        with server.connect() as connection:
            connection.request("/echo", method="POST", headers=self.HEADERS, body=b"hello")
            response = connection.response()
            assert (response.status, response.body) == (200, b"hello")

    @differs("uvicorn", "sends 100 to HTTP/1.0")
    def test_none_for_http_1_0(self, server: Server) -> None:
        with server.connect() as connection:
            connection.request(
                "/echo", method="POST", headers=self.HEADERS, body=b"hello", version="1.0"
            )
            response = connection.response()
            assert (response.status, response.body, response.interim) == (200, b"hello", [])

    def test_value_is_case_insensitive(self, server: Server) -> None:
        with server.connect() as connection:
            headers = [("Content-Length", "5"), ("Expect", "100-Continue")]
            connection.request("/echo", method="POST", headers=headers)
            assert connection.head().status == 100
            connection.send(b"hello")
            assert connection.response().body == b"hello"


def test_body_of_a_get_request_is_read(connection: Connection) -> None:
    assert connection.get("/echo", method="GET", body=b"unusual").body == b"unusual"
    assert connection.get("/ping").body == b"pong"


def test_http_1_0_request_with_body(connection: Connection) -> None:
    response = connection.get("/echo", method="POST", body=b"old", version="1.0")
    assert response.body == b"old"


def test_silence_is_not_taken_for_the_end_of_a_body(server: Server) -> None:
    with server.connect() as connection:
        connection.request("/echo", method="POST", headers=[("Content-Length", "5")])
        connection.send(b"he")
        assert connection.silent(QUIET)
        connection.send(b"llo")
        assert connection.response().body == b"hello"


@pytest.mark.parametrize("app", ["large:asgi", "large:wsgi"])
class TestLimit:
    """--limit-request-body."""

    @pytest.fixture
    def server(self, shared: Serve, app: str) -> Server:
        return shared(app, "--limit-request-body", "1000")

    def test_what_fits(self, server: Server) -> None:
        with server.connect() as connection:
            for framing in (b"Content-Length: 1000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"):
                chunked = b"chunked" in framing
                body = b"3e8\r\n" + bytes(1000) + b"\r\n0\r\n\r\n" if chunked else bytes(1000)
                connection.send(b"POST /echo HTTP/1.1\r\nHost: test\r\n" + framing + body)
                assert connection.response().body == bytes(1000)

    @pytest.mark.parametrize("expect", ["", "Expect: 100-continue\r\n"])
    def test_what_is_announced_is_refused_at_once(self, server: Server, expect: str) -> None:
        with server.connect() as connection:
            head = f"POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 1001\r\n{expect}\r\n"
            connection.send(head.encode())
            response = connection.response()
            assert (response.status, response.closes) == (413, True)
            assert connection.ended()

    def test_what_becomes_too_much_is_refused_then(self, server: Server) -> None:
        with server.connect() as connection:
            connection.send(
                b"POST /echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n"
            )
            connection.send(b"3e8\r\n" + bytes(1000) + b"\r\n")
            assert connection.silent()
            connection.send(b"1\r\nx\r\n")
            response = connection.response()
            assert (response.status, response.closes) == (413, True)
