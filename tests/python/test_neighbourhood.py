"""Agents, tools, and debuggers that an application is run with."""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from harness.marks import rsgun_only
from harness.server import Server, serving
from harness.terminal import Terminal
from harness.tools import tools
from harness.waiting import DEADLINE, eventually
from harness.wire import Connection

pytestmark = rsgun_only

Launch = Callable[..., Server]

SHOP = """
import atexit
import multiprocessing.util
import os
from fastapi import FastAPI

app = FastAPI()
atexit.register(lambda: print("at exit", flush=True))
multiprocessing.util.Finalize(None, lambda: print("finalized", flush=True), exitpriority=1)


@app.get("/ping")
def ping():
    return {"message": "pong", "pid": os.getpid()}


@app.get("/never")
def never():
    return "not called"
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(SHOP)
    return tmp_path


def command(*more: str) -> list[str]:
    """The server as a program in the environment of the tools."""
    python = str(tools() / "python")
    return [str(tools() / "rsgun"), "--python", python, "--port", "0", *more, "shop:app"]


@contextmanager
def collector() -> Iterator[tuple[int, list[tuple[str, bytes]]]]:
    """Takes whatever an agent reports over HTTP: its port, and what has come."""
    received: list[tuple[str, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            received.append((self.path, body))
            self.send_response(200)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        do_PUT = do_GET = do_POST  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1], received
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.timeout(600)
def test_ddtrace_run(launch: Launch, shop: Path) -> None:
    """It has threads before the application is there, so workers are started by exec."""
    with collector() as (port, received):
        environment = {
            "DD_TRACE_AGENT_URL": f"http://127.0.0.1:{port}",
            "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false",
            "DD_REMOTE_CONFIGURATION_ENABLED": "false",
            "DD_CRASHTRACKING_ENABLED": "false",
        }
        line = [str(tools() / "ddtrace-run"), *command("-w", "2")]
        server = launch(line, environment=environment, cwd=shop).wait_until_running(60)
        server.wait_for_workers(2)
        assert server.get("/ping").text.startswith('{"message":"pong"')
        assert server.stop() == 0
    assert any("traces" in path and b"fastapi.request" in body for path, body in received), [
        path for path, _ in received
    ]
    assert server.lines("stdout").count("at exit") == 2


@pytest.mark.timeout(600)
@pytest.mark.parametrize("more", [(), ("--preload",)], ids=["plain", "preload"])
def test_opentelemetry_instrument(launch: Launch, shop: Path, more: tuple[str, ...]) -> None:
    environment = {
        "OTEL_TRACES_EXPORTER": "console",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        "OTEL_SERVICE_NAME": "shop",
    }
    line = [str(tools() / "opentelemetry-instrument"), *command(*more)]
    server = launch(line, environment=environment, cwd=shop).wait_until_running(60)
    assert server.get("/ping").text.startswith('{"message":"pong"')
    assert server.stop() == 0
    text = "\n".join(server.lines("stdout"))
    assert '"http.route": "/ping"' in text
    assert '"service.name": "shop"' in text


@pytest.mark.timeout(600)
def test_newrelic_admin_run_program(launch: Launch, shop: Path) -> None:
    (shop / "newrelic.ini").write_text(
        "[newrelic]\nlicense_key = " + "0" * 40 + "\napp_name = shop\ndeveloper_mode = true\n"
        f"log_file = {shop / 'agent.log'}\nlog_level = info\n"
    )
    environment = {"NEW_RELIC_CONFIG_FILE": str(shop / "newrelic.ini")}
    line = [str(tools() / "newrelic-admin"), "run-program", *command()]
    server = launch(line, environment=environment, cwd=shop).wait_until_running(60)
    worker = json.loads(server.get("/ping").text)["pid"]
    log = shop / "agent.log"
    eventually(
        lambda: log.exists() and f"({worker}/NR-Activate-Session/shop)" in log.read_text(),
        "the agent of the worker reports",
    )
    assert server.stop() == 0
    assert "Agent Shutdown" in log.read_text()


@pytest.mark.timeout(600)
def test_coverage_run(launch: Launch, shop: Path, package: dict[str, str]) -> None:
    (shop / ".coveragerc").write_text(
        "[run]\nparallel = true\nsource = .\npatch =\n    subprocess\n    execv\n    fork\n"
    )
    line = [str(tools() / "coverage"), "run", "-m", "rsgun", "--port", "0", "-w", "2", "shop:app"]
    environment = {**package, "COVERAGE_FILE": str(shop / "data" / ".coverage")}
    (shop / "data").mkdir()
    server = launch(line, environment=environment, cwd=shop).wait_until_running(60)
    server.wait_for_workers(2)
    assert server.get("/ping").text.startswith('{"message":"pong"')
    assert server.stop() == 0
    for step in (["combine", "--quiet"], ["report", "-m", "--include=shop.py"]):
        finished = subprocess.run(
            [tools() / "coverage", *step],
            cwd=shop,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
    never = SHOP.splitlines().index('    return "not called"') + 1
    assert re.search(rf"^shop.py +\d+ +1 +\d+% +{never}$", finished.stdout, re.MULTILINE)


def test_finalizers_of_a_worker_run(serve: Callable[..., Server], shop: Path) -> None:
    server = serve("shop:app", "--app-dir", str(shop))
    assert server.get("/ping").status == 200
    assert server.stop() == 0
    assert sorted(server.lines("stdout")[-2:]) == ["at exit", "finalized"]


DEBUGGED = """
%s

