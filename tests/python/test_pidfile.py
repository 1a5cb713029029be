"""The pidfile: whom it names, when it is there, and what is left alone."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

from harness import processes
from harness.marks import rsgun_only
from harness.server import Server
from harness.waiting import eventually

pytestmark = rsgun_only

Serve = Callable[..., Server]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def test_is_there_while_the_server_is(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "rsgun.pid"
    server = serve("lab:app", "--pid", str(path))
    assert path.read_text() == f"{server.pid}\n"
    assert stat.S_IMODE(path.stat().st_mode) & 0o022 == 0
    assert server.stop() == 0
    assert not path.exists()


def test_running_server_is_an_error_that_names_it(serve: Serve, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "rsgun.pid"
    server = serve("lab:app", "--pid", str(path))
    second = run("lab:app", "--pid", str(path))
    assert second.returncode == 1
    assert f"names the process {server.pid}, which runs: rsgun-master" in second.stderr
    assert path.read_text() == f"{server.pid}\n"
    assert server.get("/ping").body == b"pong"


def test_left_behind_by_kill_9_is_replaced(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "rsgun.pid"
    first = serve("lab:app", "--pid", str(path))
    first.tolerates_exit = {-signal.SIGKILL}
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert path.exists()
    second = serve("lab:app", "--pid", str(path))
    assert path.read_text() == f"{second.pid}\n"


def test_of_a_server_that_nobody_has_reaped_is_replaced(serve: Serve, tmp_path: Path) -> None:
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


def test_number_of_another_program_is_stale(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "rsgun.pid"
    path.write_text(str(os.getpid()))
    server = serve("lab:app", "--pid", str(path))
    assert path.read_text() == f"{server.pid}\n"


def test_somebody_else_s_is_not_removed(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "rsgun.pid"
    server = serve("lab:app", "--pid", str(path))
    path.write_text("1\n")
    server.stop()
    assert path.read_text() == "1\n"


def test_other_file_is_left_alone(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "settings.py"
    path.write_text("DEBUG = False\n")
    done = run("lab:app", "--pid", str(path))
    assert done.returncode == 1
    assert "holds something else than a process id" in done.stderr
    assert path.read_text() == "DEBUG = False\n"


def test_unwritable_directory_ends_it_before_anything_starts(run: Run, tmp_path: Path) -> None:
    done = run("lab:app", "--pid", str(tmp_path / "none" / "rsgun.pid"))
    assert done.returncode == 1
    assert "cannot write the pidfile" in done.stderr
    assert "Started server process" not in done.stderr


def test_goes_when_the_boot_fails(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "rsgun.pid"
    assert run("nothing:app", "--pid", str(path)).returncode == 3
    assert not path.exists()
