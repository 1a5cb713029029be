"""An MCP server over streamable HTTP: its answers are streams of server-sent events."""

from __future__ import annotations

import asyncio
import os

from mcp.server.mcpserver import Context, MCPServer

server = MCPServer("tools")
reported = asyncio.Event()


@server.tool()
def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


@server.tool()
def worker() -> int:
    """The process that answers."""
    return os.getpid()


@server.tool()
async def count(to: int, ctx: Context, waits: bool = False) -> str:
    """Counts, and reports how far it is; with ``waits`` until that was seen."""
    for number in range(to):
        await ctx.report_progress(number + 1, to, f"at {number + 1}")
        if waits:
            await reported.wait()
            reported.clear()
        else:
            await asyncio.sleep(0.01)
    return f"counted to {to}"


@server.tool()
async def seen() -> None:
    """The client has got the report that was sent last."""
    reported.set()


@server.tool()
async def forever(ctx: Context) -> None:
    """Works until nobody wants it any more."""
    try:
        number = 0
        while True:
            number += 1
            await ctx.report_progress(number)
            await asyncio.sleep(0.01)
    finally:
        print("mcp tool ended", flush=True)


@server.resource("text://greeting")
def greeting() -> str:
    """A text."""
    return "Hello from rsgun\n" * 10_000


app = server.streamable_http_app()
stateless = MCPServer("stateless")
stateless.tool()(add)
stateless.tool()(worker)
json_app = stateless.streamable_http_app(json_response=True, stateless_http=True)
