"""SIGUSR2: another binary takes over in the same process, with all that the old one had."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import processes
from harness.load import Load
from harness.marks import rsgun_only
from harness.server import Server, clean_environment, free_port
from harness.sources import answer, versioned
from harness.target import binary
from harness.upgrades import (
    COMPLETE,
    FAILED,
    Upgradable,
    place,
    program_of,
    python,
    upgrade,
)
from harness.waiting import eventually, wait_gone
from harness.wire import Connection

pytestmark = rsgun_only

Launch = Callable[..., Server]
Module = Callable[[str, str], Path]


def listening_inodes(server: Server) -> set[str]:
    """The kernel's numbers of the sockets that the master listens on."""
    table = Path("/proc/net/tcp").read_text().splitlines()[1:]
    listening = {line.split()[9] for line in table if line.split()[3] == "0A"}
    files = processes.Process(server.pid, 0, 0, "S", "").open_files().values()
    held = {found[1] for text in files if (found := re.fullmatch(r"socket:\[(\d+)\]", text))}
    return held & listening


def test_the_new_binary_serves_under_the_old_pid(upgradable: Upgradable, installed: Path) -> None:
    server = upgradable()
    before = {worker.pid for worker in server.workers()}
    sockets = listening_inodes(server)
    old = program_of(server.pid)
    place(binary(), installed)
    since = upgrade(server)
    server.wait_for_line(COMPLETE, since=since, deadline=30)
    server.wait_for_generation(2, 2)
    assert not before & {worker.pid for worker in server.workers()}
    assert listening_inodes(server) == sockets
    assert program_of(server.pid) == (installed.stat().st_dev, installed.stat().st_ino) != old
    assert server.process.poll() is None
    assert answer(server.get().text)[2] == server.pid
    assert [process.title for process in server.titled("^rsgun: master")] == [
        "rsgun: master [main:app]"
    ]
    assert not server.titled("^rsgun: candidate")


def inherited_by_children(pid: int) -> dict[int, str]:
    """The descriptors of a process that a program it starts would have."""
    files = processes.Process(pid, 0, 0, "S", "").open_files()

    def stays(number: int) -> bool:
        text = Path(f"/proc/{pid}/fdinfo/{number}").read_text()
        flags = re.search(r"^flags:\s+(\d+)", text, re.MULTILINE)
        return bool(flags) and not int(flags[1], 8) & os.O_CLOEXEC

    return {number: files[number] for number in files if number > 2 and stays(number)}


def kinds_of_files(process: processes.Process) -> list[str]:
    """What its descriptors refer to, without numbers."""
    return sorted(re.sub(r"\d+", "N", text) for text in process.open_files().values())


def test_no_descriptor_leaks_into_the_new_processes(upgradable: Upgradable) -> None:
    """Whatever the application starts would keep the port taken."""
    server = upgradable()
    [fork_server] = server.fork_servers()
    before = kinds_of_files(fork_server)
    server.wait_for_line(COMPLETE, since=upgrade(server), deadline=30)
    server.wait_for_generation(2, 2)
    [fork_server] = server.fork_servers()
    assert kinds_of_files(fork_server) == before
    for process in [fork_server, *server.workers()]:
        assert inherited_by_children(process.pid) == {}


@pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["plain", "preload"])
def test_nothing_is_lost_under_load(
    upgradable: Upgradable, module: Module, installed: Path, preload: tuple[str, ...]
) -> None:
    server = upgradable("--no-access-log", *preload, workers=3)
    load = Load(server.port, "/slow?5", keep_alive=8, one_shot=8)

    async def line(pattern: str, since: int) -> None:
        await asyncio.to_thread(server.wait_for_line, pattern, since=since, deadline=40)

    async def story() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(load.run())
            try:
                for number in (2, 3):
                    module("main", versioned(f"version-{number}"))
                    place(binary(), installed)
                    await line(COMPLETE, upgrade(server))
                await asyncio.to_thread(server.wait_for_generation, 3, 3)
                accounts = (load.keep_alive, load.one_shot)
                await asyncio.to_thread(
                    eventually,
                    lambda: all(account.answers["version-3"] for account in accounts),
                    "answers of the last version",
                )
            finally:
                load.stop()

    asyncio.run(story())
    for account in (load.keep_alive, load.one_shot):
        assert not account.lost, str(account)
        assert account.answers["first"] and account.answers["version-3"], str(account)


