"""Litestar."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from litestar import Litestar, get, post
from litestar.response import Stream


@dataclass
class Order:
    name: str
    count: int


@get("/ping")
async def ping() -> dict[str, str]:
    return {"message": "pong"}


@get("/sync", sync_to_thread=True)
def sync() -> str:
    return "from a thread"


@post("/orders")
async def order(data: Order) -> Order:
    return data


@get("/stream")
async def stream() -> Stream:
    async def parts() -> AsyncIterator[bytes]:
        for number in range(50):
            yield b"%d;" % number

    return Stream(parts())


async def started() -> None:
    print("litestar started", flush=True)


async def stopped() -> None:
    print("litestar stopped", flush=True)


app = Litestar([ping, sync, order, stream], on_startup=[started], on_shutdown=[stopped])
