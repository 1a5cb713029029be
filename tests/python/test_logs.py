"""Log files: where lines go, rotation, disks that are full, output of the application."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.marks import rsgun_only
from harness.server import Server, free_port
from harness.waiting import eventually

pytestmark = rsgun_only

Serve = Callable[..., Server]
Module = Callable[[str, str], Path]
Run = Callable[..., "subprocess.CompletedProcess[str]"]

NOISY = """
import os, sys

print("printed at import")

async def app(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError("only http")
    print("printed by the request")
    print("to standard error", file=sys.stderr)
    os.system("echo from a shell")
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})
"""


@pytest.fixture
def logs(tmp_path: Path) -> tuple[Path, Path, list[str]]:
    """The paths of both logs and the arguments for them."""
    error, access = tmp_path / "error.log", tmp_path / "access.log"
    return error, access, ["--error-logfile", str(error), "--access-logfile", str(access)]


def start(serve: Serve, error: Path, *arguments: str) -> Server:
    """Starts a server whose address is in a file."""
    server = serve(*arguments, wait=False)
    found = eventually(
        lambda: error.exists() and re.search(r"running on http://.*:(\d+)", error.read_text()),
        "the address is in the log",
    )
    server._address = ("127.0.0.1", int(found[1]))
    return server


def test_each_log_goes_to_its_file(serve: Serve, logs: tuple[Path, Path, list[str]]) -> None:
    error, access, arguments = logs
    server = start(serve, error, "lab:app", *arguments)
    server.get("/ping")
    eventually(access.read_text, "a line")
    assert re.fullmatch(
        r'INFO:     127\.0\.0\.1:\d+ - "GET /ping HTTP/1.1" 200 OK\n', access.read_text()
    )
    assert server.stop() == 0
    assert "INFO:     Finished server process" in error.read_text()
    assert [line for line in server.lines() if line.startswith("INFO")] == []


def test_dash_is_the_standard_streams(serve: Serve) -> None:
    server = serve("lab:app", "--error-logfile", "-", "--access-logfile", "-")
    server.get("/ping")
    server.wait_for_line("GET /ping", stream="stdout")
    assert any("running on" in line for line in server.lines("stderr"))


def test_files_are_appended_to(serve: Serve, logs: tuple[Path, Path, list[str]]) -> None:
    error, _, arguments = logs
    error.write_text("an old line\n")
    start(serve, error, "lab:app", *arguments)
    assert error.read_text().startswith("an old line\n")


def test_failed_boot_is_told_on_the_terminal_too(
    serve: Serve, logs: tuple[Path, Path, list[str]], module: Module, tmp_path: Path
) -> None:
    error, _, arguments = logs
    module("broken", "raise ValueError('why')")
    server = serve("broken:app", "--app-dir", str(tmp_path), *arguments, wait=False)
    server.tolerates_tracebacks = True
    assert server.wait() == 3
    for text in (error.read_text(), "\n".join(server.lines("stderr"))):
        assert "ValueError: why" in text


def test_file_that_cannot_be_opened(run: Run) -> None:
    done = run("lab:app", "--access-logfile", "/nowhere/access.log")
    assert done.returncode == 1
    assert "--access-logfile: cannot open the log file /nowhere/access.log" in done.stderr


class TestRotation:
    def rotate(self, *files: Path) -> None:
        for file in files:
            file.rename(file.with_suffix(".1"))

    @pytest.mark.parametrize("mode", [(), ("--preload",)])
    def test_usr1_opens_the_files_anew_everywhere(
        self, serve: Serve, logs: tuple[Path, Path, list[str]], mode: tuple[str, ...]
    ) -> None:
        error, access, arguments = logs
        server = start(serve, error, "lab:app", "-w", "2", *mode, *arguments)
        server.wait_for_workers(2)
        server.get("/ping")
        eventually(lambda: "/ping" in access.read_text(), "a line")
        self.rotate(error, access)
        server.send_signal(signal.SIGUSR1)
        files = {str(error), str(access)}
        eventually(
            lambda: all(
                files <= set(process.open_files().values())
                and not any(file.endswith(".1") for file in process.open_files().values())
                for process in server.workers() + server.fork_servers()
            ),
            "every process has the new files, and none the old ones",
        )
        server.get("/missing")
        eventually(lambda: "/missing" in access.read_text(), "the next line")
        assert "/missing" not in access.with_suffix(".1").read_text()
        before = {process.pid for process in server.workers()}
        os.kill(min(before), signal.SIGKILL)
        eventually(lambda: "replacing it" in error.read_text(), "the master's line")
        [newest] = [each for each in server.wait_for_workers(2) if each.pid not in before]
        assert files <= set(newest.open_files().values()), "forked from the same fork server"

    def test_usr1_to_a_worker_is_for_that_worker(
        self, serve: Serve, logs: tuple[Path, Path, list[str]]
    ) -> None:
        error, access, arguments = logs
        server = start(serve, error, "lab:app", "-w", "2", *arguments)
        self.rotate(access)
        [one, other] = server.wait_for_workers(2)
        os.kill(one.pid, signal.SIGUSR1)
        eventually(lambda: str(access) in one.open_files().values(), "the new file")
        assert str(access.with_suffix(".1")) in other.open_files().values()

    def test_usr1_to_a_fork_server_harms_nobody(self, serve: Serve) -> None:
        server = serve("lab:app")
        [fork_server] = server.fork_servers()
        os.kill(fork_server.pid, signal.SIGUSR1)
        [worker] = server.workers()
        os.kill(worker.pid, signal.SIGKILL)
        server.wait_for_line("replacing it")
        server.wait_for_workers(1)
        assert [each.pid for each in server.fork_servers()] == [fork_server.pid]

    def test_usr1_while_workers_boot(
        self, serve: Serve, logs: tuple[Path, Path, list[str]], module: Module, tmp_path: Path
    ) -> None:
        """The order comes before the worker listens to the master, and is not lost."""
        error, access, arguments = logs
        module(
            "slow",
            "import os, time, lab\nopen('began', 'w').close()\n"
            "while not os.path.exists('go on'): time.sleep(0.01)\napp = lab.app\n",
        )
        place = Path(__file__).parent / "apps"
        (tmp_path / "lab.py").symlink_to(place / "lab.py")
        server = serve("slow:app", "--app-dir", str(tmp_path), *arguments, wait=False)
        eventually((tmp_path / "began").exists, "the import has begun")
        self.rotate(access)
        server.send_signal(signal.SIGUSR1)
        eventually(access.exists, "the master has opened it anew")
        (tmp_path / "go on").touch()
        eventually(lambda: "running on" in error.read_text(), "it serves")
        eventually(lambda: str(access) in server.workers()[0].open_files().values(), "the new file")

    def test_usr1_before_the_fork_server_listens(
        self, serve: Serve, logs: tuple[Path, Path, list[str]], tmp_path: Path
    ) -> None:
        error, access, arguments = logs
        python = tmp_path / "python3"
        python.write_text(
            "#!/bin/sh\ntouch began\nwhile ! test -e go; do sleep 0.01; done\n"
            f'exec {sys.executable} "$@"\n'
        )
        python.chmod(0o755)
        server = serve("lab:app", "--python", str(python), *arguments, wait=False)
        eventually((tmp_path / "began").exists, "the interpreter has been started")
        self.rotate(access)
        server.send_signal(signal.SIGUSR1)
        eventually(access.exists, "the master has opened it anew")
        (tmp_path / "go").touch()
        eventually(lambda: "running on" in error.read_text(), "it serves")
        [worker] = server.wait_for_workers(1)
        assert str(access) in worker.open_files().values()

    def test_without_files_nothing_happens(self, serve: Serve) -> None:
        server = serve("lab:app", "-w", "2")
        workers = server.wait_for_workers(2)
        server.send_signal(signal.SIGUSR1)
        for worker in workers:
            os.kill(worker.pid, signal.SIGUSR1)
        assert server.get("/ping").body == b"pong"
        server.wait_for_line("GET /ping", stream="stdout")
        assert {each.pid for each in server.workers()} == {each.pid for each in workers}

    def test_new_file_that_cannot_be_opened_leaves_the_old_one(
        self, serve: Serve, tmp_path: Path
    ) -> None:
        folder = tmp_path / "logs"
        folder.mkdir()
        access = folder / "access.log"
        server = serve("lab:app", "--access-logfile", str(access))
        moved = tmp_path / "moved"
        folder.rename(moved)
        server.send_signal(signal.SIGUSR1)
        server.wait_for_line("the old one stays in use")
        server.get("/ping")
        eventually(lambda: "/ping" in (moved / "access.log").read_text(), "in the old file")


def test_reload_changes_files_and_level(serve: Serve, tmp_path: Path) -> None:
    configuration = tmp_path / "rsgun.toml"
    first, second = tmp_path / "first.log", tmp_path / "second.log"
    configuration.write_text(f'access-logfile = "{first}"\n')
    server = serve("lab:app", "-c", str(configuration))
    server.get("/before")
    eventually(lambda: "/before" in first.read_text(), "the first file")
    error = tmp_path / "error.log"
    configuration.write_text(
        f'access-logfile = "{second}"\nerror-logfile = "{error}"\nlog-level = "debug"\n'
    )
    server.send_signal(signal.SIGHUP)
    server.wait_for_generation(2, 1)
    eventually(lambda: "Reload complete" in error.read_text(), "the master's own line")
    server.get("/after")
    eventually(lambda: "/after" in second.read_text(), "the second file")
    assert "/after" not in first.read_text()
    server.send_signal(signal.SIGUSR1)
    eventually(lambda: "DEBUG:    The log files were opened" in error.read_text(), "the level")


def test_reload_with_an_impossible_file_changes_nothing(serve: Serve, tmp_path: Path) -> None:
    configuration = tmp_path / "rsgun.toml"
    configuration.write_text("")
    server = serve("lab:app", "-c", str(configuration))
    configuration.write_text('error-logfile = "/nowhere/error.log"\n')
    server.send_signal(signal.SIGHUP)
    place = f"{configuration}, line 1: error-logfile"
    server.wait_for_line(f"Reload failed.*{place}: cannot open the log file /nowhere/error.log")
    assert server.get("/ping").body == b"pong"


def test_full_disk_stops_nothing(serve: Serve) -> None:
    port = free_port()
    full = ["--error-logfile", "/dev/full", "--access-logfile", "/dev/full"]
    server = serve("lab:app", "-b", f"127.0.0.1:{port}", *full, wait=False)
    server._address = ("127.0.0.1", port)

    def answers() -> bool:
        try:
            return server.get("/ping").body == b"pong"
        except OSError:
            return False

    eventually(answers, "it serves")
    for _ in range(50):
        assert server.get("/ping").status == 200
    server.send_signal(signal.SIGUSR1)
    server.send_signal(signal.SIGHUP)
    server.wait_for_generation(2, 1)
    assert server.get("/ping").status == 200
    assert server.stop() == 0


class TestCaptureOutput:
    def test_what_the_application_prints_is_in_the_log(
        self, serve: Serve, logs: tuple[Path, Path, list[str]], module: Module, tmp_path: Path
    ) -> None:
        error, _, arguments = logs
        module("noisy", NOISY)
        server = start(
            serve, error, "noisy:app", "--app-dir", str(tmp_path), "--capture-output", *arguments
        )
        assert server.get("/").status == 204
        wanted = [
            "printed at import",
            "printed by the request",
            "to standard error",
            "from a shell",
        ]
        eventually(
            lambda: all(f"{text}\n" in error.read_text() for text in wanted),
            f"{wanted} are in the log",
        )
        error.rename(error.with_suffix(".1"))
        server.send_signal(signal.SIGUSR1)
        eventually(
            lambda: [each.open_files()[1] for each in server.workers()] == [str(error)],
            "standard output follows the log",
        )
        server.get("/")
        eventually(lambda: "printed by the request\n" in error.read_text(), "the new file")
        assert not any("printed" in line for line in server.lines())

    def test_without_it_the_streams_stay(
        self, serve: Serve, logs: tuple[Path, Path, list[str]], module: Module, tmp_path: Path
    ) -> None:
        error, _, arguments = logs
        module("noisy", NOISY)
        server = start(serve, error, "noisy:app", "--app-dir", str(tmp_path), *arguments)
        server.get("/")
        server.wait_for_line("to standard error", stream="stderr")
        assert "to standard error" not in error.read_text()


REFUSED = [
    (b"GET /a HTTP/1.1\r\n\r\n", "GET /a", 400),
    (b"POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 11\r\n\r\n", "POST /b", 413),
    (
        b"POST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nb\r\n01234567890\r\n",
        "POST /c",
        413,
    ),
    (b"POST /d HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "POST /d", 400),
]


@pytest.mark.parametrize("app", ["large:asgi", "large:wsgi"])
def test_requests_that_are_refused_have_a_line(serve: Serve, app: str) -> None:
    server = serve(app, "--limit-request-body", "10")
    for raw, line, status in REFUSED:
        with server.connect() as connection:
            connection.send(raw)
            assert connection.response().status == status
        server.wait_for_line(
            rf'^INFO:     127\.0\.0\.1:\d+ - "{line} HTTP/1.1" {status} ', stream="stdout"
        )
    assert server.stop() == 0
    assert len(server.lines("stdout")) == len(REFUSED)


def test_passwords_in_a_target_are_left_out(serve: Serve) -> None:
    server = serve("lab:app")
    with server.connect() as connection:
        connection.send(b"GET http://me:secret@x:81/ping?a@b HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.response().status == 200
    server.wait_for_line(r'"GET http://x:81/ping\?a@b HTTP/1.1" 200', stream="stdout")


def test_nor_are_they_logged_without_an_access_log(serve: Serve) -> None:
    server = serve("large:asgi", "--no-access-log")
    with server.connect() as connection:
        connection.send(REFUSED[0][0])
        assert connection.response().status == 400
    server.wait_for_line("invalid HTTP request from .*: there is no Host header")
    assert server.stop() == 0
    assert not server.lines("stdout")
