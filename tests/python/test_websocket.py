"""WebSockets of ASGI applications: events, ends, limits, and clients that people use."""

from __future__ import annotations

import ast
import asyncio
import json
import re
import resource
import select
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import httpx
import pytest
import websockets.asyncio.client as websockets
import wsproto
from harness.frames import BINARY, CLOSE, HANDSHAKE, PING, PONG, TEXT, Socket, closing, frame
from harness.server import Server
from harness.target import rsgun_only
from harness.waiting import DEADLINE, QUIET, eventually
from harness.wire import Connection
from websockets.exceptions import ConnectionClosed, InvalidStatus
from wsproto import events

pytestmark = rsgun_only

Serve = Callable[..., Server]
KIBIBYTE = 1024


@pytest.fixture
def server(shared: Serve) -> Server:
    return shared("sockets:app")


def url(server: Server, path: str = "/") -> str:
    return server.url.replace("http", "ws", 1) + path


def run(work: Awaitable[None]) -> None:
    asyncio.run(asyncio.wait_for(work, 2 * DEADLINE))  # type: ignore[arg-type]


def connect(server: Server, path: str = "/", **more: object) -> websockets.connect:
    return websockets.connect(url(server, path), proxy=None, **more)  # type: ignore[arg-type]


# --- clients ----------------------------------------------------------------------


@pytest.mark.parametrize("compression", [None, "deflate"])
def test_websockets_client(server: Server, compression: str | None) -> None:
    async def work() -> None:
        async with connect(server, compression=compression, max_size=None) as socket:
            for message in ("text", "grün 🦀", b"bytes", "", b"", "long" * 100_000, bytes(1 << 20)):
                await socket.send(message)
                assert await socket.recv() == message
            await (await socket.ping(b"are you there"))
            await socket.send(["frag", "ment", "s"])
            assert await socket.recv() == "fragments"
            await socket.close(4321, "enough")
        assert (socket.close_code, socket.close_reason) == (4321, "")

    since = server.output.mark()
    run(work())
    server.wait_for_line("noted disconnect 4321 enough", since=since)


@pytest.mark.parametrize("compress", [0, 15])
def test_aiohttp_client(server: Server, compress: int) -> None:
    async def work() -> None:
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(url(server), compress=compress, max_msg_size=0) as socket,
        ):
            for text in ("text", "long" * 100_000):
                await socket.send_str(text)
                assert await socket.receive_str() == text
            await socket.send_bytes(b"bytes" * 1000)
            assert await socket.receive_bytes() == b"bytes" * 1000
            await socket.close(code=4000)
            assert socket.close_code == 4000

    run(work())


def test_wsproto_client(server: Server) -> None:
    client = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
    found: list[events.Event] = []
    with server.connect() as connection:

        def until(kind: type[events.Event]) -> events.Event:
            while not found or not isinstance(found[-1], kind):
                client.receive_data(connection.receive() or None)
                found.extend(client.events())
            return found[-1]

        connection.send(client.send(events.Request(host="test", target="/")))
        until(events.AcceptConnection)
        connection.send(client.send(events.TextMessage("hello")))
        assert until(events.TextMessage).data == "hello"
        connection.send(client.send(events.CloseConnection(1000)))
        assert until(events.CloseConnection).code == 1000
        assert connection.ended()


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


# --- limits -----------------------------------------------------------------------


def test_send_waits_for_a_slow_client(server: Server) -> None:
    since = server.output.mark()
    with Socket.open(server.address, "/push?50000", receive_buffer=4096) as socket:
        server.wait_for_line("noted pushed 10$", since=since)

        def pushed() -> int:
            numbers = [line.split()[2] for line in server.lines(None, since) if "pushed" in line]
            return int(numbers[-1])

        def stalled() -> bool:
            before = pushed()
            select.select([], [], [], QUIET)
            return pushed() == before

        eventually(stalled, "the application waits")
        stopped_at = pushed()
        assert stopped_at < 500
        for _ in range(stopped_at + 20):
            assert len(socket.receive().payload) == 50_000
        eventually(lambda: pushed() > stopped_at, "the application goes on")