def test_five_upgrades_leave_no_descriptor_behind(upgradable: Upgradable) -> None:
    server = upgradable()

    def descriptors() -> int:
        return len(os.listdir(f"/proc/{server.pid}/fd"))

    counts = []
    for number in range(2, 7):
        server.wait_for_line(COMPLETE, since=upgrade(server), deadline=30)
        server.wait_for_generation(number, 2)
        counts.append(descriptors())
    assert answer(server.get().text)[2] == server.pid
    eventually(lambda: descriptors() <= counts[0], f"no more descriptors than {counts}")


def test_probation_may_be_long(upgradable: Upgradable) -> None:
    """Longer than the first workers of a boot have before the server is announced."""
    server = upgradable("--reload-probation", "5")
    server.wait_for_line(COMPLETE, since=upgrade(server), deadline=30)


def test_configuration_is_read_anew(upgradable: Upgradable, tmp_path: Path) -> None:
    file = tmp_path / "rsgun.toml"
    file.write_text("graceful-timeout = 20\n")
    server = upgradable("-c", str(file))
    before = {worker.pid for worker in server.family()}
    file.write_text("graceful-timeuot = 20\n")
    since = upgrade(server)
    server.wait_for_line(FAILED + ".*rsgun.toml, line 1.*graceful-timeuot", since=since)
    eventually(lambda: {p.pid for p in server.family()} == before, "the candidate is gone")

    other = free_port()
    file.write_text(f"bind = ['127.0.0.1:{other}']\n")
    # On the command line the port of before still wins.
    server.wait_for_line(COMPLETE, since=upgrade(server), deadline=30)
    assert server.get().text.startswith("first ")


CONF = """
workers = {workers}
raw_env = ["RELEASE={version}"]

def pre_exec(server):
    print("pre_exec of {version}", flush=True)

def post_fork(server, worker):
    print("post_fork of {version}", flush=True)
"""


def test_configuration_in_python_is_evaluated_anew(
    launch: Launch, module: Module, installed: Path, tmp_path: Path
) -> None:
    """Its settings, its variables, and its hooks; or nothing changes."""
    module("main", versioned("", top="VERSION = os.environ['RELEASE']"))
    file = tmp_path / "gunicorn.conf.py"
    file.write_text(CONF.format(version="one", workers=1))
    command = [str(installed), "main:app", "--app-dir", str(tmp_path), "-c", str(file)]
    server = launch([*command, *python(), "--port", "0"])
    server.wait_until_running()
    before = {process.pid for process in server.family()}
    server.wait_for_line("^post_fork of one")
    assert server.get().text.startswith("one ")

    for text, reason in (("import no_such_module\n", "no_such_module"), ("timeout = 'x'\n", "`x`")):
        file.write_text(text)
        since = upgrade(server)
        server.wait_for_line(FAILED, since=since)
        server.tolerates_tracebacks = True
        eventually(lambda: {p.pid for p in server.family()} == before, "the candidate is gone")
        assert reason in "\n".join(server.lines("stderr", since))
        assert server.get().text.startswith("one ")

    file.write_text(CONF.format(version="two", workers=2))
    since = upgrade(server)
    server.wait_for_line("^pre_exec of one", since=since)
    server.wait_for_line(COMPLETE, since=since, deadline=30)
    server.wait_for_generation(4, 2)
    assert server.lines(since=since).count("post_fork of two") == 2
    assert server.lines(since=since).count("post_fork of one") == 0
    assert server.get().text.startswith("two ")


def test_changed_listeners_follow_the_last_worker(
    launch: Launch, module: Module, installed: Path, tmp_path: Path
) -> None:
    module("main", versioned("first"))
    kept, gone, new = (tmp_path / name for name in ("kept", "gone", "new"))
    file = tmp_path / "rsgun.toml"
    file.write_text(f"bind = ['unix:{kept}', 'unix:{gone}']\n")
    command = [str(installed), "main:app", "--app-dir", str(tmp_path), "-c", str(file)]
    server = launch([*command, *python()])
    server.wait_until_running()
    inode = kept.stat().st_ino
    file.write_text(f"bind = ['unix:{kept}', 'unix:{new}']\n")
    server.wait_for_line(COMPLETE, since=upgrade(server), deadline=30)
    for path in (kept, new):
        with Connection.open(str(path)) as connection:
            assert connection.get("/", close=True).text.startswith("first ")
    assert kept.stat().st_ino == inode
    assert not gone.exists()
    assert server.stop() == 0
    assert not kept.exists() and not new.exists()


