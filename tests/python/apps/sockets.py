"""WebSocket endpoints in plain ASGI; the path says which."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any
from urllib.parse import parse_qs

from scope import literal

EVENTS: list[list[Any]] = []
"""What the endpoints have seen, for tests that ask afterwards with ``/events``."""

ROOM: set[Any] = set()
GO = asyncio.Event()


def note(name: str, *details: Any) -> None:
    """Remembers something and prints it, so that tests can wait for the line."""
    EVENTS.append([name, *details])
    print("noted", name, *details, flush=True)


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Sends back what comes."""
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})
    note("disconnect", message["code"], message["reason"])


async def scope_(scope: Any, receive: Any, send: Any) -> None:
    """Sends the scope."""
    await send({"type": "websocket.send", "text": repr(literal(scope))})


async def close(scope: Any, receive: Any, send: Any) -> None:
    """Closes as the query says."""
    query = parse_qs(scope["query_string"].decode())
    message: dict[str, Any] = {"type": "websocket.close"}
    if "code" in query:
        message["code"] = int(query["code"][0])
    if "reason" in query:
        message["reason"] = query["reason"][0]
    await send(message)
    message = await receive()
    note("closed", message["type"], message["code"])
    try:
        await send({"type": "websocket.send", "text": "too late"})
    except Exception as error:
        note("error", type(error).__name__)


async def raises(scope: Any, receive: Any, send: Any) -> None:
    """Fails after the handshake."""
    raise RuntimeError("on purpose")


async def returns(scope: Any, receive: Any, send: Any) -> None:
    """Ends without closing."""


async def push(scope: Any, receive: Any, send: Any) -> None:
    """Sends without end and never receives."""
    size = int(scope["query_string"] or b"10000")
    count = 0
    try:
        while True:
            await send({"type": "websocket.send", "bytes": bytes(size)})
            count += 1
            if count % 10 == 0:
                note("pushed", count)
            await asyncio.sleep(0)
    except OSError as error:
        note("push ended", isinstance(error, OSError))
        raise


async def slow(scope: Any, receive: Any, send: Any) -> None:
    """Takes nothing until a request on ``/go`` comes."""
    GO.clear()
    await GO.wait()
    total = 0
    while (await receive())["type"] == "websocket.receive":
        total += 1
        await send({"type": "websocket.send", "text": str(total)})


async def lingering(scope: Any, receive: Any, send: Any) -> None:
    """Needs time to clean up after the end."""
    while (message := await receive())["type"] == "websocket.receive":
        continue
    note("told", message["code"])
    await asyncio.sleep(0.3)
    note("cleaned up")


async def blocking(scope: Any, receive: Any, send: Any) -> None:
    """Holds up everything when it is told of the end."""
    while (await receive())["type"] == "websocket.receive":
        continue
    note("blocks", time.monotonic())
    time.sleep(1)


async def stubborn(scope: Any, receive: Any, send: Any) -> None:
    """Never looks at events."""
    try:
        await asyncio.sleep(600)
    except asyncio.CancelledError:
        note("cancelled")
        raise


async def room(scope: Any, receive: Any, send: Any) -> None:
    """Sends what comes to everybody here."""
    ROOM.add(send)
    try:
        while (message := await receive())["type"] == "websocket.receive":
            for other in list(ROOM):
                await other({**message, "type": "websocket.send"})
    finally:
        ROOM.discard(send)


async def bad(scope: Any, receive: Any, send: Any) -> None:
    """Sends messages that must be refused, and reports how."""
    found = []
    for message in [
        {"type": "websocket.send"},
        {"type": "websocket.send", "text": "a", "bytes": b"b"},
        {"type": "websocket.send", "text": b"bytes"},
        {"type": "websocket.send", "bytes": "text"},
        {"type": "websocket.close", "code": 1006},
        {"type": "websocket.close", "code": "1000"},
        {"type": "websocket.accept"},
        {"type": "websocket.unknown"},
        {"type": "http.response.start", "status": 200},
        {"type": "websocket.http.response.start", "status": 200},
        "no dict",
    ]:
        try:
            await send(message)
        except Exception as error:
            found.append(type(error).__name__)
        else:
            found.append("accepted")
    await send({"type": "websocket.send", "text": json.dumps(found)})


ACCEPTED = {
    "/": echo,
    "/scope": scope_,
    "/close": close,
    "/raises": raises,
    "/returns": returns,
    "/push": push,
    "/slow": slow,
    "/lingering": lingering,
    "/blocking": blocking,
    "/stubborn": stubborn,
    "/room": room,
    "/bad": bad,
}


async def reject(scope: Any, receive: Any, send: Any) -> None:
    """Does not accept."""
    kind = scope["path"].removeprefix("/reject")
    if kind == "/raises":
        raise RuntimeError("on purpose")
    if kind == "/returns":
        return
    if kind == "/response":
        await send(
            {
                "type": "websocket.http.response.start",
                "status": 401,
                "headers": [(b"content-type", b"text/plain"), (b"x-why", b"who are you")],
            }
        )
        await send({"type": "websocket.http.response.body", "body": b"no ", "more_body": True})
        await asyncio.sleep(0)
        await send({"type": "websocket.http.response.body", "body": b"entry"})
    elif kind == "/later":
        note("handshake", scope["path"])
        message = await receive()
        note("disconnect", message["type"], message["code"])
        try:
            await send({"type": "websocket.accept"})
        except OSError:
            note("OSError")
        return
    else:
        await send({"type": "websocket.close", "code": 1008, "reason": "not you"})
    message = await receive()
    note("rejected", message["type"], message["code"])


async def accept(scope: Any, receive: Any, send: Any) -> None:
    """Accepts with subprotocol and headers as the query says."""
    query = parse_qs(scope["query_string"].decode())
    message: dict[str, Any] = {"type": "websocket.accept"}
    if "subprotocol" in query:
        message["subprotocol"] = query["subprotocol"][0]
    message["headers"] = [(b"x-one", b"1"), (b"x-two", b"2"), (b"connection", b"close")]
    if "header" in query:
        message["headers"] = [(query["header"][0].encode(), b"x")]
    await send(message)
    await echo(scope, receive, send)


async def http(scope: Any, receive: Any, send: Any) -> None:
    """Ordinary requests: ``/events``, ``/go``, anything."""
    body = b"plain"
    if scope["path"] == "/events":
        body = json.dumps(EVENTS).encode()
    elif scope["path"] == "/go":
        GO.set()
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": body})


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await receive()
        scope["state"]["started"] = "yes"
        await send({"type": "lifespan.startup.complete"})
        await receive()
        note("lifespan shutdown")
        await send({"type": "lifespan.shutdown.complete"})
    elif scope["type"] == "http":
        await http(scope, receive, send)
    else:
        assert await receive() == {"type": "websocket.connect"}
        if scope["path"].startswith("/reject"):
            await reject(scope, receive, send)
        elif scope["path"] == "/accept":
            await accept(scope, receive, send)
        else:
            await send({"type": "websocket.accept"})
            await ACCEPTED[scope["path"]](scope, receive, send)
