"""WebSocket endpoints of FastAPI and, mounted below, Starlette."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, WebSocket, WebSocketDisconnect
from starlette.endpoints import WebSocketEndpoint
from starlette.responses import JSONResponse
from starlette.routing import Mount, WebSocketRoute


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, str]]:
    yield {"greeting": "from the state"}


class Upper(WebSocketEndpoint):
    encoding = "text"

    async def on_receive(self, websocket: WebSocket, data: Any) -> None:
        await websocket.send_text(data.upper())

    async def on_disconnect(self, websocket: WebSocket, close_code: int) -> None:
        print("starlette disconnect", close_code, flush=True)


app = FastAPI(lifespan=lifespan, routes=[Mount("/starlette", routes=[WebSocketRoute("/", Upper)])])


def token(websocket: WebSocket) -> str:
    value = websocket.query_params.get("token")
    if value != "secret":
        raise HTTPException(status_code=401, detail="no entry")
    return value


@app.websocket("/json/{name}")
async def json_(websocket: WebSocket, name: str) -> None:
    await websocket.accept(subprotocol="json", headers=[(b"x-name", name.encode())])
    await websocket.send_json({"state": websocket.state.greeting})
    try:
        while True:
            await websocket.send_json({"name": name, "got": await websocket.receive_json()})
    except WebSocketDisconnect as gone:
        print("fastapi disconnect", gone.code, gone.reason, flush=True)


@app.websocket("/bytes")
async def bytes_(websocket: WebSocket) -> None:
    await websocket.accept()
    async for data in websocket.iter_bytes():
        await websocket.send_bytes(data[::-1])


@app.websocket("/token")
async def with_token(websocket: WebSocket, token: Annotated[str, Depends(token)]) -> None:
    await websocket.accept()
    await websocket.send_text(token)
    await websocket.close(3000, "done")


@app.websocket("/denied")
async def denied(websocket: WebSocket) -> None:
    await websocket.send_denial_response(JSONResponse({"why": "because"}, status_code=418))
