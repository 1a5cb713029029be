"""The hooks of a gunicorn.conf.py: each at its moment, in its process, with its objects."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness.server import Server
from harness.sources import answer, versioned
from harness.target import ROOT, command, rsgun_only
from harness.waiting import DEADLINE, eventually

pytestmark = rsgun_only

RECORDS = """
import json, os

bind = "127.0.0.1:0"
wsgi_app = "main:app"

def record(hook, **more):
    line = json.dumps({"hook": hook, "pid": os.getpid(), **more}) + "\\n"
    file = os.open("hooks.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(file, line.encode())
    os.close(file)
"""
"""The beginning of a configuration whose hooks leave their traces in a file."""

RECORDER = (
    RECORDS
    + """

def on_starting(server):
    record("on_starting", master=server.pid, address=server.address, workers=server.num_workers)

def on_reload(server):
    record("on_reload", master=server.pid)

def when_ready(server):
    record("when_ready")

def pre_fork(server, worker):
    record("pre_fork", age=worker.age, worker=worker.pid)

def post_fork(server, worker):
    record("post_fork", age=worker.age, worker=worker.pid, parent=worker.ppid)

def post_worker_init(worker):
    record("post_worker_init", worker=worker.pid, booted=worker.booted, app=str(worker.app))

def worker_int(worker):
    record("worker_int", worker=worker.pid)

def worker_abort(worker):
    record("worker_abort", worker=worker.pid)

def pre_request(worker, req):
    record("pre_request", nr=worker.nr, line=f"{req.method} {req.uri}", query=req.query,
           path=req.path, version=req.version, headers=dict(req.headers), peer=req.remote_addr)

def post_request(worker, req, environ, resp):
    record("post_request", line=f"{req.method} {req.uri}", scope=environ.get("type"),
           status=resp.status, code=resp.status_code, sent=resp.sent, headers=resp.headers)

def child_exit(server, worker):
    record("child_exit", worker=worker.pid, age=worker.age, left=sorted(server.WORKERS))

def worker_exit(server, worker):
    record("worker_exit", worker=worker.pid, alive=worker.alive)

def nworkers_changed(server, new_value, old_value):
    record("nworkers_changed", new=new_value, old=old_value, known=server.num_workers)

def on_exit(server):
    record("on_exit", left=sorted(server.WORKERS))
"""
)


@dataclass
class Recorded:
    """A server whose hooks record themselves."""

    server: Server
    folder: Path

    def records(self, *hooks: str) -> list[dict[str, object]]:
        """What these hooks have recorded so far; all, if none is named."""
        path = self.folder / "hooks.log"
        lines = path.read_text().splitlines() if path.exists() else []
        found = [json.loads(line) for line in lines]
        return [record for record in found if not hooks or record["hook"] in hooks]

    def names(self) -> list[str]:
        """The hooks in their order."""
        return [str(record["hook"]) for record in self.records()]

    def wait(self, hook: str, count: int = 1) -> list[dict[str, object]]:
        """Waits until a hook was called so many times."""
        found = eventually(
            lambda: len(self.records(hook)) >= count and self.records(hook),
            f"{count} calls of {hook}",
        )
        assert isinstance(found, list)
        return found

    def forget(self) -> None:
        """Begins anew."""
        (self.folder / "hooks.log").unlink(missing_ok=True)


@pytest.fixture
def start(launch: Callable[..., Server], tmp_path: Path) -> Callable[..., Recorded]:
    """Starts a server with a file that is `conf` after the recorder."""

    def begin(
        *arguments: str,
        conf: str = "",
        base: str = RECORDER,
        app: str | None = None,
        wait: bool = True,
    ) -> Recorded:
        (tmp_path / "main.py").write_text(app or versioned("first"))
        (tmp_path / "gunicorn.conf.py").write_text(base + conf)
        server = launch(command(None, "-c", "gunicorn.conf.py", *arguments))
        return Recorded(server.wait_until_running() if wait else server, tmp_path)

    return begin


# === the moments ===


@pytest.mark.parametrize("arguments", [(), ("--preload",)], ids=["plain", "preload"])
def test_boot(start: Callable[..., Recorded], arguments: tuple[str, ...]) -> None:
    recorded = start("-w", "2", *arguments)
    server = recorded.server
    recorded.wait("post_worker_init", 2)
    (fork_server,) = server.fork_servers()
    workers = {worker.pid for worker in server.wait_for_workers(2)}
    names = recorded.names()
    assert names[:4] == ["nworkers_changed", "on_starting", "when_ready", "pre_fork"]
    assert {record["pid"] for record in recorded.records()[:4]} == {fork_server.pid}
    changed, starting = recorded.records("nworkers_changed", "on_starting")
    assert (changed["new"], changed["old"], changed["known"]) == (2, None, 2)
    assert (starting["master"], starting["workers"]) == (server.pid, 2)
    assert starting["address"] == [["127.0.0.1", 0]]
    assert [record["age"] for record in recorded.records("pre_fork")] == [1, 2]
    assert {record["worker"] for record in recorded.records("pre_fork")} == {"[booting]"}
    for hook in ("post_fork", "post_worker_init"):
        found = recorded.records(hook)
        assert {record["pid"] for record in found} == workers
        assert all(record["worker"] == record["pid"] for record in found)
    assert {record["parent"] for record in recorded.records("post_fork")} == {server.pid}
    assert all(record["booted"] for record in recorded.records("post_worker_init"))
    for pid in workers:
        own = [record["hook"] for record in recorded.records() if record["pid"] == pid]
        assert own == ["post_fork", "post_worker_init"]


def test_request(start: Callable[..., Recorded]) -> None:
    recorded = start()
    with recorded.server.connect() as connection:
        assert answer(connection.get("/a%20b?x=1").text)[0] == "first"
        (before,) = recorded.wait("pre_request")
        (after,) = recorded.wait("post_request")
        assert connection.get("/second").status == 200
        recorded.wait("post_request", 2)
    assert (before["line"], before["query"]) == ("GET /a%20b?x=1", "x=1")
    assert (before["path"], before["version"]) == ("/a b", [1, 1])
    assert before["nr"] == 1
    assert "HOST" in before["headers"]  # type: ignore[operator]
    assert before["peer"][0] == "127.0.0.1"  # type: ignore[index]
    assert (after["status"], after["code"], after["scope"]) == ("200 OK", 200, "http")
    assert ["content-length", str(after["sent"])] in after["headers"]  # type: ignore[operator]
    names = ["pre_request", "post_request"] * 2
    assert [name for name in recorded.names() if name.endswith("_request")] == names
    assert recorded.records("pre_request")[1]["nr"] == 2


WSGI = """
def app(environ, start_response):
    if environ["PATH_INFO"] == "/raise":
        raise RuntimeError("the application")
    start_response("201 Created", [("Content-Type", "text/plain"), ("Content-Length", "6")])
    yield b"abc"
    yield b"def"
"""


def test_request_of_wsgi(start: Callable[..., Recorded]) -> None:
    recorded = start("-k", "gthread", "--threads", "2", app=WSGI)
    recorded.server.tolerates_tracebacks = True
    response = recorded.server.get("/a%20b?x=1")
    assert (response.status, response.text) == (201, "abcdef")
    (after,) = recorded.wait("post_request")
    (before,) = recorded.records("pre_request")
    assert before["line"] == "GET /a%20b?x=1"
    assert (before["path"], before["version"]) == ("/a b", [1, 1])
    assert "HOST" in before["headers"]  # type: ignore[operator]
    assert (after["status"], after["code"], after["sent"]) == ("201 Created", 201, 6)
    assert recorded.server.get("/raise").status == 500
    assert recorded.wait("post_request", 2)[1]["status"] is None
    assert recorded.server.stop(signal.SIGINT) == 0
    assert recorded.names()[-4:] == ["worker_int", "worker_exit", "child_exit", "on_exit"]


FAILING = """
async def app(scope, receive, send):
    if scope["type"] == "http":
        raise RuntimeError("the application")
    raise NotImplementedError
"""


def test_request_that_fails(start: Callable[..., Recorded]) -> None:
    recorded = start(app=FAILING)
    recorded.server.tolerates_tracebacks = True
    assert recorded.server.get().status == 500
    (after,) = recorded.wait("post_request")
    assert (after["status"], after["code"]) == (None, None)
    recorded.server.wait_for_line("RuntimeError: the application")


def test_worker_that_is_killed(start: Callable[..., Recorded]) -> None:
    recorded = start("-w", "2")
    workers = {worker.pid for worker in recorded.server.wait_for_workers(2)}
    recorded.wait("post_worker_init", 2)
    recorded.forget()
    victim = min(workers)
    os.kill(victim, signal.SIGKILL)
    (gone,) = recorded.wait("child_exit")
    recorded.wait("post_worker_init")
    assert gone["worker"] == victim
    assert gone["left"] == [max(workers)]
    assert gone["pid"] == recorded.server.fork_servers()[0].pid
    assert set(recorded.names()) == {"child_exit", "pre_fork", "post_fork", "post_worker_init"}
    assert recorded.records("post_fork")[0]["age"] == 3


def test_more_and_fewer_workers(start: Callable[..., Recorded]) -> None:
    recorded = start()
    recorded.server.send_signal(signal.SIGTTIN)
    recorded.server.wait_for_line("Worker 2 started")
    recorded.server.send_signal(signal.SIGTTOU)
    recorded.wait("child_exit")
    changes = [(one["old"], one["new"]) for one in recorded.records("nworkers_changed")]
    assert changes == [(None, 1), (1, 2), (2, 1)]
    assert recorded.names().index("worker_exit") < recorded.names().index("child_exit")


def test_reload(start: Callable[..., Recorded]) -> None:
    recorded = start("-w", "2")
    old = {worker.pid for worker in recorded.server.wait_for_workers(2)}
    recorded.wait("post_worker_init", 2)
    recorded.forget()
    path = recorded.folder / "gunicorn.conf.py"
    path.write_text(path.read_text().replace('record("on_reload"', 'record("on_reload anew"'))
    recorded.server.send_signal(signal.SIGHUP)
    recorded.server.wait_for_generation(2, 2)
    gone = recorded.wait("child_exit", 2)
    assert recorded.names()[:3] == ["nworkers_changed", "on_reload anew", "pre_fork"]
    changed = recorded.records("nworkers_changed")
    assert [(one["old"], one["new"]) for one in changed] == [(2, 2)]
    recorded.wait("when_ready")
    (fork_server,) = recorded.server.fork_servers()
    assert changed[0]["pid"] == fork_server.pid
    (reloaded,) = recorded.records("on_reload anew")
    assert (reloaded["pid"], reloaded["master"]) == (fork_server.pid, recorded.server.pid)
    assert {record["worker"] for record in gone} == old
    assert {record["worker"] for record in recorded.records("worker_exit")} == old
    ready = recorded.records("when_ready")
    assert [record["pid"] for record in ready] == [fork_server.pid]
    assert not recorded.records("on_starting", "on_exit")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop(start: Callable[..., Recorded], number: signal.Signals) -> None:
    recorded = start("-w", "2")
    workers = {worker.pid for worker in recorded.server.wait_for_workers(2)}
    recorded.wait("post_worker_init", 2)
    (fork_server,) = recorded.server.fork_servers()
    recorded.forget()
    assert recorded.server.stop(number) == 0
    names = recorded.names()
    quick = number == signal.SIGINT
    assert names.count("worker_int") == (2 if quick else 0)
    assert names[-1] == "on_exit"
    assert names.count("on_exit") == 1
    assert recorded.records("on_exit")[0] == {
        "hook": "on_exit",
        "pid": fork_server.pid,
        "left": [],
    }
    for hook in ("worker_exit", "child_exit"):
        assert {record["worker"] for record in recorded.records(hook)} == workers, hook
    assert not recorded.server.leftovers()


HANGING = """
import time

async def app(scope, receive, send):
    if scope["type"] == "http":
        time.sleep(600)
    raise NotImplementedError
"""


def test_worker_that_hangs(start: Callable[..., Recorded]) -> None:
    recorded = start("--timeout", "3", app=HANGING)
    recorded.server.tolerates_tracebacks = True
    (victim,) = recorded.server.wait_for_workers(1)
    with recorded.server.connect() as connection:
        connection.request("/")
        (gone,) = recorded.wait("child_exit")
    names = [record["hook"] for record in recorded.records() if record["pid"] == victim.pid]
    assert names[-2:] == ["worker_abort", "worker_exit"]
    assert gone["worker"] == victim.pid


def test_fork_server_that_is_killed(start: Callable[..., Recorded]) -> None:
    """The next one knows the hooks, and is told of no second start of the server."""
    recorded = start()
    (victim,) = recorded.server.fork_servers()
    recorded.forget()
    os.kill(victim.pid, signal.SIGKILL)
    eventually(
        lambda: [one for one in recorded.server.fork_servers() if one.pid != victim.pid],
        "another fork server",
    )
    recorded.server.wait_for_line("Fork server of generation 1 failed")
    recorded.server.send_signal(signal.SIGTTIN)
    recorded.wait("post_worker_init")
    assert recorded.server.stop() == 0
    names = recorded.names()
    assert names[-1] == "on_exit"
    assert not {"on_starting", "on_reload"} & set(names)
    assert names.count("when_ready") == 1
    assert names.count("child_exit") == 2


# === hooks that do wrong ===

ALL_HOOKS = {
    "on_starting": "server",
    "when_ready": "server",
    "on_reload": "server",
    "pre_fork": "server, worker",
    "post_fork": "server, worker",
    "post_worker_init": "worker",
    "pre_request": "worker, req",
    "post_request": "worker, req, environ, resp",
    "child_exit": "server, worker",
    "worker_exit": "server, worker",
    "nworkers_changed": "server, new, old",
    "on_exit": "server",
    "worker_int": "worker",
    "worker_abort": "worker",
    "pre_exec": "server",
}


DECIDING = ("on_starting", "post_fork", "post_worker_init")
"""Those whose SystemExit is a decision: test_hooks_app.py."""


@pytest.mark.parametrize("what", ["raise RuntimeError('of the hook')", "raise SystemExit(5)"])
def test_every_hook_raises_and_nobody_is_harmed(start: Callable[..., Recorded], what: str) -> None:
    names = [name for name in ALL_HOOKS if "Exit" not in what or name not in DECIDING]
    hooks = "".join(f"\ndef {name}({ALL_HOOKS[name]}):\n    {what}\n" for name in names)
    base = "bind = '127.0.0.1:0'\nwsgi_app = 'main:app'\nworkers = 2\n"
    recorded = start(conf=hooks, base=base)
    server = recorded.server
    server.tolerates_tracebacks = True
    for _ in range(5):
        assert server.get().status == 200
    victim = server.wait_for_workers(2)[0]
    os.kill(victim.pid, signal.SIGKILL)
    server.send_signal(signal.SIGTTIN)
    server.wait_for_line("Number of workers changed from 2 to 3")
    server.wait_for_line("Worker 3 started")
    server.send_signal(signal.SIGHUP)
    server.wait_for_generation(2, 3)
    server.wait_for_line("Reload complete")
    assert server.get().status == 200
    os.kill(server.wait_for_workers(3)[0].pid, signal.SIGABRT)
    server.wait_for_line("the hook worker_abort has raised")
    server.wait_for_line("exited with code 1; replacing it")
    server.wait_for_generation(2, 3)
    server.send_signal(signal.SIGUSR2)
    server.wait_for_line("Upgrade complete", deadline=30)
    server.wait_for_generation(3, 3)
    assert server.get().status == 200
    assert server.stop(signal.SIGINT) == 0
    for name in names:
        server.wait_for_line(f"the hook {name} has raised")
    text = "\n".join(server.lines("stderr"))
    assert "<rsgun/" not in text.split("the hook on_exit has raised")[1]
    assert not server.leftovers()


def test_on_exit_that_hangs(start: Callable[..., Recorded]) -> None:
    recorded = start(conf="\nimport time\ndef on_exit(server):\n    time.sleep(600)\n")
    assert recorded.server.stop(deadline=2 * DEADLINE) == 0
    assert not recorded.server.leftovers()


def test_second_interrupt_does_not_wait_for_on_exit(start: Callable[..., Recorded]) -> None:
    hanging = "\nimport time\ndef on_exit(server):\n    record('hanging')\n    time.sleep(600)\n"
    recorded = start(conf=hanging)
    recorded.server.send_signal(signal.SIGINT)
    recorded.wait("hanging")
    began = time.monotonic()
    recorded.server.send_signal(signal.SIGINT)
    recorded.server.wait_for_line("Ending at once")
    assert recorded.server.wait() == 0
    # Without the second one the hook has five seconds.
    assert time.monotonic() - began < 4


# === files of real life ===


def test_housekeeping_of_prometheus(start: Callable[..., Recorded]) -> None:
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
    recorded = start(conf=conf, base=base)
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


def test_log_and_configuration_of_the_server(start: Callable[..., Recorded]) -> None:
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
    server = start("-w", "3", "--timeout", "7", conf=conf).server
    server.tolerates_tracebacks = True
    server.wait_for_line(r"^INFO: +workers 3 bind \['127.0.0.1:0'\] timeout 7$")
    server.wait_for_line(r"^WARNING: +daemon False preload False name main:app$")
    server.wait_for_line(r"^ERROR: +class uvicorn.workers.UvicornWorker$")
    server.wait_for_line(r"^ERROR: +caught$")
    server.wait_for_line("^ZeroDivisionError: division by zero$")
    text = "\n".join(server.lines())
    assert "not shown" not in text
    assert "AssertionError" not in text


def test_shorter_forms_of_a_hook(start: Callable[..., Recorded]) -> None:
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
    recorded = start(conf=conf)
    recorded.server.get("/x")
    assert recorded.wait("short")[0]["path"] == "/x"
    assert recorded.server.stop() == 0
    assert recorded.names()[-1] == "left"


def test_state_of_the_file_is_inherited_by_the_workers(start: Callable[..., Recorded]) -> None:
    conf = """
shared = {}

def when_ready(server):
    shared["token"] = 42

def post_fork(server, worker):
    record("token", token=shared.get("token"))
"""
    recorded = start(conf=conf)
    assert recorded.wait("token")[0]["token"] == 42


# === what the documentation shows ===


def test_example_of_the_repository(start: Callable[..., Recorded]) -> None:
    """config/gunicorn.conf.py, with every hook there is."""
    example = (ROOT / "config" / "gunicorn.conf.py").read_text()
    arguments = ("-b", "127.0.0.1:0", "--log-level", "debug", "main:app")
    server = start(*arguments, base=example, app=FAILING).server
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
def test_connections_that_preloading_has_opened(
    start: Callable[..., Recorded], conf: str, expected: str
) -> None:
    """docs/preload.md: `post_fork` replaces what must not be shared."""
    base = 'bind = "127.0.0.1:0"\nwsgi_app = "main:app"\npreload_app = True\n'
    assert start(base=base, conf=conf, app=PRELOADED).server.get().text == expected
