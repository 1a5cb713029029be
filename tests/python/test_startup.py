"""The start: what the newcomer sees, which processes there are, what is logged."""

from __future__ import annotations

import re
import shlex
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.marks import differs, rsgun_only
from harness.processes import look, status_field
from harness.server import Server, serving
from harness.sources import answer, versioned
from harness.target import TARGET
from harness.waiting import eventually

Serve = Callable[..., Server]
Module = Callable[[str, str], Path]


class TestStartUpLines:
    def test_address_line(self, serve: Serve) -> None:
        server = serve("lab:app")
        name = {"rsgun": "rsgun", "uvicorn": "Uvicorn"}[TARGET]
        assert (
            f"INFO:     {name} running on http://127.0.0.1:{server.port} (Press CTRL+C to quit)"
            in server.lines("stderr")
        )

    def test_pid_line(self, serve: Serve) -> None:
        server = serve("lab:app")
        assert any(
            re.match(rf"INFO:     .*\b{server.pid}\b", line) for line in server.lines("stderr")
        )

    def test_line_that_says_that_the_application_has_started(self, serve: Serve) -> None:
        server = serve("lab:app")
        server.wait_for_line(r"^INFO:     .*[Aa]pplication.*(started|startup complete)")

    def test_application_has_started_before_the_address_is_told(
        self, serve: Serve, module: Module, tmp_path: Path
    ) -> None:
        """Whoever waits for the line can send a request at once."""
        startup = "await asyncio.sleep(0.3); globals().__setitem__('VERSION', 'started')"
        module("late", versioned("too-early", startup=startup))
        server = serve("late:app", "--app-dir", str(tmp_path))
        assert server.get().text.startswith("started ")

    @rsgun_only
    def test_few_lines(self, serve: Serve) -> None:
        """Eight at most for one worker: the newcomer reads them."""
        assert len(serve("lab:app").lines("stderr")) <= 8

    @rsgun_only
    def test_no_colours_without_a_terminal(self, serve: Serve) -> None:
        server = serve("lab:app")
        server.get("/ping")
        server.stop()
        assert not [line for line in server.lines() if "\x1b" in line]


