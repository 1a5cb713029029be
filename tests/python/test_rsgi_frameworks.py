"""Emmett55, a framework that speaks RSGI, in every supported Python that the machine has."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from harness.clients import client_for
from harness.marks import rsgun_only
from harness.server import Server
from harness.target import APPS, add_package, environment_for, supported
from harness.waiting import DEADLINE
from websockets.sync.client import connect

pytestmark = [rsgun_only, pytest.mark.timeout(600)]

Serve = Callable[..., Server]
EMMETT = "emmett55==1.3.0"
SOURCE = (APPS / "emmett_app.py").read_bytes()


@pytest.fixture(params=supported(), ids=lambda version: f"python{version[0]}.{version[1]}")
def server(request: pytest.FixtureRequest, serve: Serve) -> Server:
    python = environment_for(request.param)
    if trouble := add_package(python, EMMETT):
        pytest.skip(trouble)
    return serve("emmett_app:app", python=python)


def test_emmett(server: Server) -> None:
    server.tolerates_tracebacks = True
    with client_for(server) as client:
        assert client.get("/").text == "hello"
        assert client.get("/greet/you?q=1").text == "hello you, GET 1"
        assert client.post("/json", json={"a": 1}).json() == {"got": {"a": 1}}
        form = client.post("/json", data={"b": "2"}, files={"file": b"x" * 300_000})
        assert form.json() == {"got": {"b": "2"}}
        answer = client.get("/stream")
        assert answer.text == "".join(f"{number};" for number in range(50))
        assert answer.headers["x-stream"] == "yes"
        assert client.get("/file").content == SOURCE
        part = client.get("/file", headers={"range": "bytes=3-9"})
        assert (part.status_code, part.content) == (206, SOURCE[3:10])
        assert part.headers["content-range"] == f"bytes 3-9/{len(SOURCE)}"
        assert client.get("/error").status_code == 500
        assert client.get("/missing").status_code == 404
    url = server.url.replace("http", "ws", 1)
    with connect(f"{url}/echo", open_timeout=DEADLINE, proxy=None) as socket:
        for number in range(20):
            socket.send(f"{number}")
            assert socket.recv(DEADLINE) == f"echo {number}"
    assert server.stop() == 0
