"""Clients that people use: those of Python, npm's ws, and a browser."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable

import aiohttp
import pytest
import wsproto
from harness import node
from harness.browser import Browser, needs_browser
from harness.clients import connect, run, url
from harness.marks import rsgun_only
from harness.server import Server
from harness.waiting import DEADLINE
from wsproto import events

pytestmark = rsgun_only

Serve = Callable[..., Server]


@pytest.fixture
def server(shared: Serve) -> Server:
    return shared("sockets:app")


# --- Python -----------------------------------------------------------------------


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


# --- ws ---------------------------------------------------------------------------


@pytest.mark.skipif(not (node.NODE and node.NPM), reason="needs node and npm")
class TestNode:
    def start(
        self, server: Server, scenario: str, path: str = "/", **options: object
    ) -> node.Script:
        return node.Script("ws.cjs", url(server, path), scenario, json.dumps(options))

    def told(self, script: node.Script) -> list[list[object]]:
        return [json.loads(line) for line in script.wait(4 * DEADLINE)]

    @pytest.mark.parametrize(
        ("offer", "extensions"),
        [
            (False, ""),
            (True, "permessage-deflate"),
            ({"serverNoContextTakeover": True}, "permessage-deflate"),
            ({"clientMaxWindowBits": 10, "serverMaxWindowBits": 10}, "permessage-deflate"),
        ],
        ids=["plain", "deflate", "no-takeover", "small-windows"],
    )
    def test_messages(self, shared: Serve, offer: object, extensions: str) -> None:
        server = shared("sockets:app")
        since = server.output.mark()
        # A threshold of 0 compresses every message.
        if isinstance(offer, dict):
            offer["threshold"] = 0
        with self.start(server, "echo", perMessageDeflate=offer) as script:
            assert self.told(script) == [
                ["upgrade", None],
                ["open", "", extensions],
                ["fragments", "fragment"],
                ["pong", "are you there"],
                ["close", 4321, ""],
            ]
        server.wait_for_line("^noted disconnect 4321 enough$", since=since)

    @pytest.mark.parametrize("deflate", [False, True])
    def test_burst(self, shared: Serve, deflate: bool) -> None:
        server = shared("sockets:app")
        with self.start(server, "burst", perMessageDeflate=deflate) as script:
            assert self.told(script)[2:] == [["answered", 2000], ["close", 1005, ""]]

    def test_subprotocol_and_headers(self, shared: Serve) -> None:
        server = shared("sockets:app")
        path = "/accept?subprotocol=b"
        with self.start(server, "echo", path, protocols=["a", "b"]) as script:
            assert self.told(script)[:2] == [["upgrade", "1"], ["open", "b", "permessage-deflate"]]

    @pytest.mark.parametrize(("path", "status"), [("/reject", 403), ("/reject/response", 401)])
    def test_rejection(self, shared: Serve, path: str, status: int) -> None:
        server = shared("sockets:app")
        with self.start(server, "echo", path) as script:
            assert self.told(script)[0] == ["refused", status]

    @pytest.mark.parametrize(
        ("number", "end"),
        [
            (signal.SIGHUP, ["close", 1012, "the server restarts"]),
            (signal.SIGTERM, ["close", 1001, "the server stops"]),
            (signal.SIGINT, ["close", 1001, "the server stops"]),
        ],
        ids=["reload", "stop", "quick-stop"],
    )
    def test_end_of_the_worker(self, serve: Serve, number: int, end: list[object]) -> None:
        server = serve("sockets:app")
        with self.start(server, "stay") as script:
            assert script.output.wait_for("echo", DEADLINE, "stdout", 0)
            server.send_signal(number)
            assert self.told(script)[-1] == end


# --- a browser --------------------------------------------------------------------


OPEN = """
    window.log = [];
    window.socket = new WebSocket(`ws://${location.host}%s`, %s);
    socket.binaryType = "arraybuffer";
    socket.onmessage = ({data}) => log.push(data);
    socket.onclose = ({code, reason, wasClean}) => log.push({code, reason, wasClean});
    window.answer = () => new Promise((resolve) =>
        socket.addEventListener("message", ({data}) => resolve(data), {once: true}));
    await new Promise((resolve) => { socket.onopen = resolve; socket.onerror = resolve; });