class TestAccessLog:
    def test_line_on_standard_output(self, serve: Serve) -> None:
        server = serve("lab:app")
        with server.connect() as connection:
            connection.get("/ping")
            port = connection.own_address[1]
            server.wait_for_line(
                rf'^INFO:     127\.0\.0\.1:{port} - "GET /ping HTTP/1\.1" 200 OK$', stream="stdout"
            )

    @pytest.mark.parametrize(
        ("path", "logged"),
        [
            ("/missing", '"GET /missing HTTP/1.1" 404 Not Found'),
            ("/ping?a=b&c", '"GET /ping?a=b&c HTTP/1.1" 200 OK'),
            ("/status?503", '"GET /status?503 HTTP/1.1" 503 Service Unavailable'),
            ("/status?204", '"GET /status?204 HTTP/1.1" 204 No Content'),
        ],
    )
    def test_request_line_and_status(self, shared: Serve, path: str, logged: str) -> None:
        server = shared("lab:app")
        since = server.output.mark()
        server.get(path)
        server.wait_for_line(re.escape(logged) + "$", stream="stdout", since=since)

    def test_method_and_version(self, shared: Serve) -> None:
        server = shared("lab:app")
        since = server.output.mark()
        with server.connect() as connection:
            connection.get("/echo", method="POST", version="1.0", body=b"x")
        server.wait_for_line(r'"POST /echo HTTP/1\.0" 200 OK$', stream="stdout", since=since)

    def test_status_without_a_name(self, shared: Serve) -> None:
        server = shared("lab:app")
        since = server.output.mark()
        server.get("/status?299")
        server.wait_for_line(r'"GET /status\?299 HTTP/1\.1" 299 ?$', stream="stdout", since=since)

    def test_one_line_for_each_request(self, serve: Serve) -> None:
        server = serve("lab:app")
        with server.connect() as connection:
            for _ in range(100):
                connection.get("/ping")
        server.get("/pid")
        server.wait_for_line("GET /pid", stream="stdout")
        assert sum("GET /ping" in line for line in server.lines("stdout")) == 100

    def test_line_of_a_unix_socket(self, serve: Serve, tmp_path: Path) -> None:
        server = serve("lab:app", "--uds", str(tmp_path / "socket"))
        server.get("/ping", address=str(tmp_path / "socket"))
        server.wait_for_line(r'^INFO:     .* - "GET /ping HTTP/1\.1" 200 OK$', stream="stdout")

    @pytest.mark.parametrize("path", ["/%1b%5b2J%0aINFO", "/a%0d%0ab", "/%22quoted%22"])
    def test_escapes_are_not_undone(self, serve: Serve, path: str) -> None:
        """What a client writes cannot forge a line or reach the terminal."""
        server = serve("lab:app")
        server.get(path)
        server.wait_for_line(r'HTTP/1\.1" 404', stream="stdout")
        lines = server.lines("stdout")
        assert len(lines) == 1
        assert "\x1b" not in lines[0]

    @pytest.mark.parametrize("option", ["--no-access-log"])
    def test_off(self, serve: Serve, option: str) -> None:
        server = serve("lab:app", option)
        server.get("/ping")
        server.stop()
        assert not [line for line in server.lines() if "/ping" in line]

    def test_answer_of_500_for_an_exception(self, shared: Serve) -> None:
        server = shared("misbehaving:app")
        server.tolerates_tracebacks = True
        since = server.output.mark()
        server.get("/raises_before_start")
        server.wait_for_line(
            r'"GET /raises_before_start HTTP/1\.1" 500 Internal Server Error$',
            stream="stdout",
            since=since,
        )

    @rsgun_only
    def test_prints_of_the_application_stay_in_order(
        self, serve: Serve, module: Module, tmp_path: Path
    ) -> None:
        """print() without flush reaches a pipe at the latest when the server ends."""
        module("talks", versioned("1", top="print('at import')", shutdown="print('at shutdown')"))
        server = serve("talks:app", "--app-dir", str(tmp_path))
        server.get()
        server.stop()
        said = [line for line in server.lines("stdout") if line.startswith("at ")]
        assert said == ["at import", "at shutdown"]


@rsgun_only
def test_python_m(launch: Callable[..., Server], package: dict[str, str], module: Module) -> None:
    """The process that was started becomes the master, with the interpreter that runs it."""
    folder = module("main", versioned("1", top="print('by', sys.executable, flush=True)")).parent
    line = [sys.executable, "-m", "rsgun", "--port", "0", "--app-dir", str(folder), "main:app"]
    server = launch(line, environment=package).wait_until_running()
    assert server.wait_for_line("^by (.*)")[1] == sys.executable
    master = look(server.pid)
    assert master
    assert master.title == "rsgun: master [main:app]"
    _, _, parent = answer(server.get().text)
    assert parent == server.pid


