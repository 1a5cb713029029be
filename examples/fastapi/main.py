"""A small shop for greetings: what a FastAPI application asks of its server.

Serve it with `rsgun -w 4 main:app` from this directory, or with `make run` from the
root of the repository, and open http://127.0.0.1:8000/docs.
"""

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated, TypedDict

from fastapi import BackgroundTasks, Depends, FastAPI, Header, HTTPException, Request, UploadFile
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

UPLOAD_LIMIT = 100 * 1024 * 1024


# --- Lifespan -----------------------------------------------------------------------
# Runs once in each worker: before its first request and after its last one. What it
# yields is the state that every request sees as `request.state`.


@dataclass
class Catalogue:
    """Stands for a database pool: opened at start-up, closed at shutdown."""

    greetings: dict[str, str] = field(
        default_factory=lambda: {"en": "Hello", "fr": "Bonjour", "ko": "안녕하세요"}
    )
    is_open: bool = True

    def close(self) -> None:
        """Give back what start-up took."""
        self.is_open = False


class State(TypedDict):
    """What the lifespan hands to the requests."""

    catalogue: Catalogue
    started_at: float


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[State]:
    """Open the catalogue, serve, close it."""
    catalogue = Catalogue()
    yield {"catalogue": catalogue, "started_at": time.time()}
    catalogue.close()


app = FastAPI(title="rsgun example", lifespan=lifespan)


# --- The newcomer's endpoint, in both colours -----------------------------------------


@app.get("/ping")
def ping() -> dict[str, str]:
    """Answer from a `def` function: FastAPI runs it in a thread, so it may block."""
    return {"message": "pong"}


@app.get("/ping-async")
async def ping_async() -> dict[str, str]:
    """Answer from an `async def` function: it runs in the event loop, and must not block."""
    return {"message": "pong"}


@app.get("/sleep")
async def sleep(seconds: float = 0.1) -> dict[str, float]:
    """Wait without holding up anybody else."""
    started = time.monotonic()
    await asyncio.sleep(min(seconds, 60))
    return {"slept": round(time.monotonic() - started, 3)}


@app.get("/worker")
def worker(request: Request) -> dict[str, float | int]:
    """Tell which process answers, and since when it is there."""
    return {"pid": os.getpid(), "started_at": request.state.started_at}


# --- Dependencies, one with clean-up ----------------------------------------------------


def get_catalogue(request: Request) -> Iterator[Catalogue]:
    """Lend the catalogue for one request; after the `yield` comes the clean-up."""
    yield request.state.catalogue


def get_language(accept_language: Annotated[str, Header()] = "en") -> str:
    """Read the first language of `Accept-Language`."""
    return accept_language.split(",")[0].split("-")[0].strip().lower()


class Greeting(BaseModel):
    """One line of the shop."""

    text: str
    language: str


@app.get("/greetings/{name}")
def greet(
    name: str,
    catalogue: Annotated[Catalogue, Depends(get_catalogue)],
    language: Annotated[str, Depends(get_language)],
) -> Greeting:
    """Greet somebody in their own language; 404 when it is not in the catalogue."""
    if language not in catalogue.greetings:
        raise HTTPException(404, f"no greeting in {language!r}")
    return Greeting(text=f"{catalogue.greetings[language]} {name}", language=language)


# --- Background tasks: work that starts when the answer is out ---------------------------


class Order(BaseModel):
    """A bad one is answered with 422 and the reason."""

    name: str = Field(min_length=1)
    quantity: int = Field(gt=0, le=1000)


def print_receipt(order: Order) -> None:
    """Do what the caller need not wait for: send a mail, write a file, or just print."""
    print(f"receipt: {order.quantity} x {order.name}", flush=True)


@app.post("/orders", status_code=202)
async def order(order: Order, tasks: BackgroundTasks) -> dict[str, str]:
    """Accept the order at once and print its receipt afterwards."""
    tasks.add_task(print_receipt, order)
    return {"status": "accepted"}


# --- Streaming responses ------------------------------------------------------------------


@app.get("/numbers")
def numbers(count: int = 1000) -> StreamingResponse:
    """Stream lines from a plain generator: never more than a little of it is in memory."""
    lines = (f"{number}\n" for number in range(count))
    return StreamingResponse(lines, media_type="text/plain")


@app.get("/tokens")
async def tokens(prompt: str = "Why is the sky blue?") -> StreamingResponse:
    """Stream an answer token by token as Server-Sent Events, as language models do.

    A reader who leaves early ends the generator: nobody computes for a closed tab.
    """

    async def events() -> AsyncIterator[str]:
        for token in f"You asked: {prompt} That is a good question.".split():
            yield f"data: {token}\n\n"
            await asyncio.sleep(0.05)
        yield "data: [DONE]\n\n"

    return StreamingResponse(
        events(), media_type="text/event-stream", headers={"Cache-Control": "no-cache"}
    )


# --- Uploads -------------------------------------------------------------------------------


class Received(BaseModel):
    """What arrived, to compare with what was sent."""

    size: int
    sha256: str


@app.post("/upload")
def upload(file: UploadFile) -> Received:
    """Take a form upload: `curl -F file=@big.iso`. Large ones are spooled to disk."""
    digest = hashlib.sha256()
    size = 0
    while chunk := file.file.read(1024 * 1024):
        digest.update(chunk)
        size += len(chunk)
    return Received(size=size, sha256=digest.hexdigest())


@app.put("/upload")
async def upload_stream(request: Request) -> Received:
    """Take a raw body as it arrives: `curl -T big.iso`. Memory stays flat."""
    digest = hashlib.sha256()
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > UPLOAD_LIMIT:
            raise HTTPException(413, f"more than {UPLOAD_LIMIT} bytes")
        digest.update(chunk)
    return Received(size=size, sha256=digest.hexdigest())


# --- When the application is wrong -----------------------------------------------------------


@app.get("/broken")
def broken() -> None:
    """Raise: the caller gets a 500, the log the traceback, and the worker goes on."""
    raise RuntimeError("this endpoint is broken on purpose")
