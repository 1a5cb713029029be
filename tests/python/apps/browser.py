"""What a browser opens: a page, server-sent events, a stream, and WebSockets.

Events and stream take a step each time that ``/step`` is asked for, so that a test sees
that every step arrives by itself.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

import sockets

PAGE = b"""<!doctype html>
<meta charset="utf-8">
<title>rsgun</title>
%s
<p>A page</p>
"""
SCRIPTS = 40
STEPS = asyncio.Queue[int]()


async def respond(send: Any, content_type: bytes, body: bytes) -> None:
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-type", content_type), (b"cache-control", b"no-store")],
        }
    )
    await send({"type": "http.response.body", "body": body})


async def steps(scope: Any, receive: Any, send: Any, content_type: bytes) -> None:
    """Sends a part at once, and another one for each step, until the client leaves."""
    headers = dict(scope["headers"])
    last = int(headers.get(b"last-event-id", b"0"))
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-type", content_type), (b"cache-control", b"no-store")],
        }
    )
    await receive()
    leaving = asyncio.ensure_future(receive())
    number = last + 1
    while True:
        text = f"id: {number}\nretry: 100\ndata: {os.getpid()}\n\n"
        await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
        step = asyncio.ensure_future(STEPS.get())
        await asyncio.wait({leaving, step}, return_when=asyncio.FIRST_COMPLETED)
        if leaving.done():
            step.cancel()
            print("noted", scope["path"], "left", flush=True)
            return
        if not step.result():
            await send({"type": "http.response.body", "body": b""})
            leaving.cancel()
            return
        number += 1


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        await sockets.app(scope, receive, send)
        return
    path = scope["path"]
    if path == "/":
        scripts = b"".join(b'<script src="/script/%d.js"></script>' % n for n in range(SCRIPTS))
        await respond(send, b"text/html", PAGE % scripts)
    elif path.startswith("/script/"):
        await respond(send, b"text/javascript", b"window.loaded = (window.loaded ?? 0) + 1;")
    elif path in ("/step", "/end"):
        STEPS.put_nowait(path == "/step")
        await respond(send, b"text/plain", b"")
    elif path == "/events":
        await steps(scope, receive, send, b"text/event-stream")
    elif path == "/stream":
        await steps(scope, receive, send, b"text/plain")
    elif path == "/upload":
        size = 0
        more = True
        while more:
            message = await receive()
            size += len(message.get("body", b""))
            more = message.get("more_body", False)
        await respond(send, b"application/json", b"%d" % size)
    else:
        await send({"type": "http.response.start", "status": 404})
        await send({"type": "http.response.body", "body": b""})
