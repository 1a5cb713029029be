"""What hooks do with the application: look at it, change it, put another one in its place."""

from __future__ import annotations

import os
import re
import signal

import pytest
from harness.hooks import RECORDS, Hooked
from harness.marks import rsgun_only

pytestmark = rsgun_only

WSGI = """
import os

class App:
    imported_by = os.getpid()
    login = False

    def __call__(self, environ, start_response):
        start_response("401 Unauthorized" if self.login else "200 OK", [])
        return [f"{self.imported_by}".encode()]

app = App()
"""

ASGI = """
import os

class App:
    imported_by = os.getpid()
    login = False

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            raise NotImplementedError
        status = 401 if self.login else 200
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": f"{self.imported_by}".encode()})

app = App()
"""

kinds = pytest.mark.parametrize("app", [WSGI, ASGI], ids=["wsgi", "asgi"])
both = pytest.mark.parametrize("arguments", [(), ("--preload",)], ids=["plain", "preload"])


@kinds
@both
def test_post_worker_init_changes_the_application(
    hooked: Hooked, app: str, arguments: tuple[str, ...]
) -> None:
    conf = "\ndef post_worker_init(worker):\n    worker.wsgi.login = True\n"
    assert hooked(*arguments, base=RECORDS, conf=conf, app=app).server.get().status == 401


@both
def test_it_is_the_same_everywhere(hooked: Hooked, arguments: tuple[str, ...]) -> None:
    conf = """
def look(hook, worker):
    app = worker.app
    record(hook, same=app.wsgi() is app.callable is worker.wsgi, uri=app.app_uri)

def post_fork(server, worker):
    record("post_fork", same=server.app is worker.app, early=hasattr(worker, "wsgi"))

def post_worker_init(worker):
    look("post_worker_init", worker)

def worker_int(worker):
    look("worker_int", worker)

def worker_exit(server, worker):
    look("worker_exit", worker)
"""
    recorded = hooked(*arguments, base=RECORDS, conf=conf, app=WSGI)
    assert recorded.server.stop(signal.SIGINT) == 0
    (fork,) = recorded.records("post_fork")
    assert (fork["same"], fork["early"]) == (True, False)
    for hook in ("post_worker_init", "worker_int", "worker_exit"):
        (seen,) = recorded.records(hook)
        assert (seen["same"], seen["uri"]) == (True, "main:app"), hook


@pytest.mark.parametrize("hook", ["on_starting(server)", "pre_fork(server, worker)"])
def test_hook_that_imports_it_in_the_fork_server(hooked: Hooked, hook: str) -> None:
    conf = f"\ndef {hook}:\n    server.app.wsgi().login = True\n"
    recorded = hooked("-w", "2", base=RECORDS, conf=conf, app=WSGI)
    recorded.server.wait_for_workers(2)
    response = recorded.server.get()
    assert response.status == 401
    (fork_server,) = recorded.server.fork_servers()
    assert response.text == str(fork_server.pid)


OTHER = """
def other(environ, start_response):
    start_response("200 OK", [])
    return [b"other"]

async def asgi(scope, receive, send):
    if scope["type"] != "http":
        raise NotImplementedError
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"other"})
"""


@both
@pytest.mark.parametrize(
    "hook",
    [
        "post_worker_init(worker):\n    worker.wsgi = other",
        "post_worker_init(worker):\n    worker.wsgi = asgi",
        "post_fork(server, worker):\n    worker.app.callable = other",
        "on_starting(server):\n    server.app.callable = other",
    ],
    ids=["wsgi", "asgi", "post_fork", "on_starting"],
)
def test_another_application_is_served(
    hooked: Hooked, hook: str, arguments: tuple[str, ...]
) -> None:
    recorded = hooked(*arguments, base=RECORDS, conf=f"{OTHER}\ndef {hook}\n", app=WSGI)
    assert recorded.server.get().text == "other"


def test_callable_is_not_looked_at_again(hooked: Hooked) -> None:
    """In gunicorn neither: the worker has its application when post_worker_init is called."""
    conf = f"{OTHER}\ndef post_worker_init(worker):\n    worker.app.callable = other\n"
    assert hooked(base=RECORDS, conf=conf, app=WSGI).server.get().text != "other"


def test_what_is_no_application_is_refused(hooked: Hooked) -> None:
    conf = "\ndef post_worker_init(worker):\n    worker.wsgi = 42\n"
    server = hooked(base=RECORDS, conf=conf, app=WSGI, wait=False).server
    assert server.wait() == 3
    server.wait_for_line("worker.wsgi of the hook post_worker_init is not recognised")


def test_application_that_cannot_be_imported(hooked: Hooked) -> None:
    """The hook fails in the words of the import, and the start as it would without."""
    conf = "\ndef on_starting(server):\n    server.app.wsgi()\n"
    server = hooked(base=RECORDS, conf=conf, app="import nothing_of_the_kind\n", wait=False).server
    server.tolerates_tracebacks = True
    assert server.wait() == 3
    server.wait_for_line("the hook on_starting has raised")
    text = "\n".join(server.lines("stderr"))
    assert "('ImportRaised'" not in text
    assert text.count("ModuleNotFoundError: No module named 'nothing_of_the_kind'") == 2


# === hooks that decide against a start ===


@pytest.mark.parametrize(
    ("decision", "code", "words"),
    [
        ("sys.exit(7)", 7, "sys.exit(7)"),
        ("sys.exit()", 0, "sys.exit()"),
        ("sys.exit('the lock is held')", 1, "the lock is held"),
        ("raise SystemExit(-1)", 255, "sys.exit(-1)"),
    ],
)
@both
def test_on_starting_ends_the_start(
    hooked: Hooked, arguments: tuple[str, ...], decision: str, code: int, words: str
) -> None:
    conf = f"""
import sys

def on_starting(server):
    print("another one holds the lock")
    {decision}

def pre_fork(server, worker):
    record("pre_fork")

def on_exit(server):
    record("on_exit")
"""
    recorded = hooked(*arguments, base=RECORDS, conf=conf, wait=False)
    server = recorded.server
    assert server.wait() == code
    server.wait_for_line(f"the hook on_starting has ended the start: {re.escape(words)}$")
    server.wait_for_line("^another one holds the lock$")
    assert not recorded.names()
    assert not server.leftovers()


@pytest.mark.parametrize("hook", ["post_fork(server, worker)", "post_worker_init(worker)"])
def test_hook_of_a_worker_ends_its_start(hooked: Hooked, hook: str) -> None:
    conf = f"\nimport sys\n\ndef {hook}:\n    sys.exit('no GPU is left')\n"
    server = hooked(base=RECORDS, conf=conf, wait=False).server
    assert server.wait() == 3
    name = hook.partition("(")[0]
    server.wait_for_line(f"the hook {name} has ended the worker: no GPU is left")
    assert not server.leftovers()


def test_hook_ends_the_start_of_a_later_worker(hooked: Hooked) -> None:
    conf = """
import sys

def post_fork(server, worker):
    if os.path.exists("full"):
        sys.exit(1)
"""
    recorded = hooked("-w", "2", base=RECORDS, conf=conf)
    server = recorded.server
    victim, other = server.wait_for_workers(2)
    (recorded.folder / "full").touch()
    os.kill(victim.pid, signal.SIGKILL)
    server.wait_for_line(r"the hook post_fork has ended the worker: sys.exit\(1\)")
    assert server.get().status == 200
    (recorded.folder / "full").unlink()
    server.wait_for_workers(2)
    assert other.pid in {worker.pid for worker in server.workers()}
