"""Files with hooks as they are found, and as the documentation shows them."""

from __future__ import annotations

import os
import signal

import pytest
from harness.hooks import Hooked
from harness.marks import rsgun_only
from harness.sources import FAILING
from harness.target import ROOT
from harness.waiting import eventually

pytestmark = rsgun_only


def test_housekeeping_of_prometheus(hooked: Hooked) -> None:
    """Files of dead workers are marked, whoever has forked them."""
    conf = """
import os, pathlib, shutil

FOLDER = pathlib.Path("metrics")

def on_starting(server):
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()

def post_fork(server, worker):
    server.log.info("Worker spawned (pid: %s)", worker.pid)
    (FOLDER / f"gauge_live_{worker.pid}.db").touch()

def child_exit(server, worker):
    (FOLDER / f"gauge_live_{worker.pid}.db").unlink()
"""
    base = "bind = '127.0.0.1:0'\nwsgi_app = 'main:app'\nworkers = 2\n"
    recorded = hooked(conf=conf, base=base)
    server = recorded.server

    def live() -> set[str]:
        return {path.stem.rpartition("_")[2] for path in (recorded.folder / "metrics").iterdir()}

    def pids() -> set[str]:
        return {str(worker.pid) for worker in server.workers()}

    server.wait_for_workers(2)
    server.wait_for_line(r"^INFO: +Worker spawned \(pid: \d+\)$")
    eventually(lambda: live() == pids(), "a file for each worker")
    os.kill(server.workers()[0].pid, signal.SIGKILL)
    server.send_signal(signal.SIGHUP)
    server.wait_for_generation(2, 2)
    eventually(lambda: live() == pids(), "a file for each worker")
    assert server.stop() == 0
    assert live() == set()


def test_log_and_configuration_of_the_server(hooked: Hooked) -> None:
    conf = """
def on_starting(server):
    cfg = server.cfg
    server.log.info("workers %d bind %s timeout %s", cfg.workers, cfg.bind, cfg.timeout)
    server.log.warning("daemon %s preload %s name %s", cfg.daemon, cfg.preload_app, cfg.proc_name)
    server.log.debug("not shown")
    server.log.error_log.error("class %s", cfg.worker_class)
    assert cfg.when_ready is when_ready and cfg.boot_timeout == 77 and cfg.errorlog == "-"
    try:
        1 / 0
    except ZeroDivisionError:
        server.log.exception("caught")
    assert cfg.env == {"A": "1"}, cfg.env

worker_class = "uvicorn.workers.UvicornWorker"
raw_env = ["A=1"]
rsgun_boot_timeout = 77
"""
    server = hooked("-w", "3", "--timeout", "7", conf=conf).server
    server.tolerates_tracebacks = True
    server.wait_for_line(r"^INFO: +workers 3 bind \['127.0.0.1:0'\] timeout 7$")
    server.wait_for_line(r"^WARNING: +daemon False preload False name main:app$")
    server.wait_for_line(r"^ERROR: +class uvicorn.workers.UvicornWorker$")
    server.wait_for_line(r"^ERROR: +caught$")
    server.wait_for_line("^ZeroDivisionError: division by zero$")
    text = "\n".join(server.lines())
    assert "not shown" not in text
    assert "AssertionError" not in text


def test_shorter_forms_of_a_hook(hooked: Hooked) -> None:
    """post_request of older files, and a hook that is named by a string."""
    conf = """
def post_request(worker, req):
    record("short", path=req.path)

import sys, types
helpers = types.ModuleType("helpers")
helpers.leave = lambda server: record("left")
sys.modules["helpers"] = helpers
on_exit = "helpers.leave"
"""
    recorded = hooked(conf=conf)
    recorded.server.get("/x")
    assert recorded.wait("short")[0]["path"] == "/x"
    assert recorded.server.stop() == 0
    assert recorded.names()[-1] == "left"


def test_state_of_the_file_is_inherited_by_the_workers(hooked: Hooked) -> None:
    conf = """
shared = {}

def when_ready(server):
    shared["token"] = 42

def post_fork(server, worker):
    record("token", token=shared.get("token"))
"""
    recorded = hooked(conf=conf)
    assert recorded.wait("token")[0]["token"] == 42


def test_example_of_the_repository(hooked: Hooked) -> None:
    """config/gunicorn.conf.py, with every hook there is."""
    example = (ROOT / "config" / "gunicorn.conf.py").read_text()
    arguments = ("-b", "127.0.0.1:0", "--log-level", "debug", "main:app")
    server = hooked(*arguments, base=example, app=FAILING).server
    server.tolerates_tracebacks = True
    server.wait_for_workers(2)
    assert server.get("/x").status == 500
    server.wait_for_line(r"pre_request: GET /x")
    server.wait_for_line(r"post_request: GET /x None")
    server.send_signal(signal.SIGHUP)
    server.wait_for_line(rf"on_reload: master {server.pid}")
    server.wait_for_generation(2, 2)
    server.send_signal(signal.SIGTTIN)
    server.wait_for_line(r"nworkers_changed: from 2 to 3")
    assert server.stop() == 0
    text = "\n".join(server.lines())
    for hook in (
        "nworkers_changed: from None to 2",
        f"on_starting: master {server.pid}",
        "when_ready: [",
        "pre_fork: worker number 1",
        "post_fork: worker number 1",
        "post_worker_init: process",
        "worker_exit: process",
        "child_exit: process",
        f"on_exit: master {server.pid}",
    ):
        assert hook in text, hook


PRELOADED = """
import os, sqlite3

connection = sqlite3.connect("data.db", check_same_thread=False)
opened_by = os.getpid()


def reconnect():
    global connection, opened_by
    connection = sqlite3.connect("data.db", check_same_thread=False)
    opened_by = os.getpid()


async def app(scope, receive, send):
    if scope["type"] != "http":
        raise NotImplementedError
    body = b"own" if opened_by == os.getpid() else b"shared"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
"""


@pytest.mark.parametrize(
    ("conf", "expected"),
    [
        ("", "shared"),
        ("\ndef post_fork(server, worker):\n    import main\n    main.reconnect()\n", "own"),
    ],
    ids=["without", "with"],
)
def test_connections_that_preloading_has_opened(hooked: Hooked, conf: str, expected: str) -> None:
    """docs/preload.md: `post_fork` replaces what must not be shared."""
    base = 'bind = "127.0.0.1:0"\nwsgi_app = "main:app"\npreload_app = True\n'
    assert hooked(base=base, conf=conf, app=PRELOADED).server.get().text == expected
