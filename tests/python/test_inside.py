"""What applications do inside a worker: tasks, signals, child processes, and no leaks."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import processes
from harness.marks import rsgun_only
from harness.server import Server, port_is_free
from harness.sources import versioned
from harness.waiting import eventually, wait_gone
from harness.wire import Truncated

Serve = Callable[..., Server]
Module = Callable[[str, str], Path]


@pytest.fixture
def start(serve: Serve, module: Module, tmp_path: Path) -> Serve:
    """Serves an application made of a body for ``respond(path)``, which returns bytes."""

    def begin(source: str, *arguments: str) -> Server:
        module(
            "main",
            source
            + """

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        if "startup" in globals():
            await startup()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    body = await respond(scope["path"])
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
""",
        )
        return serve("main:app", "--app-dir", str(tmp_path), *arguments)

    return begin


class TestAwaiting:
    """receive() and send() are what every application expects of a coroutine."""

    @pytest.mark.parametrize(
        "way",
        [
            "await",
            "ensure_future",
            "create_task",
            "loop.create_task",
            "wait_for",
            "shield",
            "gather",
            "wait",
            "timeout",
            "anyio",
            "yield from",
        ],
    )
    def test_every_way(self, shared: Serve, way: str) -> None:
        server = shared("lab:app")
        response = server.get("/ways-to-await?" + way.replace(" ", "%20"))
        assert (response.status, response.body) == (200, b"http.request")

    def test_receive_that_is_given_up_loses_nothing(self, shared: Serve) -> None:
        server = shared("lab:app")
        with server.connect() as connection:
            connection.request(
                "/receive-cancelled?give-up", method="POST", headers=[("Content-Length", "10")]
            )
            server.get("/notes?give-up")
            connection.send(b"12345")
            connection.silent(0.1)
            connection.send(b"67890")
            assert connection.response().body == b"1234567890"


class TestTasks:
    def test_task_factory_of_the_application(self, start: Serve) -> None:
        server = start(
            """
import asyncio

class Mine(asyncio.Task):
    pass

def factory(loop, coroutine, **more):
    return Mine(coroutine, loop=loop, **more)

async def startup():
    asyncio.get_running_loop().set_task_factory(factory)

async def respond(path):
    return type(asyncio.current_task()).__name__.encode()
"""
        )
        assert server.get().body == b"Mine"

    def test_finished_requests_leave_no_tasks(self, start: Serve) -> None:
        server = start(
            """
import asyncio

async def respond(path):
    await asyncio.sleep(0)
    return str(len(asyncio.all_tasks())).encode()
"""
        )
        with server.connect() as connection:
            counts = [int(connection.get("/").text) for _ in range(30)]
        assert counts[-1] <= counts[0]

    def test_gathered_subtasks_and_shields(self, start: Serve) -> None:
        server = start(
            """
import asyncio

async def part(number):
    await asyncio.sleep(0.001)
    return number

async def respond(path):
    first = await asyncio.gather(*(part(number) for number in range(10)))
    second = await asyncio.shield(asyncio.wait_for(part(5), 1))
    return repr((sum(first), second)).encode()
"""
        )
        assert server.get().body == b"(45, 5)"

    def test_threads_that_call_into_the_loop(self, start: Serve) -> None:
        server = start(
            """
import asyncio
import threading

async def respond(path):
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    thread = threading.Thread(
        target=lambda: loop.call_soon_threadsafe(future.set_result, b"from a thread")
    )
    thread.start()
    result = await future
    thread.join()
    return result
"""
        )
        with server.connect() as connection:
            for _ in range(50):
                assert connection.get("/").body == b"from a thread"

    def test_clients_inside_a_request(self, start: Serve) -> None:
        """A request that opens a connection to its own server, in the same worker."""
        server = start(
            """
import asyncio

