"""A worker that lies: its application may be anybody's, and the master root's."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness.marks import rsgun_only
from harness.server import Server
from harness.waiting import eventually

pytestmark = rsgun_only

Serve = Callable[..., Server]

LIAR = """
import array, json, os, socket, time


def channel():
    for name in os.listdir("/proc/self/fd"):
        try:
            it = socket.socket(fileno=os.dup(int(name)))
        except OSError:
            continue
        if it.family == socket.AF_UNIX and it.type == socket.SOCK_SEQPACKET:
            return it


def send(it, datagram, *descriptors):
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))
    try:
        it.sendmsg([datagram], [rights] if descriptors else [])
    except PermissionError:
        # Newer kernels say so, and older ones drop it.
        assert descriptors


def descriptors_of_master():
    return len(os.listdir(f"/proc/{os.getppid()}/fd"))


def act(what, text):
    it = channel()
    message = b"\\0" + text.encode()
    if what == "/say":
        send(it, message)
    elif what == "/pipe":
        reading, writing = os.pipe()
        send(it, b"\\1", reading)
    elif what == "/endless":
        send(it, b"\\1", os.open("/dev/zero", os.O_RDONLY))
    elif what == "/attached":
        send(it, message, *[os.open("/dev/null", os.O_RDONLY)] * 3)
    elif what == "/repeat":
        for _ in range(1500):
            while True:
                try:
                    send(it, message)
                    break
                except BlockingIOError:
                    time.sleep(0.001)
        fewest = descriptors_of_master()
        for _ in range(20):
            time.sleep(0.05)
            fewest = min(fewest, descriptors_of_master())
        return str(fewest)
    elif what == "/die":
        send(it, message)
        os._exit(3)
    return "done"


async def app(scope, receive, send_answer):
    if scope["type"] != "http":
        raise RuntimeError("only http")
    said = act(scope["path"], (await receive())["body"].decode())
    await send_answer({"type": "http.response.start", "status": 200, "headers": []})
    await send_answer({"type": "http.response.body", "body": said.encode()})
"""


def act(server: Server, what: str, message: object = None) -> str:
    """Has the application of a worker do something; returns what it says about it."""
    body = json.dumps(message).encode()
    with server.connect() as connection:
        connection.send(
            b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b"
            % (what.encode(), len(body), body)
        )
        return connection.response().text


def is_heard(server: Server) -> None:
    """Waits until the master has heard everything that was said so far."""
    act(server, "/say", {"Spent": {"requests": 4711}})
    server.wait_for_line("has answered 4711 requests")


@pytest.fixture
def start(serve: Serve, module: Callable[[str, str], Path], tmp_path: Path) -> Serve:
    module("liar", LIAR)

    def start(*arguments: str, **more: object) -> Server:
        return serve("liar:app", "--app-dir", str(tmp_path), *arguments, **more)

    return start


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process that is none of the server's."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


def test_a_worker_cannot_be_another_process(
    start: Serve, stranger: subprocess.Popen[bytes]
) -> None:
    """The master would kill whatever its worker seems to be."""
    server = start()
    [fork_server] = server.fork_servers()
    for pid in (fork_server.pid, stranger.pid):
        act(server, "/say", {"Hello": {"pid": pid}})
    is_heard(server)
    assert stranger.poll() is None
    assert fork_server.pid in [each.pid for each in server.fork_servers()]
    assert not [line for line in server.lines() if "killed" in line]


@pytest.mark.parametrize("what", ["/pipe", "/endless", "/attached"])
def test_the_master_reads_no_descriptor_of_a_worker(start: Serve, what: str) -> None:
    server = start()
    before = len(os.listdir(f"/proc/{server.pid}/fd"))
    for _ in range(5):
        act(server, what, "Ready")
    is_heard(server)
    eventually(
        lambda: len(os.listdir(f"/proc/{server.pid}/fd")) <= before + 8,
        "it keeps none, but those of another worker",
    )
    assert server.stop() == 0


def test_wishes_without_end_cost_the_master_nothing(start: Serve, tmp_path: Path) -> None:
    """Each is answered with two open files, and this worker reads no answer for a second."""
    server = start("--access-logfile", str(tmp_path / "access.log"))
    before = len(os.listdir(f"/proc/{server.pid}/fd"))
    assert int(act(server, "/repeat", "WantsLogs")) < before + 20
    assert server.stop() == 0


def test_nonsense_is_told_once(start: Serve) -> None:
    server = start()
    act(server, "/repeat", "Nonsense")
    is_heard(server)
    assert len([line for line in server.lines() if "ignoring what a process sends" in line]) == 1


def test_last_words_reach_the_log_and_not_the_terminal(start: Serve) -> None:
    server = start()
    failure = {"kind": "Internal", "message": "\x1b[2J\x1b]0;mine\x07", "traceback": "\x9b1m"}
    with pytest.raises((ConnectionError, EOFError, AssertionError, ValueError)):
        act(server, "/die", {"Failed": failure})
    server.wait_for_line(r"exited with code 3.*\\u\{1b\}\[2J\\u\{1b\}\]0;mine\\u\{7\}")
    server.wait_for_line(r"^\\u\{9b\}1m")
    assert not [line for line in server.lines() if "\x1b" in line or "\x9b" in line]


class TestWithoutDescriptors:
    """Whoever may not open anything more gets messages without what they carry."""

    def limit(self, pid: int, most: int) -> None:
        _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (most, hard))

    def test_a_worker_hears_on_and_gets_its_logs_later(self, start: Serve, tmp_path: Path) -> None:
        access = tmp_path / "access.log"
        server = start("--access-logfile", str(access))
        [worker] = server.wait_for_workers(1)
        usual, _ = resource.prlimit(worker.pid, resource.RLIMIT_NOFILE)
        access.rename(tmp_path / "old.log")
        self.limit(worker.pid, 3)
        server.send_signal(signal.SIGUSR1)
        server.wait_for_line("log files stay as they are for now: no descriptor is left")
        self.limit(worker.pid, usual)
        eventually(lambda: str(access) in worker.open_files().values(), "the new file")
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 5, "it has heard the order"

    def test_a_fork_server_says_what_it_lacks_and_stays(self, start: Serve) -> None:
        server = start()
        [worker] = server.wait_for_workers(1)
        [fork_server] = server.fork_servers()
        usual, _ = resource.prlimit(fork_server.pid, resource.RLIMIT_NOFILE)
        self.limit(fork_server.pid, 3)
        server.send_signal(signal.SIGUSR1)
        server.wait_for_line("the fork server keeps its log files: no descriptor is left")
        worker.send_signal(signal.SIGKILL)
        server.wait_for_line("no new worker process: no descriptor is left")
        self.limit(fork_server.pid, usual)
        eventually(lambda: worker.pid not in [it.pid for it in server.workers()], "it is gone")
        [another] = server.wait_for_workers(1)
        assert another.pid != worker.pid
        assert [it.pid for it in server.fork_servers()] == [fork_server.pid]
