"""A gunicorn.conf.py: what it is called, what it sets, and who wins over it."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from harness.about import ABOUT_ITSELF, about
from harness.conf import Conf, Start, failing
from harness.marks import AS_ROOT, rsgun_only
from harness.server import free_port
from harness.sources import answer, versioned
from harness.waiting import BOOT, DEADLINE, eventually, wait_gone

pytestmark = rsgun_only


# === settings ===


def test_settings_of_real_life(conf: Conf, rsgun: Start, tmp_path: Path) -> None:
    """A file with computed values, helpers, and names that gunicorn ignores."""
    path = conf("""
import multiprocessing
import os
from pathlib import Path

HERE = Path(__file__).parent
host = os.environ.get("NO_SUCH_VARIABLE", "127.0.0.1")
port = 0
bind = [f"{host}:{port}"]
workers = min(2, multiprocessing.cpu_count() * 2 + 1)
worker_class = "uvicorn.workers.UvicornWorker"
wsgi_app = "main:app"
timeout = int(os.environ.get("NO_SUCH_VARIABLE", "120"))
graceful_timeout = "20"
keepalive = 5
max_requests = 1000
max_requests_jitter = 50
preload_app = True
accesslog = str(HERE / "access.log")
errorlog = "-"
loglevel = "debug"
proc_name = "shop"
pidfile = HERE / "app.pid"
raw_env = ["COLOUR=red", "EMPTY="]
worker_tmp_dir = "/dev/shm"
forwarded_allow_ips = None
reload = False
rsgun_max_lifetime = 3600

def helper(value):
    return value
