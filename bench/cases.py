"""What is measured, and the bars that rsgun has set itself. Data only."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

HELLO = b"Hello, World!"
LARGE = b"x" * 65536
PONG = json.dumps({"message": "pong"}, separators=(",", ":")).encode()
FLASK_PONG = PONG + b"\n"


@dataclass(frozen=True)
class Bar:
    """What rsgun must reach against one peer: ratios of medians, rsgun to peer."""

    most_cpu: float | None = None
    least_rate: float | None = None


@dataclass(frozen=True)
class Case:
    """One application under one load.

    `interface` names the kind of application; a server takes part in a case when it
    speaks the interface (see `servers.CANDIDATES`). `body` is the answer to a request on
    `path`, with which each server is checked. With `message_bytes` the load is not
    requests but WebSocket messages of that length, which the application sends back.
    """

    name: str
    title: str
    app: str
    path: str
    body: bytes
    connections: int = 64
    workers: int = 1
    interface: str = "asgi"
    message_bytes: int = 0
    bars: dict[str, Bar] = field(default_factory=dict)


CASES = [
    Case("raw-1", "raw ASGI, 1 connection", "raw:hello", "/", HELLO, connections=1),
    Case(
        "raw-64",
        "raw ASGI, 64 connections",
        "raw:hello",
        "/",
        HELLO,
        bars={"granian": Bar(0.55, 1.6), "uvicorn": Bar(0.42, 2.4)},
    ),
    Case(
        "fastapi-async",
        "FastAPI, async endpoint",
        "framework:app",
        "/ping",
        PONG,
        bars={"granian": Bar(0.72, 1.1), "uvicorn": Bar(0.62, 1.7)},
    ),
    Case("fastapi-sync", "FastAPI, sync endpoint", "framework:app", "/ping-sync", PONG),
    Case(
        "large",
        "64 KiB response",
        "raw:large",
        "/",
        LARGE,
        bars={"granian": Bar(most_cpu=0.75), "uvicorn": Bar(most_cpu=0.75)},
    ),
    Case(
        "fastapi-async-2",
        "FastAPI, async endpoint, 2 workers",
        "framework:app",
        "/ping",
        PONG,
        workers=2,
        bars={"granian": Bar(least_rate=1.4), "uvicorn": Bar(least_rate=1.4)},
    ),
    Case(
        "fastapi-sync-2",
        "FastAPI, sync endpoint, 2 workers",
        "framework:app",
        "/ping-sync",
        PONG,
        workers=2,
        bars={"granian": Bar(least_rate=1.2), "uvicorn": Bar(least_rate=1.2)},
    ),
    Case(
        "websocket",
        "WebSocket echo, 32 connections, 64-byte messages",
        "raw:echo",
        "/",
        HELLO,
        connections=32,
        interface="websocket",
        message_bytes=64,
        bars={"granian": Bar(most_cpu=0.66), "uvicorn": Bar(most_cpu=0.66)},
    ),
    Case("rsgi", "RSGI, Hello World", "bare_rsgi:hello", "/", HELLO, interface="rsgi"),
    Case(
        "wsgi",
        "WSGI, Hello World, one thread",
        "plain:hello",
        "/",
        HELLO,
        interface="wsgi",
        bars={"granian": Bar(0.5, 2.0), "gunicorn": Bar(least_rate=15)},
    ),
    Case(
        "flask",
        "Flask, one thread",
        "flasks:app",
        "/ping",
        FLASK_PONG,
        interface="wsgi",
        bars={"granian": Bar(least_rate=1.8), "gunicorn": Bar(least_rate=5)},
    ),
]
