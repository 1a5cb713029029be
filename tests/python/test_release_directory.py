"""The directory in which rsgun was started, by its name: a deployment leads that elsewhere."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.marks import rsgun_only
from harness.server import Server
from harness.sources import versioned
from harness.target import command
from harness.waiting import eventually

pytestmark = rsgun_only

Launch = Callable[..., Server]

RELOADED = r"^INFO: .*Reload complete"
FAILED = r"^ERROR: .*Reload failed"

CONFIGURATIONS = {
    "rsgun.toml": 'name = "{name}"\n',
    "gunicorn.conf.py": 'proc_name = "{name}"\n',
}


class Releases:
    """Releases, each a directory with all that a server needs, and the link to one of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.current = folder / "current"

    def make(self, name: str) -> None:
        release = self.folder / name
        (release / "source").mkdir(parents=True)
        top = "VERSION += '+' + os.environ['INTERPRETER']"
        (release / "source" / "main.py").write_text(versioned(name, top=top))
        for file, text in CONFIGURATIONS.items():
            (release / file).write_text(text.format(name=name))
        interpreter = release / "python3"
        interpreter.write_text(f'#!/bin/sh\nINTERPRETER={name} exec "{sys.executable}" "$@"\n')
        interpreter.chmod(0o755)

    def lead_to(self, name: str) -> None:
        link = self.folder / "link"
        link.symlink_to(name)
        link.replace(self.current)


@pytest.fixture
def releases(tmp_path: Path) -> Releases:
    """Two releases, of which ``one`` is current."""
    made = Releases(tmp_path)
    for name in ("one", "two"):
        made.make(name)
    made.lead_to("one")
    return made


def start(launch: Launch, directory: Path, *arguments: str) -> Server:
    """Starts a server in a directory by its name, as a shell does it after ``cd``."""
    line = command("main:app", "--app-dir", "source", python="./python3")
    server = launch(
        [*line, "-b", "127.0.0.1:0", *arguments],
        cwd=directory,
        environment={"PWD": str(directory)},
    )
    server.wait_until_running()
    return server


def send(server: Server, number: int) -> int:
    """Sends a signal; returns where the output about it begins."""
    since = server.output.mark()
    server.send_signal(number)
    return since


@pytest.mark.parametrize("loads", [(), ("--preload",)], ids=["plain", "preload"])
@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_reload_goes_where_the_link_leads(
    launch: Launch, releases: Releases, configuration: str, loads: tuple[str, ...]
) -> None:
    """Code, interpreter, configuration, log file and pidfile are those of the new release."""
    files = ("--pid", "app.pid", "--access-logfile", "access.log")
    server = start(launch, releases.current, "-c", configuration, *files, *loads)
    assert server.get().text.startswith("one+one ")
    old, new = releases.folder / "one", releases.folder / "two"
    assert (old / "access.log").exists() and (old / "app.pid").exists()
    releases.lead_to("two")
    server.wait_for_line(RELOADED, since=send(server, signal.SIGHUP))
    server.wait_for_workers(1)
    assert server.get("/of-two").text.startswith("two+two ")
    assert server.titled(r"worker 1 \[two, gen 2\]")
    eventually(lambda: "/of-two" in (new / "access.log").read_text(), "the line in the new log")
    assert int((new / "app.pid").read_text()) == server.pid
    server.stop()
    assert not (new / "app.pid").exists()


def test_release_of_before_may_be_removed(launch: Launch, releases: Releases) -> None:
    server = start(launch, releases.current)
    releases.lead_to("two")
    shutil.rmtree(releases.folder / "one")
    server.wait_for_line(RELOADED, since=send(server, signal.SIGHUP))
    assert server.get().text.startswith("two+two ")


