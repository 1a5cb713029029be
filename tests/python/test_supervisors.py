"""Under real supervisors: supervisord, circus, systemd's socket activation."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import processes
from harness.marks import rsgun_only
from harness.server import Server, free_port, is_listening, port_is_free, serving
from harness.sources import versioned
from harness.target import APPS, binary
from harness.waiting import BOOT, eventually, wait_gone
from harness.wire import Connection

pytestmark = [rsgun_only, pytest.mark.slow]

Launch = Callable[..., Server]
TOOLS = Path(sys.executable).parent


def tool(name: str) -> str:
    """A command that is installed beside the running interpreter, else on PATH."""
    beside = TOOLS / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def command(*arguments: str) -> str:
    start = f"{binary()} --python {sys.executable} --app-dir {APPS}"
    return " ".join([start, *arguments, "lab:app"])


def get(address: tuple[str, int] | str, path: str = "/ping") -> str:
    with Connection.open(address) as connection:
        return connection.get(path, close=True).text


def masters(supervisor: Server) -> list[processes.Process]:
    """The masters below a supervisor; each is in a session or group of its own."""
    return [
        process
        for process in processes.all_processes()
        if process.alive
        and process.title.startswith("rsgun: master")
        and process.parent == supervisor.pid
    ]


def workers_of(master: processes.Process) -> list[processes.Process]:
    return [
        process
        for process in processes.all_processes()
        if process.alive
        and process.parent == master.pid
        and process.title.startswith("rsgun: worker")
    ]


def wait_for_masters(supervisor: Server, count: int) -> list[processes.Process]:
    def serving() -> list[processes.Process] | None:
        found = masters(supervisor)
        if len(found) == count and all(workers_of(master) for master in found):
            return found
        return None

    return eventually(serving, f"{count} masters with workers", BOOT)


class Supervisord:
    """supervisord with an fcgi-program."""

    def __init__(self, launch: Launch, folder: Path, url: str, options: str = "") -> None:
        self.configuration = folder / "supervisord.conf"
        self.configuration.write_text(
            f"""
[unix_http_server]
file = {folder}/control

[supervisord]
nodaemon = true
logfile = {folder}/supervisord.log
pidfile = {folder}/supervisord.pid
childlogdir = {folder}

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface

[supervisorctl]
serverurl = unix://{folder}/control

[fcgi-program:web]
command = {command("--fd", "0", "-w", "2")}
socket = {url}
process_name = web-%(process_num)d
numprocs = 2
autorestart = true
startsecs = 1
{options}
"""
        )
        self.server = launch([tool("supervisord"), "-c", str(self.configuration)])

    def control(self, *arguments: str) -> str:
        return subprocess.run(
            [tool("supervisorctl"), "-c", str(self.configuration), *arguments],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        ).stdout


class TestSupervisord:
    @pytest.fixture
    def port(self) -> int:
        return free_port()

    @pytest.fixture
    def supervisord(self, launch: Launch, tmp_path: Path, port: int) -> Supervisord:
        return Supervisord(launch, tmp_path, f"tcp://127.0.0.1:{port}")

    def test_two_masters_on_one_socket(self, supervisord: Supervisord, port: int) -> None:
        found = wait_for_masters(supervisord.server, 2)
        address = ("127.0.0.1", port)
        for _ in range(30):
            assert get(address) == "pong"

        # One is killed: the other serves on, and supervisord starts it anew.
        workers = workers_of(found[0])
        os.kill(found[0].pid, signal.SIGKILL)
        for _ in range(30):
            assert get(address) == "pong"
        for worker in workers:
            assert wait_gone(worker.pid), "a worker outlives its master"
        wait_for_masters(supervisord.server, 2)
        assert get(address) == "pong"

        # The whole is shut down within supervisord's own limit.
        assert supervisord.server.stop(deadline=BOOT) == 0
        assert port_is_free(port)

    def test_reload_by_signal(self, supervisord: Supervisord, port: int) -> None:
        """`supervisorctl signal HUP` keeps the masters and replaces their workers."""
        before = wait_for_masters(supervisord.server, 2)
        old = {worker.pid for master in before for worker in workers_of(master)}
        eventually(lambda: "RUNNING" in supervisord.control("status"), "RUNNING")
        supervisord.control("signal", "HUP", "web:*")

        def replaced() -> bool:
            assert get(("127.0.0.1", port)) == "pong"
            new = {worker.pid for master in before for worker in workers_of(master)}
            return len(new) == 4 and not new & old

        eventually(replaced, "new workers", BOOT)
        assert {master.pid for master in masters(supervisord.server)} == {
            master.pid for master in before
        }

    def test_stop_of_one_leaves_the_unix_socket(self, launch: Launch, tmp_path: Path) -> None:
        path = tmp_path / "web.sock"
        supervisord = Supervisord(launch, tmp_path, f"unix://{path}")
        wait_for_masters(supervisord.server, 2)
        assert get(str(path)) == "pong"
        eventually(lambda: "RUNNING" in supervisord.control("status"), "RUNNING")
        supervisord.control("stop", "web:web-0")
        eventually(lambda: len(masters(supervisord.server)) == 1, "one master")
        for _ in range(20):
            assert get(str(path)) == "pong"


def test_circus(launch: Launch, tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "circus.ini").write_text(
        f"""
