"""What a service sets besides: number of workers, variables, mask, name."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.about import about
from harness.marks import rsgun_only
from harness.server import Server
from harness.waiting import eventually

pytestmark = rsgun_only

Serve = Callable[..., Server]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


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
