"""WebSockets of ASGI applications: the handshake, events, and ends."""

from __future__ import annotations

import ast
import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.clients import connect, run
from harness.frames import BINARY, CLOSE, HANDSHAKE, TEXT, Socket, closing, frame
from harness.marks import rsgun_only
from harness.server import Server
from websockets.exceptions import ConnectionClosed, InvalidStatus

pytestmark = rsgun_only

Serve = Callable[..., Server]


@pytest.fixture
def server(shared: Serve) -> Server:
    return shared("sockets:app")


# --- frameworks -------------------------------------------------------------------


class TestFrameworks:
    @pytest.fixture
    def server(self, shared: Serve) -> Server:
        return shared("fastapi_sockets:app")

    def test_fastapi_json(self, server: Server) -> None:
        async def work() -> None:
            async with connect(server, "/json/me?x=1", subprotocols=["xml", "json"]) as socket:
                assert socket.subprotocol == "json"
                assert socket.response.headers["x-name"] == "me"
                assert json.loads(await socket.recv()) == {"state": "from the state"}
                await socket.send('{"a": 1}')
                assert json.loads(await socket.recv()) == {"name": "me", "got": {"a": 1}}
                await socket.close(1001, "bye")

        since = server.output.mark()
        run(work())
        server.wait_for_line("fastapi disconnect 1001 bye", since=since)

    def test_fastapi_bytes_and_starlette(self, server: Server) -> None:
        async def work() -> None:
            async with connect(server, "/bytes") as socket:
                await socket.send(b"abc")
                assert await socket.recv() == b"cba"
            async with connect(server, "/starlette/") as socket:
                await socket.send("abc")
                assert await socket.recv() == "ABC"

        since = server.output.mark()
        run(work())
        server.wait_for_line("starlette disconnect 1000", since=since)

    def test_fastapi_dependency(self, server: Server) -> None:
        async def work() -> None:
            async with connect(server, "/token?token=secret") as socket:
                assert await socket.recv() == "secret"
                with pytest.raises(ConnectionClosed) as closed:
                    await socket.recv()
                assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (3000, "done")

        run(work())

    @pytest.mark.parametrize(
        ("path", "status", "body"),
        [
            ("/token", 401, {"detail": "no entry"}),
            ("/denied", 418, {"why": "because"}),
            ("/nowhere", 403, None),
        ],
    )
    def test_fastapi_rejections(
        self, server: Server, path: str, status: int, body: dict[str, str] | None
    ) -> None:
        with server.connect() as connection:
            answer = connection.get(path, headers=HANDSHAKE)
        assert answer.status == status
        if body:
            assert json.loads(answer.body) == body


# --- the handshake ----------------------------------------------------------------


def test_scope(server: Server) -> None:
    headers = [("Sec-WebSocket-Protocol", "one, two"), ("Sec-WebSocket-Protocol", "three")]
    with Socket.open(server.address, "/sc%6fpe?q=%20", headers=headers) as socket:
        scope = ast.literal_eval(socket.receive().payload.decode())
        host, port = socket.connection.own_address
    assert {key: scope[key] for key in scope if key != "headers"} == {
        "type": "websocket",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "scheme": "ws",
        "path": "/scope",
        "raw_path": b"/sc%6fpe",
        "query_string": b"q=%20",
        "root_path": "",
        "client": (host, port),
        "server": server.address,
        "subprotocols": ["one", "two", "three"],
        "state": {"started": "yes"},
        "extensions": {"websocket.http.response": {}},
    }
    assert (b"host", b"testserver") in scope["headers"]


def test_subprotocol_and_headers(server: Server) -> None:
    headers = [("Sec-WebSocket-Protocol", "a, b")]
    with Socket.open(server.address, "/accept?subprotocol=b", headers=headers) as socket:
        assert socket.response.header("sec-websocket-protocol") == "b"
        assert (socket.response.header("x-one"), socket.response.header("x-two")) == ("1", "2")
        socket.close()


