"""What the chaos test asks for: every answer can be checked by whoever asked."""

from __future__ import annotations

import asyncio
import os
import zlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

Message = dict[str, Any]


def parts(count: int) -> Iterator[bytes]:
    """The body of ``/stream?COUNT``, piece by piece."""
    for number in range(count):
        yield b"%d;" % number * 200


async def app(
    scope: Message,
    receive: Callable[[], Awaitable[Message]],
    send: Callable[[Message], Awaitable[None]],
) -> None:
    """``/``, ``/slow?MS``, ``/upload`` and ``/stream?PARTS``."""
    if scope["type"] != "http":
        raise RuntimeError("only http")
    path, query = scope["path"], scope["query_string"].decode()
    if path == "/stream":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for part in parts(int(query)):
            await send({"type": "http.response.body", "body": part, "more_body": True})
            await asyncio.sleep(0.005)
        await send({"type": "http.response.body", "body": b"end"})
        return
    if path == "/upload":
        length = checksum = 0
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            data = message.get("body", b"")
            length += len(data)
            checksum = zlib.crc32(data, checksum)
            more = message.get("more_body", False)
        body = f"{length} {checksum}".encode()
    else:
        if path == "/slow":
            await asyncio.sleep(int(query) / 1000)
        body = str(os.getpid()).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
