"""WSGI: the threads of a worker, slow clients, time-outs, and stopping."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.marks import rsgun_only
from harness.processes import Process
from harness.server import Server
from harness.waiting import eventually
from harness.wire import Connection, Truncated

pytestmark = rsgun_only

Serve = Callable[..., Server]
PIECE = 64 * 1024


def at_rest(pid: int) -> bool:
    """Whether all threads of a process wait for something."""
    states = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    return all(state.rpartition(")")[2].split()[0] == "S" for state in states)


def noted(server: Server, event: str) -> None:
    """Waits until the application has noted an event."""
    eventually(lambda: event in json.loads(server.get("/seen").body), event)


def pool_of(server: Server) -> list[str]:
    names = json.loads(server.get("/threads").body)
    return sorted(name for name in names if name.startswith("rsgun-"))


def spooled(worker: Process) -> int:
    """Bytes that a worker keeps on disk."""
    folder = Path(f"/proc/{worker.pid}/fd")
    kept = [number for number, path in worker.open_files().items() if path.endswith("(deleted)")]
    return sum((folder / str(number)).stat().st_blocks * 512 for number in kept)


class TestSlowClients:
    """With one thread, nobody who is slow keeps others from being served."""

    @pytest.fixture
    def server(self, serve: Serve) -> Server:
        return serve("wsgi_lab:bare", "--threads", "1")

    def test_slow_uploads(self, server: Server) -> None:
        with server.connections(5) as uploads:
            for upload in uploads:
                upload.request("/echo", method="POST", headers=[("Content-Length", "6")])
                upload.send(b"abc")
            for _ in range(5):
                assert server.get("/ping").body == b"pong"
            for upload in uploads:
                upload.send(b"def")
                assert upload.response().body == b"abcdef"

    def test_slow_heads(self, server: Server) -> None:
        with server.connect() as slow:
            slow.send(b"GET /ping HTTP/1.1\r\nHo")
            assert server.get("/ping").body == b"pong"
            slow.send(b"st: a\r\n\r\n")
            assert slow.response().body == b"pong"

    def test_slow_readers_of_whole_answers(self, server: Server) -> None:
        with server.connections(3) as readers:
            for reader in readers:
                reader.request("/big")
                reader.head()
            assert server.get("/ping").body == b"pong"

    def test_slow_readers_of_streams(self, server: Server) -> None:
        """64 MiB are handed over although the client takes nothing."""
        count = 1024
        with server.connect() as reader:
            reader.request(f"/stream?{count}")
            noted(server, f"streamed {count}")
            noted(server, "closed stream")
            assert len(reader.response().body) == count * PIECE

    def test_slow_readers_of_files(self, server: Server) -> None:
        with server.connect() as reader:
            reader.request("/file")
            noted(server, "file closed")
            assert server.get("/ping").body == b"pong"
            assert len(reader.response().body) == 8 << 20


GATED = """
import os
import time

def app(environ, start_response):
    if environ["PATH_INFO"] == "/wait":
        print("waiting in", os.getpid(), flush=True)
        while not os.path.exists("released"):
            time.sleep(0.01)
    start_response("200 OK", [])
    return [str(os.getpid()).encode()]
"""


@pytest.fixture
def gated(serve: Serve, module: Callable[[str, str], Path]) -> Callable[..., Server]:
    """Serves an application that tells its pid, at ``/wait`` when ``released`` is there."""
    folder = module("gated", GATED).parent
    return lambda *arguments: serve("gated:app", "--app-dir", str(folder), *arguments)


CACHED = """
import django
from django.conf import settings

settings.configure(
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    CACHES={"default": {"BACKEND": "cached.Connected"}},
)
django.setup()

from django.core.cache import caches
from django.core.cache.backends.dummy import DummyCache
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path


class Connected(DummyCache):
    connections = 0

    def __init__(self, *arguments):
        super().__init__(*arguments)
        Connected.connections += 1


def look(request):
    caches["default"].get("x")
    return HttpResponse(str(Connected.connections))