def test_subprotocol_that_was_not_offered_is_left_out(server: Server) -> None:
    since = server.output.mark()
    with Socket.open(server.address, "/accept?subprotocol=c") as socket:
        assert socket.response.header("sec-websocket-protocol") is None
        socket.close()
    server.wait_for_line('WARNING.* subprotocol "c" was not offered', since=since)


@pytest.mark.parametrize("header", ["sec-websocket-accept", "sec-websocket-protocol", "a b"])
def test_headers_of_the_handshake_belong_to_the_server(server: Server, header: str) -> None:
    server.tolerates_tracebacks = True
    since = server.output.mark()
    with server.connect() as connection:
        answer = connection.get(f"/accept?header={header.replace(' ', '+')}", headers=HANDSHAKE)
    assert answer.status == 500
    server.wait_for_line(r"^\w+Error: .*header", since=since)


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("/reject", 403, "Forbidden"),
        ("/reject/response", 401, "no entry"),
        ("/reject/raises", 500, "Internal Server Error"),
        ("/reject/returns", 500, "Internal Server Error"),
    ],
)
def test_rejections(server: Server, path: str, status: int, body: str) -> None:
    server.tolerates_tracebacks = True
    since = server.output.mark()

    async def work() -> None:
        with pytest.raises(InvalidStatus) as refused:
            async with connect(server, path):
                pass
        response = refused.value.response
        assert (response.status_code, response.body.decode()) == (status, body)
        if status == 401:
            assert response.headers["x-why"] == "who are you"

    run(work())
    if status in (401, 403):
        server.wait_for_line("noted rejected websocket.disconnect 1006", since=since)
    if path == "/reject/raises":
        # Not to be taken for what the next test has caused.
        server.wait_for_line("^RuntimeError: on purpose", since=since)


def test_client_that_leaves_during_the_handshake(server: Server) -> None:
    since = server.output.mark()
    with server.connect() as connection:
        connection.request("/reject/later", headers=HANDSHAKE)
        server.wait_for_line("noted handshake", since=since)
        connection.reset()
    server.wait_for_line("noted disconnect websocket.disconnect 1006", since=since)
    server.wait_for_line("noted OSError", since=since)


@pytest.mark.parametrize("name", ["none", "NONE"])
def test_ws_none_serves_handshakes_as_requests(serve: Serve, name: str) -> None:
    server = serve("sockets:app", "--ws", name)
    with server.connect() as connection:
        assert connection.get("/", headers=HANDSHAKE).text == "plain"


@pytest.mark.parametrize("name", ["auto", "websockets", "websockets-sansio", "wsproto"])
def test_names_of_uvicorn_are_understood(serve: Serve, name: str) -> None:
    server = serve("sockets:app", "--ws", name)
    with Socket.open(server.address) as socket:
        socket.close()


def test_access_log(server: Server) -> None:
    since = server.output.mark()
    with Socket.open(server.address, "/?a=b") as socket:
        client = "{}:{}".format(*socket.connection.own_address)
        line = re.escape(f'INFO:     {client} - "WebSocket /?a=b" [accepted]')
        server.wait_for_line(f"^{line}$", stream="stdout", since=since)
    with server.connect() as connection:
        connection.get("/reject", headers=HANDSHAKE)
        client = "{}:{}".format(*connection.own_address)
        line = re.escape(f'INFO:     {client} - "WebSocket /reject" 403 Forbidden')
        server.wait_for_line(f"^{line}$", stream="stdout", since=since)


def test_over_a_unix_socket(serve: Serve, tmp_path: Path) -> None:
    server = serve("sockets:app", "--uds", str(tmp_path / "socket"))
    with Socket.open(server.address, "/scope") as socket:
        scope = ast.literal_eval(socket.receive().payload.decode())
    assert scope["client"] is None
    assert scope["server"] == (str(tmp_path / "socket"), None)


