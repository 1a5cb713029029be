"""python-socketio over ASGI: events with answers, a room, and the server's own events."""

from __future__ import annotations

import os
from typing import Any

import socketio

sio = socketio.AsyncServer(async_mode="asgi", cors_allowed_origins="*")
app = socketio.ASGIApp(sio)


@sio.event
async def connect(sid: str, environ: dict[str, Any], auth: Any) -> bool:
    print("socketio connect", auth, environ["asgi.scope"]["type"], flush=True)
    return auth != "nobody"


@sio.event
async def disconnect(sid: str, reason: str) -> None:
    print("socketio disconnect", reason, flush=True)


@sio.event
async def echo(sid: str, data: Any) -> Any:
    return data


@sio.event
async def worker(sid: str) -> int:
    return os.getpid()


@sio.event
async def join(sid: str, room: str) -> None:
    await sio.enter_room(sid, room)


@sio.event
async def say(sid: str, room: str, text: str) -> None:
    await sio.emit("said", text, room=room, skip_sid=sid)


@sio.event
async def count(sid: str, number: int) -> None:
    for index in range(number):
        await sio.emit("counted", index, to=sid)
