"""The hooks of a gunicorn.conf.py: each at its moment, in its process, with its objects."""

from __future__ import annotations

import os
import signal

import pytest
from harness.hooks import Hooked
from harness.marks import rsgun_only
from harness.sources import FAILING, answer
from harness.waiting import eventually

pytestmark = rsgun_only


@pytest.mark.parametrize("arguments", [(), ("--preload",)], ids=["plain", "preload"])
def test_boot(hooked: Hooked, arguments: tuple[str, ...]) -> None:
    recorded = hooked("-w", "2", *arguments)
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


def test_request(hooked: Hooked) -> None:
    recorded = hooked()
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


def test_request_of_wsgi(hooked: Hooked) -> None:
    recorded = hooked("-k", "gthread", "--threads", "2", app=WSGI)
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


def test_request_that_fails(hooked: Hooked) -> None:
    recorded = hooked(app=FAILING)
    recorded.server.tolerates_tracebacks = True
    assert recorded.server.get().status == 500
    (after,) = recorded.wait("post_request")
    assert (after["status"], after["code"]) == (None, None)
    recorded.server.wait_for_line("RuntimeError: the application")


def test_worker_that_is_killed(hooked: Hooked) -> None:
    recorded = hooked("-w", "2")
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


def test_more_and_fewer_workers(hooked: Hooked) -> None:
    recorded = hooked()
    recorded.server.send_signal(signal.SIGTTIN)
    recorded.server.wait_for_line("Worker 2 started")
    recorded.server.send_signal(signal.SIGTTOU)
    recorded.wait("child_exit")
    changes = [(one["old"], one["new"]) for one in recorded.records("nworkers_changed")]
    assert changes == [(None, 1), (1, 2), (2, 1)]
    assert recorded.names().index("worker_exit") < recorded.names().index("child_exit")


def test_reload(hooked: Hooked) -> None:
    recorded = hooked("-w", "2")
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
def test_stop(hooked: Hooked, number: signal.Signals) -> None:
    recorded = hooked("-w", "2")
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


def test_worker_that_hangs(hooked: Hooked) -> None:
    recorded = hooked("--timeout", "3", app=HANGING)
    recorded.server.tolerates_tracebacks = True
    (victim,) = recorded.server.wait_for_workers(1)
    with recorded.server.connect() as connection:
        connection.request("/")
        (gone,) = recorded.wait("child_exit")
    names = [record["hook"] for record in recorded.records() if record["pid"] == victim.pid]
    assert names[-2:] == ["worker_abort", "worker_exit"]
    assert gone["worker"] == victim.pid


def test_fork_server_that_is_killed(hooked: Hooked) -> None:
    """The next one knows the hooks, and is told of no second start of the server."""
    recorded = hooked()
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
