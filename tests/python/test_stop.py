"""The end: what each signal does to requests, to the application and to the exit code."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.marks import rsgun_only
from harness.server import Server, port_is_free
from harness.sources import versioned
from harness.target import TARGET
from harness.waiting import eventually, wait_gone
from harness.wire import Connection, Truncated

Serve = Callable[..., Server]
Module = Callable[[str, str], Path]

LIFESPAN = versioned(
    "1",
    startup="print('lifespan started', flush=True)",
    shutdown="await asyncio.sleep(0.05); print('lifespan stopped', flush=True)",
)

HANGS = """
import time

async def app(scope, receive, send):
    assert scope["type"] == "http"
    print("hanging", flush=True)
    time.sleep(300)
"""


@pytest.fixture
def with_lifespan(serve: Serve, module: Module, tmp_path: Path) -> Callable[..., Server]:
    def start(*arguments: str) -> Server:
        module("main", LIFESPAN)
        return serve("main:app", "--app-dir", str(tmp_path), *arguments)

    return start


def named(*numbers: signal.Signals) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("number", numbers, ids=lambda number: number.name)


@rsgun_only
@named(signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
def test_exit_code_is_zero(serve: Serve, number: int) -> None:
    server = serve("lab:app")
    assert server.stop(number) == 0
    assert not server.leftovers()
    assert port_is_free(server.port)


@named(signal.SIGTERM, signal.SIGINT)
@pytest.mark.parametrize("workers", ["1", "3"])
def test_lifespan_shutdown_runs(
    with_lifespan: Callable[..., Server], number: int, workers: str
) -> None:
    server = with_lifespan("--workers", workers)
    eventually(
        lambda: server.lines("stdout").count("lifespan started") == int(workers), "each has started"
    )
    server.stop(number)
    assert server.lines("stdout").count("lifespan stopped") == int(workers)


def test_term_answers_the_request_in_flight(serve: Serve) -> None:
    server = serve("lab:app")
    with server.connect() as connection:
        connection.request("/announced?600")
        server.wait_for_line("serving /announced")
        server.send_signal(signal.SIGTERM)
        assert connection.response().text == "slept 600"
    server.wait()


@rsgun_only
class TestTerm:
    def test_new_connections_are_refused_and_the_last_answer_says_that_it_is_one(
        self, serve: Serve, module: Module, tmp_path: Path
    ) -> None:
        module("main", versioned("1"))
        server = serve("main:app", "--app-dir", str(tmp_path))
        with server.connect() as connection:
            connection.request("/wait")
            server.wait_for_line("^waiting in 1")
            server.send_signal(signal.SIGTERM)
            server.wait_until_refusing()
            (tmp_path / "released").touch()
            response = connection.response()
            assert response.text.startswith("1 ")
            assert response.closes
            assert connection.ended()
        assert server.wait() == 0

    def test_request_on_an_idle_connection_is_not_lost(self, serve: Serve) -> None:
        """It crosses the signal on its way."""
        server = serve("lab:app")
        (worker,) = server.wait_for_workers(1)
        with server.connect() as connection, server.connect() as busy:
            connection.get("/ping")
            busy.request("/announced?500")
            server.wait_for_line("serving /announced")
            # The worker finds the order and the request at the same moment.
            worker.send_signal(signal.SIGSTOP)
            server.send_signal(signal.SIGTERM)
            server.wait_for_line("Shutting down")
            connection.request("/ping")
            worker.send_signal(signal.SIGCONT)
            assert connection.response().body == b"pong"
            assert busy.response().text == "slept 500"
        assert server.wait() == 0

    def test_stream_in_flight_is_finished(
        self, serve: Serve, module: Module, tmp_path: Path
    ) -> None:
        module(
            "streams",
            """
import asyncio