# --- events and ends --------------------------------------------------------------


def test_wrong_messages_raise_and_change_nothing(server: Server) -> None:
    with Socket.open(server.address, "/bad") as socket:
        found = json.loads(socket.receive().payload)
        assert found == [
            *("ValueError", "ValueError", "TypeError", "TypeError", "ValueError", "ValueError"),
            *("RuntimeError", "RuntimeError", "RuntimeError", "RuntimeError", "TypeError"),
        ]
        assert socket.receive().code == 1000


@pytest.mark.parametrize(
    ("query", "code", "reason"),
    [
        ("", 1000, ""),
        ("code=1008&reason=go", 1008, "go"),
        ("code=4999", 4999, ""),
        ("code=1005", None, ""),
        (f"code=4000&reason={'x' * 200}", 4000, "x" * 123),
    ],
)
def test_application_closes(server: Server, query: str, code: int | None, reason: str) -> None:
    since = server.output.mark()
    with Socket.open(server.address, f"/close?{query}") as socket:
        found = socket.receive()
        assert (found.opcode, found.code, found.reason) == (CLOSE, code, reason)
        socket.send(frame(CLOSE, found.payload))
        assert socket.ends()
    server.wait_for_line(f"noted closed websocket.disconnect {code or 1005}", since=since)
    server.wait_for_line("noted error RuntimeError", since=since)


def test_application_that_raises(server: Server) -> None:
    server.tolerates_tracebacks = True
    since = server.output.mark()
    with Socket.open(server.address, "/raises") as socket:
        assert socket.receive().code == 1011
    server.wait_for_line("exception in the application, WebSocket /raises$", since=since)
    server.wait_for_line("RuntimeError: on purpose", since=since)


def test_application_that_returns(server: Server) -> None:
    with Socket.open(server.address, "/returns") as socket:
        assert socket.receive().code == 1000
        socket.send(closing(1000))
        assert socket.ends()


def test_client_that_never_answers_a_close_is_dropped(server: Server) -> None:
    with Socket.open(server.address, "/returns") as socket:
        assert socket.receive().code == 1000
        assert socket.ends(10)


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        (lambda socket: socket.send(closing(1001, "leaving")), "1001 leaving"),
        (lambda socket: socket.send(frame(CLOSE)), "1005 "),
        (lambda socket: socket.connection.finish_sending(), "1006 "),
        (lambda socket: socket.connection.reset(), "1006 "),
        (lambda socket: socket.send(frame(TEXT, b"\xff")), "1007 text is not UTF-8"),
        (lambda socket: socket.send(frame(TEXT, mask=None)), "1002 frame without a mask"),
    ],
    ids=["close", "empty", "half-closed", "reset", "not-utf8", "violation"],
)
def test_application_is_told_at_once(
    server: Server, end: Callable[[Socket], None], expected: str
) -> None:
    since = server.output.mark()
    with Socket.open(server.address) as socket:
        start = time.monotonic()
        end(socket)
        server.wait_for_line(f"^noted disconnect {expected}$", since=since)
        # Less than the time that a client has to answer a close frame.
        assert time.monotonic() - start < 4


def test_messages_come_before_the_disconnect(server: Server) -> None:
    since = server.output.mark()
    with Socket.open(server.address) as socket:
        messages = [frame(TEXT, b"%d" % number) for number in range(20)]
        socket.send(*messages, closing(1000, "all said"))
        assert [socket.receive().payload for _ in range(20)] == [b"%d" % n for n in range(20)]
        assert socket.receive().code == 1000
        assert socket.ends()
    server.wait_for_line("noted disconnect 1000 all said", since=since)


def test_send_raises_when_the_client_has_left(server: Server) -> None:
    since = server.output.mark()
    with Socket.open(server.address, "/push?100") as socket:
        assert socket.receive().opcode == BINARY
        socket.send(closing(1000))
        server.wait_for_line("noted push ended True", since=since)
