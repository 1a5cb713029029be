"""rsgun as a service of the system: background, pidfile, other users, number of workers."""

from __future__ import annotations

import errno
import grp
import json
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness import processes
from harness.server import Server, clean_environment, free_port, serving
from harness.target import binary, brings_its_extension, rsgun_only
from harness.waiting import BOOT, DEADLINE, eventually, wait_gone
from harness.wire import Connection

pytestmark = rsgun_only

Serve = Callable[..., Server]
Run = Callable[..., "subprocess.CompletedProcess[str]"]

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")

ABOUT_ITSELF = """
import json, os, sys, time

def about():
    status = dict(line.split(":\\t", 1) for line in open("/proc/self/status") if ":\\t" in line)
    mask = os.umask(0)
    os.umask(mask)
    try:
        os.setuid(0)
        regained = True
    except PermissionError:
        regained = False
    return {
        "uids": [int(word) for word in status["Uid"].split()],
        "gids": [int(word) for word in status["Gid"].split()],
        "groups": [int(word) for word in status["Groups"].split()],
        "capabilities": int(status["CapEff"], 16),
        "regained": regained,
        "umask": mask,
        "environment": dict(os.environ),
        "streams": [os.readlink(f"/proc/self/fd/{number}") for number in range(3)],
        "parent": os.getppid(),
    }

async def app(scope, receive, send):
    if scope["type"] == "http" and scope["path"] == "/hang":
        print("hanging", flush=True)
        time.sleep(600)
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    body = json.dumps(about()).encode()
    await send({"type": "http.response.start", "status": 200,
                "headers": [(b"content-length", str(len(body)).encode())]})
    await send({"type": "http.response.body", "body": body})
"""


