"""SIGUSR2: another binary takes over in the same process, or nothing changes."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Thread

import pytest
from harness import processes
from harness.load import Load
from harness.server import Server, clean_environment, free_port
from harness.sources import answer, versioned
from harness.target import ROOT, binary, brings_its_extension, rsgun_only
from harness.waiting import BOOT, eventually, wait_gone
from harness.wire import Connection

pytestmark = rsgun_only

Launch = Callable[..., Server]
Module = Callable[[str, str], Path]
Start = Callable[..., Server]

COMPLETE = r"^INFO: .*Upgrade complete"
FAILED = r"^ERROR: .*Upgrade failed, this program goes on: "


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A copy of rsgun that a test may replace, in a directory as a release has it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    source = binary().resolve()
    place(source, folder / "rsgun")
    if brings_its_extension():
        for name in ("librsgun_worker.so", "deps/librsgun_worker.so"):
            found = source.parent / name
            if found.exists():
                (folder / "librsgun_worker.so").symlink_to(found)
                break
    return folder / "rsgun"


def place(source: Path, target: Path) -> None:
    """Puts a copy in the place of a file, as an installer does: a new file, moved there."""
    fresh = target.with_name(f".{target.name}-fresh")
    shutil.copy(source, fresh)
    fresh.replace(target)


@pytest.fixture
def start(launch: Launch, module: Module, program: Path, tmp_path: Path) -> Start:
    """Serves version ``first`` of ``main`` with the copy."""

    def begin(*arguments: str, workers: int = 2, **more: object) -> Server:
        if not (tmp_path / "main.py").exists():
            module("main", versioned("first"))
        places = {"--port", "-b", "--fd"}
        port = () if places & set(arguments) else ("--port", "0")
        command = [str(program), "main:app", "--app-dir", str(tmp_path), "-w", str(workers)]
        server = launch([*command, *python(), *port, *arguments], **more)
        server.wait_until_running()
        server.wait_for_workers(workers)
        return server

    return begin


def python() -> list[str]:
    """The interpreter of the tests: the copy lies beside none."""
    return ["--python", sys.executable]


def upgrade(server: Server) -> int:
    """Sends SIGUSR2; returns where the output about it begins."""
    since = server.output.mark()
    server.send_signal(signal.SIGUSR2)
    return since


def rsgunctl(control: Path, *arguments: str) -> str:
    """What ``rsgunctl status`` prints."""
    command = [str(binary().with_name("rsgunctl")), "status", "--socket", str(control), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout


def program_of(pid: int) -> tuple[int, int]:
    """Which file a process runs."""
    found = os.stat(f"/proc/{pid}/exe")
    return found.st_dev, found.st_ino


def listening_inodes(server: Server) -> set[str]:
    """The kernel's numbers of the sockets that the master listens on."""
    table = Path("/proc/net/tcp").read_text().splitlines()[1:]
    listening = {line.split()[9] for line in table if line.split()[3] == "0A"}
    files = processes.Process(server.pid, 0, 0, "S", "").open_files().values()
    held = {found[1] for text in files if (found := re.fullmatch(r"socket:\[(\d+)\]", text))}
    return held & listening


def test_the_new_binary_serves_under_the_old_pid(start: Start, program: Path) -> None:
    server = start()
    before = {worker.pid for worker in server.workers()}
    sockets = listening_inodes(server)
    old = program_of(server.pid)
    place(binary(), program)
    since = upgrade(server)
    server.wait_for_line(COMPLETE, since=since, deadline=30)
    server.wait_for_generation(2, 2)
    assert not before & {worker.pid for worker in server.workers()}
    assert listening_inodes(server) == sockets
    assert program_of(server.pid) == (program.stat().st_dev, program.stat().st_ino) != old
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


def test_no_descriptor_leaks_into_the_new_processes(start: Start) -> None:
    """Whatever the application starts would keep the port taken."""
    server = start()
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
    start: Start, module: Module, program: Path, preload: tuple[str, ...]
) -> None:
    server = start("--no-access-log", *preload, workers=3)
    load = Load(server.port, "/slow?5", keep_alive=8, one_shot=8)

    async def line(pattern: str, since: int) -> None:
        await asyncio.to_thread(server.wait_for_line, pattern, since=since, deadline=40)

    async def story() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(load.run())
            try:
                for number in (2, 3):
                    module("main", versioned(f"version-{number}"))
                    place(binary(), program)
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