async def respond(path):
    if path == "/inner":
        return b"inner"
    port = int(path[1:])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /inner HTTP/1.1\\r\\nHost: a\\r\\nConnection: close\\r\\n\\r\\n")
    answer = await reader.read()
    writer.close()
    return answer.split(b"\\r\\n\\r\\n", 1)[1]
"""
        )
        assert b"inner" in server.get(f"/{server.port}").body

    def test_exception_in_a_background_task_is_reported_by_the_loop(self, start: Serve) -> None:
        server = start(
            """
import asyncio

async def broken():
    raise ValueError("nobody awaits me")

async def respond(path):
    task = asyncio.create_task(broken())
    await asyncio.sleep(0.01)
    del task
    return b"ok"
"""
        )
        server.tolerates_tracebacks = True
        assert server.get().body == b"ok"
        server.wait_for_line("ValueError: nobody awaits me")
        assert server.get().body == b"ok"


@rsgun_only
class TestSignals:
    def test_application_that_ignores_sigterm(
        self, serve: Serve, module: Module, tmp_path: Path
    ) -> None:
        """The order to stop does not come by a signal."""
        module(
            "main",
            versioned(
                "1",
                top="import signal",
                startup="signal.signal(signal.SIGTERM, signal.SIG_IGN)",
                shutdown="print('stopped', flush=True)",
            ),
        )
        server = serve("main:app", "--app-dir", str(tmp_path))
        assert server.stop(deadline=8) == 0
        assert "stopped" in server.lines("stdout")

    def test_application_with_its_own_handlers(
        self, serve: Serve, module: Module, tmp_path: Path
    ) -> None:
        module(
            "main",
            versioned(
                "1",
                top="import signal",
                startup="asyncio.get_running_loop().add_signal_handler("
                "signal.SIGUSR1, lambda: print('got USR1', flush=True))",
            ),
        )
        server = serve("main:app", "--app-dir", str(tmp_path))
        (worker,) = server.workers()
        os.kill(worker.pid, signal.SIGUSR1)
        server.wait_for_line("^got USR1", stream="stdout")
        assert server.get().text.startswith("1 ")

    def test_wakeup_descriptor_is_the_loops(self, start: Serve) -> None:
        """signal.set_wakeup_fd belongs to the event loop: a signal wakes an idle one."""
        server = start(
            """
import asyncio
import os
import signal

async def respond(path):
    loop = asyncio.get_running_loop()
    event = asyncio.Event()
    loop.add_signal_handler(signal.SIGUSR2, event.set)
    os.kill(os.getpid(), signal.SIGUSR2)
    await asyncio.wait_for(event.wait(), 30)
    return b"woken"
"""
        )
        assert server.get().body == b"woken"


@rsgun_only
class TestChildProcesses:
    @pytest.mark.parametrize(
        "spawn",
        [
            "subprocess.Popen(['sleep', '60']).pid",
            "(os.fork() or (time.sleep(60), os._exit(0))[0])",
            "os.posix_spawn('/bin/sleep', ['sleep', '60'], {})",
        ],
        ids=["subprocess", "fork", "posix_spawn"],
    )
    def test_child_does_not_hold_the_port(self, start: Serve, spawn: str) -> None:
        """A job that outlives the server must not keep the next one from starting."""
        server = start(
            f"""
import os
import subprocess
import time

async def respond(path):
    return str({spawn}).encode()
"""
        )
        child = int(server.get().text)
        try:
            server.send_signal(signal.SIGKILL)
            server.wait()
            eventually(
                lambda: [process.pid for process in server.family()] in ([], [child]),
                "all of the server's own processes are gone",
            )
            assert port_is_free(server.port)
        finally:
            os.kill(child, signal.SIGKILL)
            wait_gone(child)

    def test_orphan_of_the_application_does_not_hold_up_the_end(self, start: Serve) -> None:
        server = start(
            """
import os
import time

async def respond(path):
    return str(os.fork() or (time.sleep(60), os._exit(0))[0]).encode()
