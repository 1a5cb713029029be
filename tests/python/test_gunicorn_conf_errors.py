"""A gunicorn.conf.py that is wrong: it is said what, where, and what to do."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from harness.conf import Conf, Start, failing
from harness.marks import rsgun_only
from harness.waiting import BOOT, eventually

pytestmark = rsgun_only


@pytest.mark.parametrize("how", ["file", "flag"])
def test_a_daemon_tells_the_terminal_what_is_wrong(conf: Conf, rsgun: Start, how: str) -> None:
    path = conf("daemon = True\nraise KeyError('from the file')")
    server = rsgun("-c", path, *(["-D"] if how == "flag" else []), wait=False)
    text = failing(server)
    assert "KeyError: 'from the file'" in text
    assert text.count("ERROR:") == 1


BAD = {
    "raises": ("x = 1\nraise RuntimeError('no database')", ["line 2", "RuntimeError: no database"]),
    "exits": ("import sys\nsys.exit(0)", ["SystemExit", "line 2"]),
    "syntax": ("workers = (\n", ["is not valid Python", "SyntaxError", "gunicorn.conf.py"]),
    "import": ("import no_such_module", ["No module named 'no_such_module'"]),
    "value": ("x = 1\nworkers = 0", ["line 2: workers: `0` is not a whole number from 1"]),
    "type": ("workers = {}", ["line 1: workers is an object of type dict"]),
    "kind": ("preload_app = 'perhaps'", ["`perhaps` is neither `true` nor `false`"]),
    "tls": ("certfile = '/etc/cert.pem'", ["certfile is a setting that rsgun does not have"]),
    "tls hook": ("def ssl_context(config, factory): ...", ["ssl_context", "not encrypted by"]),
    "spew": ("spew = True", ["spew", "python -m trace"]),
    "worker class": ("worker_class = 'main.MyUvicornWorker'", ["leave `worker-class` out"]),
    "own name": ("rsgun_max_rs = '1G'", ["rsgun_max_rs", "did you mean `max-rss`?"]),
    "hook": ("post_fork = 5", ["post_fork is a hook", "not int"]),
    "arity": (
        "def post_fork(worker): ...",
        ["line 1: post_fork is called with server, worker", "2 parameters, not 1"],
    ),
    "dotted": ("on_exit = 'no_such.place'", ["on_exit names 'no_such.place'"]),
    "address": ("bind = '127.0.0.1:http'", ["line 1: bind"]),
    "died": ("import os\nos._exit(7)", ["exited with code 7 while it evaluated"]),
    "killed": ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)", ["SIGSEGV"]),
}


@pytest.mark.parametrize("how", BAD)
def test_bad_file(conf: Conf, rsgun: Start, how: str) -> None:
    text, words = BAD[how]
    message = failing(rsgun("-c", conf(text), "main:app", wait=False))
    for word in words:
        assert word in message, message
    assert "<rsgun/" not in message
    assert message.count("ERROR:") == 1, message


def test_missing_file(rsgun: Start, tmp_path: Path) -> None:
    message = failing(rsgun("-c", tmp_path / "nowhere.py", "main:app", wait=False))
    assert f"cannot read the configuration file {tmp_path}/nowhere.py: No such file" in message


def test_no_application_anywhere(conf: Conf, rsgun: Start) -> None:
    server = rsgun("-c", conf("workers = 2"), wait=False)
    assert server.wait() == 2
    assert "no application given" in "\n".join(server.lines("stderr"))


def test_a_file_that_hangs(conf: Conf, rsgun: Start) -> None:
    path = conf("import time\ntime.sleep(600)")
    server = rsgun("-c", path, "--boot-timeout", "1", "main:app", wait=False)
    assert "was not evaluated within 1 s" in failing(server)


def test_another_kind_of_file(rsgun: Start, tmp_path: Path) -> None:
    (tmp_path / "settings.ini").write_text("[workers]\nnumber = 2\n")
    text = failing(rsgun("-c", tmp_path / "settings.ini", "main:app", wait=False))
    assert "settings.ini, which is read as Python since its name does not end in .toml" in text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "there is no module 'deploy' for python:deploy.conf: name the file instead"),
        ("workers = ", "the configuration module deploy.conf is not valid Python"),
        ("1 / 0", "the configuration module deploy.conf raised ZeroDivisionError"),
        ("import nowhere_at_all", "the configuration module deploy.conf raised ModuleNotFound"),
    ],
)
def test_bad_module(rsgun: Start, tmp_path: Path, text: str | None, words: str) -> None:
    if text is not None:
        (tmp_path / "deploy").mkdir()
        (tmp_path / "deploy" / "conf.py").write_text(text)
    message = failing(rsgun("-c", "python:deploy.conf", "main:app", wait=False))
    assert words in message
    assert "<rsgun/" not in message
    assert "importlib" not in message


def test_a_class_of_one_s_own_is_told_what_to_do(conf: Conf, rsgun: Start) -> None:
    path = conf("class Mine:\n    pass\n\nworker_class = Mine\n")
    message = failing(rsgun("-c", path, "main:app", wait=False))
    assert f"{path}, line 4: worker_class: `__config__.Mine` is none that rsgun knows" in message
    assert "leave `worker-class` out" in message


@pytest.mark.parametrize("place", ["file", "flag"])
def test_a_daemon_cannot_keep_the_terminal(conf: Conf, rsgun: Start, place: str) -> None:
    path = conf(f"wsgi_app = 'main:app'\nenable_stdio_inheritance = {place == 'file'}\n")
    flags = ["-R"] if place == "flag" else []
    message = failing(rsgun("-c", path, "--daemon", *flags, wait=False))
    origin = f"{path}, line 2: enable_stdio_inheritance"
    origin = origin if place == "file" else "--enable-stdio-inheritance"
    assert f"{origin}: a daemon holds on to no terminal: name a file with --error-log" in message


def test_a_log_file_that_cannot_be_opened(conf: Conf, rsgun: Start) -> None:
    path = conf("bind = '127.0.0.1:0'\nwsgi_app = 'main:app'\nerrorlog = '/nowhere/e.log'\n")
    message = failing(rsgun("-c", path, wait=False))
    assert f"{path}, line 3: errorlog: cannot open the log file /nowhere/e.log: No such" in message
    conf("bind = '127.0.0.1:0'\nwsgi_app = 'main:app'\n")
    server = rsgun("-c", path)
    conf("bind = '127.0.0.1:0'\nwsgi_app = 'main:app'\n\naccesslog = '/nowhere/a.log'\n")
    server.send_signal(signal.SIGHUP)
    server.wait_for_line(f"{path}, line 4: accesslog: cannot open the log file /nowhere/a.log")


@pytest.mark.parametrize("how", [name for name in BAD if name not in ("died", "killed")])
def test_bad_file_at_a_reload(conf: Conf, rsgun: Start, how: str) -> None:
    """The old ones serve on, and a good file is taken afterwards."""
    good = "bind = '127.0.0.1:0'\nwsgi_app = 'main:app'\nworkers = 2"
    server = rsgun("-c", conf(good))
    server.tolerates_tracebacks = True
    before = {worker.pid for worker in server.wait_for_workers(2)}
    text, words = BAD[how]
    conf(text)
    since = server.output.mark()
    server.send_signal(signal.SIGHUP)
    server.wait_for_line("Reload failed, generation 1 stays", since=since)
    for word in words:
        server.wait_for_line(word.replace("(", r"\(").replace("?", r"\?"), since=since)
    server.wait_for_generation(1, 2)
    assert {worker.pid for worker in server.workers()} == before
    assert server.get().status == 200
    conf(good + "\nproc_name = 'mended'")
    server.send_signal(signal.SIGHUP)
    eventually(
        lambda: len(server.titled(r"worker \d \[mended, gen 3\]")) == 2, "the good file", BOOT
    )
    assert server.get().status == 200