@contextmanager
def load_on(server: Server, *, is_stopped: bool = False) -> Iterator[Load]:
    """Clients of both kinds while the block runs; nothing of theirs may be lost. Where the
    server is stopped, they may be refused."""
    load = Load(server.port, "/slow?30", keep_alive=8, one_shot=8)
    thread = Thread(target=lambda: asyncio.run(load.run()))
    thread.start()
    try:
        yield load
    finally:
        load.stop()
        thread.join()
    for account in (load.keep_alive, load.one_shot):
        lost = [how for how in account.lost if not (is_stopped and "Refused" in how)]
        assert account.answered and not lost, str(account)


def wait_for_service(load: Load, version: str) -> None:
    """Waits until a worker of this version answers new clients."""
    answers = load.one_shot.answers
    eventually(lambda: answers[version] > 10, f"{version} serves", BOOT)


def candidate(server: Server) -> processes.Process:
    """The new program, while it is on trial."""
    (found,) = server.titled(r"^rsgun: candidate")
    return found


def fork_server_of_the_candidate(server: Server) -> processes.Process:
    """The one from which its worker comes."""
    (found,) = (each for each in server.fork_servers() if each.title.endswith("[gen 2]"))
    return found


ENDS_OF_CANDIDATES = {
    "its fork server is killed": (fork_server_of_the_candidate, signal.SIGKILL, "SIGKILL"),
    "it is killed": (candidate, signal.SIGKILL, "SIGKILL before it had taken over: see"),
    "it is told to end": (candidate, signal.SIGTERM, "it was told to end"),
}


@pytest.mark.parametrize("how", ENDS_OF_CANDIDATES)
def test_worker_of_a_candidate_that_fails_answers_its_requests(
    start: Start, module: Module, how: str
) -> None:
    """It serves beside the others already, on their listeners."""
    server = start("--no-access-log", "--reload-probation", "60")
    before = {process.pid for process in server.family()}
    module("main", versioned("second"))
    with load_on(server) as load:
        since = upgrade(server)
        wait_for_service(load, "second")
        victim, number, reason = ENDS_OF_CANDIDATES[how]
        os.kill(victim(server).pid, number)
        server.wait_for_line(f"{FAILED}.*{reason}", since=since)
        eventually(lambda: {p.pid for p in server.family()} == before, "the candidate is gone")
        answered = load.one_shot.answered
        eventually(lambda: load.one_shot.answered > answered + 50, "the others go on")


def test_long_request_of_a_candidate_that_fails(
    start: Start, module: Module, tmp_path: Path
) -> None:
    """As long as it takes the candidate is there, and another upgrade waits."""
    server = start("--reload-probation", "60")
    module("main", versioned("second"))
    since = upgrade(server)
    with ExitStack() as stack:

        def second_waits() -> bool:
            connection = stack.enter_context(server.connect())
            if not connection.get("/").text.startswith("second "):
                return False
            connection.request("/wait")
            waiting.append(connection)
            return True

        waiting: list[Connection] = []
        eventually(second_waits, "a request to the new program")
        os.kill(fork_server_of_the_candidate(server).pid, signal.SIGKILL)
        server.wait_for_line(FAILED, since=since)
        module("main", versioned("third"))
        server.wait_for_line(r"Upgrade asked for; it follows", since=upgrade(server))
        server.wait_for_line(r"^WARNING: .*Upgrade refused", since=upgrade(server))
        assert server.titled(r"^rsgun: candidate")
        (tmp_path / "released").touch()
        assert waiting[0].response().text.startswith("second ")
    eventually(lambda: server.get().text.startswith("third "), "the next upgrade", BOOT)


@contextmanager
def hung_orphan(start: Start, module: Module, *arguments: str) -> Iterator[tuple[Server, int]]:
    """A candidate was killed, and its worker hangs: the server and that worker."""
    server = start("--reload-probation", "60", "--timeout", "0", *arguments)
    module("main", versioned("second"))
    since = upgrade(server)
    with ExitStack() as stack:

        def second_blocks() -> int | None:
            connection = stack.enter_context(server.connect())
            version, pid, _ = answer(connection.get("/").text)
            if version != "second":
                return None
            connection.request("/block")
            return pid

        worker = eventually(second_blocks, "a request to the new program")
        assert worker is not None
        (candidate,) = server.titled(r"^rsgun: candidate")
        os.kill(candidate.pid, signal.SIGKILL)
        server.wait_for_line(FAILED + ".*SIGKILL", since=since)
        yield server, worker


