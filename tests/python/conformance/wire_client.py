"""The client's side of the wire: ASGI messages in, bytes out, and the reverse."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

import anyio
import h11
import wsproto
from wsproto import events
from wsproto.connection import ConnectionState

Headers = list[tuple[bytes, bytes]]

OF_THE_SERVER = {b"date", b"server", b"connection", b"transfer-encoding", b"content-length"}
"""Headers that a server may add by itself."""
RESTORED = ("root_path", "client", "scheme", "server", "state")
"""Parts of the scope that come from options of a server or a client."""


class Exchange:
    """One call of an application, seen from both ends."""

    def __init__(self, app: Any, scope: dict[str, Any]) -> None:
        self.app = app
        self.restored = {key: scope[key] for key in RESTORED if key in scope}
        self.added: set[bytes] = set()
        """Headers that only the wire needs."""
        self.sent: list[dict[str, Any]] = []
        """What the application has sent."""
        self.error: BaseException | None = None
        self.begun = False
        """Whether anything has been sent to the server."""
        self.done = threading.Event()

    def own_headers(self, message: str, found: Any) -> Headers:
        """Headers of an answer without those that the server has added."""
        named = {
            bytes(name).lower()
            for sent in self.sent
            if sent["type"] == message
            for name, _ in sent.get("headers", [])
        }
        return [pair for pair in found if pair[0] not in OF_THE_SERVER - named]


class Http:
    """One request and its answer."""

    def __init__(self, stream: Any, exchange: Exchange, receive: Any, send: Any) -> None:
        self.stream = stream
        self.exchange = exchange
        self.receive = receive
        self.send = send
        self.protocol = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
        self.chunk = b""

    async def run(self, scope: dict[str, Any], target: bytes, headers: Headers) -> None:
        """Sends the request, and what comes back."""
        body = await self.body()
        framing = {b"content-length", b"transfer-encoding"}
        if body and not framing & {name for name, _ in headers}:
            headers.append((b"content-length", b"%d" % len(body)))
            self.exchange.added.add(b"content-length")
        request = h11.Request(method=scope["method"], target=target, headers=headers)
        parts = [request, *([h11.Data(body)] if body else []), h11.EndOfMessage()]
        data = b"".join(self.protocol.send(part) or b"" for part in parts)
        self.exchange.begun = True
        await self.stream.send(data)
        while not await self.take(self.protocol.next_event()):
            continue

    async def body(self) -> bytes:
        """The whole body of the request."""
        body = b""
        more = True
        while more:
            message = await self.receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        return body

    async def take(self, event: Any) -> bool:
        """Takes an event of the protocol; returns whether it was the last one."""
        if event is h11.NEED_DATA:
            data = b""
            with suppress(anyio.EndOfStream):
                data = await self.stream.receive()
            self.protocol.receive_data(data)
        elif isinstance(event, h11.Response):
            if not self.exchange.sent:
                # The server's own answer: the application has sent nothing.
                return True
            kind = "http.response.start"
            headers = self.exchange.own_headers(kind, event.headers)
            await self.send({"type": kind, "status": event.status_code, "headers": headers})
        elif isinstance(event, h11.Data):
            self.chunk += bytes(event.data)
            if event.chunk_end:
                await self.flush()
        elif isinstance(event, h11.EndOfMessage):
            await self.flush()
            await self.send({"type": "http.response.body"})
            return True
        return isinstance(event, h11.ConnectionClosed)

    async def flush(self) -> None:
        """Sends a chunk in one piece."""
        if self.chunk:
            message = {"type": "http.response.body", "body": self.chunk, "more_body": True}
            self.chunk = b""
            await self.send(message)


class WebSocket:
    """One WebSocket."""

    def __init__(self, stream: Any, exchange: Exchange, receive: Any, send: Any) -> None:
        self.stream = stream
        self.exchange = exchange
        self.receive = receive
        self.send = send
        self.protocol = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
        self.parts: list[Any] = []
        self.is_over = False

    async def say(self, event: events.Event) -> None:
        await self.stream.send(self.protocol.send(event))

    async def run(self, scope: dict[str, Any], target: bytes, headers: Headers) -> None:
        """Shakes hands and exchanges messages until the end."""
        others = [
            pair
            for pair in headers
            if pair[0] not in (b"connection", b"upgrade", b"host")
            and not pair[0].startswith(b"sec-websocket-")
        ]
        handshake = events.Request(
            host=dict(headers)[b"host"].decode(),
            target=target.decode(),
            extra_headers=others,
            subprotocols=list(scope.get("subprotocols", [])),
        )
        await self.receive()
        self.exchange.begun = True
        await self.say(handshake)
        async with anyio.create_task_group() as tasks:
            while not self.is_over:
                try:
                    self.protocol.receive_data(await self.stream.receive())
                except (anyio.EndOfStream, anyio.BrokenResourceError):
                    break
                for event in self.protocol.events():
                    await self.take(event)
                    if isinstance(event, events.AcceptConnection):
                        tasks.start_soon(self.forward)
            tasks.cancel_scope.cancel()

    async def forward(self) -> None:
        """Sends what the client says."""
        # What comes after the server's close frame is too late.
        with suppress(wsproto.utilities.LocalProtocolError):
            while (message := await self.receive())["type"] != "websocket.disconnect":
                if message.get("text") is not None:
                    await self.say(events.TextMessage(message["text"]))
                else:
                    await self.say(events.BytesMessage(message["bytes"]))
            code = message.get("code") or 1000
            await self.say(events.CloseConnection(code, message.get("reason")))

    async def take(self, event: events.Event) -> None:
        """Takes an event of the protocol."""
        match event:
            case events.AcceptConnection():
                accept = {"type": "websocket.accept", "subprotocol": event.subprotocol}
                headers = self.exchange.own_headers("websocket.accept", event.extra_headers)
                await self.send({**accept, "headers": headers})
            case events.RejectConnection():
                await self.reject(event)
            case events.RejectData():
                self.is_over = event.body_finished
                if self.has_response():
                    part = {"type": "websocket.http.response.body", "body": bytes(event.data)}
                    await self.send({**part, "more_body": not event.body_finished})
            case events.Message():
                self.parts.append(event.data)
                if event.message_finished:
                    kind = "text" if isinstance(event, events.TextMessage) else "bytes"
                    data = type(event.data)().join(self.parts)
                    self.parts = []
                    await self.send({"type": "websocket.send", kind: data})
            case events.CloseConnection():
                if self.protocol.state is ConnectionState.REMOTE_CLOSING:
                    await self.say(event.response())
                end = {"type": "websocket.close", "code": event.code}
                await self.send({**end, "reason": event.reason or ""})
            case events.Ping():
                await self.say(event.response())

    def has_response(self) -> bool:
        """Whether the application has refused the handshake with an answer of its own."""
        return bool(self.exchange.sent) and self.exchange.sent[0]["type"] != "websocket.close"

    async def reject(self, event: events.RejectConnection) -> None:
        """The handshake was answered with something else than 101."""
        self.is_over = not event.has_body
        if self.has_response():
            kind = "websocket.http.response.start"
            headers = self.exchange.own_headers(kind, event.headers)
            await self.send({"type": kind, "status": event.status_code, "headers": headers})
        elif self.exchange.sent:
            # The code is not on the wire.
            assert event.status_code == 403
            await self.send(self.exchange.sent[0])
