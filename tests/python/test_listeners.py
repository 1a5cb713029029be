"""Where the server listens: each form of address, several at once, inherited sockets."""

from __future__ import annotations

import os
import random
import select
import signal
import socket
import stat
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness.marks import rsgun_only
from harness.processes import look
from harness.server import Server, free_port, port_is_free, serving
from harness.target import APPS, command
from harness.waiting import BOOT, DEADLINE, eventually

Serve = Callable[..., Server]
Launch = Callable[..., Server]


@pytest.fixture
def tcp() -> Iterator[socket.socket]:
    """A listening socket as a supervisor makes it: blocking, and not close-on-exec."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        listener.set_inheritable(True)
        yield listener


@pytest.fixture
def unix(tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    path = str(tmp_path / "inherited")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(64)
        listener.set_inheritable(True)
        yield listener, path


def queue_of(listener: socket.socket) -> int:
    """How many connections may wait at a TCP listener.

    The kernel tells it where a connection has ``tcpi_sacked``.
    """
    information = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    return int(struct.unpack_from("=I", information, 28)[0])


def test_host_and_port(serve: Serve) -> None:
    server = serve("lab:app", "--host", "127.0.0.1", "--port", "0")
    assert server.port > 0
    assert server.get("/ping").body == b"pong"


def test_unix_socket(serve: Serve, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    server = serve("lab:app", "--uds", path)
    assert server.get("/ping", address=path).body == b"pong"


@rsgun_only
class TestBind:
    def test_host_and_port(self, serve: Serve) -> None:
        port = free_port()
        server = serve("lab:app", "-b", f"127.0.0.1:{port}")
        assert server.address == ("127.0.0.1", port)
        assert server.get("/ping").body == b"pong"

    def test_port_0_picks_one_and_prints_it(self, serve: Serve) -> None:
        server = serve("lab:app", "--bind", "127.0.0.1:0")
        assert server.port
        assert server.get("/ping").body == b"pong"

    def test_port_alone(self, serve: Serve) -> None:
        """All addresses, as gunicorn takes it."""
        port = free_port()
        server = serve("lab:app", "-b", f":{port}")
        assert server.get("/ping", address=("127.0.0.1", port)).body == b"pong"

    def test_ipv6(self, serve: Serve) -> None:
        server = serve("lab:app", "-b", "[::1]:0")
        assert server.address[0] == "::1"
        assert server.get("/ping").body == b"pong"

    def test_host_name(self, serve: Serve) -> None:
        server = serve("lab:app", "-b", "localhost:0")
        server.wait_for_line(r"running on http://(localhost|127\.0\.0\.1|\[::1\]):\d+")
        assert server.get("/ping", address=("127.0.0.1", server.port)).body == b"pong"

    def test_unix_path(self, serve: Serve, tmp_path: Path) -> None:
        path = tmp_path / "socket"
        server = serve("lab:app", "-b", f"unix:{path}")
        assert server.get("/ping", address=str(path)).body == b"pong"
        server.stop()
        assert not path.exists()

    def test_relative_unix_path(self, serve: Serve, tmp_path: Path) -> None:
        server = serve("lab:app", "-b", "unix:socket")
        path = tmp_path / "socket"
        assert server.get("/ping", address=str(path)).body == b"pong"

    def test_abstract_unix_socket(self, serve: Serve) -> None:
        name = f"@rsgun-test-{os.getpid()}-{free_port()}"
        server = serve("lab:app", "-b", f"unix:{name}")
        assert server.get("/ping", address=name).body == b"pong"

    def test_several_at_once(self, serve: Serve, tmp_path: Path) -> None:
        path = str(tmp_path / "socket")
        server = serve(
            "lab:app", "-b", "127.0.0.1:0", "-b", f"unix:{path}", "-b", "[::1]:0", "-w", "2"
        )
        server.wait_for_workers(2)
        server.wait_for_line(rf"running on unix:{path}")
        port = int(server.wait_for_line(r"running on http://\[::1\]:(\d+)")[1])
        assert server.get("/ping").body == b"pong"
        assert server.get("/ping", address=path).body == b"pong"
        assert server.get("/ping", address=("::1", port)).body == b"pong"

    def test_by_environment(self, launch: Launch) -> None:
        port = free_port()
        server = launch(
            command("lab:app", "--app-dir", str(APPS)),
            environment={"RSGUN_BIND": f"127.0.0.1:{port}"},
        )
        assert server.wait_until_running().port == port

    def test_default_is_port_8000_of_this_machine_alone(self, launch: Launch) -> None:
        if not port_is_free(8000):
            pytest.skip("port 8000 is in use")
        server = launch(command("lab:app", "--app-dir", str(APPS))).wait_until_running()
        assert server.address == ("127.0.0.1", 8000)

    def test_permissions_of_a_unix_socket_let_a_proxy_in(
        self, serve: Serve, tmp_path: Path
    ) -> None:
        path = tmp_path / "socket"
        serve("lab:app", "-b", f"unix:{path}")
        assert stat.S_ISSOCK(path.stat().st_mode)
        assert stat.S_IMODE(path.stat().st_mode) == 0o666

    def test_stale_unix_socket_is_replaced(self, serve: Serve, tmp_path: Path) -> None:
        """What a killed server leaves behind."""
        path = tmp_path / "socket"
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
        server = serve("lab:app", "-b", f"unix:{path}")
        assert server.get("/ping", address=str(path)).body == b"pong"

    def test_socket_that_somebody_else_has_put_there_is_not_removed(
        self, serve: Serve, tmp_path: Path
    ) -> None:
        path = tmp_path / "socket"
        server = serve("lab:app", "-b", f"unix:{path}")
        path.unlink()
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(path))
            server.stop()
            assert path.is_socket()

    def test_restart_on_the_same_port_at_once(self, serve: Serve) -> None:
        port = free_port()
        for _ in range(3):
            server = serve("lab:app", "-b", f"127.0.0.1:{port}")
            with server.connect() as connection:
                connection.get("/ping")
                server.stop()

    def test_listener_is_never_closed_while_a_worker_lives(self, serve: Serve) -> None:
        """Connections queue while every worker is dead."""
        server = serve("lab:app", "-w", "1")
        (worker,) = server.wait_for_workers(1)
        os.kill(worker.pid, signal.SIGSTOP)

        def stands() -> bool:
            found = look(worker.pid)
            return found is not None and found.state == "T"

        eventually(stands, "the worker has stopped")
        answered = 0
        with server.connections(5) as waiting:
            for connection in waiting:
                connection.request("/ping")
            os.kill(worker.pid, signal.SIGKILL)
            for connection in waiting:
                try:
                    answered += connection.response().body == b"pong"
                except (AssertionError, ConnectionResetError):
                    continue
        assert answered >= 4, "only what the dead worker had accepted may be lost"


@rsgun_only
class TestInherited:
    @pytest.mark.parametrize("form", ["--fd={}", "--bind=fd://{}"])
    def test_tcp(self, launch: Launch, tcp: socket.socket, form: str) -> None:
        option = form.format(tcp.fileno())
        server = launch(serving("lab:app", option), pass_fds=[tcp.fileno()])
        server.wait_for_line("running on")
        address = tcp.getsockname()
        assert server.get("/ping", address=address).body == b"pong"

    @pytest.mark.parametrize("form", ["--fd=0", "--bind=fd://0"])
    @pytest.mark.parametrize("workers", ["1", "2"])
    def test_descriptor_0(
        self, launch: Launch, tcp: socket.socket, form: str, workers: str
    ) -> None:
        """As supervisord hands it over."""
        server = launch(serving("lab:app", form, "-w", workers), stdin=tcp.fileno())
        server.wait_for_line("running on", deadline=BOOT)
        server.wait_for_workers(int(workers))
        assert server.get("/ping", address=tcp.getsockname()).body == b"pong"
        for process in [
            *server.titled("^rsgun: master"),
            *server.fork_servers(),
            *server.workers(),
        ]:
            assert process.open_files()[0] == "/dev/null", process.title

    def test_unix(self, launch: Launch, unix: tuple[socket.socket, str]) -> None:
        listener, path = unix
        server = launch(
            serving("scope:app", "--fd", str(listener.fileno())), pass_fds=[listener.fileno()]
        )
        server.wait_for_line("running on")
        response = server.get("/", address=path)
        assert response.status == 200
        assert f"['{path}', None]" in response.text or f"('{path}', None)" in response.text

    def test_socket_file_stays(self, launch: Launch, unix: tuple[socket.socket, str]) -> None:
        """Who has not made it does not remove it."""
        listener, path = unix
        mode = os.stat(path).st_mode
        server = launch(
            serving("lab:app", "--fd", str(listener.fileno())), pass_fds=[listener.fileno()]
        )
        server.wait_for_line("running on")
        server.get("/ping", address=path)
        assert server.stop() == 0
        assert Path(path).is_socket()
        assert os.stat(path).st_mode == mode

    def test_two_masters_on_one_unix_socket(
        self, launch: Launch, unix: tuple[socket.socket, str]
    ) -> None:
        """Stopping or killing one leaves the socket to the other."""
        listener, path = unix
        masters = [
            launch(serving("lab:app", "--fd", "0", "-w", "2"), stdin=listener.fileno())
            for _ in range(3)
        ]
        for master in masters:
            master.wait_for_line("running on")
        pids = {int(masters[0].get("/pid", address=path).text) for _ in range(60)}
        assert pids
        assert masters[0].stop() == 0
        for _ in range(20):
            assert masters[1].get("/ping", address=path).body == b"pong"
        masters[1].send_signal(signal.SIGKILL)
        masters[1].wait()
        assert not masters[1].leftovers()
        for _ in range(20):
            assert masters[2].get("/ping", address=path).body == b"pong"

    def test_reload_of_one_of_two_masters(self, launch: Launch, tcp: socket.socket) -> None:
        masters = [launch(serving("lab:app", "--fd", "0"), stdin=tcp.fileno()) for _ in range(2)]
        for master in masters:
            master.wait_for_line("running on")
        (other,) = masters[1].wait_for_workers(1)
        masters[0].send_signal(signal.SIGHUP)
        masters[0].wait_for_generation(2, 1)
        for _ in range(20):
            assert masters[0].get("/ping", address=tcp.getsockname()).body == b"pong"
        assert [worker.pid for worker in masters[1].workers()] == [other.pid]

    def test_socket_is_not_shut_down(self, launch: Launch, tcp: socket.socket) -> None:
        """The next server on it serves, with the connections that waited meanwhile."""
        first = launch(serving("lab:app", "--fd", "0"), stdin=tcp.fileno())
        first.wait_for_line("running on")
        first.get("/ping", address=tcp.getsockname())
        assert first.stop() == 0
        with first.connect(tcp.getsockname()) as waiting:
            waiting.request("/ping")
            second = launch(serving("lab:app", "--fd", "0"), stdin=tcp.fileno())
            second.wait_for_line("running on")
            assert waiting.response().body == b"pong"

    def test_queue_stays_as_long_as_its_owner_has_made_it(
        self, launch: Launch, tcp: socket.socket
    ) -> None:
        """Who calls listen() again changes it for everybody who has the socket."""
        tcp.listen(5)
        number = str(tcp.fileno())
        server = launch(
            serving("lab:app", "--fd", number, "-w", "2", "--backlog", "77"), pass_fds=[int(number)]
        )
        server.wait_for_line("running on")
        assert queue_of(tcp) == 5
        server.send_signal(signal.SIGHUP)
        server.wait_for_generation(2, 2)
        assert server.get("/ping", address=tcp.getsockname()).body == b"pong"
        assert queue_of(tcp) == 5

    def test_several_descriptors(
        self, launch: Launch, tcp: socket.socket, unix: tuple[socket.socket, str]
    ) -> None:
        listener, path = unix
        server = launch(
            serving("lab:app", "-b", f"fd://{tcp.fileno()}", "-b", f"fd://{listener.fileno()}"),
            pass_fds=[tcp.fileno(), listener.fileno()],
        )
        server.wait_for_line("running on")
        assert server.get("/ping", address=tcp.getsockname()).body == b"pong"
        assert server.get("/ping", address=path).body == b"pong"


class NameServer:
    """A name server that answers when it is let, always with 127.0.0.1."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.host = f"127.{random.randrange(1, 255)}.{random.randrange(1, 255)}.53"
        self.socket.bind((self.host, 53))
        self.socket.settimeout(DEADLINE)

    def wait_for_question(self) -> None:
        """Waits until somebody asks, and leaves the question where it is."""
        assert select.select([self.socket], [], [], DEADLINE)[0], "nobody has asked"

    def answer_until(self, over: Callable[[], bool]) -> None:
        """Answers all questions."""
        while not over():
            if not select.select([self.socket], [], [], 0.05)[0]:
                continue
            question, client = self.socket.recvfrom(512)
            body = question[12:]
            is_ipv4 = body[body.index(0) + 1 :][:2] == b"\0\1"
            answer = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\x7f\0\0\1" if is_ipv4 else b""
            counts = b"\0\1" + (b"\0\1" if is_ipv4 else b"\0\0") + b"\0\0\0\0"
            self.socket.sendto(question[:2] + b"\x81\x80" + counts + body + answer, client)