def test_next_fork_server_is_started_where_the_link_leads(
    launch: Launch, releases: Releases
) -> None:
    """Also without a reload: the directory of before may be gone."""
    server = start(launch, releases.current)
    releases.lead_to("two")
    shutil.rmtree(releases.folder / "one")
    [fork_server] = server.fork_servers()
    fork_server.send_signal(signal.SIGKILL)
    [worker] = server.workers()
    worker.send_signal(signal.SIGKILL)
    server.wait_for_generation(2, 1)
    assert server.get().text.startswith("two+two ")


GONE = r"the directory {} does not exist any more, in which this server was started"


@pytest.mark.parametrize("configuration", [(), ("-c", "rsgun.toml"), ("-c", "gunicorn.conf.py")])
def test_missing_directory_is_named_and_the_old_workers_stay(
    launch: Launch, releases: Releases, configuration: tuple[str, ...]
) -> None:
    server = start(launch, releases.current, *configuration)
    before = server.workers()
    releases.current.unlink()
    since = send(server, signal.SIGHUP)
    server.wait_for_line(FAILED, since=since)
    server.wait_for_line(GONE.format(re.escape(str(releases.current))), since=since)
    assert server.get().text.startswith("one+one ")
    assert [worker.pid for worker in server.workers()] == [worker.pid for worker in before]
    releases.lead_to("two")
    server.wait_for_line(RELOADED, since=send(server, signal.SIGHUP))
    assert server.get().text.startswith("two+two ")


def test_fork_server_waits_for_a_missing_directory(launch: Launch, releases: Releases) -> None:
    server = start(launch, releases.current)
    releases.current.unlink()
    [fork_server] = server.fork_servers()
    since = server.output.mark()
    fork_server.send_signal(signal.SIGKILL)
    [worker] = server.workers()
    worker.send_signal(signal.SIGKILL)
    place = re.escape(str(releases.current))
    server.wait_for_line(rf"cannot change to the directory {place}, in which", since=since)
    releases.lead_to("two")
    eventually(server.workers, "a worker again", 30)
    server.wait_for_workers(1)
    assert server.get().text.startswith("two+two ")


def test_upgrade_names_a_missing_directory(launch: Launch, releases: Releases) -> None:
    server = start(launch, releases.current)
    releases.current.unlink()
    since = send(server, signal.SIGUSR2)
    place = re.escape(str(releases.current))
    server.wait_for_line(rf"^ERROR: .*cannot change to the directory {place}", since=since)
    assert server.get().text.startswith("one+one ")


def test_with_another_directory_to_change_to_the_first_one_does_not_matter(
    launch: Launch, releases: Releases, tmp_path: Path
) -> None:
    """Where the server was started may be a directory that is there for a moment only."""
    here = tmp_path / "here"
    here.mkdir()
    interpreter = ("--python", str(releases.current / "python3"))
    server = start(launch, here, "--chdir", str(releases.current), *interpreter)
    assert server.get().text.startswith("one+one ")
    releases.lead_to("two")
    here.rmdir()
    server.wait_for_line(RELOADED, since=send(server, signal.SIGHUP))
    assert server.get().text.startswith("two+two ")
    server.wait_for_generation(2, 1)
    [fork_server] = server.fork_servers()
    fork_server.send_signal(signal.SIGKILL)
    [worker] = server.workers()
    worker.send_signal(signal.SIGKILL)
    server.wait_for_generation(3, 1)
    assert os.readlink(f"/proc/{server.workers()[0].pid}/cwd") == str(releases.folder / "two")


def test_file_of_python_is_evaluated_in_the_first_one(
    launch: Launch, releases: Releases, tmp_path: Path
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    file = tmp_path / "conf.py"
    file.write_text(f'chdir = "{releases.current}"\n')
    interpreter = ("--python", str(releases.current / "python3"))
    server = start(launch, here, "-c", str(file), *interpreter)
    here.rmdir()
    since = send(server, signal.SIGHUP)
    place = re.escape(str(here))
    server.wait_for_line(rf"{FAILED}.*cannot change to the directory {place}", since=since)
    assert server.get().text.startswith("one+one ")