""")
    server = rsgun("-c", path)
    server.wait_for_workers(2)
    assert answer(server.get().text)[0] == "first"
    assert server.titled(r"^rsgun: master \[shop\]$")
    assert len(server.titled(r"^rsgun: worker \d \[shop, gen 1\]$")) == 2
    assert (tmp_path / "app.pid").read_text().strip() == str(server.pid)
    eventually(lambda: "GET / HTTP/1.1" in (tmp_path / "access.log").read_text(), "access log")
    assert not [line for line in server.lines("stderr") if line.startswith("WARNING")]
    assert not (tmp_path / "__pycache__").exists()


def test_command_line_and_environment_win(conf: Conf, rsgun: Start) -> None:
    path = conf("bind = '127.0.0.1:1'\nworkers = 7\nproc_name = 'file'\nwsgi_app = 'none:app'\n")
    server = rsgun(
        "-c", path, "-w", "2", "-b", "127.0.0.1:0", "main:app", environment={"RSGUN_NAME": "env"}
    )
    server.wait_for_workers(2)
    assert server.titled(r"^rsgun: master \[env\]$")


def test_defaults_hold_for_what_the_file_does_not_say(conf: Conf, rsgun: Start) -> None:
    port = free_port()
    server = rsgun("-c", conf("wsgi_app = 'main:app'"), environment={"PORT": str(port)})
    assert server.port == port
    server.wait_for_workers(1)


def test_the_application_is_named_by_the_file_with_gunicorn_s_default(
    conf: Conf, rsgun: Start, tmp_path: Path
) -> None:
    folder = tmp_path / "deep"
    folder.mkdir()
    (folder / "shop.py").write_text(versioned("deep") + "\napplication = app\n")
    path = conf(f"bind = '127.0.0.1:0'\nwsgi_app = 'shop'\nchdir = {str(folder)!r}")
    assert answer(rsgun("-c", path).get().text)[0] == "deep"


def test_pythonpath(conf: Conf, rsgun: Start, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    (tmp_path / "one" / "first_part.py").write_text("WORD = 'first'")
    (tmp_path / "two" / "second_part.py").write_text("WORD = 'second'")
    conf("")
    (tmp_path / "main.py").write_text(
        "import first_part, second_part\n"
        + versioned("both", top="VERSION = first_part.WORD + '-' + second_part.WORD")
    )
    path = conf("bind = '127.0.0.1:0'\nwsgi_app = 'main:app'\npythonpath = 'one,two'")
    assert answer(rsgun("-c", path).get().text)[0] == "first-second"


def test_the_file_can_import_what_is_beside_the_start(
    conf: Conf, rsgun: Start, tmp_path: Path
) -> None:
    (tmp_path / "base_conf.py").write_text("bind = '127.0.0.1:0'\nworkers = 2\n")
    server = rsgun("-c", conf("from base_conf import *\nwsgi_app = 'main:app'\n"))
    server.wait_for_workers(2)


def test_variables_of_the_file(conf: Conf, rsgun: Start, tmp_path: Path) -> None:
    path = conf("bind = '127.0.0.1:0'\nwsgi_app = 'main:app'\nraw_env = 'COLOUR=red'\numask = 0o27")
    (tmp_path / "main.py").write_text(ABOUT_ITSELF)
    found = about(rsgun("-c", path).port)
    assert found["environment"]["COLOUR"] == "red"  # type: ignore[index]
    assert found["umask"] == 0o27


@AS_ROOT
def test_user_of_the_file(public: Path, public_python: str, rsgun: Start) -> None:
    """The file is evaluated as root, as gunicorn does; what serves is the user."""
    path = public / "gunicorn.conf.py"
    path.write_text(
        "import os\nassert os.geteuid() == 0\nbind = '127.0.0.1:0'\nwsgi_app = 'main:app'\n"
        "user = 'nobody'\ngroup = 65534\numask = '077'\n"
    )
    server = rsgun("-c", path, cwd=public, python=public_python)
    found = about(server.port)
    assert found["uids"] == [65534] * 4
    assert found["gids"] == [65534] * 4
    assert (found["groups"], found["capabilities"], found["regained"]) == ([65534], 0, False)
    assert found["umask"] == 0o77
    for process in server.fork_servers():
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert "Uid:\t65534\t65534\t65534\t65534" in status
    server.send_signal(signal.SIGHUP)
    server.wait_for_generation(2, 1)
    assert about(server.port)["uids"] == [65534] * 4


@AS_ROOT
def test_user_of_the_command_line_evaluates_the_file(
    public: Path, public_python: str, rsgun: Start
) -> None:
    path = public / "gunicorn.conf.py"
    path.write_text(
        "import os\nassert os.geteuid() == 65534\nbind = '127.0.0.1:0'\nwsgi_app = 'main:app'\n"
    )
    arguments = ("-c", path, "--user", "nobody")
    server = rsgun(*arguments, "--group", "65534", cwd=public, python=public_python)
    assert about(server.port)["uids"] == [65534] * 4
    path.write_text(path.read_text() + "initgroups = True\ngroup = 1\nuser = 2\n")
    assert server.stop() == 0
    server = rsgun(*arguments, cwd=public, python=public_python, wait=False)
    assert "user, group and initgroups must all be given in" in failing(server)


# === background ===


@pytest.mark.parametrize("how", ["file", "flag"])
def test_daemon(conf: Conf, rsgun: Start, tmp_path: Path, how: str) -> None:
    """The file may say so; hooks are those of the master in the background."""
    port = free_port()
    path = conf(f"""
import os
bind = "127.0.0.1:{port}"
wsgi_app = "main:app"
pidfile = "app.pid"
errorlog = "error.log"
print("evaluated with", os.readlink("/proc/self/fd/1"), flush=True)

