"""Starlette: middleware of both kinds, files, background tasks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import (
    FileResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

done: list[str] = []
FILES = Path(__file__).parent


class Stamp(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        response = await call_next(request)
        response.headers["x-stamp"] = "stamped"
        return response


async def ping(request: Request) -> Response:
    return PlainTextResponse("pong")


async def big(request: Request) -> Response:
    return PlainTextResponse("compress me " * 10_000)


async def background(request: Request) -> Response:
    async def later() -> None:
        await asyncio.sleep(0.05)
        done.append("later")

    return PlainTextResponse("answered", background=BackgroundTask(later))


async def finished(request: Request) -> Response:
    return JSONResponse(done)


async def stream(request: Request) -> Response:
    async def parts() -> AsyncIterator[bytes]:
        for number in range(50):
            yield b"%d;" % number
            await asyncio.sleep(0)

    return StreamingResponse(parts())


async def file(request: Request) -> Response:
    return FileResponse(FILES / "lab.py", media_type="text/plain")


async def echo(request: Request) -> Response:
    return Response(await request.body())


async def form(request: Request) -> Response:
    async with request.form() as data:
        return JSONResponse({key: str(value) for key, value in data.items()})


async def redirect(request: Request) -> Response:
    return RedirectResponse("/ping")


async def url(request: Request) -> Response:
    client = request.client
    return JSONResponse({"url": str(request.url), "client": client.host if client else None})


async def error(request: Request) -> Response:
    raise RuntimeError("on purpose")


async def on_error(request: Request, error: Exception) -> Response:
    return PlainTextResponse(f"handled {error}", 500)


app: Any = Starlette(
    routes=[
        Route("/ping", ping),
        Route("/big", big),
        Route("/background", background),
        Route("/finished", finished),
        Route("/stream", stream),
        Route("/file", file),
        Route("/echo", echo, methods=["POST"]),
        Route("/form", form, methods=["POST"]),
        Route("/redirect", redirect),
        Route("/url", url),
        Route("/error", error),
        Mount("/static", StaticFiles(directory=FILES)),
    ],
    middleware=[Middleware(Stamp), Middleware(Stamp), Middleware(GZipMiddleware)],
    exception_handlers={ValueError: on_error},
)