urlpatterns = [path("", look)]
application = get_wsgi_application()
"""


IMPORTED = """
import contextvars
import decimal

decimal.getcontext().prec = 50
tenant = contextvars.ContextVar("tenant", default="nobody")
tenant.set("imported")


def app(environ, start_response):
    start_response("200 OK", [])
    return [f"{decimal.Decimal(1) / 3} {tenant.get()}".encode()]
"""


class TestThreads:
    def test_they_grow_when_none_is_idle(self, serve: Serve) -> None:
        server = serve("wsgi_lab:bare", "--threads", "3")
        assert pool_of(server) == ["rsgun-1"]
        with server.connections(2) as waiting:
            for number, connection in enumerate(waiting):
                connection.request(f"/wait?{number}")
            noted(server, "waiting 0")
            noted(server, "waiting 1")
            assert pool_of(server) == ["rsgun-1", "rsgun-2", "rsgun-3"]
            for number in range(2):
                assert server.get(f"/release?{number}").status == 200
            for connection in waiting:
                assert connection.response().body == b"waited"

    def test_one_stays_one_for_requests_in_turn(self, serve: Serve) -> None:
        def grown() -> list[str]:
            server = serve("wsgi_lab:bare", "--threads", "8")
            for _ in range(20):
                server.get("/ping")
            return pool_of(server)

        # A request that waits for half a millisecond gets a thread of its own, and a
        # machine with other work makes some wait: but not in each of several servers.
        assert any(grown() == ["rsgun-1"] for _ in range(5))

    def test_a_full_queue_is_worked_off(self, serve: Serve) -> None:
        server = serve("wsgi_lab:bare", "--threads", "2")
        with server.connections(30) as connections:
            for connection in connections:
                connection.request("/sleep?0.02")
            assert [connection.response().body for connection in connections] == [b"slept"] * 30

    def test_each_keeps_its_context(self, serve: Serve, module: Callable[[str, str], Path]) -> None:
        """Django keeps what its caches have connected to in a context variable."""
        place = module("cached", CACHED).parent
        server = serve("cached:application", "--app-dir", str(place), "--threads", "1")
        assert {server.get("/").body for _ in range(5)} == {b"1"}

    @pytest.mark.parametrize("more", [(), ("--preload",)], ids=["plain", "preload"])
    def test_what_was_set_at_import_holds(
        self, serve: Serve, module: Callable[[str, str], Path], more: tuple[str, ...]
    ) -> None:
        """As with a server that runs the application on the thread that has imported it."""
        place = module("imported", IMPORTED).parent
        server = serve("imported:app", "--app-dir", str(place), "--threads", "1", *more)
        assert server.get("/").text == f"0.{'3' * 50} imported"

    def test_several_do_not_share_what_was_set_at_import(
        self, serve: Serve, module: Callable[[str, str], Path]
    ) -> None:
        place = module("imported", IMPORTED).parent
        server = serve("imported:app", "--app-dir", str(place), "--threads", "2")
        assert server.get("/").text == f"0.{'3' * 28} nobody"

    def test_chunks_of_a_stream_arrive_while_it_waits(self, serve: Serve) -> None:
        server = serve("wsgi_lab:bare", "--threads", "2")
        with server.connect() as connection:
            connection.request("/wait_in_body?gate")
            data = b""
            while b"begun " not in data:
                data += connection.receive()
            assert b"done" not in data
            server.get("/release?gate")
            while not data.endswith(b"0\r\n\r\n"):
                data += connection.receive()
            assert b"done" in data

    def test_free_siblings_take_new_connections(
        self, gated: Callable[..., Server], tmp_path: Path
    ) -> None:
        """As long as they are free: a thread is busy for a moment after the answer."""
        server = gated("-w", "2", "--threads", "1")
        workers = {str(worker.pid) for worker in server.wait_for_workers(2)}
        with server.connect() as busy:
            busy.request("/wait")
            pid = server.wait_for_line(r"^waiting in (\d+)$")[1]
            (free,) = workers - {pid}
            for _ in range(10):
                eventually(lambda: at_rest(int(free)), "the other one has nothing to do")
                assert server.get("/").text == free
            (tmp_path / "released").touch()
            assert busy.response().text == pid

    def test_signals_reach_the_main_thread(
        self, serve: Serve, module: Callable[[str, str], object], tmp_path: object
    ) -> None:
        module(
            "signals",
            "import signal, threading\n"
            "seen = []\n"
            "def note(number, frame):\n"
            "    seen.append(threading.current_thread() is threading.main_thread())\n"
            "signal.signal(signal.SIGUSR2, note)\n"
            "def app(environ, start_response):\n"
            "    start_response('200 OK', [])\n"
            "    return [repr(seen).encode()]\n",
        )
        server = serve("signals:app", "--app-dir", str(tmp_path))
        [worker] = server.wait_for_workers(1)
        os.kill(worker.pid, signal.SIGUSR2)
        eventually(lambda: server.get("/").text == "[True]", "the signal is handled")


class TestTimeouts:
    def test_a_request_that_takes_too_long_is_a_504(self, serve: Serve) -> None:
        server = serve("wsgi_lab:bare", "--request-timeout", "1", "--threads", "2")
        [worker] = server.wait_for_workers(1)
        response = server.get("/wait?never")
        assert response.status == 504
        server.wait_for_line(r"GET /wait took longer than --request-timeout")
        server.wait_for_line(r'File ".*wsgi_lab.py", line \d+, in wait')
        server.wait_for_line("has a thread that hangs in GET /wait")
        eventually(
            lambda: worker.pid not in [process.pid for process in server.workers()],
            "the worker is replaced",
        )
        assert server.get("/ping").body == b"pong"

    def test_more_time_can_be_asked_for(self, serve: Serve) -> None:
        server = serve("wsgi_lab:bare", "--request-timeout", "2")
        assert server.get("/extended?3").body == b"extended"

    def test_a_request_that_never_got_a_thread_is_not_run(
        self, gated: Callable[..., Server], tmp_path: Path
    ) -> None:
        server = gated("--request-timeout", "1")
        with server.connections(2) as (first, second):
            first.request("/wait")
            server.wait_for_line("^waiting in")
            second.request("/late")
            assert first.response().status == 504
            assert second.response().status == 504
        server.wait_for_line("GET /late waited for a thread")
        (tmp_path / "released").touch()

    def test_with_one_thread_the_worker_time_out_bounds_requests(self, serve: Serve) -> None:
        server = serve("wsgi_lab:bare", "--timeout", "2")
        with server.connect() as connection:
            connection.request("/wait?never")
            with pytest.raises(Truncated):
                connection.response()
        server.wait_for_line(r"has been stuck for [\d.]+ s")
        server.wait_for_line(r"GET /wait\?never")
        server.wait_for_line("in wait$")
        server.wait_for_workers(1)
        assert server.get("/ping").body == b"pong"

    @pytest.mark.timeout(180)
    def test_waiting_for_a_client_is_no_hang(self, serve: Serve, tmp_path: Path) -> None:
        """A stream for which there is no room on disk any more keeps its thread."""
        arguments = ("--timeout", "1", "--client-timeout", "4")
        server = serve("wsgi_lab:bare", *arguments, environment={"TMPDIR": str(tmp_path)})
        [worker] = server.wait_for_workers(1)
        with Connection.open(server.address, receive_buffer=65536) as reader:
            reader.request("/endless")

            def fills() -> bool:
                # As much as the system needs to let the server know of it.
                reader.socket.recv(1 << 18, socket.MSG_WAITALL)
                return spooled(worker) >= (1 << 30) - PIECE

            eventually(fills, "all the room is taken", deadline=120)
            for _ in range(4):
                assert reader.socket.recv(1 << 18, socket.MSG_WAITALL)
                until = time.monotonic() + 1
                eventually(lambda until=until: time.monotonic() > until, "time passes")
            assert [process.pid for process in server.workers()] == [worker.pid]
            # And it is not kept for longer than a client that takes nothing is waited for.
            noted(server, "closed endless")
        assert [process.pid for process in server.workers()] == [worker.pid]

    def test_with_more_threads_it_does_not(self, serve: Serve) -> None:
        server = serve("wsgi_lab:bare", "--timeout", "2", "--threads", "2")
        assert server.get("/sleep?4").body == b"slept"


class TestStopping:
    @pytest.mark.parametrize("threads", ["1", "3"])
    def test_a_stop_lets_requests_finish(
        self, gated: Callable[..., Server], tmp_path: Path, threads: str
    ) -> None:
        server = gated("--threads", threads)
        with server.connect() as connection:
            connection.request("/wait")
            pid = server.wait_for_line(r"^waiting in (\d+)$")[1]
            server.send_signal(signal.SIGTERM)
            server.wait_until_refusing()
            (tmp_path / "released").touch()
            response = connection.response()
            assert response.text == pid
            assert response.closes
        assert server.wait() == 0

    def test_a_reload_lets_requests_finish(
        self, gated: Callable[..., Server], tmp_path: Path
    ) -> None:
        server = gated()
        with server.connect() as connection:
            connection.request("/wait")
            pid = server.wait_for_line(r"^waiting in (\d+)$")[1]
            server.send_signal(signal.SIGHUP)
            server.wait_for_line(r"Worker 1 started \[.*generation 2\]")
            (tmp_path / "released").touch()
            assert connection.response().text == pid
        server.wait_for_generation(2, 1)
        assert server.get("/").text != pid

    def test_threads_that_hang_do_not_hold_up_the_end(self, serve: Serve) -> None:
        server = serve("wsgi_lab:bare", "--threads", "2", "--graceful-timeout", "1")
        with server.connect() as connection:
            connection.request("/wait?never")
            noted(server, "waiting never")
            assert server.stop() == 0
        server.wait_for_line("1 request.s. did not end within the graceful time-out")

    def test_exit_handlers_run_even_then(
        self, serve: Serve, module: Callable[[str, str], object], tmp_path: object
    ) -> None:
        module(
            "exits",
            "import atexit, time\n"
            "atexit.register(print, 'the end', flush=True)\n"
            "def app(environ, start_response):\n"
            "    if environ['PATH_INFO'] == '/hang':\n"
            "        print('hanging', flush=True)\n"
            "        time.sleep(60)\n"
            "    start_response('200 OK', [])\n"
            "    return [b'']\n",
        )
        server = serve("exits:app", "--app-dir", str(tmp_path), "--graceful-timeout", "1")
        with server.connect() as connection:
            connection.request("/hang")
            server.wait_for_line("hanging")
            assert server.stop() == 0
        server.wait_for_line("the end")

    def test_a_quick_stop(self, serve: Serve) -> None:
        server = serve("wsgi_lab:bare", "--threads", "2")
        with server.connect() as idle:
            assert idle.get("/ping").body == b"pong"
            assert server.stop(signal.SIGINT) == 0

    def test_recycling_after_so_many_requests(self, serve: Serve) -> None:
        server = serve("wsgi_lab:bare", "--max-requests", "5")
        [worker] = server.wait_for_workers(1)
        for _ in range(5):
            assert server.get("/ping").body == b"pong"
        server.wait_for_line("has answered 5 requests")
        eventually(
            lambda: [process.pid for process in server.workers()] not in ([worker.pid], []),
            "another worker",
        )
        assert server.get("/ping").body == b"pong"

    def test_the_workers_of_a_killed_master_leave(self, serve: Serve) -> None:
        server = serve("wsgi_lab:bare", "--threads", "2")
        server.tolerates_exit = {-9, 0}
        os.kill(server.pid, signal.SIGKILL)
        server.wait()
        assert not server.leftovers()

    @pytest.mark.parametrize("arguments", [["--preload"], ["-w", "3", "--preload"]])
    def test_with_preload(self, serve: Serve, arguments: list[str]) -> None:
        server = serve("wsgi_lab:app", *arguments)
        for _ in range(10):
            assert server.get("/ping").body == b"pong"
