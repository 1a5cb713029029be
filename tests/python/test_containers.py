"""What a container brings along: being PID 1, and control groups that count OOM kills."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.marks import rsgun_only
from harness.server import Server, serving
from harness.waiting import eventually, wait_gone

Launch = Callable[..., Server]
Module = Callable[[str, str], Path]


def _may_unshare() -> bool:
    unshare = shutil.which("unshare")
    return unshare is not None and (
        subprocess.run(
            [unshare, "--mount", "--pid", "--fork", "--mount-proc", "true"],
            capture_output=True,
            check=False,
        ).returncode
        == 0
    )


pytestmark = [
    rsgun_only,
    pytest.mark.skipif(not _may_unshare(), reason="needs namespaces: root, or rights for unshare"),
]

ORPHANS = """
import os

async def app(scope, receive, send):
    assert scope["type"] == "http"
    if scope["path"] == "/orphan":
        if os.fork() == 0:
            if os.fork() == 0:
                os.execvp("sh", ["sh", "-c", "exit 3"])
            os._exit(0)
        os.wait()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"here"})
"""


class TestPid1:
    @pytest.fixture
    def server(self, launch: Launch, module: Module, tmp_path: Path) -> Server:
        """A master that is the first process of its namespace."""
        module("orphans", ORPHANS)
        unshare = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
        server = launch([*unshare, *serving("orphans:app", "--app-dir", str(tmp_path))])
        server.wait_until_running()
        server.wait_for_line(r"Started server process \[1\]")
        return server

    def master(self, server: Server) -> int:
        """Its number outside."""
        (master,) = server.titled(r"^rsgun: master ")
        return master.pid

    def test_serves_reloads_and_ends_with_0(self, server: Server) -> None:
        master = self.master(server)
        assert server.get().text == "here"
        os.kill(master, signal.SIGHUP)
        server.wait_for_generation(2, 1)
        assert server.get().text == "here"
        os.kill(master, signal.SIGTERM)
        assert server.wait() == 0

    def test_worker_that_dies_is_replaced(self, server: Server) -> None:
        (victim,) = server.wait_for_workers(1)
        os.kill(victim.pid, signal.SIGKILL)
        assert wait_gone(victim.pid)
        server.wait_for_line("was killed by SIGKILL")
        assert server.get().text == "here"
        os.kill(self.master(server), signal.SIGTERM)
        assert server.wait() == 0

    def test_strangers_are_reaped_in_silence(self, server: Server) -> None:
        master = self.master(server)
        for _ in range(5):
            assert server.get("/orphan").status == 200

        def zombies() -> list[str]:
            found = []
            for path in Path("/proc").glob("[0-9]*/stat"):
                try:
                    found += re.findall(rf"\) Z {master} ", path.read_text())
                except (FileNotFoundError, ProcessLookupError):
                    continue
            return found

        eventually(lambda: not zombies(), "no zombies")
        assert not [line for line in server.lines("stderr") if "code 3" in line]
        assert server.get().text == "here"
        os.kill(master, signal.SIGTERM)
        assert server.wait() == 0


GROUPS = {
    # Version 2: one hierarchy.
    "v2": ("0::/app.service\n", "app.service/memory.events", "low 0\noom 1\noom_kill {}\n"),
    # Version 1: a hierarchy for memory.
    "v1": (
        "5:memory:/docker/abc\n1:cpu:/docker/abc\n0::/\n",
        "memory/docker/abc/memory.oom_control",
        "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n",
    ),
    # A container that sees its own group at the root.
    "container": ("0::/kubepods/pod1/c1\n", "memory.events", "oom_kill {}\n"),
}


class Groups:
    """Control groups made up for a server, which sees them where the real ones are."""

    SCRIPT = (
        'mount --bind "$1" /sys/fs/cgroup && mount --bind "$2" "/proc/$$/cgroup" '
        '&& shift 2 && exec "$@"'
    )

    def __init__(self, folder: Path, membership: str) -> None:
        self.root = folder / "cgroup"
        self.root.mkdir()
        self.membership = folder / "membership"
        self.membership.write_text(membership)

    def write(self, path: str, text: str) -> None:
        """Writes a file of a group."""
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def around(self, command: list[str]) -> list[str]:
        """The command, in a namespace in which these groups are mounted."""
        places = [str(self.root), str(self.membership)]
        return ["unshare", "--mount", "sh", "-c", self.SCRIPT, "sh", *places, *command]


@pytest.mark.parametrize("version", GROUPS)
def test_kill_for_want_of_memory_is_told_from_another(
    launch: Launch, tmp_path: Path, version: str
) -> None:
    membership, path, text = GROUPS[version]
    groups = Groups(tmp_path, membership)
    groups.write(path, text.format(4))
    server = launch(groups.around(serving("lab:app"))).wait_until_running()

    def kill() -> str:
        (worker,) = server.wait_for_workers(1)
        os.kill(worker.pid, signal.SIGKILL)
        line = server.wait_for_line(rf"\b{worker.pid}\] was killed by SIGKILL").string
        assert wait_gone(worker.pid)
        server.get("/ping")
        return line

    assert "out of memory" not in kill()
    groups.write(path, text.format(5))
    assert "(out of memory: the kernel's OOM killer)" in kill()
    assert "out of memory" not in kill()


@pytest.mark.parametrize("version", ["v2", "v1"])
def test_auto_heeds_the_quota(launch: Launch, tmp_path: Path, version: str) -> None:
    """One processor of a machine that has more."""
    if version == "v2":
        groups = Groups(tmp_path, "0::/app.service\n")
        groups.write("app.service/cpu.max", "150000 100000\n")
    else:
        groups = Groups(tmp_path, "4:cpu,cpuacct:/docker/abc\n")
        groups.write("cpu,cpuacct/docker/abc/cpu.cfs_quota_us", "150000\n")
        groups.write("cpu,cpuacct/docker/abc/cpu.cfs_period_us", "100000\n")
    server = launch(groups.around(serving("lab:app", "-w", "auto"))).wait_until_running()
    server.wait_for_line(r"\(1 worker, ")
    server.wait_for_workers(1)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is one processor only")
def test_auto_without_a_quota_heeds_the_affinity(launch: Launch, tmp_path: Path) -> None:
    groups = Groups(tmp_path, "0::/app.service\n")
    groups.write("app.service/cpu.max", "max 100000\n")
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:2])
    try:
        server = launch(groups.around(serving("lab:app", "-w", "auto"))).wait_until_running()
    finally:
        os.sched_setaffinity(0, before)
    server.wait_for_line(r"\(2 workers, ")
    server.wait_for_workers(2)
