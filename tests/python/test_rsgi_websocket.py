"""RSGI: WebSockets, with the client of `websockets`."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Callable

import pytest
from harness.frames import Socket
from harness.marks import rsgun_only
from harness.server import Server
from harness.waiting import DEADLINE, eventually
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

pytestmark = rsgun_only

Serve = Callable[..., Server]


@pytest.fixture
def server(shared: Serve) -> Server:
    return shared("rsgi_lab:app")


def opened(server: Server, path: str, **more: object) -> ClientConnection:
    url = server.url.replace("http", "ws", 1) + path
    return connect(url, open_timeout=DEADLINE, proxy=None, **more)  # type: ignore[arg-type]


def closing(client: ClientConnection) -> int:
    """The code that the server closes with."""
    with pytest.raises(ConnectionClosed) as caught:
        client.recv(DEADLINE)
    assert caught.value.rcvd is not None
    return caught.value.rcvd.code


def refusal(server: Server, path: str) -> int:
    with pytest.raises(InvalidStatus) as caught:
        opened(server, path)
    return caught.value.response.status_code


def test_scope(server: Server) -> None:
    with opened(server, "/scope?a=b", additional_headers=[("X-One", "1")]) as client:
        seen = json.loads(client.recv(DEADLINE))
        host, port = client.local_address[:2]
    assert (seen["proto"], seen["scheme"], seen["method"]) == ("ws", "http", "GET")
    assert (seen["path"], seen["query_string"], seen["item"]) == ("/scope", "a=b", "1")
    assert (seen["client"], seen["server"]) == (f"{host}:{port}", f"127.0.0.1:{server.port}")


def test_messages_both_ways_and_the_end(server: Server) -> None:
    since = server.output.mark()
    with opened(server, "/echo", max_size=None) as client:
        for message in ("text", b"bytes", "", b"", "ü" * 100_000, bytes(300_000)):
            client.send(message)
            assert client.recv(DEADLINE) == message
        client.close(4000, "enough")
    server.wait_for_line("^after the end: ProtocolClosed ProtocolClosed$", since=since)


def test_client_that_vanishes_ends_it_too(server: Server) -> None:
    since = server.output.mark()
    with opened(server, "/echo") as client:
        client.send("x")
        assert client.recv(DEADLINE) == "x"
        client.socket.shutdown(socket.SHUT_RDWR)
    server.wait_for_line("^after the end: ProtocolClosed ProtocolClosed$", since=since)


def test_subprotocols_are_not_chosen(server: Server) -> None:
    with opened(server, "/echo", subprotocols=["chat"]) as client:
        assert client.subprotocol is None


@pytest.mark.parametrize(
    ("query", "code"),
    [("", 1000), ("?4001", 4001), ("?1001", 1001), ("?200", 1000), ("?404", 1008), ("?500", 1011)],
)
def test_close(server: Server, query: str, code: int) -> None:
    with opened(server, f"/close{query}") as client:
        assert closing(client) == code


@pytest.mark.parametrize(
    ("query", "status"), [("", 403), ("?404", 404), ("?503", 503), ("?1000", 403), ("?200", 403)]
)
def test_refusal(server: Server, query: str, status: int) -> None:
    assert refusal(server, f"/refuse{query}") == status


def test_one_that_is_not_accepted_is_refused(server: Server) -> None:
    since = server.output.mark()
    assert refusal(server, "/nothing") == 403
    assert not [line for line in server.lines(since=since) if line.startswith("ERROR")]


def test_return_closes(server: Server) -> None:
    with opened(server, "/return") as client:
        assert closing(client) == 1000


def test_exceptions(server: Server) -> None:
    server.tolerates_tracebacks = True
    since = server.output.mark()
    assert refusal(server, "/raises") == 500
    server.wait_for_line("RuntimeError: on purpose", since=since)
    since = server.output.mark()
    with opened(server, "/raises?accepted") as client:
        assert closing(client) == 1011
    server.wait_for_line(r"application, WebSocket /raises\?accepted$", since=since)
    server.wait_for_line("RuntimeError: on purpose", since=since)
    assert server.get("/").text == "hello"


def test_calls_that_do_not_fit(server: Server) -> None:
    since = server.output.mark()
    with opened(server, "/twice") as client:
        assert client.recv(DEADLINE) == "ProtocolError"
        assert closing(client) == 1000
    server.wait_for_line("^a late message is a ProtocolError$", since=since)


def test_calls_on_other_threads(server: Server) -> None:
    with opened(server, "/thread") as client:
        client.send("through a thread")
        assert client.recv(DEADLINE) == "through a thread"


def test_sender_waits_for_the_client(serve: Serve) -> None:
    server = serve("rsgi_lab:app")

    def rests() -> bool:
        before = server.get("/sent-so-far").text
        with server.connect() as idle:
            idle.silent(0.3)
        return before == server.get("/sent-so-far").text

    # One that does not read; those of libraries do, whatever the program does.
    with Socket.open(server.address, "/flood"):
        eventually(rests, "the application to wait for its client")
    assert 0 < int(server.get("/notes?flooded").text) < 64 << 20


@pytest.mark.parametrize(("number", "code"), [(signal.SIGHUP, 1012), (signal.SIGTERM, 1001)])
def test_end_of_the_worker(serve: Serve, number: int, code: int) -> None:
    server = serve("rsgi_lab:app", "--reload-probation", "0")
    with opened(server, "/echo") as client:
        client.send("x")
        assert client.recv(DEADLINE) == "x"
        server.send_signal(number)
        assert closing(client) == code
    server.wait_for_line("^after the end: ProtocolClosed ProtocolClosed$")
