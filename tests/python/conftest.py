"""The fixtures: servers that clean up after themselves and explain their failures."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from harness.browser import Browser
from harness.disk import Disk, compile_disk
from harness.server import Server, serving
from harness.target import APPS, TARGET, NothingToTest, binary, lay_out_package
from harness.terminal import Terminal
from harness.waiting import BOOT

pytest_plugins = [
    "harness.about",
    "harness.conf",
    "harness.hooks",
    "harness.kinds",
    "harness.upgrades",
]
"""Fixtures that belong to a subject are beside what else is known of it."""

Serve = Callable[..., Server]

SERVERS: pytest.StashKey[list[Server]] = pytest.StashKey()


def pytest_configure(config: pytest.Config) -> None:
    """Finds the binary before the first test, so that a missing one is said once."""
    # Whoever runs the tests in the background may have them ignored, and a server that
    # inherits that behaves as it should under `nohup`.
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    if TARGET == "rsgun" and not config.option.collectonly:
        try:
            binary()
        except NothingToTest as missing:
            pytest.exit(str(missing), 2)


def pytest_report_header() -> str:
    """Says what is tested."""
    where = f" ({binary()})" if TARGET == "rsgun" else ""
    return f"server under test: {TARGET}{where}, python: {sys.executable}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Adds the output of every server that took part to the report of a failure."""
    report = yield
    if report.failed:
        for server in item.stash.get(SERVERS, []):
            report.sections.append((f"server {server.pid}", server.report()))
    return report


def remember(node: pytest.Item, server: Server) -> None:
    """Ties a server to a test, for its failure report."""
    node.stash.setdefault(SERVERS, []).append(server)


@pytest.fixture
def launch(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts any command line and returns at once; checks the clean end of each."""
    started: list[Server] = []

    def start(arguments: Sequence[str], *, cwd: Path | None = None, **more: object) -> Server:
        server = Server(arguments, cwd=cwd or tmp_path, **more)  # type: ignore[arg-type]
        started.append(server)
        remember(request.node, server)
        return server

    yield start
    wrong = []
    for server in reversed(started):
        wrong += [f"server {server.pid}: {problem}" for problem in server.close()]
    if wrong:
        pytest.fail("\n".join(wrong), pytrace=False)


@pytest.fixture
def serve(launch: Callable[..., Server]) -> Serve:
    """Starts the server under test with an application, and waits until it runs."""

    def start(
        app: str | None,
        *arguments: str,
        python: str | None = None,
        wait: bool = True,
        environment: Mapping[str, str] | None = None,
        **more: object,
    ) -> Server:
        server = launch(serving(app, *arguments, python=python), environment=environment, **more)
        return server.wait_until_running() if wait else server

    return start


@pytest.fixture(scope="session")
def _shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[tuple[str, ...], Server]]:
    """The servers that several tests use, by their arguments."""
    servers: dict[tuple[str, ...], Server] = {}
    yield servers
    wrong = []
    for key, server in servers.items():
        if TARGET != "rsgun":
            # What a test that this server fails has left hanging is not its business.
            server.kill()
            continue
        server.tolerates_tracebacks = True
        problems = [f"shared server {key}: {problem}" for problem in server.close()]
        wrong += [*problems, server.report()] if problems else []
    if wrong:
        pytest.fail("\n".join(wrong), pytrace=False)


@pytest.fixture
def shared(
    request: pytest.FixtureRequest,
    _shared: dict[tuple[str, ...], Server],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Serve]:
    """A running server that other tests use too; it must survive each of them.

    The test may not change its state. It may set ``tolerates_tracebacks`` on it,
    which holds for that test.
    """
    used: list[tuple[tuple[str, ...], Server, int]] = []

    def get(app: str, *arguments: str) -> Server:
        key = (app, *arguments)
        server = _shared.get(key)
        if server is None or server.process.poll() is not None:
            server = Server(serving(app, *arguments), cwd=tmp_path_factory.mktemp("shared"))
            remember(request.node, server)
            try:
                server.wait_until_running()
            except BaseException:
                server.kill()
                raise
            _shared[key] = server
        else:
            remember(request.node, server)
        server.tolerates_tracebacks = False
        used.append((key, server, server.output.mark()))
        return server

    yield get
    wrong = []
    for key, server, mark in used:
        if server.process.poll() is not None:
            wrong.append(f"the shared server {key} ended with {server.process.poll()}")
            server.kill()
            del _shared[key]
        elif not server.tolerates_tracebacks:
            wrong += [f"unexpected output: {line}" for line in server.noise(mark)]
    if wrong:
        pytest.fail("\n".join(wrong), pytrace=False)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser; each test opens pages of its own."""
    started = Browser(tmp_path_factory.mktemp("browser"))
    yield started
    started.close()


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the server to its end, for everything that is over by itself."""

    def to_its_end(
        app: str | None, *arguments: str, deadline: float = BOOT, **more: object
    ) -> subprocess.CompletedProcess[str]:
        server = Server(
            serving(app, *arguments),
            cwd=more.pop("cwd", tmp_path),  # type: ignore[arg-type]
            **more,  # type: ignore[arg-type]
        )
        try:
            code = server.wait(deadline)
            assert not server.leftovers(), f"left behind: {server.leftovers()}\n{server.report()}"
        finally:
            server.kill()
        return subprocess.CompletedProcess(
            server.arguments,
            code,
            "\n".join(server.lines("stdout")),
            "\n".join(server.lines("stderr")),
        )

    return to_its_end


@pytest.fixture
def module(tmp_path: Path) -> Callable[[str, str], Path]:
    """Writes a Python module into the directory of the test and returns its path."""

    def write(name: str, source: str) -> Path:
        path = tmp_path / f"{name}.py"
        path.write_text(source)
        return path

    return write


@pytest.fixture(scope="session")
def _disk_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_disk(tmp_path_factory.mktemp("disk"))


@pytest.fixture
def disk(_disk_library: Path, tmp_path: Path) -> Disk:
    """A disk that is as slow as the test wants."""
    return Disk(_disk_library, tmp_path / "disk")


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The variables with which a Python program can import rsgun."""
    return lay_out_package(tmp_path_factory.mktemp("package"))


@pytest.fixture
def program(
    launch: Callable[..., Server],
    module: Callable[[str, str], Path],
    package: dict[str, str],
) -> Callable[..., Server]:
    """Starts a Python program, given by its source, that imports rsgun."""

    def start(
        source: str,
        *arguments: str,
        python: str = sys.executable,
        environment: Mapping[str, str] | None = None,
        wait: bool = True,
        **more: object,
    ) -> Server:
        path = module("main", source)
        line = [python, "-X", "dev", "-W", "error", str(path), *arguments]
        server = launch(line, environment={**package, **(environment or {})}, **more)
        return server.wait_until_running() if wait else server

    return start


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    """Runs a command line in a terminal of its own."""
    opened: list[Terminal] = []

    def open_with(*line: str) -> Terminal:
        opened.append(Terminal(list(line), tmp_path))
        return opened[-1]

    yield open_with
    for each in opened:
        each.end()


@pytest.fixture
def apps() -> Path:
    """The directory of the applications."""
    return APPS
