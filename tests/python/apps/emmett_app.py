"""An application of Emmett55, whose RSGI side rsgun serves."""

from __future__ import annotations

from emmett55 import App, request, response, websocket
from emmett55.tools import service

app = App(__name__)
app.config.handle_static = False


@app.route("/")
async def index() -> str:
    return "hello"


@app.route("/greet/<str:name>")
async def greet(name: str) -> str:
    return f"hello {name}, {request.method} {request.query_params.q or '-'}"


@app.route("/json", methods="post")
@service.json
async def sent() -> dict[str, object]:
    params = await request.body_params
    return {"got": dict(params)}


@app.route("/stream")
async def stream() -> object:
    async def numbers():
        for number in range(50):
            yield f"{number};".encode()

    response.headers["x-stream"] = "yes"
    return await response.stream(numbers())


@app.route("/error")
async def error() -> str:
    raise RuntimeError("on purpose")


@app.route("/file")
async def file() -> object:
    return response.wrap_file(__file__)


@app.websocket("/echo")
async def echo() -> None:
    await websocket.accept()
    while True:
        await websocket.send(f"echo {await websocket.receive()}")