[circus]
endpoint = tcp://127.0.0.1:{free_port()}
pubsub_endpoint = tcp://127.0.0.1:{free_port()}
check_delay = 1

[watcher:web]
cmd = {command("--fd", "$(circus.sockets.web)", "-w", "2")}
use_sockets = True
numprocesses = 2
copy_env = True

[socket:web]
host = 127.0.0.1
port = {port}
"""
    )
    circus = launch([tool("circusd"), str(tmp_path / "circus.ini")])
    found = wait_for_masters(circus, 2)
    for _ in range(20):
        assert get(("127.0.0.1", port)) == "pong"
    workers = workers_of(found[0])
    os.kill(found[0].pid, signal.SIGKILL)
    for _ in range(20):
        assert get(("127.0.0.1", port)) == "pong"
    for worker in workers:
        assert wait_gone(worker.pid), "a worker outlives its master"
    wait_for_masters(circus, 2)
    circus.stop(deadline=BOOT)
    for master in found:
        assert wait_gone(master.pid)
    # It complains when it is about to look after its processes while it stops them.
    circus.tolerates_tracebacks = True
    complaints = [line for line in circus.lines("stderr") if "circus.exc.ConflictError" in line]
    assert circus.tracebacks() == len(complaints)


@pytest.mark.parametrize("options", [("--fd", "3"), ()], ids=["named", "unnamed"])
def test_systemd_socket_activate(launch: Launch, options: tuple[str, ...]) -> None:
    """The socket is descriptor 3, whether it is named or not."""
    port = free_port()
    server = launch(
        [
            tool("systemd-socket-activate"),
            f"--listen=127.0.0.1:{port}",
            *command(*options).split(),
        ]
    )
    eventually(lambda: is_listening(port), "it listens")
    # The first connection starts the server, which then finds it in the queue.
    with Connection.open(("127.0.0.1", port)) as connection:
        assert connection.get("/ping").text == "pong"
    server.wait_for_line("running on")
    assert get(("127.0.0.1", port)) == "pong"


def test_socket_of_systemd_that_nobody_names(
    launch: Launch, module: Callable[[str, str], Path], tmp_path: Path
) -> None:
    """It is not used, and that is told; the variables are for the master alone."""
    top = "print([name for name in os.environ if name.startswith('LISTEN_')], flush=True)"
    module("main", versioned("first", top=top))
    variables = "LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=web"
    line = " ".join(serving("main:app", "--app-dir", str(tmp_path)))
    server = launch(["sh", "-c", f"{variables} exec {line}"])
    server.wait_for_line("WARNING: .*descriptor 3: name each with --fd 3 or --bind fd://3")
    server.wait_until_running()
    assert "[]" in server.lines("stdout")


ACTIVATE = """
import os
# Above all numbers first, since one of them may be 3 or 4 itself.
copies = [os.dup2(fd, 100 + fd) for fd in {passed}]
for number, copy in enumerate(copies, 3):
    os.dup2(copy, number)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="2", PORT="1")
line = {line}
os.execv(line[0], line)
"""


def test_sockets_of_systemd_are_kept_over_reload_and_upgrade(
    launch: Launch, module: Callable[[str, str], Path], tmp_path: Path
) -> None:
    """Nothing says where to listen, so all of them are taken, whoever the process becomes."""
    module("main", versioned("first"))
    path = tmp_path / "web.sock"
    with socket.socket() as tcp, socket.socket(socket.AF_UNIX) as unix:
        tcp.bind(("127.0.0.1", 0))
        unix.bind(str(path))
        for listener in (tcp, unix):
            listener.listen()
        passed = [tcp.fileno(), unix.fileno()]
        line = [*command("--app-dir", str(tmp_path)).split()[:-1], "main:app"]
        server = launch(
            [sys.executable, "-c", ACTIVATE.format(passed=passed, line=line)], pass_fds=passed
        )
        server.wait_until_running()
        addresses = [tcp.getsockname(), str(path)]
    for done in (None, signal.SIGHUP, signal.SIGUSR2):
        since = server.output.mark()
        if done is not None:
            server.send_signal(done)
            line = "Reload complete" if done == signal.SIGHUP else "Upgrade complete"
            server.wait_for_line(line, since=since, deadline=30)
        for address in addresses:
            assert get(address, "/").startswith("first ")
        assert not any("descriptor 3" in line for line in server.lines(None, since))


def test_restart_in_a_loop_on_an_inherited_socket(launch: Launch) -> None:
    """What a supervisor does at each deployment: the queue of the socket survives."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        address = listener.getsockname()
        for _ in range(3):
            with Connection.open(address) as early:
                early.request("/ping", close=True)
                server = launch(command("--fd", "0").split(), stdin=listener.fileno())
                assert early.response().text == "pong"
            server.stop()
