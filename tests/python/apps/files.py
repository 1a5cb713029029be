"""ASGI applications that leave it to the server to send files (http.response.pathsend)."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

Scope = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Sends the file ``path`` of the query; what else the query has makes the head."""
    if scope["type"] != "http":
        raise RuntimeError("only HTTP is served here")
    query = dict(parse_qsl(scope["query_string"].decode(), keep_blank_values=True))
    status = int(query.pop("status", "200"))
    path = query.pop("path", None)
    headers = [(name.encode(), value.encode()) for name, value in query.items()]
    start = {"type": "http.response.start", "status": status, "headers": headers}
    file = {"type": "http.response.pathsend", "path": path}
    if scope["path"] == "/offers":
        await send(start)
        offers = json.dumps(scope["extensions"]).encode()
        await send({"type": "http.response.body", "body": offers})
    elif scope["path"] == "/or-404":
        await send(start)
        try:
            await send(file)
        except FileNotFoundError as error:
            await send({"type": "http.response.body", "body": error.filename.encode()})
    else:
        begun = {"type": "http.response.body", "body": b"begun", "more_body": True}
        messages = {
            "/file": [start, file],
            "/too-early": [file],
            "/too-late": [start, begun, file],
            "/twice": [start, file, file],
            "/number": [start, file | {"path": 7}],
            "/pathless": [start, {"type": "http.response.pathsend"}],
        }
        for message in messages[scope["path"]]:
            await send(message)


class Unopened(FileResponse):
    """A response whose file Python never opens."""

    def _open_file(self) -> None:
        raise AssertionError("the file was opened by Python")


async def unopened(request: Request) -> Response:
    return Unopened(request.query_params["path"])


async def any_part(request: Request) -> Response:
    return FileResponse(request.query_params["path"])


async def passes(request: Request, call_next: Callable[..., Awaitable[Response]]) -> Response:
    response = await call_next(request)
    response.headers["x-passed"] = "yes"
    return response


ROUTES = [Route("/unopened", unopened), Route("/any-part", any_part)]

starlette = Starlette(routes=ROUTES)
behind_middleware = Starlette(
    routes=ROUTES,
    middleware=[
        Middleware(BaseHTTPMiddleware, dispatch=passes),
        Middleware(GZipMiddleware),
    ],
)
