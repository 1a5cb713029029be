"""Programs that serve an application in their own process and check what they see."""

from __future__ import annotations

from collections.abc import Callable

from .server import Server

HELPERS = """
import asyncio, os
import rsgun

def port_of(server):
    return server.servers[0].sockets[0].getsockname()[1]

async def until(check):
    async with asyncio.timeout(30):
        while not check():
            await asyncio.sleep(0.005)

async def begin(app, **settings):
    server = rsgun.Server(rsgun.Config(app, port=0, **settings))
    task = asyncio.create_task(server.serve())
    started = asyncio.create_task(until(lambda: server.started or task.done()))
    await started
    if task.done():
        await task
    return server, task

async def get(port, path="/"):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n".encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer.partition(b"\\r\\n\\r\\n")[2].decode()
"""
"""What such programs use."""

FINISHED = "\nprint('all is well', flush=True)\n"


def succeed(
    program: Callable[..., Server],
    prelude: str,
    source: str,
    *,
    deadline: float = 60,
    **more: object,
) -> Server:
    """Runs a program to its end, which it must reach."""
    server = program(prelude + source + FINISHED, wait=False, **more)
    assert server.wait(deadline) == 0, server.report()
    assert "all is well" in server.lines("stdout"), server.report()
    return server