@rsgun_only
class TestProcesses:
    def test_master_fork_server_workers(self, serve: Serve) -> None:
        server = serve("lab:app", "-w", "2")
        expected = [
            "rsgun: fork server [gen 1]",
            "rsgun: master [lab:app]",
            "rsgun: worker 1 [gen 1]",
            "rsgun: worker 2 [gen 1]",
        ]
        eventually(
            lambda: sorted(process.title for process in server.family()) == expected,
            f"exactly {expected}",
        )

    @pytest.mark.parametrize("count", [1, 3])
    def test_workers_are_children_of_the_master(self, serve: Serve, count: int) -> None:
        server = serve("lab:app", "-w", str(count))
        workers = server.wait_for_workers(count)
        assert len(workers) == count
        eventually(
            lambda: {worker.parent for worker in server.workers()} == {server.pid},
            "those that have forked them are gone",
        )
        assert {process.parent for process in server.fork_servers()} == {server.pid}

    def test_application_sees_the_master_as_parent(
        self, serve: Serve, module: Module, tmp_path: Path
    ) -> None:
        module("main", versioned("1"))
        server = serve("main:app", "--app-dir", str(tmp_path))
        _, pid, parent = answer(server.get().text)
        assert parent == server.pid
        assert [pid] == [worker.pid for worker in server.workers()]

    def test_every_worker_serves(self, serve: Serve) -> None:
        server = serve("lab:app", "-w", "3")
        workers = {worker.pid for worker in server.wait_for_workers(3)}

        seen: set[int] = set()

        def all_seen() -> bool:
            with server.connections(12) as connections:
                for connection in connections:
                    connection.request("/pid")
                seen.update(int(connection.response().text) for connection in connections)
            return seen == workers

        eventually(all_seen, "an answer of each worker")

    def test_master_never_loads_python(self, serve: Serve) -> None:
        server = serve("lab:app")
        assert "libpython" not in Path(f"/proc/{server.pid}/maps").read_text()

    def test_master_has_one_thread(self, serve: Serve) -> None:
        server = serve("lab:app", "-w", "2")
        master = look(server.pid)
        assert master
        assert master.threads() == 1

    def test_master_is_small(self, serve: Serve) -> None:
        server = serve("lab:app", "-w", "2")
        assert status_field(server.pid, "VmRSS") < 32 << 20

    def test_worker_has_no_descriptors_of_others(self, serve: Serve) -> None:
        """Of the channels only its own: else end-of-file would never come."""
        server = serve("lab:app", "-w", "3")
        for worker in server.wait_for_workers(3):
            files = worker.open_files()
            sockets = [name for name in files.values() if name.startswith("socket:")]
            # The listener, its channel, and the event loop's own pair.
            assert len(sockets) <= 4, files

    def test_idle_server_does_nothing(self, serve: Serve) -> None:
        """No process wakes up more than a few times a second."""
        server = serve("lab:app", "-w", "2")
        server.wait_for_workers(2)

        def switches() -> int:
            total = 0
            for process in server.family():
                text = Path(f"/proc/{process.pid}/status").read_text()
                found = re.search(r"^voluntary_ctxt_switches:\s+(\d+)", text, re.MULTILINE)
                assert found
                total += int(found[1])
            return total

        with server.connect() as connection:
            connection.get("/ping")
            connection.silent(0.5)
            before, began = switches(), time.monotonic()
            connection.silent(2.0)
            assert switches() - before < 40 * (time.monotonic() - began)

    def test_signals_are_not_blocked_in_workers(self, serve: Serve) -> None:
        """A blocked SIGCHLD hangs the subprocesses of an application."""
        server = serve("lab:app")
        for process in [*server.workers(), *server.fork_servers()]:
            text = Path(f"/proc/{process.pid}/status").read_text()
            blocked = int(re.search(r"^SigBlk:\s+(\w+)", text, re.MULTILINE)[1], 16)  # type: ignore[index]
            assert not blocked & (1 << (signal.SIGCHLD - 1))
            assert not blocked & (1 << (signal.SIGTERM - 1))

    def test_subprocesses_of_the_application_work(
        self, serve: Serve, module: Module, tmp_path: Path
    ) -> None:
        module(
            "spawns",
            """
import asyncio, subprocess

async def app(scope, receive, send):
    assert scope["type"] == "http"
    if scope["path"] == "/async":
        process = await asyncio.create_subprocess_exec("echo", "child", stdout=-1)
        body = (await process.communicate())[0]
    else:
        body = subprocess.run(["echo", "child"], capture_output=True, check=True).stdout
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
""",
        )
        server = serve("spawns:app", "--app-dir", str(tmp_path))
        assert server.get("/async").body == b"child\n"
        assert server.get("/sync").body == b"child\n"