@pytest.fixture
def name_server() -> Iterator[NameServer]:
    try:
        server = NameServer()
    except PermissionError:
        pytest.skip("may not serve names")
    yield server
    server.socket.close()


def test_slow_name_server_does_not_stop_the_master(
    launch: Callable[..., Server], name_server: NameServer, tmp_path: Path
) -> None:
    """A reload that asks it waits alone; the master hears signals."""
    resolver = tmp_path / "resolv.conf"
    resolver.write_text(f"nameserver {name_server.host}\noptions timeout:30 attempts:1\n")
    mount = ["mount", "--bind", str(resolver), "/etc/resolv.conf"]
    if subprocess.run(["unshare", "-m", *mount], check=False, capture_output=True).returncode:
        pytest.skip("may not mount a file")
    configuration = tmp_path / "rsgun.toml"
    configuration.write_text('bind = ["127.0.0.1:0"]\n')
    line = command("lab:app", "--app-dir", str(APPS), "-c", str(configuration))
    server = launch(["unshare", "-m", "sh", "-c", f"{' '.join(mount)} && exec {' '.join(line)}"])
    server.wait_until_running()
    configuration.write_text('bind = ["127.0.0.1:0", "slow.test:0"]\n')
    server.send_signal(signal.SIGHUP)
    name_server.wait_for_question()
    server.send_signal(signal.SIGTTIN)
    server.wait_for_workers(2)
    since = server.output.mark()
    name_server.answer_until(lambda: any("Reload " in each for each in server.lines(None, since)))
    server.wait_for_line("Reload complete")
    server.wait_for_line("running on .* from now on")


@rsgun_only
def test_more_listeners_than_a_message_carries_descriptors(serve: Serve, tmp_path: Path) -> None:
    """The kernel passes 253 at a time on."""
    paths = [tmp_path / str(number) for number in range(300)]
    server = serve("lab:app", *(f"--bind=unix:{path}" for path in paths))
    for path in paths:
        assert server.get("/ping", address=str(path)).body == b"pong"
    server.send_signal(signal.SIGHUP)
    server.wait_for_generation(2, 1)
    for path in (paths[0], paths[-1]):
        assert server.get("/ping", address=str(path)).body == b"pong"
    assert server.stop() == 0