def test_slow_application_stops_reading(serve: Serve) -> None:
    server = serve("sockets:app", "--ws-max-queue", "4", "--ws-ping-interval", "0")
    message = frame(BINARY, bytes(50_000))
    with Socket.open(server.address, "/slow") as socket:
        taken = socket.connection.stalls(message, 200 * len(message))
        # The buffers of the system take some megabytes.
        assert taken < 190 * len(message)
        worker = server.workers()[0]
        assert resident(worker.pid) < 300 << 20
        # What was cut goes on where it was.
        rest = -taken % len(message)
        assert server.get("/go").text == "plain"
        if rest:
            socket.send(message[-rest:])
        count = -(-taken // len(message))
        assert [int(socket.receive().payload) for _ in range(count)] == list(range(1, count + 1))
        socket.close()


def test_pings_keep_a_silent_client(serve: Serve) -> None:
    server = serve("sockets:app", "--ws-ping-interval", "0.1", "--ws-ping-timeout", "60")
    with Socket.open(server.address) as socket:
        for _ in range(5):
            assert socket.receive().opcode == PING
            socket.send(frame(PONG))
        socket.close()


def test_client_that_does_not_answer_pings_is_dropped(serve: Serve) -> None:
    server = serve("sockets:app", "--ws-ping-interval", "0.1", "--ws-ping-timeout", "0.3")
    with Socket.open(server.address) as socket:
        assert socket.receive().opcode == PING
        found = socket.receive()
        assert (found.opcode, found.code) == (CLOSE, 1011)
        assert socket.ends()
    server.wait_for_line("noted disconnect 1006 no answer to a ping")


def test_slow_application_is_no_silent_client(serve: Serve) -> None:
    arguments = ("--ws-max-queue", "1", "--ws-ping-interval", "0.1", "--ws-ping-timeout", "0.1")
    server = serve("sockets:app", *arguments)
    # They are there before the first ping is due.
    early = frame(TEXT, b"x") * 3
    with Socket.open(server.address, "/slow", early=early) as socket:
        assert socket.connection.silent(1), "neither pinged nor dropped while it is not read"
        server.get("/go")
        received = [socket.receive() for _ in range(3)]
        assert [found.payload for found in received] == [b"1", b"2", b"3"]


def test_flood_of_pings_does_not_pile_up(serve: Serve) -> None:
    server = serve("sockets:app")
    with Socket.open(server.address, receive_buffer=4096) as socket:
        worker = server.workers()[0]
        before = resident(worker.pid)
        pings = frame(PING, bytes(125)) * 8_000
        assert socket.connection.stalls(pings, 40 * len(pings), DEADLINE) == 40 * len(pings)
        assert resident(worker.pid) - before < 8 << 20
        socket.send(frame(PING, b"last"))
        while (found := socket.receive()).payload != b"last":
            assert found.opcode == PONG
        socket.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--ws", "legacy"), "it is none of `auto`, `none`"),
        (("--ws-max-size", "0"), "is not a whole number from 1"),
        (("--ws-max-queue", "0"), "is not a whole number from 1"),
        (("--ws-ping-interval", "often"), "is not a number of seconds"),
        (("--ws-ping-timeout", "-1"), "is not a number of seconds"),
    ],
)
def test_wrong_settings(
    run: Callable[..., object], arguments: tuple[str, ...], message: str
) -> None:
    ended = run("sockets:app", *arguments)
    assert ended.returncode != 0  # type: ignore[attr-defined]
    assert message in ended.stderr  # type: ignore[attr-defined]


# --- the end of the worker --------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 1001), (signal.SIGHUP, 1012)], ids=["stop", "reload"]
)
def test_worker_that_drains(serve: Serve, number: int, code: int) -> None:
    server = serve("sockets:app")
    with Socket.open(server.address, "/lingering") as socket:
        server.send_signal(number)
        found = socket.receive()
        assert (found.opcode, found.code) == (CLOSE, code)
        server.wait_for_line(f"noted told {code}")
        socket.send(closing(code))
        assert socket.ends()
    server.wait_for_line("noted lifespan shutdown")
    lines = [line for line in server.lines("stdout") if line.startswith("noted")]
    assert lines == [f"noted told {code}", "noted cleaned up", "noted lifespan shutdown"]
    if number == signal.SIGHUP:
        with Socket.open(server.address) as socket:
            socket.text("the new one")
            assert socket.receive().payload == b"the new one"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=["stop", "reload"])
