"""The same extension in every supported Python that the machine has."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.marks import rsgun_only
from harness.server import Server
from harness.sources import versioned
from harness.target import environment_for, supported

pytestmark = rsgun_only

Serve = Callable[..., Server]

SHOP = """
import asyncio
import sys
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse


@asynccontextmanager
async def lifespan(app):
    print("started", flush=True)
    yield {"answer": 42}
    print("stopped", flush=True)


app = FastAPI(lifespan=lifespan)


@app.get("/ping")
async def ping():
    return {"message": "pong"}


@app.get("/sync")
def sync(request: Request):
    return {"answer": request.state.answer}


@app.get("/version")
async def version():
    return list(sys.version_info[:2]) + [type(asyncio.get_running_loop()).__module__]


@app.get("/stream")
async def stream():
    async def parts():
        for number in range(100):
            yield b"%d;" % number
            await asyncio.sleep(0)

    return StreamingResponse(parts())


@app.post("/echo")
async def echo(request: Request):
    return len(await request.body())


@app.get("/error")
async def error():
    raise RuntimeError("on purpose")
"""


@pytest.fixture(params=supported(), ids=lambda version: f"python{version[0]}.{version[1]}")
def version(request: pytest.FixtureRequest) -> tuple[int, int]:
    return request.param


@pytest.mark.timeout(600)
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_fastapi(serve: Serve, tmp_path: Path, version: tuple[int, int], loop: str) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    server = serve(
        "shop:app", "--app-dir", str(tmp_path), "--loop", loop, python=environment_for(version)
    )
    server.tolerates_tracebacks = True
    with server.connect() as connection:
        seen = connection.get("/version").text
        assert seen.startswith(f"[{version[0]},{version[1]},")
        assert loop in seen
        for _ in range(50):
            assert connection.get("/ping").body == b'{"message":"pong"}'
        assert connection.get("/sync").body == b'{"answer":42}'
        assert connection.get("/stream").text == "".join(f"{number};" for number in range(100))
        assert connection.get("/echo", method="POST", body=b"x" * 500_000).text == "500000"
        assert connection.get("/error").status == 500
        assert connection.get("/missing").body == b'{"detail":"Not Found"}'
    assert server.stop() == 0
    assert server.lines("stdout").count("started") == 1
    assert server.lines("stdout").count("stopped") == 1
    assert not [line for line in server.lines("stderr") if "Warning" in line]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["plain", "preload"])
def test_reload(
    serve: Serve, tmp_path: Path, version: tuple[int, int], preload: tuple[str, ...]
) -> None:
    main = tmp_path / "main.py"
    main.write_text(versioned("first"))
    server = serve(
        "main:app", "--app-dir", str(tmp_path), "-w", "2", *preload, python=environment_for(version)
    )
    server.wait_for_workers(2)
    assert server.get().text.startswith("first ")
    main.write_text(versioned("second"))
    server.send_signal(signal.SIGHUP)
    server.wait_for_generation(2, 2)
    assert server.get().text.startswith("second ")
    server.tolerates_tracebacks = True
    main.write_text("raise RuntimeError('broken')")
    since = server.output.mark()
    server.send_signal(signal.SIGHUP)
    server.wait_for_line("RuntimeError: broken", since=since)
    assert server.get().text.startswith("second ")


def test_running_version_is_among_them() -> None:
    assert sys.version_info[:2] in supported()