@rsgun_only
class TestPreload:
    TOP = "print('loaded in', os.getpid(), flush=True)"

    def loads(self, server: Server) -> list[int]:
        return [
            int(line.split()[-1]) for line in server.lines("stdout") if line.startswith("loaded in")
        ]

    def test_code_is_loaded_once(self, serve: Serve, module: Module, tmp_path: Path) -> None:
        module("main", versioned("1", top=self.TOP))
        server = serve("main:app", "--app-dir", str(tmp_path), "--preload", "-w", "3")
        server.wait_for_workers(3)
        expected = [process.pid for process in server.fork_servers()]
        eventually(lambda: self.loads(server) == expected, "one load, in the fork server")

    def test_without_it_each_worker_loads(
        self, serve: Serve, module: Module, tmp_path: Path
    ) -> None:
        module("main", versioned("1", top=self.TOP))
        server = serve("main:app", "--app-dir", str(tmp_path), "-w", "3")
        workers = sorted(worker.pid for worker in server.wait_for_workers(3))
        eventually(lambda: sorted(self.loads(server)) == workers, "each worker loads the code")

    def test_lifespan_runs_in_each_worker(
        self, serve: Serve, module: Module, tmp_path: Path
    ) -> None:
        module("main", versioned("1", startup="print('started in', os.getpid(), flush=True)"))
        server = serve("main:app", "--app-dir", str(tmp_path), "--preload", "-w", "2")
        workers = sorted(worker.pid for worker in server.wait_for_workers(2))

        def started() -> list[int]:
            return sorted(
                int(line.split()[-1])
                for line in server.lines("stdout")
                if line.startswith("started in")
            )

        eventually(lambda: started() == workers, "each worker starts the application")

    def test_objects_are_frozen(self, serve: Serve, module: Module, tmp_path: Path) -> None:
        module(
            "main",
            versioned(
                "1", startup="import gc; print('frozen', gc.get_freeze_count() > 1000, flush=True)"
            ),
        )
        server = serve("main:app", "--app-dir", str(tmp_path), "--preload")
        server.wait_for_line("^frozen True", stream="stdout")

    def test_hup_loads_new_code(self, serve: Serve, module: Module, tmp_path: Path) -> None:
        module("main", versioned("first", top=self.TOP))
        server = serve("main:app", "--app-dir", str(tmp_path), "--preload", "-w", "2")
        server.wait_for_workers(2)
        module("main", versioned("second", top=self.TOP))
        server.send_signal(signal.SIGHUP)
        eventually(lambda: server.get().text.startswith("second "), "the new code")
        eventually(
            lambda: (
                [process.title for process in server.fork_servers()]
                == ["rsgun: fork server [gen 2]"]
            ),
            "only the new fork server",
        )
        eventually(lambda: len(self.loads(server)) == 2, "one load for each generation")

    def test_threads_of_the_application_are_warned_about(
        self, serve: Serve, module: Module, tmp_path: Path
    ) -> None:
        """They do not exist in the workers."""
        top = (
            "import threading, time\n"
            "clock = threading.Thread(target=time.sleep, args=(60,), daemon=True)\n"
            "clock.name = 'the clock'; clock.start()\n"
            "import _thread; _thread.start_new_thread(time.sleep, (60,))\n"
        )
        module("main", versioned("1", top=top))
        server = serve("main:app", "--app-dir", str(tmp_path), "--preload", "-w", "2")
        server.wait_for_line(
            r'^WARNING: .* has 2 threads besides the main one \("the clock", 1 unknown to Python\);'
        )
        server.wait_for_workers(2)
        assert server.get().text.startswith("1 ")

    def test_random_numbers_differ_between_workers(
        self, serve: Serve, module: Module, tmp_path: Path
    ) -> None:
        module(
            "main",
            versioned(
                "1", top="import random", startup="print('random', random.random(), flush=True)"
            ),
        )
        server = serve("main:app", "--app-dir", str(tmp_path), "--preload", "-w", "3")
        server.wait_for_workers(3)
        numbers = eventually(
            lambda: (
                (found := [line for line in server.lines("stdout") if line.startswith("random")])
                and len(found) == 3
                and found
            ),
            "three numbers",
        )
        assert len(set(numbers)) == 3


@differs("uvicorn", "replaces its title only with setproctitle")
def test_title_of_the_master_is_short_and_names_the_application(serve: Serve) -> None:
    server = serve("lab:app")
    master = look(server.pid)
    assert master
    assert master.title == "rsgun: master [lab:app]"
    assert Path(f"/proc/{server.pid}/comm").read_text().startswith("rsgun")


@rsgun_only
@pytest.mark.parametrize("limit", [12, 16])
def test_too_few_descriptors(launch: Callable[..., Server], limit: int) -> None:
    """Wherever they run out, the reason is named and not something else."""
    line = shlex.join(serving("lab:app"))
    server = launch(["sh", "-c", f"ulimit -n {limit}; exec {line}"])
    assert server.wait() != 0
    text = "\n".join(server.lines("stderr"))
    assert "raise `ulimit -n`" in text and "--python" not in text