async def app(scope, receive, send):
    if scope["type"] != "http":
        raise NotImplementedError
    answer = b"before"
    %s
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": answer})


def wsgi(environ, start_response):
    answer = b"before"
    %s
    start_response("200 OK", [])
    return [answer]
"""


@pytest.mark.parametrize(
    ("first", "stop", "arguments"),
    [
        ("", "breakpoint()", ["main:app"]),
        ("", "import pdb; pdb.set_trace()", ["main:app"]),
        ("import pdb", "pdb.set_trace()", ["main:wsgi"]),
        ("from pdb import set_trace", "set_trace()", ["main:app", "--preload"]),
        ("from pdb import Pdb\nclass Mine(Pdb): pass", "Mine().set_trace()", ["main:app"]),
    ],
    ids=["breakpoint", "pdb", "wsgi", "preload", "subclass"],
)
def test_a_debugger_on_a_terminal(
    terminal: Callable[..., Terminal], tmp_path: Path, first: str, stop: str, arguments: list[str]
) -> None:
    """The debugger has its time, whatever `--timeout` is."""
    (tmp_path / "main.py").write_text(DEBUGGED % (first, stop, stop))
    socket = str(tmp_path / "app.sock")
    window = terminal(
        *serving(*arguments, "--app-dir", str(tmp_path), "--uds", socket, "--timeout", "2")
    )
    window.wait_for(b"running on")
    with Connection.open(socket) as connection:
        connection.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        window.wait_for(b"(Pdb) ")
        window.type(b"p answer\n")
        window.wait_for(b"b'before'")
        window.wait_for(b"stops in a debugger")
        # That nothing happens has no event: the time-out, and what the master needs to see it.
        threading.Event().wait(4.5)
        window.type(b"answer = b'by hand'\n")
        window.type(b"c\n")
        assert connection.response().text == "by hand"
        # The next prompt is nothing new.
        connection.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        window.wait_for(b"(Pdb) ", again=True)
        window.type(b"c\n")
        assert connection.response().text == "before"
    assert b"Traceback" not in window.shown
    assert window.shown.count(b"stops in a debugger") == 1


def test_ctrl_c_ends_the_server_after_a_debugger(
    terminal: Callable[..., Terminal], tmp_path: Path
) -> None:
    """pdb would open its prompt once more."""
    (tmp_path / "main.py").write_text(DEBUGGED % ("", "breakpoint()", ""))
    socket = str(tmp_path / "app.sock")
    window = terminal(*serving("main:app", "--app-dir", str(tmp_path), "--uds", socket))
    window.wait_for(b"running on")
    with Connection.open(socket) as connection:
        connection.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        window.wait_for(b"(Pdb) ")
        window.type(b"c\n")
        assert connection.response().text == "before"
    window.type(b"\x03")
    window.wait_for(b"Finished server process")
    assert window.process.wait(DEADLINE) == 0
    assert b"interrupted" not in window.shown and b"killed" not in window.shown


POST_MORTEM = """
async def app(scope, receive, send):
    if scope["type"] != "http":
        raise NotImplementedError
    answer = b"before"
    try:
        1 / 0
    except ZeroDivisionError:
        import pdb
        pdb.post_mortem()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": answer})
"""


def test_a_look_at_an_exception_on_a_terminal(
    terminal: Callable[..., Terminal], tmp_path: Path
) -> None:
    (tmp_path / "main.py").write_text(POST_MORTEM)
    socket = str(tmp_path / "app.sock")
    window = terminal(*serving("main:app", "--app-dir", str(tmp_path), "--uds", socket))
    window.wait_for(b"running on")
    with Connection.open(socket) as connection:
        connection.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        window.wait_for(b"(Pdb) ")
        window.wait_for(b"stops in a debugger")
        window.type(b"p answer\n")
        window.wait_for(b"b'before'")
        window.type(b"q\n")
        assert connection.response().text == "before"


def test_a_module_of_the_application_may_be_called_pdb(
    terminal: Callable[..., Terminal], tmp_path: Path
) -> None:
    """The Protein Data Bank comes to mind."""
    (tmp_path / "pdb.py").write_text("NAME = 'proteins'\n")
    (tmp_path / "main.py").write_text(
        "import pdb\n\n\ndef app(environ, start_response):\n"
        "    start_response('200 OK', [])\n    return [pdb.NAME.encode()]\n"
    )
    socket = str(tmp_path / "app.sock")
    window = terminal(*serving("main:app", "--app-dir", str(tmp_path), "--uds", socket))
    window.wait_for(b"running on")
    with Connection.open(socket) as connection:
        assert connection.get("/").text == "proteins"
