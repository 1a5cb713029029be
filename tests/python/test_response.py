"""Responses: framing for each kind of client, keep-alive, pipelining, backpressure."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest
from harness import processes
from harness.marks import differs
from harness.server import Server
from harness.waiting import QUIET, eventually
from harness.wire import Connection

Serve = Callable[..., Server]
MEGABYTE = 1 << 20

SMALL_PARTS = """
    async def app(scope, receive, send):
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        part = {"type": "http.response.body", "body": b"x", "more_body": True}
        sent = 0
        # Nothing is written before send() waits.
        while next(send(part).__await__(), None) is None:
            sent += 1
        await send({"type": "http.response.body", "body": b"%d" % sent})
    """


@pytest.fixture
def server(shared: Serve) -> Server:
    return shared("lab:app")


@pytest.fixture
def connection(server: Server) -> Connection:
    with server.connect() as connection:
        yield connection


def test_length_given(connection: Connection) -> None:
    response = connection.get("/ping")
    assert (response.status, response.reason, response.version) == (200, "OK", "1.1")
    assert (response.framing, response.header("content-length")) == ("length", "4")
    assert response.body == b"pong"


@pytest.mark.parametrize("code", [299, 499, 600, 999])
def test_a_status_without_a_usual_phrase(connection: Connection, code: int) -> None:
    response = connection.get(f"/status?{code}")
    assert (response.status, response.reason) == (code, "")


def test_length_not_given(connection: Connection) -> None:
    """Framed one way or the other; the connection can be used again."""
    response = connection.get("/no-length")
    assert response.framing in ("chunked", "length")
    assert response.body == b"whole"
    assert connection.get("/ping").body == b"pong"


def test_streamed_response_is_chunked(connection: Connection) -> None:
    response = connection.get("/stream")
    assert response.framing == "chunked"
    assert response.body == b"part0;part1;part2;part3;part4;"
    assert connection.get("/ping").body == b"pong"


def test_streamed_response_with_length(connection: Connection) -> None:
    """An empty message in the middle is not the end."""
    response = connection.get("/stream-with-length")
    assert (response.framing, response.body) == ("length", b"1234567890")


@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_each_part_is_sent_as_soon_as_it_is_there(server: Server, version: str) -> None:
    with server.connect() as connection:
        key = f"parts{version}"
        connection.request(f"/first-part-then-wait?{key}", version=version)
        response = connection.head()
        while b"first" not in connection.received:
            connection._fill("the first part")
        assert connection.silent(QUIET) or b"second" not in connection.received
        server.get(f"/release?{key}")
        connection.body(response)
        assert response.body == b"firstsecond"


class TestHttp10:
    def test_connection_closes_after_the_answer(self, connection: Connection) -> None:
        response = connection.get("/ping", version="1.0")
        assert response.body == b"pong"
        assert connection.ended()

    @differs("uvicorn", "sends chunks to HTTP/1.0")
    def test_streamed_response_ends_with_the_connection(self, connection: Connection) -> None:
        response = connection.get("/stream", version="1.0")
        assert response.framing == "close"
        assert response.header("transfer-encoding") is None
        assert response.body == b"part0;part1;part2;part3;part4;"

    @differs("uvicorn", "sends chunks to HTTP/1.0")
    def test_response_without_length_ends_with_the_connection(self, connection: Connection) -> None:
        response = connection.get("/no-length", version="1.0")
        assert response.framing in ("close", "length")
        assert response.body == b"whole"

    @differs("uvicorn", "closes every HTTP/1.0 connection")
    def test_keep_alive_on_request(self, connection: Connection) -> None:
        for _ in range(2):
            response = connection.get(
                "/ping", version="1.0", headers=[("Connection", "keep-alive")]
            )
            assert response.body == b"pong"
            assert (response.header("connection") or "").lower() == "keep-alive"

    @pytest.mark.parametrize("path", ["/stream", "/goodbye"])
    @differs("uvicorn", "closes every HTTP/1.0 connection")
    def test_a_connection_that_is_closed_is_not_promised(
        self, connection: Connection, path: str
    ) -> None:
        response = connection.get(path, version="1.0", headers=[("Connection", "keep-alive")])
        assert "keep-alive" not in (response.header("connection") or "").lower()
        assert connection.ended()

    def test_request_without_host(self, connection: Connection) -> None:
        connection.send(b"GET /ping HTTP/1.0\r\n\r\n")
        assert connection.response().body == b"pong"


class TestHead:
    def test_same_headers_and_no_body(self, connection: Connection) -> None:
        by_get = connection.get("/ping")
        by_head = connection.get("/ping", method="HEAD")
        assert by_head.status == 200
        assert by_head.header("content-length") == "4"
        assert by_head.header("content-type") == by_get.header("content-type")
        assert connection.get("/ping").body == b"pong"

    @pytest.mark.parametrize("path", ["/stream", "/no-length", "/stream-with-length", "/big?head"])
    def test_no_body_however_the_application_sends_it(
        self, connection: Connection, path: str
    ) -> None:
        assert connection.get(path, method="HEAD").status == 200
        assert connection.get("/ping").body == b"pong"

    def test_no_length_is_made_up(self, connection: Connection) -> None:
        """An empty answer to HEAD does not mean that GET would be empty."""
        assert connection.get("/stream", method="HEAD").header("content-length") is None
        assert connection.get("/status?200", method="HEAD").header("content-length") in (None, "0")


@pytest.mark.parametrize("status", [204, 304])
def test_statuses_without_body(connection: Connection, status: int) -> None:
    response = connection.get(f"/status?{status}")
    assert response.status == status
    assert response.header("transfer-encoding") is None
    if status == 204:
        assert response.header("content-length") is None
    assert connection.get("/ping").body == b"pong"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@differs("uvicorn", "sends the length of a body that it does not send")
def test_not_modified_has_no_length_of_its_own(connection: Connection, method: str) -> None:
    """Of the answer to a GET nothing is known (RFC 9110, 8.6)."""
    response = connection.get("/not-modified", method=method)
    assert (response.status, response.body) == (304, b"")
    assert response.header("content-length") is None
    assert connection.get("/ping").body == b"pong"


@pytest.mark.parametrize("status", [200, 201, 301, 404, 418, 500, 503])
def test_empty_answers(connection: Connection, status: int) -> None:
    response = connection.get(f"/status?{status}")
    assert (response.status, response.body) == (status, b"")
    assert connection.get("/ping").body == b"pong"


def test_unregistered_status(connection: Connection) -> None:
    assert connection.get("/status?299").status == 299
    assert connection.get("/status?599").status == 599


def test_header_order_and_duplicates(connection: Connection) -> None:
    response = connection.get("/headers")
    assert response.all("set-cookie") == ["a=1", "b=2", "c=3"]
    assert response.header("x-latin") == "caf\xe9"
    assert response.header("x-empty") == ""


def test_many_response_headers(connection: Connection) -> None:
    response = connection.get("/many-headers")
    assert [response.header(f"x-number-{number}") for number in range(200)] == ["v" * 30] * 200


def test_big_response_header(connection: Connection) -> None:
    assert connection.get("/big-header").header("x-big") == "v" * 60_000


def test_date(connection: Connection) -> None:
    date = connection.get("/ping").header("date")
    assert date
    assert re.fullmatch(r"\w{3}, \d{2} \w{3} \d{4} \d{2}:\d{2}:\d{2} GMT", date)
    assert parsedate_to_datetime(date).tzinfo is not None


@differs("uvicorn", "adds its own beside the application's")
def test_date_and_server_of_the_application_win(connection: Connection) -> None:
    response = connection.get("/own-date-and-server")
    assert response.all("date") == ["Thu, 01 Jan 1970 00:00:00 GMT"]
    assert response.all("server") == ["mine"]


def test_bodies_and_headers_of_other_types(connection: Connection) -> None:
    """The specification allows any iterable of pairs; bytes-like bodies do no harm."""
    response = connection.get("/unusual-types")
    assert response.status == 200
    assert response.body == b"abcdefghi"
    assert response.header("x-kind") == "list"


def test_headers_as_a_generator(connection: Connection) -> None:
    response = connection.get("/generator-headers")
    assert (response.header("x-one"), response.header("x-two")) == ("1", "1")
    assert response.body == b"ok"


def test_headers_left_out(connection: Connection) -> None:
    assert connection.get("/no-headers-key").body == b"bare"


class TestConnection:
    def test_keep_alive(self, connection: Connection) -> None:
        for _ in range(50):
            assert connection.get("/ping").body == b"pong"

    def test_client_asks_to_close(self, connection: Connection) -> None:
        response = connection.get("/ping", close=True)
        assert response.body == b"pong"
        assert response.closes
        assert connection.ended()

    def test_application_asks_to_close(self, connection: Connection) -> None:
        response = connection.get("/close")
        assert response.body == b"bye"
        assert response.closes
        assert connection.ended()

    def test_pipelined_requests_are_answered_in_order(self, connection: Connection) -> None:
        delays = [40, 1, 20, 0, 10]
        connection.send(
            b"".join(b"GET /slow?%d HTTP/1.1\r\nHost: a\r\n\r\n" % delay for delay in delays)
        )
        assert [connection.response().text for _ in delays] == [f"slept {d}" for d in delays]

    def test_many_pipelined_requests(self, connection: Connection) -> None:
        connection.send(b"GET /ping HTTP/1.1\r\nHost: a\r\n\r\n" * 1000)
        assert all(connection.response().body == b"pong" for _ in range(1000))

    def test_pipelined_requests_with_bodies(self, connection: Connection) -> None:
        requests = b""
        for number in range(20):
            body = b"body %d" % number
            requests += b"POST /echo HTTP/1.1\r\nHost: a\r\n"
            if number % 2:
                requests += b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
            else:
                requests += b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (
                    len(body),
                    body,
                )
        connection.send(requests)
        assert [connection.response().text for _ in range(20)] == [f"body {n}" for n in range(20)]

    def test_nothing_is_answered_after_close(self, connection: Connection) -> None:
        connection.send(
            b"GET /ping HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
            b"GET /pid HTTP/1.1\r\nHost: a\r\n\r\n"
        )
        assert connection.response().body == b"pong"
        assert connection.ended()

    def test_many_connections_at_once(self, server: Server) -> None:
        with server.connections(100) as connections:
            for connection in connections:
                connection.request("/slow?20")
            assert {connection.response().text for connection in connections} == {"slept 20"}

    def test_slow_request_does_not_hold_up_another(self, server: Server) -> None:
        with server.connect() as slow:
            slow.request("/hold?other")
            server.get("/notes?other")
            assert server.get("/ping").body == b"pong"
            server.get("/release?other")
            assert slow.response().body == b"held"


class TestSlowReader:
    def test_send_waits_and_memory_stays_bounded(self, serve: Serve) -> None:
        server = serve("lab:app")
        with Connection.open(server.address, receive_buffer=65536) as connection:
            connection.request("/big?slow")
            response = connection.head()
            pid = int(server.get("/notes?slow-pid").text)
            before = processes.status_field(pid, "VmHWM")

            def stopped() -> int | None:
                """The progress of the application, once it has stopped."""
                first = int(server.get("/notes?slow").text)
                connection.silent(0.2)
                return first if first == int(server.get("/notes?slow").text) else None

            sent = eventually(stopped, "send() waits for the client")
            assert sent < 32 * MEGABYTE
            connection.body(response)
            assert len(response.body) == 64 * MEGABYTE
            assert response.body == b"0123456789abcdef" * (4 * MEGABYTE)
            growth = processes.status_field(pid, "VmHWM") - before
            assert growth < 16 * MEGABYTE, f"grew by {growth >> 10} kB"

    def test_small_parts_wait_in_small_numbers(
        self, serve: Serve, module: Callable[[str, str], Path]
    ) -> None:
        """Each takes more memory than its one byte."""
        place = module("main", textwrap.dedent(SMALL_PARTS)).parent
        server = serve("main:app", "--app-dir", str(place))
        sent = int(server.get("/").body.lstrip(b"x"))
        assert sent < 1100

    def test_others_are_served_meanwhile(self, serve: Serve) -> None:
        server = serve("lab:app")
        with Connection.open(server.address, receive_buffer=65536) as stuck:
            stuck.request("/big?stuck")
            stuck.head()
            for _ in range(50):
                assert server.get("/ping").body == b"pong"

    def test_client_that_leaves_in_the_middle_of_a_big_response(self, server: Server) -> None:
        for _ in range(3):
            connection = Connection.open(server.address, receive_buffer=65536)
            connection.request("/big?gone")
            connection.head()
            connection.reset()
        assert server.get("/ping").body == b"pong"

    def test_one_message_of_16_mb(self, server: Server) -> None:
        with server.connect() as connection:
            response = connection.get("/one-big-message")
            assert response.body == b"0123456789abcdef" * MEGABYTE
            assert connection.get("/ping").body == b"pong"
