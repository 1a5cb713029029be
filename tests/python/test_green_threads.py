"""Applications with gevent or eventlet: without threads there is no pool for WSGI."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.marks import rsgun_only
from harness.server import Server
from harness.target import command

pytestmark = rsgun_only

Serve = Callable[..., Server]
Run = Callable[..., subprocess.CompletedProcess[str]]
Module = Callable[[str, str], Path]

PATCHES = {
    "gevent": "from gevent import monkey; monkey.patch_all({})",
    "eventlet": "import eventlet; eventlet.monkey_patch({})",
}
ADVICE = {
    "gevent": "gevent has patched threads (monkey.patch_all()), which rsgun's threads for WSGI "
    "cannot work with: remove it, or patch_all(thread=False)",
    "eventlet": "eventlet has patched threads (monkey_patch()), which rsgun's threads for WSGI "
    "cannot work with: remove it, or monkey_patch(thread=False)",
}
APP = """
import time

def app(environ, start_response):
    time.sleep(0.001)
    start_response("200 OK", [])
    return [b"served"]
"""
WITH = pytest.mark.parametrize("library", PATCHES)


@WITH
@pytest.mark.parametrize("more", [(), ("--preload",)], ids=["plain", "preload"])
def test_patched_threads_are_refused(
    run: Run, module: Module, library: str, more: tuple[str, ...]
) -> None:
    folder = str(module("main", PATCHES[library].format("") + APP).parent)
    result = run("main:app", "--app-dir", folder, *more)
    assert result.returncode == 3, result.stderr
    assert ADVICE[library] in result.stderr


@WITH
def test_a_configuration_file_may_not_patch_them(
    launch: Callable[..., Server], module: Module, library: str
) -> None:
    module("main", APP)
    path = module("gunicorn.conf", PATCHES[library].format("") + "\nwsgi_app = 'main:app'\n")
    server = launch(command(None, "-c", str(path), "-b", "127.0.0.1:0"))
    # eventlet prints some of its own.
    server.tolerates_tracebacks = True
    assert server.wait() == 3, server.report()
    server.wait_for_line(re.escape(ADVICE[library]))


@WITH
def test_a_reload_to_patched_threads_fails(serve: Serve, module: Module, library: str) -> None:
    server = serve("main:app", "--app-dir", str(module("main", APP).parent))
    # eventlet prints some of its own.
    server.tolerates_tracebacks = True
    [before] = server.wait_for_workers(1)
    module("main", PATCHES[library].format("") + APP)
    since = server.output.mark()
    server.send_signal(signal.SIGHUP)
    server.wait_for_line("Reload failed, generation 1 stays", since=since)
    server.wait_for_line(re.escape(ADVICE[library]), since=since)
    server.wait_for_generation(1, 1)
    assert [worker.pid for worker in server.workers()] == [before.pid]
    assert server.get("/").text == "served"


@WITH
def test_everything_else_may_be_patched(serve: Serve, module: Module, library: str) -> None:
    source = PATCHES[library].format("thread=False") + APP
    server = serve("main:app", "--app-dir", str(module("main", source).parent), "--threads", "2")
    assert server.get("/").text == "served"
