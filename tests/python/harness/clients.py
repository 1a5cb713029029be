"""Clients of Python: httpx for requests, and websockets."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import httpx
import websockets.asyncio.client as websockets

from harness.server import Server
from harness.waiting import DEADLINE


def client_for(server: Server) -> httpx.Client:
    """A client that keeps its connections."""
    return httpx.Client(base_url=server.url, timeout=DEADLINE, trust_env=False)


def url(server: Server, path: str = "/") -> str:
    """The address of a WebSocket."""
    return server.url.replace("http", "ws", 1) + path


def run(work: Awaitable[None]) -> None:
    """Runs a client to its end."""
    asyncio.run(asyncio.wait_for(work, 2 * DEADLINE))  # type: ignore[arg-type]


def connect(server: Server, path: str = "/", **more: object) -> websockets.connect:
    """Opens one."""
    return websockets.connect(url(server, path), proxy=None, **more)  # type: ignore[arg-type]