def on_starting(server):
    print("starting", server.pid, flush=True)
    server.log.info("log of the hook")
{"daemon = True" if how == "file" else ""}
""")
    launcher = rsgun("-c", path, *(["-D"] if how == "flag" else []), wait=False)
    assert launcher.wait() == 0, launcher.report()
    master = int((tmp_path / "app.pid").read_text())
    try:
        assert answer(launcher.get(address=("127.0.0.1", port)).text)[2] == master
        log = (tmp_path / "error.log").read_text()
        assert log.count(f"starting {master}") == 1
        assert "log of the hook" in log
        for process in launcher.family():
            streams = [os.readlink(f"/proc/{process.pid}/fd/{number}") for number in range(3)]
            assert streams[0] == "/dev/null", process
            assert streams[1:] == [str(tmp_path / "error.log")] * 2, process
    finally:
        os.kill(master, signal.SIGTERM)
    assert wait_gone(master)
    assert not (tmp_path / "app.pid").exists()


# === while it is evaluated ===


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_the_file_is_evaluated(
    conf: Conf, rsgun: Start, number: signal.Signals
) -> None:
    path = conf("import time\nprint('evaluating', flush=True)\ntime.sleep(600)")
    server = rsgun("-c", path, "main:app", wait=False)
    server.wait_for_line("evaluating")
    assert server.stop(number, deadline=DEADLINE) == 0
    assert not server.leftovers()


def test_other_signals_wait_for_the_end_of_the_evaluation(
    conf: Conf, rsgun: Start, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    path = conf(f"print('evaluating', flush=True)\nopen({str(gate)!r}).read()\nworkers = 1")
    server = rsgun("-c", path, "-b", "127.0.0.1:0", "main:app", wait=False)
    server.wait_for_line("evaluating")
    server.send_signal(signal.SIGTTIN)
    with gate.open("w"):
        pass
    server.wait_until_running()
    server.wait_for_workers(2)


# === its names, and its values ===


def test_settings_without_effect_are_named(conf: Conf, rsgun: Start) -> None:
    path = conf(
        "bind = '127.0.0.1:0'\nstatsd_host = 'localhost:8125'\nsendfile = False\n"
        "forwarded_allow_ips = '127.0.0.1'\ntmp_upload_dir = '/data'\n"
    )
    server = rsgun("-c", path, "main:app")
    warnings = [line for line in server.lines("stderr") if line.startswith("WARNING")]
    expected = [
        ("line 2: statsd_host", "no statistics"),
        ("line 4: forwarded_allow_ips", "ProxyHeadersMiddleware"),
        ("line 5: tmp_upload_dir", "set TMPDIR"),
    ]
    assert len(warnings) == len(expected)
    for warning, (setting, words) in zip(warnings, expected, strict=True):
        assert f"gunicorn.conf.py, {setting} is a setting of gunicorn" in warning
        assert words in warning


# What the file may be called, and how it is named on the command line.
NAMES = {
    "another suffix": ("gunicorn.conf", "gunicorn.conf"),
    "no suffix": ("gunicorn", "gunicorn"),
    "a file, in gunicorn's way": ("gunicorn.conf.py", "file:gunicorn.conf.py"),
    "a module": ("conf.py", "python:conf"),
    "a module of a package": ("deploy/conf.py", "python:deploy.conf"),
    "a package": ("deploy/__init__.py", "python:deploy"),
}


@pytest.mark.parametrize("how", NAMES)
def test_names_of_the_file(conf: Conf, rsgun: Start, how: str) -> None:
    file, named = NAMES[how]
    path = conf("").parent / file
    path.parent.mkdir(exist_ok=True)
    path.write_text("bind = '127.0.0.1:0'\nwsgi_app = 'main:app'\nworkers = 2\nspew = False\n")
    server = rsgun("-c", named)
    server.wait_for_workers(2)
    path.write_text("bind = '127.0.0.1:0'\nwsgi_app = 'main:app'\nworkers = 3\n")
    server.send_signal(signal.SIGHUP)
    server.wait_for_generation(2, 3)
    path.write_text("workers = 3\nkeyfile = 'key.pem'\n")
    server.send_signal(signal.SIGHUP)
    server.wait_for_line(f"{path}, line 2: keyfile is a setting that rsgun does not have")


def test_a_module_is_imported_as_one(conf: Conf, rsgun: Start, tmp_path: Path) -> None:
    """It may import its neighbours, and is found where the interpreter finds modules."""
    package = tmp_path / "elsewhere" / "deploy"
    package.mkdir(parents=True)
    (package / "base.py").write_text("bind = '127.0.0.1:0'\nwsgi_app = 'main:app'\n")
    (package / "conf.py").write_text(
        "from .base import *\n\ndef post_fork(server, worker):\n    print('forked', __name__)\n"
    )
    conf("")
    environment = {"PYTHONPATH": str(tmp_path / "elsewhere"), "PYTHONUNBUFFERED": "1"}
    server = rsgun("-c", "python:deploy.conf", environment=environment)
    assert "forked deploy.conf" in server.lines()


def test_a_class_that_is_known(conf: Conf, rsgun: Start) -> None:
    path = conf(
        "from gunicorn.workers.sync import SyncWorker\nworker_class = SyncWorker\n"
        "bind = '127.0.0.1:0'\nwsgi_app = 'plain'\n"
    )
    (path.parent / "plain.py").write_text(
        "def application(environ, start_response):\n    start_response('200 OK', [])\n"
        "    return [b'plain']\n"
    )
    workers = path.parent / "gunicorn" / "workers"
    workers.mkdir(parents=True)
    for file in (workers.parent / "__init__.py", workers / "__init__.py"):
        file.touch()
    (workers / "sync.py").write_text("class SyncWorker: ...\n")
    assert rsgun("-c", path).get().body == b"plain"


def test_a_file_may_have_no_access_log(conf: Conf, rsgun: Start) -> None:
    text = "bind = '127.0.0.1:0'\nwsgi_app = 'main:app'\naccesslog = None\n"
    path = conf(text)
    silent = rsgun("-c", path)
    silent.get("/unheard")
    conf(text + "rsgun_access_log = True\n")
    silent.send_signal(signal.SIGHUP)
    silent.wait_for_generation(2, 1)
    silent.get("/heard")
    silent.wait_for_line("GET /heard")
    named = rsgun("-c", path, "--access-logfile", "-")
    named.get("/heard")
    named.wait_for_line("GET /heard")
    assert not [line for line in silent.lines() if "/unheard" in line]


def test_what_gunicorn_starts_with(conf: Conf, rsgun: Start) -> None:
    """Empty texts, directories that are not there, and what only a daemon would need."""
    path = conf(
        "bind = '127.0.0.1:0'\nwsgi_app = 'main:app'\npythonpath = '/nowhere,.'\n"
        "loglevel = 'WARN'\npidfile = ''\nproc_name = ''\nchdir = ''\n"
        "enable_stdio_inheritance = True\n"
    )
    server = rsgun("-c", path, "-R", wait=False)
    server.wait_for_line(f"WARNING: +{path}, line 3: pythonpath: /nowhere is not there")
    eventually(lambda: server.titled("worker 1"), "a worker", BOOT)


# === reload ===


def test_reload_applies_the_file(conf: Conf, rsgun: Start) -> None:
    port = free_port()
    path = conf("bind = '127.0.0.1:0'\nworkers = 1\nwsgi_app = 'main:app'\nraw_env = ['A=1']")
    source = versioned("first", top="print('A is', os.environ['A'], flush=True)")
    (path.parent / "main.py").write_text(source)
    server = rsgun("-c", path)
    assert "A is 1" in server.lines()
    since = server.output.mark()
    conf(
        f"bind = '127.0.0.1:{port}'\nworkers = 3\nwsgi_app = 'main:app'\nraw_env = ['A=2']\n"
        "loglevel = 'debug'"
    )
    server.send_signal(signal.SIGHUP)
    server.wait_for_generation(2, 3)
    server.wait_for_line("Reload complete")
    assert answer(server.get(address=("127.0.0.1", port)).text)[0] == "first"
    server.wait_for_line("^DEBUG: ", since=since)
    read = [line for line in server.lines(since=since) if line.startswith("A is")]
    assert read == ["A is 2"] * 3
    with pytest.raises(ConnectionRefusedError):
        server.connect()


def test_worker_that_is_started_by_exec(conf: Conf, rsgun: Start) -> None:
    """A thread of the file keeps workers from being forked: they evaluate it themselves."""
    path = conf("""
