"""Request bodies that the application does not read: what becomes of the connection."""

from __future__ import annotations

import http.client
import json
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
import requests
from harness.clients import client_for
from harness.marks import differs, rsgun_only
from harness.server import Server
from harness.waiting import DEADLINE, QUIET
from harness.wire import Connection, Response

Serve = Callable[..., Server]

BAIT = b"GET /never HTTP/1.1\r\nHost: a\r\n\r\n"
"""What must not be taken for a request."""
WORTHWHILE = 256 * 1024
"""The rest of a body is waited for, if it is announced to be no more than this."""
PROMISED = 16 * 1024 * 1024
"""This much is read of what was not announced."""

UNREAD = {"lab:app": ("/ignore", b"ignored"), "rsgi_lab:app": ("/", b"hello")}
"""Applications that answer without reading, by their path."""
WITHOUT_UVICORN = [
    "lab:app",
    pytest.param("rsgi_lab:app", marks=rsgun_only),
]


def bait(size: int) -> bytes:
    """A body of this size."""
    return (BAIT * (size // len(BAIT) + 1))[:size]


def chunks(data: bytes) -> bytes:
    """The whole of a body in chunks."""
    size = 10_000
    parts = [data[at : at + size] for at in range(0, len(data), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (*parts, b""))


def announced(size: int) -> list[tuple[str, str]]:
    """The header of a body with a length."""
    return [("Content-Length", str(size))]


CHUNKED = [("Transfer-Encoding", "chunked")]
FRAMINGS: list[tuple[list[tuple[str, str]], bytes]] = [
    (announced(20), bait(20)),
    (announced(100_000), bait(100_000)),
    (announced(WORTHWHILE), bait(WORTHWHILE)),
    (CHUNKED, chunks(bait(20))),
    (CHUNKED, chunks(bait(1_000_000))),
]
NAMES = ["20", "100000", "256k", "chunked", "chunked-1m"]


@pytest.fixture(params=WITHOUT_UVICORN)
def server(request: pytest.FixtureRequest, shared: Serve) -> Server:
    """A server, and in ``unread`` a path of its application and the answer."""
    server = shared(request.param)
    server.unread = UNREAD[request.param]
    return server


def answer(server: Server, connection: Connection, headers: list[tuple[str, str]]) -> Response:
    """Sends the head of a request, and reads the answer."""
    path, expected = server.unread
    connection.request(path, method="POST", headers=headers)
    response = connection.response()
    assert (response.status, response.body) == (200, expected)
    return response


@pytest.mark.parametrize(("headers", "body"), FRAMINGS, ids=NAMES)
class TestLate:
    """The body comes when the answer is there already."""

    def test_in_one_piece(
        self, server: Server, headers: list[tuple[str, str]], body: bytes
    ) -> None:
        with server.connect() as connection:
            for _ in range(3):
                assert not answer(server, connection, headers).closes
                connection.send(body)

    def test_in_pieces(self, server: Server, headers: list[tuple[str, str]], body: bytes) -> None:
        with server.connect() as connection:
            assert not answer(server, connection, headers).closes
            for part in (body[:7], body[7:15], body[15:-1]):
                connection.send(part)
                assert connection.silent(QUIET / 4)
            connection.send(body[-1:])
            assert not answer(server, connection, announced(0)).closes

    def test_with_the_next_requests_behind_it(
        self, server: Server, headers: list[tuple[str, str]], body: bytes
    ) -> None:
        path, expected = server.unread
        with server.connect() as connection:
            answer(server, connection, headers)
            head = f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
            connection.send(body + head + head)
            assert [connection.response().body for _ in range(2)] == [expected] * 2


@pytest.mark.parametrize("app", ["lab:app", *(pytest.param(app, marks=rsgun_only) for app in (
    "rsgi_lab:app", "wsgi_lab:bare"))])  # fmt: skip
@pytest.mark.parametrize("size", [20, 100_000, 1_000_000])
def test_head_and_body_in_two_writes(shared: Serve, app: str, size: int) -> None:
    """As most clients send them. One that is told to take another connection does."""
    server = shared(app)
    path, expected = UNREAD.get(app, ("/ping", b"pong"))
    with server.connect() as connection:
        for _ in range(20):
            connection.request(path, method="POST", headers=announced(size))
            connection.send(bait(size))
            response = connection.response()
            assert response.body == expected
            if response.closes:
                assert size > WORTHWHILE
                assert connection.ended()
                return


@rsgun_only
class TestTooMuch:
    def test_what_is_announced_ends_the_connection(self, server: Server) -> None:
        """The answer says so, and the client can send all before it reads that."""
        size = WORTHWHILE + 65536 + 1
        with server.connect() as connection:
            assert answer(server, connection, announced(size)).closes
            connection.send(bait(size))
            assert connection.ended()

    def test_what_is_not_announced_ends_it_without_a_reset(self, server: Server) -> None:
        with server.connect() as connection:
            assert not answer(server, connection, CHUNKED).closes
            body = chunks(bait(PROMISED + 1_000_000))
            connection.send(body.removesuffix(b"0\r\n\r\n"))
            assert connection.receive() == b""
            connection.send(b"0\r\n\r\n")

    def test_what_is_no_body_ends_it(self, server: Server) -> None:
        since = server.output.mark()
        with server.connect() as connection:
            answer(server, connection, CHUNKED)
            connection.send(b"x\r\n")
            assert connection.ended()
        server.wait_for_line("invalid HTTP request from", since=since)

    @pytest.mark.parametrize("headers", [announced(10), CHUNKED], ids=["length", "chunked"])
    def test_what_breaks_off_ends_it(self, server: Server, headers: list[tuple[str, str]]) -> None:
        with server.connect() as connection:
            answer(server, connection, headers)
            connection.send(b"5\r\n")
            connection.finish_sending()
            assert connection.ended()

    @pytest.mark.parametrize("version", ["1.0", "1.1"])
    def test_a_connection_that_ends_does_not_wait_for_it(
        self, server: Server, version: str
    ) -> None:
        path, expected = server.unread
        with server.connect() as connection:
            connection.request(
                path, method="POST", headers=announced(10), version=version, close=True
            )
            assert connection.response().body == expected
            assert connection.ended()


@rsgun_only
class TestTime:
    def test_what_does_not_come_is_not_waited_for(self, serve: Serve) -> None:
        server = serve("lab:app", "--keep-alive", "1", "--client-timeout", "1")
        server.unread = UNREAD["lab:app"]
        with server.connect() as connection:
            answer(server, connection, announced(10))
            began = time.monotonic()
            connection.send(b"123")
            assert connection.ended()
            assert time.monotonic() - began > 0.8

    def test_who_still_sends_is_not_idle(self, serve: Serve) -> None:
        """The keep-alive time begins when the request is complete."""
        server = serve("lab:app", "--keep-alive", "1", "--client-timeout", "30")
        server.unread = UNREAD["lab:app"]
        with server.connect() as connection:
            answer(server, connection, announced(10))
            assert connection.silent(2)
            connection.send(b"0123456789")
            assert not connection.get("/ping").closes
            assert connection.ended()

    def test_a_worker_that_stops_does_not_wait_for_it(self, serve: Serve) -> None:
        server = serve("lab:app")
        server.unread = UNREAD["lab:app"]
        with server.connect() as connection:
            answer(server, connection, announced(10))
            server.send_signal(signal.SIGTERM)
            assert connection.ended()
        assert server.wait() == 0


class TestBothWays:
    """The application answers first, and reads then."""

    @pytest.mark.parametrize(
        ("headers", "body"),
        [(announced(2_000_000), bait(2_000_000)), (CHUNKED, chunks(bait(2_000_000)))],
        ids=["length", "chunked"],
    )
    def test_the_connection_is_kept(
        self, shared: Serve, headers: list[tuple[str, str]], body: bytes
    ) -> None:
        server = shared("lab:app")
        with server.connect() as connection:
            for _ in range(2):
                connection.request("/answer-then-read", method="POST", headers=headers)
                response = connection.head()
                assert not response.closes
                connection.send(body)
                connection.body(response)
                assert response.body == b"begun;2000000"

    def test_what_it_leaves_unread_is_thrown_away(self, shared: Serve) -> None:
        """When the head went out it was not known that nobody would read it."""
        server = shared("lab:app")
        with server.connect() as connection:
            key = "leaves-unread"
            headers = announced(2_000_000)
            connection.request(f"/first-part-then-wait?{key}", method="POST", headers=headers)
            response = connection.head()
            server.get(f"/release?{key}")
            connection.body(response)
            assert (response.body, response.closes) == (b"firstsecond", False)
            connection.send(bait(2_000_000))
            assert connection.get("/ping").body == b"pong"


class TestExpect:
    """A client that waits for 100 may send its body or not, if it gets its answer instead."""

    HEADERS = [*announced(5), ("Expect", "100-continue")]

    @differs("uvicorn", "does not say that it closes")
    def test_connection_ends(self, server: Server) -> None:
        with server.connect() as connection:
            assert answer(server, connection, self.HEADERS).closes
            assert connection.ended()

    @differs("uvicorn", "does not say that it closes")
    def test_connection_ends_after_a_stream(self, shared: Serve) -> None:
        server = shared("lab:app")
        with server.connect() as connection:
            connection.request("/stream", method="POST", headers=self.HEADERS)
            response = connection.response()
            assert (response.body[:6], response.closes) == (b"part0;", True)
            assert connection.ended()


ORDER = {"name": "tea", "count": 1}


def with_http_client(server: Server, path: str, body: Iterator[bytes]) -> Iterator[int]:
    connection = http.client.HTTPConnection(*server.address, timeout=DEADLINE)
    json_type = {"Content-Type": "application/json"}
    with closing(connection):
        connection.request("POST", path, body, {"Content-Length": "40000"})
        response = connection.getresponse()
        response.read()
        yield response.status
        connection.request("POST", "/orders", json.dumps(ORDER), json_type)
        yield connection.getresponse().status


def with_requests(server: Server, path: str, body: Iterator[bytes]) -> Iterator[int]:
    with requests.Session() as session:
        session.trust_env = False
        yield session.post(server.url + path, data=body, allow_redirects=False).status_code
        yield session.post(server.url + "/orders", json=ORDER).status_code


def with_httpx(server: Server, path: str, body: Iterator[bytes]) -> Iterator[int]:
    with client_for(server) as session:
        length = {"Content-Length": "40000"}
        yield session.post(path, content=body, headers=length).status_code
        yield session.post("/orders", json=ORDER).status_code


@pytest.mark.parametrize("client", [with_http_client, with_requests, with_httpx])
@pytest.mark.parametrize(("path", "status"), [("/nothing", 404), ("/ping", 405), ("/orders/", 307)])
def test_fastapi_refuses_a_request(
    shared: Serve,
    client: Callable[[Server, str, Iterator[bytes]], Iterator[int]],
    path: str,
    status: int,
) -> None:
    """It does so without looking at the body, and the client loses no request by it."""
    server = shared("fastapi_app:app")
    since = server.output.mark()

    def body() -> Iterator[bytes]:
        server.wait_for_line(f'"POST {path} HTTP/1.1" {status}', since=since)
        for _ in range(4):
            yield bytes(10_000)

    assert list(client(server, path, body())) == [status, 201]
    server.wait_for_line('"POST /orders HTTP/1.1" 201', since=since)
    lines = "\n".join(server.lines("stdout", since))
    first, second = re.findall(r":(\d+) - \"POST", lines)
    assert first == second, "another connection"