def killed(worker: int) -> str:
    """The line about the end of that worker."""
    return rf"Worker 1 \[pid {worker}\] did not end within [\d.]+ s and was killed"


def test_worker_that_hangs_does_not_outlive_its_candidate_for_long(
    start: Start, module: Module, tmp_path: Path
) -> None:
    control = tmp_path / "control.sock"
    arguments = ("--graceful-timeout", "1", "--control-socket", str(control))
    with hung_orphan(start, module, *arguments) as (server, worker):
        before = {process.pid for process in server.family()} - {worker}
        status = json.loads(rsgunctl(control, "--json"))
        shown = [one["phase"] for one in status["workers"] if one["pid"] == worker]
        assert shown == ["draining"]
        server.wait_for_line(killed(worker))
        server.wait_for_line("Its requests and stacks are not known")
        assert wait_gone(worker)
        eventually(lambda: len(server.family()) == 4, "master, fork server, two workers")
        assert {process.pid for process in server.family()} <= before


@pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["plain", "preload"])
def test_import_that_hangs_does_not_outlive_the_candidate_for_long(
    start: Start, module: Module, preload: tuple[str, ...]
) -> None:
    """In its fork server, or its worker; and it minds no signal."""
    server = start("--graceful-timeout", "1", "--timeout", "0", *preload)
    before = {process.pid for process in server.family()}
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    module(
        "main", versioned("second", top=f"{deaf}; print('imports', flush=True); time.sleep(600)")
    )
    since = upgrade(server)
    server.wait_for_line("^imports$", since=since)
    (candidate,) = server.titled(r"^rsgun: candidate")
    os.kill(candidate.pid, signal.SIGKILL)
    server.wait_for_line(FAILED + ".*SIGKILL", since=since)
    eventually(lambda: {p.pid for p in server.family()} == before, "all of it is gone")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_ends_the_worker_that_a_candidate_has_left_behind(
    start: Start, module: Module, number: signal.Signals
) -> None:
    with hung_orphan(start, module, "--graceful-timeout", "1") as (server, worker):
        assert server.stop(number, 12) == 0
        assert [line for line in server.lines() if re.search(killed(worker), line)]
    assert not server.leftovers(0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_quick_stop_does_not_wait_for_the_requests_of_a_candidate(
    start: Start, module: Module, number: signal.Signals
) -> None:
    server = start("--reload-probation", "60")
    module("main", versioned("second"))
    upgrade(server)
    with ExitStack() as stack:

        def second_waits() -> bool:
            connection = stack.enter_context(server.connect())
            if not connection.get("/").text.startswith("second "):
                return False
            connection.request("/wait")
            return True

        eventually(second_waits, "a request to the new program")
        assert server.stop(number, 10) == 0
    assert not server.leftovers()


def test_stop_while_the_candidate_serves_loses_nothing(start: Start, module: Module) -> None:
    server = start("--no-access-log", "--reload-probation", "60")
    module("main", versioned("second"))
    with load_on(server, is_stopped=True) as load:
        upgrade(server)
        wait_for_service(load, "second")
        server.send_signal(signal.SIGTERM)
        assert server.wait() == 0
        assert not server.leftovers()


def test_five_upgrades_leave_no_descriptor_behind(start: Start) -> None:
    server = start()

    def descriptors() -> int:
        return len(os.listdir(f"/proc/{server.pid}/fd"))

    counts = []
    for number in range(2, 7):
        server.wait_for_line(COMPLETE, since=upgrade(server), deadline=30)
        server.wait_for_generation(number, 2)
        counts.append(descriptors())
    assert answer(server.get().text)[2] == server.pid
    eventually(lambda: descriptors() <= counts[0], f"no more descriptors than {counts}")


BROKEN_PROGRAMS = {
    "missing": (None, "no file|No such file"),
    "not executable": ("#!/bin/sh\nexit 0\n", "Permission denied"),
    "fails": ("#!/bin/sh\nexit 1\n", "exited with code 1 before it had taken over, .*is it rsgun"),
    "ends": ("#!/bin/sh\nexit 0\n", "exited with code 0 before it had taken over, .*is it rsgun"),
    "crashes": ("#!/bin/sh\nkill -SEGV $$\n", "SIGSEGV"),
    "no program": ("just some text\n", "code 127|Exec format error"),
    "no interpreter": ("#!/nowhere/interpreter\n", "No such file"),
}


@pytest.mark.parametrize("how", BROKEN_PROGRAMS)
def test_broken_binary_changes_nothing(start: Start, program: Path, how: str) -> None:
    server = start()
    before = {worker.pid for worker in server.family()}
    text, reason = BROKEN_PROGRAMS[how]
    program.unlink()
    if text is not None:
        program.write_text(text)
        program.chmod(0o644 if how == "not executable" else 0o755)
    since = upgrade(server)
    server.wait_for_line(f"{FAILED}.*({reason})", since=since)
    eventually(lambda: {p.pid for p in server.family()} == before, "the candidate is gone")
    for _ in range(10):
        assert server.get().text.startswith("first ")

    program.unlink(missing_ok=True)
    place(binary(), program)
    server.wait_for_line(COMPLETE, since=upgrade(server), deadline=30)


def test_program_that_cannot_take_over_runs_the_old_one_again(start: Start, program: Path) -> None:
    """Its candidate boots, but after the exec it misses something in the state."""
    control = program.with_name("control.sock")
    server = start("--preload", "--control-socket", str(control))
    old = program_of(server.pid)
    before = {process.pid for process in server.family()}
    known, other = b"descriptors_of_master", b"descriptors_of_nobody"
    # In an optimised program the names of fields are part of its instructions.
    plain = ROOT / "target" / "debug" / "rsgun"
    if not plain.exists():
        pytest.skip("needs a debug build: cargo build")
    text = plain.read_bytes()
    assert known in text
    program.unlink()
    program.write_bytes(text.replace(known, other))
    program.chmod(0o755)
    since = upgrade(server)
    server.wait_for_line(FAILED + ".*cannot be understood.*descriptors_of_nobody", since=since)
    assert program_of(server.pid) == old
    eventually(lambda: {p.pid for p in server.family()} == before, "the others are gone")
    shown = rsgunctl(control)
    assert re.search("last upgrade: generation 2 FAILED.*descriptors_of_nobody", shown)
    for _ in range(10):
        assert server.get().text.startswith("first ")

    place(binary(), program)
    server.wait_for_line(COMPLETE, since=upgrade(server), deadline=30)


OTHER_FORMAT = """#!{python}
import json
import os
import socket
import subprocess
import sys

master = socket.socket(fileno=3)
message, descriptors, _, _ = socket.recv_fds(master, 1 << 20, 250)
# A byte that says how it was sent comes first.
order = json.loads(message[1:])
order["Begin"]["format"] += 1
order["Begin"]["version"] = "99.0"
ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
os.dup2(theirs.fileno(), 9)
ours.set_inheritable(False)
theirs.close()
os.dup2(master.fileno(), 8, inheritable=False)
os.dup2(9, 3)
master.detach()
program = subprocess.Popen(["{program}", *sys.argv[1:]], pass_fds=[3])
for number in (3, 9):
    os.close(number)
socket.send_fds(ours, [message[:1], json.dumps(order).encode()], descriptors)
answer = ours.recv(1 << 20)
socket.socket(fileno=8).send(answer)
sys.exit(program.wait())
"""


def test_another_format_of_the_state_is_refused(start: Start, program: Path) -> None:
    """The new program gets an order as a version with another format would give it."""
    server = start()
    before = {process.pid for process in server.family()}
    program.unlink()
    program.write_text(OTHER_FORMAT.format(python=sys.executable, program=binary().resolve()))
    program.chmod(0o755)
    since = upgrade(server)
    server.wait_for_line(
        FAILED + r".*the new program refuses: rsgun \S+ cannot take over from rsgun 99\.0, whose "
        r"state has the format 2 and not 1; restart the server to change to it$",
        since=since,
    )
    eventually(lambda: {p.pid for p in server.family()} == before, "the candidate is gone")
    assert server.get().text.startswith("first ")


BROKEN_APPLICATIONS = {
    "import error": ("import no_such_module_here\n", "no_such_module_here"),
    "attribute missing": ("application = None\n", "app"),
    "lifespan": (
        versioned(
            "second",
            startup="await send({'type': 'lifespan.startup.failed', 'message': 'not now'}); return",
        ),
        "not now",
    ),
    "crash": ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n", "SIGSEGV"),
}


@pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["plain", "preload"])
@pytest.mark.parametrize("how", BROKEN_APPLICATIONS)
def test_broken_application_changes_nothing(
    start: Start, module: Module, how: str, preload: tuple[str, ...]
) -> None:
    server = start(*preload)
    server.tolerates_tracebacks = True
    before = {worker.pid for worker in server.family()}
    source, text = BROKEN_APPLICATIONS[how]
    module("main", source)
    since = upgrade(server)
    server.wait_for_line(FAILED, since=since, deadline=30)
    assert text in "\n".join(server.lines("stderr", since))
    eventually(lambda: {p.pid for p in server.family()} == before, "the candidate is gone")
    for _ in range(10):
        assert server.get().text.startswith("first ")