def test_the_application_is_told_before_the_client(serve: Serve, number: int) -> None:
    server = serve("sockets:app")
    with Socket.open(server.address, "/blocking") as socket:
        server.send_signal(number)
        found = socket.receive()
        assert found.opcode == CLOSE
        closed = time.monotonic()
        told = server.wait_for_line(r"^noted blocks (\S+)$")
        assert closed - float(told[1]) > 0.9
        socket.send(closing(found.code))
        assert socket.ends()


def test_messages_that_wait_are_answered_before_the_drain(serve: Serve) -> None:
    server = serve("sockets:app")
    with Socket.open(server.address, "/slow") as socket:
        socket.send(*[frame(TEXT, b"x")] * 5, frame(PING))
        assert socket.receive().opcode == PONG
        with server.connect() as connection:
            # The worker finds the order and the request at the same moment: it gives an
            # application that does not ask for its messages two seconds.
            (worker,) = server.workers()
            worker.send_signal(signal.SIGSTOP)
            server.send_signal(signal.SIGTERM)
            server.wait_for_line("Shutting down")
            connection.request("/go")
            worker.send_signal(signal.SIGCONT)
            assert connection.response().status == 200
        assert [socket.receive().payload for _ in range(5)] == [b"1", b"2", b"3", b"4", b"5"]
        assert socket.receive().code == 1001
        socket.send(closing(1001))
        assert socket.ends()
    assert server.wait() == 0


def test_drain_does_not_wait_for_ever(serve: Serve) -> None:
    server = serve("sockets:app", "--graceful-timeout", "1")
    with Socket.open(server.address, "/stubborn") as socket:
        server.send_signal(signal.SIGTERM)
        assert socket.receive().code == 1001
        assert server.wait(8) == 0
    lines = [line for line in server.lines("stdout") if line.startswith("noted")]
    assert lines == ["noted cancelled", "noted lifespan shutdown"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_quick_stop_closes_at_once(serve: Serve, number: int) -> None:
    server = serve("sockets:app")
    with (
        Socket.open(server.address, "/stubborn") as one,
        Socket.open(server.address) as other,
    ):
        start = time.monotonic()
        server.send_signal(number)
        for socket in (one, other):
            assert socket.receive().code == 1001
            assert socket.ends()
        assert server.wait() == 0
        # Nobody has answered the close frame, and nobody is waited for.
        assert time.monotonic() - start < 4


# --- many -------------------------------------------------------------------------


def test_broadcast(serve: Serve) -> None:
    server = serve("sockets:app", "--no-access-log")

    async def work() -> None:
        sockets = [await connect(server, "/room") for _ in range(200)]
        for number in range(10):
            await sockets[number].send(f"message {number} " + "x" * 200)
        for socket in sockets:
            found = [(await socket.recv())[:9] for _ in range(10)]
            assert sorted(found) == [f"message {number}" for number in range(10)]
        await asyncio.gather(*(socket.close() for socket in sockets))

    run(work())


def resident(pid: int) -> int:
    """Bytes of memory that a process occupies."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.search(r"^Rss:\s+(\d+) kB", text, re.MULTILINE)
    assert found
    return int(found[1]) * KIBIBYTE


def test_memory_of_idle_connections(serve: Serve) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 5_000
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, wanted + 500), hard), hard))
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    count = max(500, min(wanted, limit - 300))
    server = serve("sockets:app", "--no-access-log", "--ws-ping-interval", "0")
    sockets: list[Socket] = []

    def more(number: int) -> None:
        for _ in range(number):
            offer = [("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits")]
            sockets.append(Socket.open(server.address, headers=offer))

    try:
        more(200)
        worker = server.workers()[0]
        before = resident(worker.pid)
        more(count)
        each = (resident(worker.pid) - before) / count
        print(f"{each / KIBIBYTE:.1f} KiB for each of {count} idle connections")
        assert each < 12 * KIBIBYTE
        sockets[-1].text("still here")
        assert sockets[-1].receive().payload == b"still here"
    finally:
        for socket in sockets:
            socket.connection.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_plain_requests_are_served_beside(server: Server) -> None:
    with Socket.open(server.address) as socket:
        assert httpx.get(server.url + "/", trust_env=False).text == "plain"
        with Connection.open(server.address) as connection:
            assert connection.get("/").text == "plain"
        socket.close()
