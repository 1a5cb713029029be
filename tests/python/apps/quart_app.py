"""Quart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from quart import Quart, abort, request

app = Quart(__name__)


@app.before_serving
async def start() -> None:
    print("quart started", flush=True)


@app.after_serving
async def stop() -> None:
    print("quart stopped", flush=True)


@app.get("/ping")
async def ping() -> dict[str, str]:
    return {"message": "pong"}


@app.get("/sync")
def sync() -> str:
    return "from a thread"


@app.post("/echo")
async def echo() -> bytes:
    return await request.get_data()


@app.get("/stream")
async def stream() -> Any:
    async def parts() -> AsyncIterator[bytes]:
        for number in range(50):
            yield b"%d;" % number

    return parts(), 200, {"x-kind": "stream"}


@app.get("/missing-page")
async def missing() -> None:
    abort(404)


@app.get("/job")
async def job() -> str:
    async def work() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            print("quart job ended", flush=True)

    app.add_background_task(work)
    return "begun"