def about(port: int) -> dict[str, object]:
    """What a worker says about itself."""
    with Connection.open(("127.0.0.1", port)) as connection:
        found: dict[str, object] = json.loads(connection.get("/", close=True).body)
        return found


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that every user may read, with the application that tells about itself."""
    folder = Path(tempfile.mkdtemp(prefix="rsgun-service-"))
    folder.chmod(0o755)
    (folder / "main.py").write_text(ABOUT_ITSELF)
    yield folder
    shutil.rmtree(folder)


# === number of workers ===


@pytest.mark.parametrize("how", ["flag", "variable", "file"])
def test_auto_is_one_worker_for_each_processor(serve: Serve, how: str, tmp_path: Path) -> None:
    """Two processors at most are left to the server by its affinity."""
    allowed = sorted(os.sched_getaffinity(0))[:2]
    arguments, environment = [], {}
    if how == "flag":
        arguments = ["-w", "auto"]
    elif how == "variable":
        environment = {"WEB_CONCURRENCY": "auto"}
    else:
        (tmp_path / "rsgun.toml").write_text('workers = "auto"\n')
        arguments = ["-c", str(tmp_path / "rsgun.toml")]
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, allowed)
    try:
        server = serve("lab:app", *arguments, environment=environment)
    finally:
        os.sched_setaffinity(0, before)
    assert 1 <= len(server.workers()) <= len(allowed)


# === background ===


@dataclass
class Outcome:
    """How a launch ended, and the master that it left."""

    code: int
    errors: str
    pid: int | None
    port: int

    def family(self) -> list[processes.Process]:
        """All processes of the daemon: it has a session of its own."""
        return processes.family(self.pid, "no marker") if self.pid else []

    def workers(self) -> list[processes.Process]:
        """Its workers."""
        return [each for each in self.family() if each.title.startswith("rsgun: worker")]

    def stop(self) -> None:
        """Ends it gracefully."""
        assert self.pid
        os.kill(self.pid, signal.SIGTERM)
        assert wait_gone(self.pid)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Callable[..., Outcome]]:
    """Starts rsgun in the background; everything is ended by its process id."""
    started: list[Outcome] = []

    def start(
        app: str = "lab:app", *arguments: str, stdin: socket.socket | int = subprocess.DEVNULL
    ) -> Outcome:
        port = free_port()
        pidfile = tmp_path / "rsgun.pid"
        place = [] if "--fd" in arguments else ["-b", f"127.0.0.1:{port}"]
        line = serving(app, "-D", "-p", str(pidfile), *place, *arguments)
        # A file, since a pipe that the daemon holds on to would never end.
        with (tmp_path / "terminal").open("w+") as terminal:
            done = subprocess.run(
                line,
                cwd=tmp_path,
                env=clean_environment(),
                stdin=stdin,
                stdout=terminal,
                stderr=terminal,
                timeout=BOOT,
                check=False,
            )
            terminal.seek(0)
            errors = terminal.read()
        pid = int(pidfile.read_text()) if done.returncode == 0 else None
        outcome = Outcome(done.returncode, errors, pid, port)
        started.append(outcome)
        return outcome

    yield start
    for outcome in started:
        if outcome.pid and processes.look(outcome.pid):
            os.kill(outcome.pid, signal.SIGTERM)
            wait_gone(outcome.pid, 5)
        processes.end(outcome.family())


class TestDaemon:
    def test_returns_when_it_serves(self, daemon: Callable[..., Outcome], tmp_path: Path) -> None:
        outcome = daemon("lab:app", "-w", "2")
        assert (outcome.code, outcome.errors) == (0, "")
        with Connection.open(("127.0.0.1", outcome.port)) as connection:
            assert connection.get("/ping").body == b"pong"
        master = processes.look(outcome.pid or 0)
        assert master
        assert master.title == "rsgun: master [lab:app]"
        assert master.session == outcome.pid
        eventually(lambda: len(outcome.workers()) == 2, "both workers")
        outcome.stop()
        assert not outcome.family()
        assert not (tmp_path / "rsgun.pid").exists()

    def test_holds_on_to_no_terminal(
        self, daemon: Callable[..., Outcome], public: Path, tmp_path: Path
    ) -> None:
        outcome = daemon("main:app", "--app-dir", str(public))
        assert outcome.errors == ""
        assert about(outcome.port)["streams"] == ["/dev/null"] * 3
        terminal = str(tmp_path / "terminal")
        for process in outcome.family():
            assert terminal not in process.open_files().values(), process
        status = Path(f"/proc/{outcome.pid}/stat").read_text()
        assert status[status.rindex(")") + 2 :].split()[4] == "0", "no controlling terminal"

    def test_prints_into_the_log_file(self, daemon: Callable[..., Outcome], tmp_path: Path) -> None:
        (tmp_path / "noisy.py").write_text(ABOUT_ITSELF + "\nprint('loaded')\n")
        log = tmp_path / "error.log"
        outcome = daemon("noisy:app", "--app-dir", str(tmp_path), "--error-logfile", str(log))
        assert outcome.errors == ""
        assert about(outcome.port)["streams"] == ["/dev/null", str(log), str(log)]
        eventually(lambda: '"GET / HTTP/1.1" 200' in log.read_text(), "the access log too")
        assert "loaded\n" in log.read_text()
        assert "INFO:     rsgun running on" in log.read_text()
        log.rename(tmp_path / "error.log.1")
        assert outcome.pid
        os.kill(outcome.pid, signal.SIGUSR1)
        eventually(
            lambda: log.exists() and about(outcome.port)["streams"][1] == str(log), "rotated"
        )

    @pytest.mark.parametrize(
        ("source", "app", "code", "reason"),
        [
            ("raise ValueError('told in the terminal')", "broken:app", 3, "told in the terminal"),
            ("", "broken:app", 4, 'has no attribute "app"'),
            (None, "nothing:app", 3, "there is no module"),
        ],
    )
    def test_tells_why_it_could_not_start(
        self,
        daemon: Callable[..., Outcome],
        tmp_path: Path,
        source: str | None,
        app: str,
        code: int,
        reason: str,
    ) -> None:
        if source is not None:
            (tmp_path / "broken.py").write_text(source)
        outcome = daemon(app, "--app-dir", str(tmp_path))
        assert outcome.code == code
        assert reason in outcome.errors
        assert not (tmp_path / "rsgun.pid").exists()

    def test_address_in_use(self, daemon: Callable[..., Outcome], tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as holder:
            address = f"127.0.0.1:{holder.getsockname()[1]}"
            log = tmp_path / "error.log"
            outcome = daemon("lab:app", "-b", address, "--error-logfile", str(log))
        assert outcome.code == 1
        assert outcome.errors.startswith(f"ERROR:    cannot listen on {address}")
        assert log.read_text() == outcome.errors
        assert not (tmp_path / "rsgun.pid").exists()

    def test_standard_input_may_be_the_socket(
        self, daemon: Callable[..., Outcome], tmp_path: Path
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            outcome = daemon("lab:app", "--fd", "0", stdin=listener)
            assert (outcome.code, outcome.errors) == (0, "")
            with Connection.open(listener.getsockname()) as connection:
                assert connection.get("/ping").body == b"pong"

    def test_log_file_that_cannot_be_opened(self, daemon: Callable[..., Outcome]) -> None:
        outcome = daemon("lab:app", "--error-logfile", "/nowhere/error.log")
        assert outcome.code == 1
        assert "cannot open the log file /nowhere/error.log" in outcome.errors

    def test_int_while_it_boots_ends_the_boot(self, tmp_path: Path) -> None:
        (tmp_path / "slow.py").write_text("open('began', 'w').close(); import time; time.sleep(60)")
        line = serving("slow:app", "-D", "-p", "slow.pid", "--app-dir", str(tmp_path))
        with (tmp_path / "terminal").open("w") as terminal:
            launcher = subprocess.Popen(
                line, cwd=tmp_path, env=clean_environment(), stdout=terminal, stderr=terminal
            )
            eventually((tmp_path / "began").exists, "the import has begun")
            pid = int((tmp_path / "slow.pid").read_text())
            family = processes.family(pid, "no marker")
            launcher.send_signal(signal.SIGINT)
            assert launcher.wait(DEADLINE) == 1
        for process in family:
            assert wait_gone(process.pid)
        assert not (tmp_path / "slow.pid").exists()

    def test_winch_sends_the_workers_away(
        self, daemon: Callable[..., Outcome], tmp_path: Path
    ) -> None:
        control = tmp_path / "control.sock"
        outcome = daemon("lab:app", "-w", "2", "--control-socket", str(control))
        assert outcome.pid

        def is_ready() -> bool:
            command = [str(binary().parent / "rsgunctl"), "ready", "--socket", str(control)]
            return subprocess.run(command, check=False, timeout=20).returncode == 0

        eventually(is_ready, "it is ready")
        os.kill(outcome.pid, signal.SIGWINCH)
        eventually(lambda: not outcome.workers(), "no worker is left")
        assert not is_ready()
        with Connection.open(("127.0.0.1", outcome.port)) as connection:
            connection.request("/ping")
            os.kill(outcome.pid, signal.SIGTTIN)
            assert connection.response().body == b"pong", "it has waited in the queue"
        eventually(lambda: len(outcome.workers()) == 2, "all are back")
        eventually(is_ready, "it is ready again")
        os.kill(outcome.pid, signal.SIGWINCH)
        eventually(lambda: not outcome.workers(), "no worker is left")
        os.kill(outcome.pid, signal.SIGHUP)
        eventually(lambda: len(outcome.workers()) == 2, "all are back")

    def test_reload(self, daemon: Callable[..., Outcome]) -> None:
        outcome = daemon()
        assert outcome.pid
        os.kill(outcome.pid, signal.SIGHUP)
        eventually(
            lambda: [each.title for each in outcome.workers()] == ["rsgun: worker 1 [gen 2]"],
            "the second generation",
        )


# === pidfile ===


class TestPidfile:
    def test_is_there_while_the_server_is(self, serve: Serve, tmp_path: Path) -> None:
        path = tmp_path / "rsgun.pid"
        server = serve("lab:app", "--pid", str(path))
        assert path.read_text() == f"{server.pid}\n"
        assert stat.S_IMODE(path.stat().st_mode) & 0o022 == 0
        assert server.stop() == 0
        assert not path.exists()

    def test_running_server_is_an_error_that_names_it(
        self, serve: Serve, run: Run, tmp_path: Path
    ) -> None:
        path = tmp_path / "rsgun.pid"
        server = serve("lab:app", "--pid", str(path))
        second = run("lab:app", "--pid", str(path))
        assert second.returncode == 1
        assert f"names the process {server.pid}, which runs: rsgun-master" in second.stderr
        assert path.read_text() == f"{server.pid}\n"
        assert server.get("/ping").body == b"pong"

    def test_left_behind_by_kill_9_is_replaced(self, serve: Serve, tmp_path: Path) -> None:
        path = tmp_path / "rsgun.pid"
        first = serve("lab:app", "--pid", str(path))
        first.tolerates_exit = {-signal.SIGKILL}
        first.send_signal(signal.SIGKILL)
        first.wait()
        assert path.exists()
        second = serve("lab:app", "--pid", str(path))
        assert path.read_text() == f"{second.pid}\n"

    def test_of_a_server_that_nobody_has_reaped_is_replaced(
        self, serve: Serve, tmp_path: Path
    ) -> None:
        path = tmp_path / "rsgun.pid"
        first = serve("lab:app", "--pid", str(path))
        first.tolerates_exit = {-signal.SIGKILL}
        first.send_signal(signal.SIGKILL)

        def is_zombie() -> bool:
            found = processes.look(first.pid)
            return found is not None and found.state == "Z"

        eventually(is_zombie, "it has ended")
        second = serve("lab:app", "--pid", str(path))
        assert path.read_text() == f"{second.pid}\n"

    def test_number_of_another_program_is_stale(self, serve: Serve, tmp_path: Path) -> None:
        path = tmp_path / "rsgun.pid"
        path.write_text(str(os.getpid()))
        server = serve("lab:app", "--pid", str(path))
        assert path.read_text() == f"{server.pid}\n"

    def test_somebody_else_s_is_not_removed(self, serve: Serve, tmp_path: Path) -> None:
        path = tmp_path / "rsgun.pid"
        server = serve("lab:app", "--pid", str(path))
        path.write_text("1\n")
        server.stop()
        assert path.read_text() == "1\n"

    def test_other_file_is_left_alone(self, run: Run, tmp_path: Path) -> None:
        path = tmp_path / "settings.py"
        path.write_text("DEBUG = False\n")
        done = run("lab:app", "--pid", str(path))
        assert done.returncode == 1
        assert "holds something else than a process id" in done.stderr
        assert path.read_text() == "DEBUG = False\n"

    def test_unwritable_directory_ends_it_before_anything_starts(
        self, run: Run, tmp_path: Path
    ) -> None:
        done = run("lab:app", "--pid", str(tmp_path / "none" / "rsgun.pid"))
        assert done.returncode == 1
        assert "cannot write the pidfile" in done.stderr
        assert "Started server process" not in done.stderr

    def test_goes_when_the_boot_fails(self, run: Run, tmp_path: Path) -> None:
        path = tmp_path / "rsgun.pid"
        assert run("nothing:app", "--pid", str(path)).returncode == 3
        assert not path.exists()

    @AS_ROOT
    def test_full_disk(self, run: Run, full_disk: Path) -> None:
        done = run("lab:app", "--pid", str(full_disk / "rsgun.pid"))
        assert done.returncode == 1
        assert f"{os.strerror(errno.ENOSPC)}" in done.stderr
        assert [path.name for path in full_disk.iterdir()] == ["ballast"]


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with no room."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(place)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("may not mount a file system")
    try:
        room = os.statvfs(place).f_bavail
        (place / "ballast").write_bytes(b"x" * 4096 * room)
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            (place / "more").write_bytes(b"x")
        (place / "more").unlink()
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


# === other users ===


@pytest.fixture
def public_binary(public: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A server that any interpreter can run: its extension is beside the binary, as
    after a cargo build, and not in some virtual environment."""
    if brings_its_extension():
        yield
        return
    (extension,) = (Path(sysconfig.get_path("platlib")) / "rsgun").glob("_rsgun*.so")
    place = public / "build"
    place.mkdir()
    shutil.copy(binary(), place / "rsgun")
    shutil.copy(extension, place / "librsgun_worker.so")
    monkeypatch.setenv("RSGUN_BIN", str(place / "rsgun"))
    binary.cache_clear()
    yield
    monkeypatch.undo()
    binary.cache_clear()


