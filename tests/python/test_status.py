"""--control-socket and rsgunctl: the state of the server, also when no worker answers."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
from harness.marks import rsgun_only
from harness.server import Server, clean_environment
from harness.sources import versioned
from harness.target import binary
from harness.waiting import BOOT, eventually, wait_gone

pytestmark = rsgun_only

Serve = Callable[..., Server]
Module = Callable[[str, str], Path]
Document = dict[str, Any]

BLOCKS = """
import asyncio
import time

async def app(scope, receive, send):
    assert scope["type"] == "http"
    if scope["path"] == "/block":
        print("blocking", flush=True)
        time.sleep(300)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"here"})
"""


@pytest.fixture
def control(tmp_path: Path) -> Path:
    """The path of the control socket."""
    return tmp_path / "control.sock"


def ask(path: Path) -> Document:
    """The document that the control socket answers with."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(str(path))
        with client.makefile("rb") as stream:
            document: Document = json.loads(stream.read())
            return document


def rsgunctl(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs the command that was built together with the server."""
    return subprocess.run(
        [str(binary().parent / "rsgunctl"), *arguments],
        env=clean_environment(variables),
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


def test_document_names_every_worker(serve: Serve, control: Path) -> None:
    server = serve("lab:app", "-w", "2", "--control-socket", str(control))
    pids = {worker.pid for worker in server.wait_for_workers(2)}
    for _ in range(6):
        server.get("/ping")
    status = ask(control)
    assert status["pid"] == server.pid
    assert status["name"] == "lab:app"
    assert status["listeners"] == [server.url]
    assert (status["generation"], status["workers_wanted"]) == (1, 2)
    assert {worker["pid"] for worker in status["workers"]} == pids
    eventually(lambda: ask(control)["phase"] == "serving", "it serves")
    eventually(lambda: ask(control)["workers_serving"] == 2, "both serve")
    eventually(lambda: ask(control)["totals"]["requests"] == 6, "the requests are counted")
    status = ask(control)
    assert status["degraded"] == []
    assert status["workers_serving"] == 2
    assert status["last_reload"] is None
    assert status["totals"]["status"][1] == 6
    assert sum(worker["requests"] for worker in status["workers"]) == 6
    for worker in status["workers"]:
        assert worker["phase"] == "serving"
        assert worker["rss_bytes"] > 1_000_000
        assert 0 <= worker["silent_s"] < worker["uptime_s"] + 1


@pytest.mark.parametrize("app", ["large:asgi", "large:wsgi"])
def test_what_is_refused_without_the_application_is_counted(
    serve: Serve, control: Path, app: str
) -> None:
    server = serve(app, "--limit-request-body", "10", "--control-socket", str(control))
    refused = [
        b"GET / HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 11\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nb\r\n01234567890\r\n",
    ]
    for request in refused:
        with server.connect() as connection:
            connection.send(request)
            assert connection.response().status in (400, 413)
    eventually(lambda: ask(control)["totals"]["status"][3] >= len(refused), "they are counted")
    assert ask(control)["totals"]["status"] == [0, 0, 0, len(refused), 0]


WAITS = """
import os
import re
import time


def app(environ, start_response):
    while environ["PATH_INFO"] == "/wait" and not os.path.exists(environ["QUERY_STRING"]):
        time.sleep(0.01)
    start_response("200 OK", [])
    return [b"here"]
"""


def test_the_wait_for_a_thread_is_shown(
    serve: Serve, module: Module, tmp_path: Path, control: Path
) -> None:
    module("waits", WAITS)
    server = serve("waits:app", "--app-dir", str(tmp_path), "--control-socket", str(control))

    def threads() -> Document:
        [worker] = ask(control)["workers"]
        found: Document = worker["threads"]
        return found

    assert server.get("/").status == 200
    settled = {"count": 1, "idle": 1, "queued": 0, "waits": 1, "waited_s": ANY}
    eventually(lambda: threads() == settled, "the first request is counted")
    with server.connections(3) as connections:
        for connection in connections:
            connection.send(b"GET /wait?%s HTTP/1.1\r\nHost: x\r\n\r\n" % bytes(tmp_path / "go"))
        eventually(lambda: threads()["queued"] == 2, "two requests wait")
        assert (threads()["count"], threads()["idle"]) == (1, 0)
        shown = rsgunctl("status", "--socket", str(control)).stdout
        assert "1 of 1 threads are busy, 2 requests wait for one; the average wait was" in shown
        seen = time.monotonic()
        eventually(lambda: time.monotonic() - seen > 0.2, "some time passes")
        waited = time.monotonic() - seen
        (tmp_path / "go").touch()
        for connection in connections:
            assert connection.response().status == 200
    eventually(lambda: threads()["waits"] == 4, "all are counted")
    assert 2 * waited < threads()["waited_s"] < 60
    totals = ask(control)["totals"]
    assert (totals["waits"], totals["waited_s"]) == (4, threads()["waited_s"])
    # Workers that have ended count.
    server.send_signal(signal.SIGHUP)
    server.wait_for_generation(2, 1)
    totals = ask(control)["totals"]
    assert totals["waits"] == 4
    assert totals["waited_s"] > 2 * waited


def test_an_asgi_worker_has_no_threads(serve: Serve, control: Path) -> None:
    server = serve("lab:app", "--control-socket", str(control))
    assert server.get("/ping").status == 200
    [worker] = ask(control)["workers"]
    assert worker["threads"] is None
    assert "threads" not in rsgunctl("status", "--socket", str(control)).stdout


def test_counts_of_the_dead_are_kept(serve: Serve, control: Path) -> None:
    server = serve("lab:app", "--control-socket", str(control))
    for _ in range(5):
        server.get("/ping")
    eventually(lambda: ask(control)["totals"]["requests"] == 5, "the requests are counted")
    (victim,) = server.workers()
    os.kill(victim.pid, signal.SIGKILL)
    assert wait_gone(victim.pid)
    eventually(lambda: ask(control)["totals"]["restarts"] == 1, "the loss is counted")
    server.get("/ping")
    eventually(lambda: ask(control)["totals"]["requests"] == 6, "the sum of both workers")
    (slot,) = ask(control)["slots"]
    assert slot["restarts"] == 1
    assert slot["last_exit"]["reason"] == "was killed by SIGKILL"
    assert slot["retry_in_s"] is None


def test_master_answers_while_every_worker_hangs(
    serve: Serve, module: Module, tmp_path: Path, control: Path
) -> None:
    module("blocks", BLOCKS)
    server = serve(
        "blocks:app",
        "--app-dir",
        str(tmp_path),
        "-t",
        "0",
        "--graceful-timeout",
        "1",
        "--control-socket",
        str(control),
    )
    server.tolerates_tracebacks = True
    with server.connect() as connection:
        connection.request("/block")
        server.wait_for_line("blocking")
        (worker,) = ask(control)["workers"]
        assert worker["active"] == 1
        assert worker["oldest_request"]["line"] == "GET /block"
        shown = rsgunctl("status", "--socket", str(control))
        assert "works on GET /block" in shown.stdout


@pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["plain", "preload"])
def test_failed_reload_is_kept_with_its_traceback(
    serve: Serve, module: Module, tmp_path: Path, control: Path, preload: tuple[str, ...]
) -> None:
    module("main", versioned("first"))
    server = serve(
        "main:app", "--app-dir", str(tmp_path), "--control-socket", str(control), *preload
    )
    module("main", "raise RuntimeError('broken by the deployment')\n")
    server.tolerates_tracebacks = True
    server.send_signal(signal.SIGHUP)
    server.wait_for_line("Reload failed")
    status = ask(control)
    assert status["last_reload"]["generation"] == 2
    assert status["last_reload"]["ok"] is False
    assert "broken by the deployment" in status["last_reload"]["traceback"]
    shown = rsgunctl("status", RSGUN_CONTROL_SOCKET=str(control)).stdout
    assert "generation 2 FAILED" in shown
    assert "broken by the deployment" in shown
    module("main", versioned("third"))
    server.send_signal(signal.SIGHUP)
    server.wait_for_line("Reload complete")
    last = ask(control)["last_reload"]
    assert (last["generation"], last["ok"], last["message"]) == (3, True, None)


def test_failed_upgrade_is_kept_with_its_traceback(
    serve: Serve, module: Module, tmp_path: Path, control: Path
) -> None:
    module("main", versioned("first"))
    server = serve("main:app", "--app-dir", str(tmp_path), "--control-socket", str(control))
    assert ask(control)["last_upgrade"] is None
    module("main", "raise RuntimeError('broken by the deployment')\n")
    server.tolerates_tracebacks = True
    server.send_signal(signal.SIGUSR2)
    server.wait_for_line("Upgrade failed")
    status = ask(control)
    assert (status["phase"], status["last_reload"]) == ("serving", None)
    last = status["last_upgrade"]
    assert (last["generation"], last["ok"]) == (2, False)
    assert "broken by the deployment" in last["traceback"]
    shown = rsgunctl("status", RSGUN_CONTROL_SOCKET=str(control)).stdout
    assert re.search(r"^  last upgrade: generation 2 FAILED, [\d.]+ s ago: ", shown, re.MULTILINE)
    assert "broken by the deployment" in shown

    module("main", versioned("third"))
    server.send_signal(signal.SIGHUP)
    server.wait_for_line("Reload complete")
    status = ask(control)
    assert status["last_reload"]["ok"] and not status["last_upgrade"]["ok"]
    since = server.output.mark()
    server.send_signal(signal.SIGUSR2)
    server.wait_for_line("Upgrade complete", since=since, deadline=30)
    last = ask(control)["last_upgrade"]
    assert (last["generation"], last["ok"], last["message"]) == (4, True, None)
    shown = rsgunctl("status", RSGUN_CONTROL_SOCKET=str(control)).stdout
    assert "last upgrade: generation 4 complete" in shown
    assert "last reload" not in shown


def test_past_is_kept_over_an_upgrade(
    serve: Serve, module: Module, tmp_path: Path, control: Path
) -> None:
    """As long as its own workers are not all there, the last reload is the one before."""
    module("main", versioned("first"))
    arguments = ("--app-dir", str(tmp_path), "-w", "2", "--control-socket", str(control))
    server = serve("main:app", *arguments)
    server.tolerates_tracebacks = True
    victim = server.wait_for_workers(2)[0]
    since = server.output.mark()
    os.kill(victim.pid, signal.SIGKILL)
    server.wait_for_line("Worker . started", since=since)
    assert ask(control)["totals"]["restarts"] == 1
    module("main", "import no_such_module\n")
    server.send_signal(signal.SIGHUP)
    eventually(lambda: ask(control)["last_reload"], "the reload has failed")
    before = ask(control)

    is_second = "'rsgun: worker 2 ' in open('/proc/self/cmdline').read()"
    module("main", versioned("second", gate=f"{is_second} and 'go'"))
    server.send_signal(signal.SIGUSR2)
    server.wait_for_line("has taken over from", deadline=BOOT)

    def asked() -> Document | None:
        try:
            return ask(control)
        except OSError:
            # The new program opens the socket anew.
            return None

    after = eventually(asked, "the control socket is there again")
    assert after is not None
    assert after["phase"] == "reloading"
    assert after["last_reload"]["message"] == before["last_reload"]["message"]
    assert "no_such_module" in after["last_reload"]["traceback"]
    assert after["last_reload"]["seconds_ago"] > before["last_reload"]["seconds_ago"]
    assert after["uptime_s"] > before["uptime_s"]
    (tmp_path / "go").touch()
    server.wait_for_line("Upgrade complete", deadline=BOOT)
    after = ask(control)
    assert after["last_reload"]["ok"] and after["last_reload"]["generation"] == 3
    assert after["totals"]["restarts"] == 1
    (slot,) = [slot for slot in after["slots"] if slot["restarts"]]
    assert slot["last_exit"]["reason"] == "was killed by SIGKILL"


def test_worker_that_cannot_be_replaced_degrades_the_server(
    serve: Serve, module: Module, tmp_path: Path, control: Path
) -> None:
    module("main", versioned("first"))
    server = serve(
        "main:app", "--app-dir", str(tmp_path), "-w", "2", "--control-socket", str(control)
    )
    victim = server.wait_for_workers(2)[1]
    module("main", "raise RuntimeError('broken on the disk')\n")
    server.tolerates_tracebacks = True
    os.kill(victim.pid, signal.SIGKILL)
    server.wait_for_line(r"^WARNING: .*Degraded: slot 2 has no worker that serves")
    eventually(lambda: server.titled(r"^rsgun: master \[main:app\] \(degraded\)$"), "the title")
    eventually(lambda: ask(control)["slots"][1]["retry_in_s"], "a slot that waits", 20)
    status = ask(control)
    assert status["phase"] == "degraded"
    assert "slot 2 has no worker that serves" in status["degraded"][0]
    assert status["workers_serving"] == 1
    assert "could not start" in status["slots"][1]["last_exit"]["reason"]
    assert server.get().text.startswith("first ")
    module("main", versioned("second"))
    server.wait_for_line("No longer degraded", deadline=60)
    eventually(lambda: ask(control)["phase"] == "serving", "it serves again")
    assert server.titled(r"^rsgun: master \[main:app\]$")


class TestPhase:
    def test_booting(self, serve: Serve, module: Module, tmp_path: Path, control: Path) -> None:
        module("main", "print('importing', flush=True)\nimport time\ntime.sleep(60)\n")
        server = serve(
            "main:app", "--app-dir", str(tmp_path), "--control-socket", str(control), wait=False
        )
        server.wait_for_line("importing")
        status = ask(control)
        assert status["phase"] == "booting"
        assert status["workers"][0]["phase"] == "importing"

    def test_reloading(self, serve: Serve, module: Module, tmp_path: Path, control: Path) -> None:
        module("main", versioned("first"))
        server = serve("main:app", "--app-dir", str(tmp_path), "--control-socket", str(control))
        startup = "print('starting', flush=True); await asyncio.sleep(60)"
        module("main", versioned("second", startup=startup))
        server.send_signal(signal.SIGHUP)
        server.wait_for_line("starting")
        status = ask(control)
        assert status["phase"] == "reloading"
        assert {worker["phase"] for worker in status["workers"]} == {"serving", "startup"}

    def test_draining_and_stopping(
        self, serve: Serve, module: Module, tmp_path: Path, control: Path
    ) -> None:
        module("main", versioned("1"))
        arguments = ("--app-dir", str(tmp_path), "--control-socket", str(control))
        server = serve("main:app", *arguments, "--drain-delay", "600")
        with server.connect() as connection:
            connection.request("/wait")
            server.wait_for_line("^waiting in 1")
            server.send_signal(signal.SIGTERM)
            eventually(lambda: ask(control)["phase"] == "draining", "it drains")
            server.send_signal(signal.SIGTERM)
            eventually(lambda: ask(control)["phase"] == "stopping", "it stops")
            (tmp_path / "released").touch()
            assert connection.response().text.startswith("1 ")
        assert server.wait() == 0


class TestReady:
    """Whether a load balancer should send requests."""

    def test_while_it_serves_and_not_afterwards(self, serve: Serve, control: Path) -> None:
        server = serve("lab:app", "-w", "2", "--control-socket", str(control))
        eventually(lambda: ask(control)["workers_serving"] == 2, "both serve")
        assert ask(control)["ready"] is True
        result = rsgunctl("ready", "--socket", str(control))
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout == "ready: serving, 2 of 2 workers serve\n"
        assert ", ready, up " in rsgunctl("status", RSGUN_CONTROL_SOCKET=str(control)).stdout
        assert server.stop() == 0
        result = rsgunctl("ready", RSGUN_CONTROL_SOCKET=str(control))
        assert result.returncode == 1
        assert "cannot connect" in result.stderr

    def test_not_while_all_workers_are_gone(
        self, serve: Serve, module: Module, tmp_path: Path, control: Path
    ) -> None:
        module("main", versioned("1"))
        server = serve("main:app", "--app-dir", str(tmp_path), "--control-socket", str(control))
        module("main", "raise RuntimeError('broken on disk')\n")
        server.tolerates_tracebacks = True
        [worker] = server.wait_for_workers(1)
        os.kill(worker.pid, signal.SIGKILL)
        lost = eventually(
            lambda: (found := ask(control))["workers_serving"] == 0 and found, "no worker serves"
        )
        assert (lost["phase"] in ("serving", "degraded"), lost["ready"]) == (True, False)
        result = rsgunctl("ready", "--socket", str(control))
        assert (result.returncode, result.stderr) == (1, "")
        assert result.stdout.startswith("not ready: ")
        assert "not ready" in rsgunctl("status", "--socket", str(control)).stdout
        degraded = eventually(
            lambda: (found := ask(control))["phase"] == "degraded" and found, "it is degraded"
        )
        assert degraded["ready"] is False
        module("main", versioned("2"))
        eventually(lambda: ask(control)["ready"], "it is ready again", 60)

    def test_not_before(self, serve: Serve, module: Module, tmp_path: Path, control: Path) -> None:
        module("main", versioned("1", startup="await asyncio.sleep(300)"))
        serve("main:app", "--app-dir", str(tmp_path), "--control-socket", str(control), wait=False)
        eventually(control.exists, "the control socket")
        result = rsgunctl("ready", "--socket", str(control))
        assert (result.returncode, result.stdout) == (
            1,
            "not ready: booting, 0 of 1 worker serve\n",
        )


class TestSocket:
    def test_off_by_default(self, serve: Serve, tmp_path: Path) -> None:
        serve("lab:app")
        assert list(tmp_path.iterdir()) == []

    def test_belongs_to_its_user_and_goes_with_the_server(
        self, serve: Serve, control: Path
    ) -> None:
        server = serve("lab:app", "--control-socket", str(control))
        found = control.stat()
        assert stat.S_IMODE(found.st_mode) == 0o600
        assert found.st_uid == os.getuid()
        assert server.stop() == 0
        assert not control.exists()

    def test_survives_a_reload(self, serve: Serve, control: Path) -> None:
        server = serve("lab:app", "--control-socket", str(control))
        inode = control.stat().st_ino
        server.send_signal(signal.SIGHUP)
        server.wait_for_generation(2, 1)
        assert control.stat().st_ino == inode
        assert ask(control)["pid"] == server.pid

    def test_one_of_a_dead_server_is_replaced(self, serve: Serve, control: Path) -> None:
        server = serve("lab:app", "--control-socket", str(control))
        server.send_signal(signal.SIGKILL)
        server.wait()
        assert control.exists()
        second = serve("lab:app", "--control-socket", str(control))
        assert ask(control)["pid"] == second.pid

    def test_one_in_use_is_left_alone(
        self, serve: Serve, run: Callable[..., Any], control: Path
    ) -> None:
        server = serve("lab:app", "--control-socket", str(control))
        result = run("lab:app", "--control-socket", str(control))
        assert result.returncode == 1
        assert "--control-socket" in result.stderr
        assert str(control) in result.stderr
        assert ask(control)["pid"] == server.pid

    def test_relative_path_starts_where_the_server_was_started(
        self, serve: Serve, tmp_path: Path
    ) -> None:
        other = tmp_path / "other"
        other.mkdir()
        serve("lab:app", "--control-socket", "here.sock", "--chdir", str(other))
        assert (tmp_path / "here.sock").exists()

    def test_clients_that_do_not_read_hold_nobody(self, serve: Serve, control: Path) -> None:
        server = serve("lab:app", "-w", "2", "--control-socket", str(control))
        server.wait_for_workers(2)
        idle = []
        try:
            for number in range(40):
                client = socket.socket(socket.AF_UNIX)
                client.setblocking(False)
                idle.append(client)
                try:
                    client.connect(str(control))
                    client.send(b"GET / HTTP/1.1\r\n\r\n" * (number % 3))
                except OSError:
                    # The queue is full.
                    break
            assert server.get("/ping").body == b"pong"
            server.send_signal(signal.SIGHUP)
            server.wait_for_generation(2, 2)
            assert ask(control)["generation"] == 2
        finally:
            for client in idle:
                client.close()


class TestCommand:
    def test_status_is_for_people_and_json_for_programs(self, serve: Serve, control: Path) -> None:
        server = serve("lab:app", "--control-socket", str(control))
        (worker,) = server.wait_for_workers(1)
        shown = rsgunctl("status", "--socket", str(control))
        assert shown.returncode == 0
        assert f"master {server.pid} [lab:app]" in shown.stdout
        assert str(worker.pid) in shown.stdout
        document = json.loads(rsgunctl("status", "--json", "--socket", str(control)).stdout)
        assert document["pid"] == server.pid

    def test_nobody_answers(self, tmp_path: Path, control: Path) -> None:
        result = rsgunctl("status", "--socket", str(control))
        assert result.returncode == 1
        assert str(control) in result.stderr
        assert "--control-socket" in result.stderr
        control.write_text("no socket")
        assert rsgunctl("status", "--socket", str(control)).returncode == 1

    def test_no_socket_is_named(self) -> None:
        result = rsgunctl("status")
        assert result.returncode == 2
        assert "RSGUN_CONTROL_SOCKET" in result.stderr

    def test_unknown_command(self) -> None:
        assert rsgunctl("restart").returncode == 2
