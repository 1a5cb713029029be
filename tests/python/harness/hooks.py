"""Servers whose hooks leave their traces in a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.server import Server
from harness.sources import versioned
from harness.target import command
from harness.waiting import eventually

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
"""One with every hook of a gunicorn.conf.py that rsgun has, but for pre_exec."""


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


Hooked = Callable[..., Recorded]
"""The fixture that starts one."""


@pytest.fixture
def hooked(launch: Callable[..., Server], tmp_path: Path) -> Hooked:
    """Starts a server with a gunicorn.conf.py: ``conf`` after one whose hooks record themselves."""

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
