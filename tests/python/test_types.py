"""The types of the package, as mypy sees them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from harness.marks import rsgun_only
from harness.target import ROOT

pytestmark = [rsgun_only, pytest.mark.timeout(300)]

PROGRAM = """
import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from pathlib import Path
from socket import socket
from typing import Any, assert_type
from wsgiref.types import StartResponse, WSGIEnvironment

import rsgun

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


async def asgi(scope: Message, receive: Receive, send: Send) -> None: ...


class Asgi:
    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None: ...


def wsgi(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    return []


async def embedded() -> None:
    config = rsgun.Config(asgi, port=0, log_level=logging.DEBUG, timeout_keep_alive=5)
    server = rsgun.Server(config)
    task = asyncio.create_task(server.serve())
    assert_type(server.started, bool)
    assert_type(server.servers[0].sockets[0], socket)
    assert_type(server.config, rsgun.Config)
    server.should_exit = True
    server.should_exit = "yes"  # error: assignment
    await server.serve(sockets=[socket()])
    assert_type(await task, None)
    await server.serve(sockets=[3])  # error: list-item
    server.nonsense  # error: attr-defined


def main() -> None:
    try:
        rsgun.run("main:app", host="127.0.0.1", port=5000, workers=4, log_level="info")
    except rsgun.ConfigError as error:
        assert_type(error, rsgun.ConfigError)
    except rsgun.StartupError as error:
        assert_type(error.exit_code, int)
    rsgun.run(Asgi(), bind=["127.0.0.1:0", Path("unix:app.sock")], reload_probation=0.5)
    rsgun.run(wsgi, threads=4, workers=None, access_log=False)
    rsgun.run(lambda: wsgi, factory=True, env="A=1")
    assert_type(rsgun.run("main:app", workers="auto"), None)
    assert_type(rsgun.__version__, str)
    rsgun.run()  # error: call-arg
    rsgun.run(3)  # error: arg-type
    rsgun.run("main:app", wokers=3)  # error: call-arg
    rsgun.run("main:app", port="5000")  # error: arg-type
    rsgun.run("main:app", preload="yes")  # error: arg-type
    rsgun.Config("main:app", timeout=[1])  # error: arg-type
    rsgun.nothing  # error: attr-defined
"""


def run_mypy(
    cache: Path, tool: list[str], package: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    search = {"MYPYPATH": path} if (path := package.get("PYTHONPATH")) else {}
    return subprocess.run(
        [sys.executable, "-m", *tool],
        env={**os.environ, **package, **search},
        cwd=cache,
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )


def test_the_package_agrees_with_itself(tmp_path: Path) -> None:
    tool = ["mypy", "--strict", str(ROOT / "python" / "rsgun")]
    finished = run_mypy(tmp_path, tool, {})
    assert finished.returncode == 0, finished.stdout + finished.stderr


def test_a_program_is_checked(package: dict[str, str], tmp_path: Path) -> None:
    """What is right has its types, and what is wrong is an error on its line."""
    (tmp_path / "program.py").write_text(PROGRAM)
    finished = run_mypy(tmp_path, ["mypy", "--strict", "program.py"], package)
    found = re.findall(r"^program\.py:(\d+): error: .*\[(.+)\]$", finished.stdout, re.MULTILINE)
    expected = [
        (str(number), line.partition("# error: ")[2])
        for number, line in enumerate(PROGRAM.splitlines(), 1)
        if "# error: " in line
    ]
    assert found == expected, finished.stdout + finished.stderr


def test_the_stub_is_that_of_the_extension(package: dict[str, str], tmp_path: Path) -> None:
    # The stub leaves out what only the worker itself calls.
    # Of this method Python knows no signature.
    unknown = tmp_path / "unknown"
    unknown.write_text("rsgun._rsgun.RSGIHTTPProtocol.__call__\n")
    tool = ["mypy.stubtest", "--ignore-missing-stub", "--allowlist", str(unknown), "rsgun._rsgun"]
    finished = run_mypy(tmp_path, tool, package)
    assert finished.returncode == 0, finished.stdout + finished.stderr