"""
        )
        child = int(server.get().text)
        try:
            server.send_signal(signal.SIGTERM)
            assert server.process.wait(8) == 0
        finally:
            os.kill(child, signal.SIGKILL)
            wait_gone(child)

    def test_process_pool(self, start: Serve) -> None:
        server = start(
            """
import asyncio
import concurrent.futures
import multiprocessing

pool = None

async def startup():
    global pool
    context = multiprocessing.get_context("fork")
    pool = concurrent.futures.ProcessPoolExecutor(2, mp_context=context)

async def respond(path):
    loop = asyncio.get_running_loop()
    if path == "/close":
        pool.shutdown()
        return b"closed"
    return str(await loop.run_in_executor(pool, pow, 2, 10)).encode()
"""
        )
        for _ in range(5):
            assert server.get("/").body == b"1024"
        assert server.get("/close").body == b"closed"


class TestLeaks:
    def worker(self, server: Server) -> processes.Process:
        pid = int(server.get("/pid").text)
        found = processes.look(pid)
        assert found
        return found

    def test_descriptors(self, serve: Serve) -> None:
        server = serve("lab:app", "--no-access-log")
        worker = self.worker(server)
        before = len(worker.open_files())
        for round_number in range(40):
            with server.connections(5) as connections:
                for number, connection in enumerate(connections):
                    connection.request("/ping" if number % 2 else "/big?leak")
                    if number == 0:
                        connection.reset()
                    elif number < 3:
                        connection.head()
                    if round_number % 2 and number == 4:
                        connection.reset()
        eventually(lambda: len(worker.open_files()) <= before + 1, "all connections are closed")

    @pytest.mark.parametrize(
        ("method", "path", "body"),
        [
            ("GET", "/ping", None),
            ("POST", "/echo", b"x" * 20_000),
            ("GET", "/stream", None),
            ("GET", "/slow?0", None),
        ],
        ids=["ping", "echo", "stream", "slow"],
    )
    def test_memory(self, serve: Serve, method: str, path: str, body: bytes | None) -> None:
        server = serve("lab:app", "--no-access-log")
        pid = self.worker(server).pid

        def many(count: int) -> int:
            with server.connect() as connection:
                for _ in range(count):
                    connection.get(path, method=method, body=body)
            return processes.status_field(pid, "VmRSS")

        settled = many(1500)
        growth = many(3000) - settled
        assert growth < 1_500_000, f"{growth} bytes after 3000 requests"

    def test_memory_of_connections_that_break(self, serve: Serve) -> None:
        server = serve("lab:app", "--no-access-log")
        server.tolerates_tracebacks = True
        pid = self.worker(server).pid

        def many(count: int) -> int:
            for _ in range(count):
                with server.connect() as connection:
                    connection.request("/echo", method="POST", headers=[("Content-Length", "99")])
                    connection.send(b"x" * 50)
                with server.connect() as connection:
                    connection.request("/no-such-path")
                    connection.reset()
            server.get("/ping")
            return processes.status_field(pid, "VmRSS")

        settled = many(200)
        growth = many(600) - settled
        assert growth < 1_500_000, f"{growth} bytes after 1200 broken connections"

    def test_memory_of_applications_that_fail(self, serve: Serve) -> None:
        server = serve("misbehaving:app", "--no-access-log")
        server.tolerates_tracebacks = True
        with server.connect() as probe:
            assert probe.get("/ping").body == b"pong"
        pids = [process.pid for process in server.workers()] or [server.pid]

        def many(count: int) -> int:
            for _ in range(count):
                for name in ("raises_before_start", "raises_in_a_stream_with_length", "status_99"):
                    with server.connect() as connection:
                        try:
                            connection.get(f"/{name}")
                        except (Truncated, ConnectionResetError):
                            continue
            return processes.status_field(pids[0], "VmRSS")

        settled = many(100)
        growth = many(300) - settled
        assert growth < 1_500_000, f"{growth} bytes after 900 mistakes"