async def app(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError("only http")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for number in range(20):
        await send({"type": "http.response.body", "body": b"part %d;" % number, "more_body": True})
        await asyncio.sleep(0.03)
    await send({"type": "http.response.body", "body": b"end"})
""",
        )
        server = serve("streams:app", "--app-dir", str(tmp_path))
        with server.connect() as connection:
            connection.request("/")
            response = connection.head()
            server.send_signal(signal.SIGTERM)
            connection.body(response)
            assert response.body.endswith(b"part 19;end")
        assert server.wait() == 0

    def test_upload_in_flight_is_finished(self, serve: Serve) -> None:
        server = serve("lab:app")
        with server.connect() as connection:
            connection.request("/echo", method="POST", headers=[("Content-Length", "10")])
            connection.send(b"12345")
            connection.silent(0.1)
            server.send_signal(signal.SIGTERM)
            connection.silent(0.2)
            connection.send(b"67890")
            assert connection.response().body == b"1234567890"
        assert server.wait() == 0

    def test_request_sent_before_the_signal_is_answered(self, serve: Serve) -> None:
        """It may still lie in the buffer of the socket, or the connection in the queue."""
        for _ in range(5):
            server = serve("lab:app")
            with server.connections(10) as connections:
                for connection in connections:
                    connection.request("/slow?10")
                server.send_signal(signal.SIGTERM)
                answers = [connection.response().text for connection in connections]
            assert answers == ["slept 10"] * 10
            assert server.wait() == 0

    def test_idle_connections_are_closed(self, serve: Serve) -> None:
        server = serve("lab:app")
        with server.connect() as idle, server.connect() as used:
            used.get("/ping")
            server.send_signal(signal.SIGTERM)
            assert server.wait(10) == 0
            assert idle.ended()
            assert used.ended()

    def test_limit_of_the_graceful_end(self, serve: Serve) -> None:
        server = serve("lab:app", "--graceful-timeout", "1")
        server.tolerates_tracebacks = True
        with server.connect() as connection:
            connection.request("/hold?for-ever")
            server.get("/notes?for-ever")
            began = time.monotonic()
            assert server.stop(deadline=10) == 0
            assert time.monotonic() - began > 0.8
            try:
                assert connection.response().status in (500, 503)
            except (Truncated, ConnectionResetError):
                pass
        assert not [line for line in server.lines() if "Exception in callback" in line]

    def test_worker_that_hangs_is_killed_after_the_limit(
        self, serve: Serve, module: Module, tmp_path: Path
    ) -> None:
        module("hangs", HANGS)
        server = serve("hangs:app", "--app-dir", str(tmp_path), "--graceful-timeout", "1")
        server.tolerates_tracebacks = True
        with server.connect() as connection:
            connection.request("/")
            server.wait_for_line("hanging")
            server.stop(deadline=12)
        assert not server.leftovers()

    @named(signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
    @pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["plain", "preload"])
    def test_during_boot(
        self,
        serve: Serve,
        module: Module,
        tmp_path: Path,
        number: int,
        preload: tuple[str, ...],
    ) -> None:
        """A deployment that is taken back at once."""
        module(
            "slow",
            versioned("1", top="import time; print('importing', flush=True); time.sleep(60)"),
        )
        server = serve("slow:app", "--app-dir", str(tmp_path), *preload, wait=False)
        server.tolerates_tracebacks = True
        server.wait_for_line("importing")
        code = server.stop(number, deadline=10)
        assert code == 0
        assert not server.leftovers()

    def test_during_lifespan_startup(self, serve: Serve, module: Module, tmp_path: Path) -> None:
        module(
            "slow", versioned("1", startup="print('starting', flush=True); await asyncio.sleep(60)")
        )
        server = serve("slow:app", "--app-dir", str(tmp_path), wait=False)
        server.tolerates_tracebacks = True
        server.wait_for_line("starting")
        assert server.stop(deadline=10) == 0
        assert not server.leftovers()

    def test_twice_is_as_once(self, serve: Serve) -> None:
        server = serve("lab:app")
        with server.connect() as connection:
            connection.request("/announced?500")
            server.wait_for_line("serving /announced")
            server.send_signal(signal.SIGTERM)
            server.send_signal(signal.SIGTERM)
            assert connection.response().text == "slept 500"
        assert server.wait() == 0

    def test_atexit_handlers_run(self, serve: Serve, module: Module, tmp_path: Path) -> None:
        top = "import atexit; atexit.register(lambda: print('at exit', os.getpid(), flush=True))"
        module("main", versioned("1", top=top))
        server = serve("main:app", "--app-dir", str(tmp_path), "-w", "2")
        workers = sorted(worker.pid for worker in server.wait_for_workers(2))
        assert server.stop() == 0
        said = [line for line in server.lines("stdout") if line.startswith("at exit")]
        assert sorted(int(line.split()[-1]) for line in said) == workers

    def test_atexit_handler_that_hangs_is_bounded(
        self, serve: Serve, module: Module, tmp_path: Path
    ) -> None:
        top = "import atexit, time; atexit.register(lambda: time.sleep(300))"
        module("main", versioned("1", top=top))
        server = serve("main:app", "--app-dir", str(tmp_path), "--graceful-timeout", "1")
        server.stop(deadline=12)
        assert not server.leftovers()

    def test_lifespan_shutdown_that_hangs_is_bounded(
        self, serve: Serve, module: Module, tmp_path: Path
    ) -> None:
        module("main", versioned("1", shutdown="await asyncio.sleep(300)"))
        server = serve("main:app", "--app-dir", str(tmp_path), "--graceful-timeout", "1")
        server.tolerates_tracebacks = True
        server.stop(deadline=12)
        assert not server.leftovers()

    def test_lifespan_shutdown_that_fails_is_logged(
        self, serve: Serve, module: Module, tmp_path: Path
    ) -> None:
        module("main", versioned("1", shutdown="raise RuntimeError('cannot stop')"))
        server = serve("main:app", "--app-dir", str(tmp_path))
        server.tolerates_tracebacks = True
        server.stop()
        assert any("cannot stop" in line for line in server.lines("stderr"))

    def test_unix_socket_is_removed(self, serve: Serve, tmp_path: Path) -> None:
        path = tmp_path / "socket"
        server = serve("lab:app", "--uds", str(path))
        assert path.is_socket()
        server.stop()
        assert not path.exists()


@rsgun_only
class TestQuick:
    @named(signal.SIGINT, signal.SIGQUIT)
    def test_requests_in_flight_are_given_up(self, serve: Serve, number: int) -> None:
        server = serve("lab:app")
        server.tolerates_tracebacks = True
        with server.connect() as connection:
            connection.request("/hold?quick")
            server.get("/notes?quick")
            began = time.monotonic()
            assert server.stop(number, deadline=10) == 0
            assert time.monotonic() - began < 10

    def test_application_learns_that_it_is_cancelled(
        self, serve: Serve, module: Module, tmp_path: Path
    ) -> None:
        module(
            "main",
            """
import asyncio

async def app(scope, receive, send):
    assert scope["type"] == "http"
    print("waiting", flush=True)
    try:
        await asyncio.sleep(60)
    finally:
        print("cleaned up", flush=True)
""",
        )
        server = serve("main:app", "--app-dir", str(tmp_path))
        server.tolerates_tracebacks = True
        with server.connect() as connection:
            connection.request("/")
            server.wait_for_line("waiting")
            server.stop(signal.SIGINT, deadline=10)
        assert "cleaned up" in server.lines("stdout")

    def test_second_int_ends_at_once(self, serve: Serve, module: Module, tmp_path: Path) -> None:
        """Even if the application does not want to end."""
        module(
            "main", versioned("1", shutdown="print('stuck', flush=True); await asyncio.sleep(60)")
        )
        server = serve("main:app", "--app-dir", str(tmp_path), "-w", "2")
        server.wait_for_workers(2)
        server.tolerates_tracebacks = True
        server.send_signal(signal.SIGINT)
        server.wait_for_line("stuck")
        server.send_signal(signal.SIGINT)
        server.wait_for_line("Ending at once")
        server.wait()
        assert not [line for line in server.lines() if "did not end within" in line]
        assert not server.leftovers()

    def test_int_during_a_graceful_end(self, serve: Serve) -> None:
        """CTRL+C makes a TERM that takes too long quick."""
        server = serve("lab:app")
        server.tolerates_tracebacks = True
        with server.connect() as connection:
            connection.request("/hold?both")
            server.get("/notes?both")
            server.send_signal(signal.SIGTERM)
            began = time.monotonic()
            server.stop(signal.SIGINT, deadline=10)
            assert time.monotonic() - began < 10

    def test_int_to_the_whole_process_group(self, serve: Serve) -> None:
        """What a terminal does on CTRL+C."""
        server = serve("lab:app", "-w", "2")
        server.wait_for_workers(2)
        os.killpg(server.pid, signal.SIGINT)
        assert server.wait() == 0
        assert not server.leftovers()

    def test_term_to_the_whole_process_group(self, serve: Serve) -> None:
        """What systemd does with KillMode=control-group; requests are answered still."""
        server = serve("lab:app", "-w", "2")
        server.wait_for_workers(2)
        with server.connect() as connection:
            connection.request("/announced?500")
            server.wait_for_line("serving /announced")
            os.killpg(server.pid, signal.SIGTERM)
            assert connection.response().text == "slept 500"
        assert server.wait() == 0
        assert not server.leftovers()

    def test_hup_to_the_whole_process_group(self, serve: Serve) -> None:
        """A worker does not die of it; the master reloads."""
        server = serve("lab:app", "-w", "2")
        server.wait_for_workers(2)
        os.killpg(server.pid, signal.SIGHUP)
        server.wait_for_generation(2, 2)
        assert server.get("/ping").body == b"pong"


@rsgun_only
def test_term_to_a_worker_alone_replaces_it(serve: Serve) -> None:
    """It answers what it has, and its slot is filled."""
    server = serve("lab:app")
    (worker,) = server.wait_for_workers(1)
    with server.connect() as connection:
        connection.request("/announced?400")
        server.wait_for_line("serving /announced")
        os.kill(worker.pid, signal.SIGTERM)
        assert connection.response().text == "slept 400"
    assert wait_gone(worker.pid)
    eventually(lambda: [w.pid for w in server.workers()] not in ([], [worker.pid]), "a new worker")
    assert server.get("/ping").body == b"pong"


@pytest.mark.skipif(TARGET != "rsgun", reason="uvicorn leaves its workers behind")
class TestDeathOfTheMaster:
    @pytest.mark.parametrize("workers", ["1", "3"])
    def test_nothing_outlives_it(self, serve: Serve, workers: str) -> None:
        server = serve("lab:app", "-w", workers)
        server.wait_for_workers(int(workers))
        server.send_signal(signal.SIGKILL)
        assert server.wait() == -signal.SIGKILL
        assert not server.leftovers()
        assert port_is_free(server.port)

    def test_request_in_flight_is_still_answered(self, serve: Serve) -> None:
        server = serve("lab:app", "-w", "2")
        server.wait_for_workers(2)
        with server.connect() as connection:
            connection.request("/announced?400")
            server.wait_for_line("serving /announced")
            server.send_signal(signal.SIGKILL)
            assert connection.response().text == "slept 400"
        assert not server.leftovers()

    def test_port_is_free_before_the_last_answer(
        self, serve: Serve, module: Module, tmp_path: Path
    ) -> None:
        """A supervisor starts the next master in the same second (test_orphans.py)."""
        module("main", versioned("1"))
        server = serve("main:app", "--app-dir", str(tmp_path), "-w", "2")
        server.wait_for_workers(2)
        with server.connect() as connection:
            connection.request("/wait")
            server.wait_for_line("^waiting in 1")
            server.send_signal(signal.SIGKILL)
            eventually(lambda: port_is_free(server.port), "the port is free")
            (tmp_path / "released").touch()
            assert connection.response().text.startswith("1 ")

    def test_worker_that_hangs_is_ended_too(
        self, serve: Serve, module: Module, tmp_path: Path
    ) -> None:
        """It never reads that the master is gone."""
        module("hangs", HANGS)
        server = serve("hangs:app", "--app-dir", str(tmp_path), "--graceful-timeout", "1")
        connection = Connection.open(server.address)
        connection.request("/")
        server.wait_for_line("hanging")
        server.send_signal(signal.SIGKILL)
        assert not server.leftovers(20)
        connection.close()
