"""Streams that last: server-sent events, and the tokens of a language model."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from sse_starlette import EventSourceResponse
from starlette.types import ASGIApp, Receive, Scope, Send


class Reporter:
    """What tools that collect the errors of an application would collect."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.app(scope, receive, send)
        except Exception as error:
            print(f"reported {error!r}", flush=True)
            raise


app = FastAPI()
app.add_middleware(Reporter)
seen = asyncio.Event()


@app.get("/worker")
async def worker() -> int:
    return os.getpid()


@app.get("/seen")
async def has_seen() -> None:
    """The client has got the token that was sent last."""
    seen.set()


@app.get("/completion")
async def completion(
    tokens: int, waits: bool = False, pause: float = 0.0, until: str | None = None
) -> StreamingResponse:
    """So many tokens, and more until the file ``until`` is there.

    There is a pause after each, or with ``waits`` until it has arrived.
    """

    async def generate() -> AsyncIterator[str]:
        number = 0
        while number < tokens or (until and not os.path.exists(until)):
            delta = {"token": f" word{number}", "worker": os.getpid()}
            yield f"data: {json.dumps(delta)}\n\n"
            number += 1
            if waits:
                await seen.wait()
                seen.clear()
            else:
                await asyncio.sleep(pause)
        print("completion done", flush=True)
        yield "data: [DONE]\n\n"

    return StreamingResponse(
        generate(), media_type="text/event-stream", headers={"cache-control": "no-store"}
    )


@app.get("/events")
async def events(ping: int = 15, silent: bool = False) -> EventSourceResponse:
    """Events until the client leaves, or none at all."""

    async def generate() -> AsyncIterator[dict[str, Any]]:
        number = 0
        try:
            if silent:
                print("events begun", flush=True)
                await asyncio.Event().wait()
            while True:
                yield {"id": str(number), "event": "number", "data": str(number)}
                number += 1
                await seen.wait()
                seen.clear()
        finally:
            print("events ended", flush=True)

    return EventSourceResponse(generate(), ping=ping)


@app.get("/feed")
async def feed() -> StreamingResponse:
    """Waits for news of which there are none."""

    async def generate() -> AsyncIterator[str]:
        news: asyncio.Queue[str] = asyncio.Queue()
        try:
            yield ": hello\n\n"
            while True:
                yield await news.get()
        finally:
            print("feed ended", flush=True)

    return StreamingResponse(generate(), media_type="text/event-stream")


@app.get("/flood")
async def flood() -> StreamingResponse:
    """More than any client takes."""

    async def generate() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x" * 100_000
        finally:
            print("flood ended", flush=True)

    return StreamingResponse(generate())