def test_slow_boot_is_given_up(start: Start, module: Module) -> None:
    server = start("--boot-timeout", "5")
    before = {worker.pid for worker in server.family()}
    module("main", versioned("second", top="import time; time.sleep(600)"))
    since = upgrade(server)
    server.tolerates_tracebacks = True
    server.wait_for_line(FAILED + ".*not ready within 5 s", since=since, deadline=30)
    eventually(lambda: {p.pid for p in server.family()} == before, "the candidate is gone")
    assert server.get().text.startswith("first ")


def test_probation_may_be_long(start: Start) -> None:
    """Longer than the first workers of a boot have before the server is announced."""
    server = start("--reload-probation", "5")
    server.wait_for_line(COMPLETE, since=upgrade(server), deadline=30)


def test_configuration_is_read_anew(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "rsgun.toml"
    file.write_text("graceful-timeout = 20\n")
    server = start("-c", str(file))
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
    launch: Launch, module: Module, program: Path, tmp_path: Path
) -> None:
    """Its settings, its variables, and its hooks; or nothing changes."""
    module("main", versioned("", top="VERSION = os.environ['RELEASE']"))
    file = tmp_path / "gunicorn.conf.py"
    file.write_text(CONF.format(version="one", workers=1))
    command = [str(program), "main:app", "--app-dir", str(tmp_path), "-c", str(file)]
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
    launch: Launch, module: Module, program: Path, tmp_path: Path
) -> None:
    module("main", versioned("first"))
    kept, gone, new = (tmp_path / name for name in ("kept", "gone", "new"))
    file = tmp_path / "rsgun.toml"
    file.write_text(f"bind = ['unix:{kept}', 'unix:{gone}']\n")
    command = [str(program), "main:app", "--app-dir", str(tmp_path), "-c", str(file)]
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