"""


def opening(path: str = "/", protocols: tuple[str, ...] = ()) -> str:
    return OPEN % (path, json.dumps(protocols))


@needs_browser
@pytest.mark.timeout(180)
class TestBrowser:
    @pytest.fixture
    def server(self, shared: Serve) -> Server:
        return shared("browser:app")

    def test_page_with_many_scripts(self, browser: Browser, server: Server) -> None:
        with browser.open(server.url) as page:
            assert page.run("return [document.title, loaded]") == ["rsgun", 40]

    def test_messages(self, browser: Browser, server: Server) -> None:
        with browser.open(server.url) as page:
            extensions = page.run(opening() + "return socket.extensions")
            assert str(extensions).startswith("permessage-deflate")
            assert page.run(
                """
                for (const text of ["text", "grün 🦀", "", "long".repeat(100_000)]) {
                    const answered = answer();
                    socket.send(text);
                    if (await answered !== text) return `${text.length} characters`;
                }
                for (const length of [0, 1, 126, 65_536, 1_000_000]) {
                    const sent = new Uint8Array(length).map((_, index) => index % 251);
                    const answered = answer();
                    socket.send(sent);
                    const found = new Uint8Array(await answered);
                    const differs = found.some((byte, index) => byte !== sent[index]);
                    if (found.length !== length || differs) return `${length} bytes`;
                }
                for (let number = 0; number < 1000; number += 1) socket.send(`message ${number}`);
                while (log.length < 1009) await answer();
                return log.slice(9).every((text, number) => text === `message ${number}`);
                """
            )
            since = server.output.mark()
            page.run("socket.close(4321, 'enough')")
            server.wait_for_line("^noted disconnect 4321 enough$", since=since)
            page.eventually("socket.readyState === WebSocket.CLOSED", "the end")
            assert page.run("return log.at(-1)") == {
                "code": 4321,
                "reason": "",
                "wasClean": True,
            }

    def test_subprotocol(self, browser: Browser, server: Server) -> None:
        with browser.open(server.url) as page:
            code = opening("/accept?subprotocol=b", ("a", "b"))
            assert page.run(code + "return socket.protocol") == "b"

    def test_end_by_the_application(self, browser: Browser, server: Server) -> None:
        with browser.open(server.url) as page:
            page.run(opening("/close?code=4003&reason=go"))
            assert page.eventually("log.at(-1)", "the end") == {
                "code": 4003,
                "reason": "go",
                "wasClean": True,
            }

    def test_rejection(self, browser: Browser, server: Server) -> None:
        with browser.open(server.url) as page:
            page.run(opening("/reject"))
            found = page.eventually("log.at(-1)", "the end")
            assert found == {"code": 1006, "reason": "", "wasClean": False}

    def test_page_that_is_closed(self, browser: Browser, server: Server) -> None:
        with browser.open(server.url) as page:
            page.run(opening())
            since = server.output.mark()
        server.wait_for_line("^noted disconnect 1001 $", since=since)

    def test_reload_and_stop(self, browser: Browser, serve: Serve) -> None:
        server = serve("browser:app")
        with browser.open(server.url) as page:
            page.run(opening())
            server.send_signal(signal.SIGHUP)
            assert page.eventually("log.at(-1)", "the end") == {
                "code": 1012,
                "reason": "the server restarts",
                "wasClean": True,
            }
            server.wait_for_generation(2, 1)
            # The new generation takes it up again.
            page.run(opening() + "socket.send('again')")
            assert page.eventually("log.at(-1)", "the answer") == "again"
            server.send_signal(signal.SIGTERM)
            assert page.eventually("log.length > 1 && log.at(-1)", "the end") == {
                "code": 1001,
                "reason": "the server stops",
                "wasClean": True,
            }

    def test_events(self, browser: Browser, server: Server) -> None:
        with browser.open(server.url) as page:
            page.run(
                """
                window.log = [];
                window.source = new EventSource("/events");
                source.onmessage = ({lastEventId, data}) => log.push([lastEventId, data]);
                """
            )
            for number in range(1, 4):
                page.eventually(f"log.length === {number}", "an event")
                page.run("await fetch('/step')")
            page.eventually("log.length === 4", "the last event")
            # The application ends the stream: the browser comes back, and says what it has.
            page.run("await fetch('/end')")
            page.eventually("log.length === 5", "an event of the next stream")
            assert page.run("return log.map(([id]) => id)") == ["1", "2", "3", "4", "5"]
            since = server.output.mark()
            page.run("source.close()")
            server.wait_for_line("^noted /events left$", since=since)

    def test_stream(self, browser: Browser, server: Server) -> None:
        with browser.open(server.url) as page:
            page.run("window.reader = (await fetch('/stream')).body.getReader()")
            for _ in range(5):
                text = page.run("return new TextDecoder().decode((await reader.read()).value)")
                assert str(text).startswith("id: ")
                page.run("await fetch('/step')")
            since = server.output.mark()
            page.run("await reader.cancel()")
            server.wait_for_line("^noted /stream left$", since=since)

    def test_upload(self, browser: Browser, server: Server) -> None:
        with browser.open(server.url) as page:
            size = 20_000_000
            script = f"const body = new Blob([new Uint8Array({size})]);"
            script += "return (await fetch('/upload', {method: 'POST', body})).json()"
            assert page.run(script) == size
