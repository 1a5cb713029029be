"""``--request-timeout``: a request that takes too long is cancelled, unless it may take longer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.entries import shows
from harness.load import Load
from harness.marks import rsgun_only
from harness.server import Server
from harness.waiting import eventually
from harness.wire import Truncated

pytestmark = rsgun_only

Serve = Callable[..., Server]
Module = Callable[[str, str], Path]

FRAMEWORK = """
import time
from fastapi import FastAPI, Request

app = FastAPI()


@app.get("/thread")
def thread():
    time.sleep(6)


@app.get("/extended")
def extended(request: Request):
    request.scope["extensions"]["rsgun.timeout"]["extend"](30)
    time.sleep(3.5)
    return "extended"
"""

TOOK = r"GET \S+ took longer than --request-timeout allows, cancelled after [\d.]+ s"


def test_504(serve: Serve) -> None:
    server = serve("slow_requests:app", "--request-timeout", "1")
    with server.connect() as connection:
        response = connection.get("/slow?secret=1")
        assert (response.status, response.text) == (504, "Gateway Timeout")
        assert connection.get("/pid").status == 200
    shows(server, TOOK, "GET /slow took", "in slow", r"await asyncio\.sleep\(1000\)")
    server.wait_for_line(r'"GET /slow\?secret=1 HTTP/1.1" 504', stream="stdout")


def test_answer_that_has_begun_is_cut_off(serve: Serve) -> None:
    server = serve("slow_requests:app", "--request-timeout", "1")
    with server.connect() as connection:
        connection.request("/stream")
        with pytest.raises(Truncated):
            connection.response()
    server.wait_for_line("GET /stream took longer")
    assert server.get("/pid").status == 200


def test_application_cleans_up(serve: Serve) -> None:
    server = serve("slow_requests:app", "--request-timeout", "1")
    assert server.get("/cleans-up").status == 504
    server.wait_for_line("cleaned up", stream="stdout")


def test_error_of_the_clean_up_is_logged(serve: Serve) -> None:
    server = serve("slow_requests:app", "--request-timeout", "1")
    server.tolerates_tracebacks = True
    assert server.get("/raises").status == 504
    server.wait_for_line("RuntimeError: in the clean-up")


def test_task_that_swallows_its_cancellation(serve: Serve) -> None:
    """The client has its answer; the task is cancelled again and again."""
    server = serve("slow_requests:app", "--request-timeout", "1")
    with server.connect() as connection:
        assert connection.get("/stubborn").status == 504
        server.wait_for_line("GET /stubborn has been cancelled and goes on")
        server.wait_for_line("stubborn ends", stream="stdout")
        assert connection.get("/pid").status == 200
    eventually(lambda: server.lines("stdout").count("swallowed") == 3, "three cancellations")


def test_client_that_has_left_changes_nothing(serve: Serve) -> None:
    server = serve("slow_requests:app", "--request-timeout", "1")
    with server.connect() as connection:
        connection.request("/cleans-up")
    server.wait_for_line("cleaned up", stream="stdout")


def test_work_after_the_answer_is_not_limited(serve: Serve) -> None:
    server = serve("slow_requests:app", "--request-timeout", "1")
    assert server.get("/afterwards").text == "answered"
    server.wait_for_line("background work done", stream="stdout")
    assert not [line for line in server.lines("stderr") if "took longer" in line]


@pytest.mark.parametrize("path", ["/extended", "/extended-in-a-thread"])
def test_extension(serve: Serve, path: str) -> None:
    """More time for one request, and no more for the next one."""
    server = serve("slow_requests:app", "--request-timeout", "2")
    with server.connect() as connection, server.connect() as other:
        connection.request(path)
        assert other.get("/slow").status == 504
        assert connection.response().text == "extended"


@pytest.mark.parametrize("seconds", ["-1", "nan", "inf"])
def test_extension_by_nonsense(serve: Serve, seconds: str) -> None:
    server = serve("slow_requests:app", "--request-timeout", "1")
    assert server.get(f"/extended-wrongly?{seconds}").text.startswith("refused: ")


def test_no_extension_without_a_limit(serve: Serve) -> None:
    assert "rsgun.timeout" not in serve("slow_requests:app").get("/extensions").text


def test_many_at_once(serve: Serve) -> None:
    server = serve("slow_requests:app", "--request-timeout", "1")
    with server.connections(40) as connections:
        for connection in connections:
            connection.request("/slow")
        assert {connection.response().status for connection in connections} == {504}
    eventually(
        lambda: sum("GET /slow took" in line for line in server.lines("stderr")) == 40,
        "each is in the log",
    )


def test_endpoint_in_a_thread(serve: Serve, module: Module, tmp_path: Path) -> None:
    """The thread runs on, but its client has an answer."""
    pytest.importorskip("fastapi")
    module("framework", FRAMEWORK)
    server = serve("framework:app", "--app-dir", str(tmp_path), "--request-timeout", "3")
    with server.connect() as connection, server.connect() as other:
        connection.request("/extended")
        assert other.get("/thread").status == 504
        assert connection.response().text == '"extended"'
        assert other.get("/openapi.json").status == 200


@pytest.mark.slow
def test_under_load(serve: Serve) -> None:
    """Requests that are fast enough notice nothing."""
    server = serve("slow_requests:app", "--request-timeout", "5", "--no-access-log")
    load = Load(server.port, "/pid", keep_alive=8, one_shot=8)

    async def both() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(load.run())
            asked = [asyncio.to_thread(server.get, "/slow") for _ in range(3)]
            assert {answer.status for answer in await asyncio.gather(*asked)} == {504}
            load.stop()

    asyncio.run(both())
    assert not load.keep_alive.lost and not load.one_shot.lost
    assert load.keep_alive.answered > 100
    eventually(lambda: sum("GET /slow took" in line for line in server.lines()) == 3, "logged")