@pytest.fixture
def public_python(public_binary: None) -> str:
    """An interpreter that other users can reach, and that finds the extension."""
    for candidate in ("/usr/bin/python3", "/usr/local/bin/python3"):
        probe = [candidate, "-c", "import sys; raise SystemExit(sys.version_info < (3, 11))"]
        try:
            done = subprocess.run(probe, user="nobody", check=False, timeout=DEADLINE)
        except (OSError, LookupError):
            continue
        if done.returncode == 0:
            return candidate
    pytest.skip("there is no interpreter that the user nobody can run")


@AS_ROOT
class TestUser:
    @pytest.fixture
    def as_user(self, serve: Serve, public: Path, public_python: str) -> Callable[..., Server]:
        def start(*arguments: str, app_dir: Path = public) -> Server:
            return serve("main:app", "--app-dir", str(app_dir), *arguments, python=public_python)

        return start

    @pytest.mark.parametrize("by", ["name", "number"])
    @pytest.mark.parametrize("mode", [(), ("--preload",)])
    def test_workers_run_as_that_user_for_good(
        self, as_user: Callable[..., Server], by: str, mode: tuple[str, ...]
    ) -> None:
        nobody = pwd.getpwnam("nobody")
        user = nobody.pw_name if by == "name" else str(nobody.pw_uid)
        server = as_user("--user", user, *mode)
        found = about(server.port)
        assert found["uids"] == [nobody.pw_uid] * 4
        assert found["gids"] == [nobody.pw_gid] * 4
        assert found["groups"] == [nobody.pw_gid]
        assert found["capabilities"] == 0
        assert found["regained"] is False
        assert Path(f"/proc/{server.pid}").stat().st_uid == 0, "the master keeps its rights"
        [fork_server] = server.fork_servers()
        assert Path(f"/proc/{fork_server.pid}").stat().st_uid == nobody.pw_uid

    def test_group_alone(self, as_user: Callable[..., Server]) -> None:
        group = grp.getgrnam("daemon")
        found = about(as_user("-g", "daemon").port)
        assert (found["uids"], found["gids"]) == ([0] * 4, [group.gr_gid] * 4)
        assert found["groups"] == [group.gr_gid]

    def test_groups_of_the_user(self, as_user: Callable[..., Server]) -> None:
        everybody = [user.pw_name for user in pwd.getpwall()]
        member = next(
            (
                (name, group)
                for group in grp.getgrall()
                for name in group.gr_mem
                if name in everybody and pwd.getpwnam(name).pw_uid != 0
            ),
            None,
        )
        if member is None:
            pytest.skip("nobody is a member of a supplementary group here")
        name, group = member
        assert group.gr_gid in about(as_user("-u", name, "--initgroups").port)["groups"]
        assert group.gr_gid not in about(as_user("-u", name).port)["groups"]

    def test_reload_recycle_and_stop(self, as_user: Callable[..., Server]) -> None:
        server = as_user("-u", "nobody")
        server.send_signal(signal.SIGHUP)
        server.wait_for_generation(2, 1)
        assert about(server.port)["uids"][0] == pwd.getpwnam("nobody").pw_uid
        [worker] = server.workers()
        os.kill(worker.pid, signal.SIGKILL)
        server.wait_for_line("replacing it")
        assert about(server.port)["uids"][0] == pwd.getpwnam("nobody").pw_uid
        assert server.stop() == 0

    def test_upgrade(self, as_user: Callable[..., Server], public: Path) -> None:
        socket = public / "upgraded.sock"
        server = as_user("-u", "nobody", "-b", f"unix:{socket}", "-b", "127.0.0.1:0")
        before = socket.stat()
        port = int(server.wait_for_line(r"running on http://127.0.0.1:(\d+)")[1])
        server.send_signal(signal.SIGUSR2)
        server.wait_for_line("Upgrade complete", deadline=BOOT)
        server.wait_for_generation(2, 1)
        assert about(port)["uids"][0] == pwd.getpwnam("nobody").pw_uid
        after = socket.stat()
        assert (after.st_ino, after.st_uid) == (before.st_ino, before.st_uid)
        assert server.stop() == 0
        assert not socket.exists()

    def test_workers_follow_a_master_that_was_killed(self, as_user: Callable[..., Server]) -> None:
        """Also one that hangs: what ends it was set up after the change of user."""
        server = as_user("-u", "nobody", "--graceful-timeout", "1")
        server.tolerates_exit = {-signal.SIGKILL}
        [worker] = server.workers()
        with server.connect() as connection:
            connection.request("/hang")
            server.wait_for_line("hanging")
            server.send_signal(signal.SIGKILL)
            assert wait_gone(worker.pid)
        server.wait()

    def test_socket_belongs_to_the_user(self, as_user: Callable[..., Server], public: Path) -> None:
        path = public / "socket"
        as_user("-u", "nobody", "--umask", "007", "--uds", str(path))
        found = path.stat()
        nobody = pwd.getpwnam("nobody")
        assert (found.st_uid, found.st_gid) == (nobody.pw_uid, nobody.pw_gid)
        assert stat.S_IMODE(found.st_mode) == 0o660

    def test_log_files_need_no_rights_of_the_user(
        self, as_user: Callable[..., Server], tmp_path: Path
    ) -> None:
        """The directory of the log is root's alone."""
        log = tmp_path / "access.log"
        tmp_path.chmod(0o700)
        server = as_user("-u", "nobody", "--access-logfile", str(log))
        about(server.port)
        eventually(lambda: "GET /" in log.read_text(), "the first line")
        log.rename(tmp_path / "access.log.1")
        [worker] = server.workers()
        os.kill(worker.pid, signal.SIGUSR1)
        eventually(log.exists, "the file was opened anew")
        eventually(lambda: about(server.port) and "GET /" in log.read_text(), "the next line")

    def test_interpreter_out_of_reach(self, run: Run, public: Path, tmp_path: Path) -> None:
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o700)
        python = closed / "python3"
        python.symlink_to("/usr/bin/python3")
        done = run("main:app", "--app-dir", str(public), "-u", "nobody", "--python", str(python))
        assert done.returncode == 1
        assert "who must be able to reach and execute it: Permission denied" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["-u", "no-such-user"], "--user: `no-such-user` is no user of this system"),
        (["-g", "no-such-group"], "--group: `no-such-group` is no group of this system"),
        (["-u", "4000000000"], "name one with --group"),
    ],
)
def test_unknown_user_or_group(run: Run, arguments: list[str], reason: str) -> None:
    done = run("lab:app", *arguments)
    assert done.returncode == 1
    assert reason in done.stderr


