"""What is there when a worker is ready is taken out of the garbage collector's sight."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from harness.marks import rsgun_only
from harness.server import Server

pytestmark = rsgun_only

Serve = Callable[..., Server]
Module = Callable[[str, str], Path]
Program = Callable[..., Server]

APP = """
import gc
import weakref

{top}


class Node:
    def __init__(self):
        self.itself = self


class Kept(Node):
    def __del__(self):
        print("finalized", flush=True)


kept = Kept()
garbage = weakref.ref(Node())


def state():
    return f"{{gc.get_freeze_count() > 1000}} {{garbage() is None}}".encode()


async def asgi(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError("only http")
    await send({{"type": "http.response.start", "status": 200, "headers": []}})
    await send({{"type": "http.response.body", "body": state()}})


def wsgi(environ, start_response):
    start_response("200 OK", [])
    return [state()]


class Rsgi:
    async def __rsgi__(self, scope, protocol):
        protocol.response_bytes(200, [], state())


rsgi = Rsgi()
"""

INTERFACES = pytest.mark.parametrize("interface", ["asgi", "wsgi", "rsgi"])


@INTERFACES
def test_objects_are_frozen_and_garbage_is_not(
    serve: Serve, module: Module, tmp_path: Path, interface: str
) -> None:
    module("main", APP.format(top="gc.set_threshold(1_000_000)"))
    server = serve(f"main:{interface}", "--app-dir", str(tmp_path))
    assert server.get().text == "True True"


def test_the_end_finalizes_what_refers_to_itself(
    serve: Serve, module: Module, tmp_path: Path
) -> None:
    module("main", APP.format(top=""))
    server = serve("main:wsgi", "--app-dir", str(tmp_path))
    assert server.get().status == 200
    assert server.stop() == 0
    assert "finalized" in server.lines("stdout")


def test_a_collector_that_is_off_is_left_alone(
    serve: Serve, module: Module, tmp_path: Path
) -> None:
    module("main", APP.format(top="gc.disable()"))
    server = serve("main:asgi", "--app-dir", str(tmp_path))
    assert server.get().text.endswith("False")


def test_a_program_keeps_its_collector(program: Program) -> None:
    server = program(APP.format(top="import rsgun") + "\nrsgun.run(asgi, port=0)\n")
    assert server.get().text.startswith("False")
