"""Applications that call `receive()` and `send()` on a thread of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from asgiref.sync import async_to_sync, sync_to_async
from asgiref.wsgi import WsgiToAsgi

START = {"type": "http.response.start", "status": 200, "headers": []}


def echo(receive: Any, send: Any) -> None:
    """Sends the body of a request back, piece by piece, without asyncio in sight."""
    receive, send = async_to_sync(receive), async_to_sync(send)
    send(START)
    more = True
    while more:
        message = receive()
        more = message["more_body"]
        send({"type": "http.response.body", "body": message["body"], "more_body": more})


def converse(receive: Any, send: Any) -> None:
    """Sends the messages of a WebSocket back."""
    receive, send = async_to_sync(receive), async_to_sync(send)
    receive()
    send({"type": "websocket.accept"})
    while (message := receive())["type"] == "websocket.receive":
        send({"type": "websocket.send", "text": message["text"]})
    print("noted disconnect", message["code"], flush=True)


def hand_over(loop: asyncio.AbstractEventLoop, receive: Any, send: Any) -> None:
    """Awaits on the event loop of the server what is called here."""
    message = asyncio.run_coroutine_threadsafe(receive(), loop).result()
    body = {"type": "http.response.body", "body": message["body"]}
    for part in (START, body):
        asyncio.run_coroutine_threadsafe(send(part), loop).result()


def elsewhere(receive: Any) -> str:
    """Awaits on another event loop, which cannot work."""

    async def wait() -> None:
        await receive()

    try:
        asyncio.run(wait())
    except RuntimeError as error:
        return str(error)
    return "no error"


def hello(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    body = environ["wsgi.input"].read()
    start_response("200 OK", [("content-type", "text/plain")])
    return [body[:10], b" of ", str(len(body)).encode()]


wsgi = WsgiToAsgi(hello)


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
    elif scope["type"] == "websocket":
        await sync_to_async(converse)(receive, send)
    elif scope["path"] == "/wsgi":
        await wsgi(scope, receive, send)
    elif scope["path"] == "/hand-over":
        await asyncio.to_thread(hand_over, asyncio.get_running_loop(), receive, send)
    elif scope["path"] == "/elsewhere":
        problem = await asyncio.to_thread(elsewhere, receive)
        body = (await receive())["body"]
        await send(START)
        await send({"type": "http.response.body", "body": problem.encode() + b": " + body})
    else:
        await sync_to_async(echo)(receive, send)