@AS_ROOT
def test_capabilities_are_enough_and_are_dropped(
    launch: Callable[..., Server], public: Path, public_python: str
) -> None:
    """Without root the kernel keeps them over a change of user."""
    if not shutil.which("setpriv"):
        pytest.skip("there is no setpriv")
    line = serving("main:app", "--app-dir", str(public), "-u", "daemon", python=public_python)
    rights = ["--inh-caps=+setuid,+setgid", "--ambient-caps=+setuid,+setgid"]
    server = launch(
        [
            "setpriv",
            "--reuid=nobody",
            f"--regid={pwd.getpwnam('nobody').pw_gid}",
            "--clear-groups",
            *rights,
            *line,
        ],
        cwd=public,
    ).wait_until_running()
    found = about(server.port)
    assert found["uids"] == [pwd.getpwnam("daemon").pw_uid] * 4
    assert found["capabilities"] == 0


@AS_ROOT
def test_only_root_can_become_somebody_else(public: Path, public_python: str) -> None:
    line = serving("main:app", "--app-dir", str(public), "-u", "daemon", python=public_python)
    done = subprocess.run(
        line,
        cwd=public,
        env=clean_environment(),
        user="nobody",
        group=pwd.getpwnam("nobody").pw_gid,
        extra_groups=[],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 1
    assert "--user: only root" in done.stderr


# === the rest ===


def test_variables_reach_the_application(serve: Serve, public: Path) -> None:
    server = serve(
        "main:app", "--app-dir", str(public), "-e", "COLOUR=blue", "--env", "EMPTY=",
        "--env", "PAIR=a=b",
    )  # fmt: skip
    environment = about(server.port)["environment"]
    assert isinstance(environment, dict)
    found = {name: environment[name] for name in ("COLOUR", "EMPTY", "PAIR")}
    assert found == {"COLOUR": "blue", "EMPTY": "", "PAIR": "a=b"}


def test_umask(serve: Serve, public: Path, tmp_path: Path) -> None:
    log = tmp_path / "error.log"
    server = serve(
        "main:app", "--app-dir", str(public), "-m", "027", "-p", str(tmp_path / "rsgun.pid"),
        "--access-logfile", str(log),
    )  # fmt: skip
    assert about(server.port)["umask"] == 0o027
    assert stat.S_IMODE(log.stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "rsgun.pid").stat().st_mode) == 0o640


def test_name_is_in_the_titles(serve: Serve) -> None:
    server = serve("lab:app", "-n", "shop")
    expected = [
        "rsgun: fork server [shop, gen 1]",
        "rsgun: master [shop]",
        "rsgun: worker 1 [shop, gen 1]",
    ]
    eventually(
        lambda: sorted(process.title for process in server.family()) == expected,
        f"exactly {expected}",
    )


def test_worker_tmp_dir_is_accepted_with_a_word(serve: Serve) -> None:
    server = serve("lab:app", "--worker-tmp-dir", "/dev/shm", "--log-level", "debug")
    server.wait_for_line("--worker-tmp-dir is not needed")


def test_spew_is_refused_with_the_reason(run: Run) -> None:
    done = run("lab:app", "--spew")
    assert done.returncode == 2
    assert "--spew is an option that rsgun does not have" in done.stderr