def test_inherited_and_abstract_sockets(start: Start) -> None:
    name = f"rsgun-upgrade-{os.getpid()}-{free_port()}"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number = listener.fileno()
        server = start("-b", f"fd://{number}", "-b", f"unix:@{name}", pass_fds=[number])
        for _ in range(2):
            server.wait_for_line(COMPLETE, since=upgrade(server), deadline=30)
        address = listener.getsockname()
        assert server.get(address=address).text.startswith("first ")
        with socket.socket(socket.AF_UNIX) as client:
            client.connect("\0" + name)
        assert server.stop() == 0


def test_socket_at_standard_input(start: Start) -> None:
    """As supervisord passes it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = start("--fd", "0", stdin=listener.fileno())
        for _ in range(2):
            server.wait_for_line(COMPLETE, since=upgrade(server), deadline=30)
        assert server.get(address=listener.getsockname()).text.startswith("first ")


GATED = versioned("second", gate="'go'")


def test_second_one_is_refused(start: Start, module: Module, tmp_path: Path) -> None:
    server = start()
    module("main", GATED)
    since = upgrade(server)
    server.wait_for_line(r"Upgrading: rsgun .* boots", since=since)
    server.wait_for_line(r"^WARNING: .*Upgrade refused", since=upgrade(server))
    (tmp_path / "go").touch()
    server.wait_for_line(COMPLETE, since=since, deadline=30)
    server.wait_for_generation(2, 2)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_stop_ends_the_candidate_too(start: Start, module: Module, number: signal.Signals) -> None:
    server = start()
    module("main", GATED)
    since = upgrade(server)
    server.wait_for_line(r"Upgrading: rsgun .* boots", since=since)
    assert server.stop(number) == 0
    assert not server.leftovers()
    assert not [line for line in server.lines(since=since) if re.search(FAILED, line)]


def test_reload_waits_for_the_new_program(start: Start, module: Module, tmp_path: Path) -> None:
    server = start()
    module("main", GATED)
    since = upgrade(server)
    server.wait_for_line(r"Upgrading: rsgun .* boots", since=since)
    module("main", versioned("third"))
    server.send_signal(signal.SIGHUP)
    server.wait_for_line(r"Reload asked for; it follows", since=since)
    (tmp_path / "go").touch()
    server.wait_for_generation(3, 2, 40)
    assert server.get().text.startswith("third ")


def test_number_of_workers_stays(start: Start) -> None:
    server = start()
    server.send_signal(signal.SIGTTIN)
    server.wait_for_workers(3)
    server.wait_for_line(COMPLETE, since=upgrade(server), deadline=30)
    server.wait_for_generation(2, 3)
    server.send_signal(signal.SIGTTOU)
    server.wait_for_workers(2)


def test_signals_at_every_moment_are_carried_out(start: Start) -> None:
    """TTIN and TTOU in turn, the next as soon as the one before has counted: so one is under
    way at every moment, also while the program is exchanged, and each one counts."""
    server = start(workers=1)
    since = upgrade(server)
    sent = 0

    def one_more() -> bool:
        nonlocal sent
        mark = server.output.mark()
        before, after = (1, 2) if sent % 2 == 0 else (2, 1)
        server.send_signal(signal.SIGTTIN if sent % 2 == 0 else signal.SIGTTOU)
        sent += 1
        changed = rf"Number of workers changed from {before} to {after}"
        server.wait_for_line(changed, since=mark, deadline=30)
        lines = server.lines(since=since)
        over = [index for index, line in enumerate(lines) if "has taken over" in line]
        return bool(over) and sum("Number of workers" in line for line in lines[over[0] :]) > 5

    eventually(one_more, "the new program", 60)
    server.wait_for_line(COMPLETE, since=since, deadline=60)
    changes = sum("Number of workers changed" in line for line in server.lines(since=since))
    assert changes == sent
    server.wait_for_generation(2, 1 + sent % 2, 40)


def test_workers_leave_when_the_new_master_is_killed(start: Start) -> None:
    server = start("--graceful-timeout", "5")
    server.wait_for_line(COMPLETE, since=upgrade(server), deadline=30)
    server.wait_for_generation(2, 2)
    left = [process.pid for process in server.family() if process.pid != server.pid]
    server.tolerates_exit = {-signal.SIGKILL}
    os.kill(server.pid, signal.SIGKILL)
    for pid in left:
        assert wait_gone(pid)
    with pytest.raises(OSError, match="refused"):
        server.connect()


def test_nobody_is_left_when_the_master_is_killed_meanwhile(start: Start, module: Module) -> None:
    server = start("--graceful-timeout", "5")
    module("main", GATED)
    since = upgrade(server)
    server.wait_for_line(r"Upgrading: rsgun .* boots", since=since)
    left = [process.pid for process in server.family() if process.pid != server.pid]
    os.kill(server.pid, signal.SIGKILL)
    for pid in left:
        assert wait_gone(pid)
    with pytest.raises(OSError, match="refused"):
        server.connect()


def test_request_in_flight_is_answered_by_the_old_worker(
    start: Start, module: Module, tmp_path: Path
) -> None:
    server = start(workers=1)
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
    launch: Launch, program: Path, tmp_path: Path
) -> None:
    """Started in ``current``, a symbolic link that a deployment leads elsewhere."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "main.py").write_text(versioned(name))
    current = tmp_path / "current"
    current.symlink_to("one")
    command = [str(program), "main:app", *python(), "--port", "0"]
    server = launch(command, cwd=current, environment={"PWD": str(current)})
    server.wait_until_running()
    assert server.get().text.startswith("one ")
    current.unlink()
    current.symlink_to("two")
    server.wait_for_line(COMPLETE, since=upgrade(server), deadline=30)
    assert server.get().text.startswith("two ")
    assert os.readlink(f"/proc/{server.pid}/cwd") == str(tmp_path / "two")


def test_files_of_a_daemon(program: Path, module: Module, tmp_path: Path) -> None:
    """Pidfile, log files and standard streams stay what they are."""
    module("main", versioned("first"))
    port = free_port()
    pidfile, log, access = (tmp_path / name for name in ("pid", "error.log", "access.log"))
    command = [str(program), "main:app", "--app-dir", str(tmp_path), *python(), "--daemon"]
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


def test_variable_is_not_for_use_by_hand(program: Path, tmp_path: Path) -> None:
    environment = clean_environment({"RSGUN_UPGRADE": "yes"})
    done = subprocess.run(
        [str(program), "main:app"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "RSGUN_UPGRADE is not for use by hand" in done.stderr
