"""Workers that run as another user or group."""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import signal
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.about import about
from harness.marks import AS_ROOT, rsgun_only
from harness.server import Server, clean_environment, serving
from harness.waiting import BOOT, DEADLINE, eventually, wait_gone

pytestmark = rsgun_only

Serve = Callable[..., Server]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


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