import os, threading, time
threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
bind = "127.0.0.1:0"
wsgi_app = "main:app"
raw_env = ["COLOUR=red"]

def post_fork(server, worker):
    print("post_fork", worker.pid == os.getpid(), server.pid == os.getppid(), flush=True)
""")
    server = rsgun("-c", path)
    server.wait_for_line("post_fork True True")
    assert answer(server.get().text)[2] == server.pid
    assert json.dumps(server.lines("stderr")).count("threads besides") <= 1


def test_reload_repeats_no_warning(conf: Conf, rsgun: Start, tmp_path: Path) -> None:
    warned_of = "statsd_host = 'localhost:8125'\nbind = '127.0.0.1:0'\n"
    path = conf(warned_of)
    server = rsgun("-c", path, "main:app", "--app-dir", tmp_path)

    def warnings() -> int:
        return sum(line.startswith("WARNING") for line in server.lines("stderr"))

    assert warnings() == 1
    server.send_signal(signal.SIGHUP)
    server.wait_for_generation(2, 1)
    assert warnings() == 1
    conf(warned_of + "tmp_upload_dir = '/data'\n")
    server.send_signal(signal.SIGHUP)
    server.wait_for_generation(3, 1)
    # What holds now stands together.
    assert warnings() == 3
    assert server.stop() == 0