def test_inherited_and_abstract_sockets(upgradable: Upgradable) -> None:
    name = f"rsgun-upgrade-{os.getpid()}-{free_port()}"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number = listener.fileno()
        server = upgradable("-b", f"fd://{number}", "-b", f"unix:@{name}", pass_fds=[number])
        for _ in range(2):
            server.wait_for_line(COMPLETE, since=upgrade(server), deadline=30)
        address = listener.getsockname()
        assert server.get(address=address).text.startswith("first ")
        with socket.socket(socket.AF_UNIX) as client:
            client.connect("\0" + name)
        assert server.stop() == 0


def test_socket_at_standard_input(upgradable: Upgradable) -> None:
    """As supervisord passes it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = upgradable("--fd", "0", stdin=listener.fileno())
        for _ in range(2):
            server.wait_for_line(COMPLETE, since=upgrade(server), deadline=30)
        assert server.get(address=listener.getsockname()).text.startswith("first ")


def test_number_of_workers_stays(upgradable: Upgradable) -> None:
    server = upgradable()
    server.send_signal(signal.SIGTTIN)
    server.wait_for_workers(3)
    server.wait_for_line(COMPLETE, since=upgrade(server), deadline=30)
    server.wait_for_generation(2, 3)
    server.send_signal(signal.SIGTTOU)
    server.wait_for_workers(2)


def test_request_in_flight_is_answered_by_the_old_worker(
    upgradable: Upgradable, module: Module, tmp_path: Path
) -> None:
    server = upgradable(workers=1)
    with server.connect() as connection:
        connection.request("/wait")
        server.wait_for_line("^waiting in first")
        module("main", versioned("second"))
        server.wait_for_line(COMPLETE, since=upgrade(server), deadline=30)
        (tmp_path / "released").touch()
        assert connection.response().text.startswith("first ")
    server.wait_for_generation(2, 1)
    assert server.get().text.startswith("second ")


def test_release_directory_is_looked_up_again(
    launch: Launch, installed: Path, tmp_path: Path
) -> None:
    """Started in ``current``, a symbolic link that a deployment leads elsewhere."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "main.py").write_text(versioned(name))
    current = tmp_path / "current"
    current.symlink_to("one")
    command = [str(installed), "main:app", *python(), "--port", "0"]
    server = launch(command, cwd=current, environment={"PWD": str(current)})
    server.wait_until_running()
    assert server.get().text.startswith("one ")
    current.unlink()
    current.symlink_to("two")
    server.wait_for_line(COMPLETE, since=upgrade(server), deadline=30)
    assert server.get().text.startswith("two ")
    assert os.readlink(f"/proc/{server.pid}/cwd") == str(tmp_path / "two")


def test_files_of_a_daemon(installed: Path, module: Module, tmp_path: Path) -> None:
    """Pidfile, log files and standard streams stay what they are."""
    module("main", versioned("first"))
    port = free_port()
    pidfile, log, access = (tmp_path / name for name in ("pid", "error.log", "access.log"))
    command = [str(installed), "main:app", "--app-dir", str(tmp_path), *python(), "--daemon"]
    command += ["--pid", str(pidfile), "--error-logfile", str(log)]
    command += ["--access-logfile", str(access), "-b", f"127.0.0.1:{port}"]
    subprocess.run(command, env=clean_environment(), cwd=tmp_path, check=True, timeout=60)
    pid = int(pidfile.read_text())
    try:
        before = pidfile.stat().st_ino
        log.rename(tmp_path / "rotated.log")
        os.kill(pid, signal.SIGUSR2)

        def complete() -> bool:
            return log.exists() and "Upgrade complete" in log.read_text()

        eventually(complete, "the upgrade, in a log file opened anew", 30)
        assert int(pidfile.read_text()) == pid and pidfile.stat().st_ino == before
        streams = [os.readlink(f"/proc/{pid}/fd/{number}") for number in range(3)]
        assert streams == ["/dev/null", str(log), str(log)]
        with Connection.open(("127.0.0.1", port)) as connection:
            assert connection.get("/after", close=True).text.startswith("first ")
        eventually(lambda: "/after" in access.read_text(), "the access log")
    finally:
        os.kill(pid, signal.SIGTERM)
        assert wait_gone(pid)
    assert not pidfile.exists()


def test_variable_is_not_for_use_by_hand(installed: Path, tmp_path: Path) -> None:
    environment = clean_environment({"RSGUN_UPGRADE": "yes"})
    done = subprocess.run(
        [str(installed), "main:app"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "RSGUN_UPGRADE is not for use by hand" in done.stderr
