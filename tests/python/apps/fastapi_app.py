"""FastAPI: what its users do most."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import anyio
import anyio.to_thread
import sniffio
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, Request, Response, UploadFile
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

done: list[str] = []
current: contextvars.ContextVar[str] = contextvars.ContextVar("current", default="nothing")


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, str]]:
    print("fastapi started", flush=True)
    yield {"from_lifespan": "kept"}
    print("fastapi stopped", flush=True)


app = FastAPI(lifespan=lifespan)


@app.get("/ping")
async def ping() -> dict[str, str]:
    return {"message": "pong"}


@app.get("/ping-sync")
def ping_sync() -> dict[str, str]:
    return {"message": "pong"}


@app.get("/thread")
def thread() -> dict[str, object]:
    return {
        "main": threading.current_thread() is threading.main_thread(),
        "name": threading.get_ident(),
    }


@app.get("/items/{number}")
async def item(number: int, q: str | None = None) -> dict[str, object]:
    return {"number": number, "q": q}


class Order(BaseModel):
    name: str
    count: int


@app.post("/orders", status_code=201)
async def order(order: Order) -> Order:
    return order


async def resource() -> AsyncIterator[str]:
    yield "open"
    done.append("resource closed")


@app.get("/dependency")
async def dependency(value: Annotated[str, Depends(resource)]) -> str:
    return value


@app.get("/done")
async def what_is_done() -> list[str]:
    return done


@app.get("/background")
async def background(tasks: BackgroundTasks) -> str:
    async def later() -> None:
        await asyncio.sleep(0.1)
        done.append("async task")

    tasks.add_task(later)
    tasks.add_task(done.append, "sync task")
    return "answered"


@app.get("/state")
async def state(request: Request) -> str:
    return request.state.from_lifespan


@app.get("/stream")
async def stream() -> StreamingResponse:
    async def parts() -> AsyncIterator[str]:
        for number in range(100):
            yield f"{number},"
            await asyncio.sleep(0)

    return StreamingResponse(parts(), media_type="text/plain")


@app.get("/stream-sync")
def stream_sync() -> StreamingResponse:
    return StreamingResponse((f"{number}," for number in range(100)), media_type="text/plain")


@app.get("/endless")
async def endless() -> StreamingResponse:
    async def parts() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x" * 1000
                await asyncio.sleep(0.01)
        finally:
            done.append("endless ended")

    return StreamingResponse(parts())


@app.post("/upload")
async def upload(file: UploadFile) -> dict[str, object]:
    size = 0
    while part := await file.read(1 << 20):
        size += len(part)
    return {"name": file.filename, "size": size}


@app.put("/raw")
async def raw(request: Request) -> int:
    size = 0
    async for part in request.stream():
        size += len(part)
    return size


@app.get("/error")
async def error() -> None:
    raise RuntimeError("on purpose")


@app.get("/refused")
async def refused() -> None:
    raise HTTPException(403, "not for you")


@app.get("/cookies")
async def cookies(response: Response) -> str:
    response.set_cookie("a", "1")
    response.set_cookie("b", "2")
    return "cookies"


@app.get("/disconnected")
async def disconnected(request: Request) -> bool:
    return await request.is_disconnected()


@app.get("/wait-for-disconnect")
async def wait_for_disconnect(request: Request) -> None:
    print("waiting", flush=True)
    while not await request.is_disconnected():
        await asyncio.sleep(0.01)
    done.append("disconnected")


@app.get("/context/{value}")
async def context(value: str) -> dict[str, str]:
    before = current.get()
    current.set(value)
    await asyncio.sleep(0.01)
    in_thread = await anyio.to_thread.run_sync(current.get)
    return {"before": before, "after": current.get(), "thread": in_thread}


@app.get("/groups")
async def groups() -> dict[str, object]:
    async def one(number: int) -> int:
        await asyncio.sleep(0.001 * number)
        return number

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(number)) for number in range(5)]
    results: list[int] = []

    async def other(number: int) -> None:
        await anyio.sleep(0.001 * number)
        results.append(number)

    async with anyio.create_task_group() as nursery:
        for number in range(5):
            nursery.start_soon(other, number)
    with anyio.move_on_after(0.01) as scope:
        await anyio.sleep(10)
    return {
        "asyncio": [task.result() for task in tasks],
        "anyio": results,
        "cancelled": scope.cancelled_caught,
        "library": sniffio.current_async_library(),
    }


@app.get("/timeout")
async def timeout() -> str:
    try:
        async with asyncio.timeout(0.01):
            await asyncio.sleep(10)
    except TimeoutError:
        return "timed out"
    return "no time-out"


@app.get("/task")
async def task() -> bool:
    current_task = asyncio.current_task()
    return isinstance(current_task, asyncio.Task)
