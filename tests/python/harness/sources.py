"""Applications that tests write into a directory of their own, to change them there."""

from __future__ import annotations

VERSIONED = """
import asyncio
import os
import sys
import time

VERSION = {version!r}

{top}

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                {startup}
                if gate := {gate}:
                    print("starting", VERSION, os.getpid(), flush=True)
                    while not os.path.exists(gate):
                        await asyncio.sleep(0.01)
                await send({{"type": "lifespan.startup.complete"}})
            else:
                {shutdown}
                await send({{"type": "lifespan.shutdown.complete"}})
                return
    if scope["path"] == "/slow":
        await asyncio.sleep(int(scope["query_string"] or b"20") / 1000)
    if scope["path"] == "/wait":
        print("waiting in", VERSION, flush=True)
        while not os.path.exists("released"):
            await asyncio.sleep(0.02)
    while scope["path"] == "/block" and not os.path.exists("released"):
        time.sleep(0.02)
    body = f"{{VERSION}} {{os.getpid()}} {{os.getppid()}}".encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({{"type": "http.response.start", "status": 200, "headers": headers}})
    await send({{"type": "http.response.body", "body": body}})
"""


def versioned(
    version: str,
    *,
    top: str = "",
    startup: str = "pass",
    shutdown: str = "pass",
    gate: str = "None",
) -> str:
    """An application that answers with its version, its pid and that of its parent.

    ``/slow?MS`` takes so long; ``/wait`` prints a line and waits until there is a file
    ``released``, and ``/block`` lets nobody else run meanwhile.

    ``top`` runs at import, ``startup`` and ``shutdown`` (one line each) in the lifespan.
    ``gate`` is an expression: if it names a file, the start prints a line and waits until
    that is there.
    """
    return VERSIONED.format(version=version, top=top, startup=startup, shutdown=shutdown, gate=gate)


def answer(text: str) -> tuple[str, int, int]:
    """The version, pid and parent in an answer of :func:`versioned`."""
    version, pid, parent = text.split()
    return version, int(pid), int(parent)


FAILING = """
async def app(scope, receive, send):
    if scope["type"] == "http":
        raise RuntimeError("the application")
    raise NotImplementedError
"""
"""One that raises for each request, and has no lifespan."""
