"""Settings: what each does."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.marks import differs, rsgun_only
from harness.server import Server, free_port, is_listening, serving
from harness.sources import versioned
from harness.target import TARGET, command
from harness.waiting import eventually

Serve = Callable[..., Server]
Module = Callable[[str, str], Path]


def body(server: Server, path: str = "/") -> str:
    return server.get(path).text


PROBE = """
import asyncio
import os
import sys

async def app(scope, receive, send):
    assert scope["type"] == "http"
    loop = type(asyncio.get_running_loop())
    body = {
        "/loop": f"{loop.__module__}.{loop.__name__}",
        "/cwd": os.getcwd(),
        "/argv": repr(sys.argv),
        "/path": sys.path[0],
        "/main": repr(getattr(sys.modules.get("__main__"), "__file__", None)),
        "/environment": os.environ.get("TEST_VALUE", ""),
    }[scope["path"]].encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
"""


@pytest.fixture
def probe(serve: Serve, module: Module, tmp_path: Path) -> Serve:
    def start(*arguments: str, **more: object) -> Server:
        module("probe", PROBE)
        return serve("probe:app", "--app-dir", str(tmp_path), *arguments, **more)

    return start


class TestLoop:
    def test_asyncio(self, probe: Serve) -> None:
        assert body(probe("--loop", "asyncio"), "/loop").startswith("asyncio.")

    def test_uvloop(self, probe: Serve) -> None:
        assert body(probe("--loop", "uvloop"), "/loop") == "uvloop.Loop"

    def test_auto_takes_uvloop_where_it_is_installed(self, probe: Serve) -> None:
        assert body(probe(), "/loop") == "uvloop.Loop"

    @rsgun_only
    def test_auto_without_uvloop(self, probe: Serve, tmp_path: Path) -> None:
        (tmp_path / "uvloop.py").write_text("raise ImportError('not for this platform')\n")
        environment = {"PYTHONPATH": str(tmp_path)}
        assert body(probe(environment=environment), "/loop").startswith("asyncio.")

    def test_factory(self, probe: Serve, module: Module) -> None:
        module(
            "loops",
            "import asyncio\n\n\nclass Mine(asyncio.SelectorEventLoop):\n    pass\n",
        )
        assert body(probe("--loop", "loops:Mine"), "/loop") == "loops.Mine"

    @rsgun_only
    @pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
    def test_protocol_on_each_loop(self, serve: Serve, loop: str) -> None:
        server = serve("lab:app", "--loop", loop)
        with server.connect() as connection:
            for path, expected in [("/ping", b"pong"), ("/slow?10", b"slept 10")]:
                assert connection.get(path).body == expected
            assert (
                connection.get("/echo", method="POST", body=b"x" * 300_000).body == b"x" * 300_000
            )
            assert connection.get("/stream").framing == "chunked"
            assert len(connection.get("/one-big-message").body) == 16 << 20


class TestLifespan:
    REFUSES = """
async def app(scope, receive, send):
    assert scope["type"] == "http", "only http here"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": repr("state" in scope).encode()})
"""

    def test_auto_accepts_an_application_without(
        self, serve: Serve, module: Module, tmp_path: Path
    ) -> None:
        module("main", self.REFUSES)
        server = serve("main:app", "--app-dir", str(tmp_path))
        assert server.get().status == 200

    @rsgun_only
    def test_on_refuses_an_application_without(
        self, serve: Serve, module: Module, tmp_path: Path
    ) -> None:
        module("main", self.REFUSES)
        server = serve("main:app", "--app-dir", str(tmp_path), "--lifespan", "on", wait=False)
        server.tolerates_tracebacks = True
        assert server.wait() == 3
        assert "only http here" in server.report()

    def test_off_does_not_ask(self, serve: Serve, module: Module, tmp_path: Path) -> None:
        module("main", versioned("1", startup="raise RuntimeError('asked')"))
        server = serve("main:app", "--app-dir", str(tmp_path), "--lifespan", "off")
        assert server.get().text.startswith("1 ")
        assert "asked" not in server.report()

    def test_startup_is_complete_before_the_first_request(
        self, serve: Serve, module: Module, tmp_path: Path
    ) -> None:
        startup = "await asyncio.sleep(0.2); globals().__setitem__('VERSION', 'started')"
        module("main", versioned("too early", startup=startup))
        server = serve("main:app", "--app-dir", str(tmp_path))
        assert server.get().text.startswith("started ")

    def test_application_that_returns_from_lifespan_at_once(
        self, serve: Serve, module: Module, tmp_path: Path
    ) -> None:
        module(
            "main",
            """
async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})
""",
        )
        server = serve("main:app", "--app-dir", str(tmp_path))
        assert server.get().body == b"ok"

    def test_scope_of_the_lifespan(self, serve: Serve, module: Module, tmp_path: Path) -> None:
        startup = "print(sorted(scope), scope['asgi']['version'], scope['state'], flush=True)"
        module("main", versioned("1", startup=startup))
        server = serve("main:app", "--app-dir", str(tmp_path))
        server.wait_for_line(r"^\['asgi', ('extensions', )?'state', 'type'\] 3\.0 \{\}$")

    def test_runs_in_the_same_task_from_start_to_stop(
        self, serve: Serve, module: Module, tmp_path: Path
    ) -> None:
        """anyio's cancel scopes and contextvars demand it."""
        module(
            "main",
            versioned(
                "1",
                top="import contextvars; seen = contextvars.ContextVar('seen')",
                startup="seen.set('kept'); global task; task = asyncio.current_task()",
                shutdown="print(seen.get(), task is asyncio.current_task(), flush=True)",
            ),
        )
        server = serve("main:app", "--app-dir", str(tmp_path))
        server.stop()
        assert "kept True" in server.lines("stdout")

    def test_background_task_of_the_lifespan_lives(
        self, serve: Serve, module: Module, tmp_path: Path
    ) -> None:
        top = (
            "ticks = 0\n"
            "async def tick():\n"
            "    global ticks, VERSION\n"
            "    while True:\n"
            "        await asyncio.sleep(0.01)\n"
            "        ticks += 1\n"
            "        VERSION = f'ticks-{ticks}'\n"
        )
        module("main", versioned("1", top=top, startup="app.task = asyncio.create_task(tick())"))
        server = serve("main:app", "--app-dir", str(tmp_path))

        def ticks() -> int:
            return int(server.get().text.split()[0].removeprefix("ticks-"))

        first = eventually(ticks, "a tick")
        eventually(lambda: ticks() > first + 5, "more ticks without requests between")


class TestPlaces:
    def test_app_dir(self, serve: Serve, tmp_path: Path) -> None:
        folder = tmp_path / "code"
        folder.mkdir()
        (folder / "main.py").write_text(versioned("here"))
        assert body(serve("main:app", "--app-dir", str(folder))).startswith("here ")

    @rsgun_only
    def test_current_directory_by_default(
        self, launch: Callable[..., Server], module: Module
    ) -> None:
        module("main", versioned("current"))
        server = launch(command("main:app", "--port", "0")).wait_until_running()
        assert body(server).startswith("current ")

    @rsgun_only
    def test_chdir(self, probe: Serve, tmp_path: Path) -> None:
        folder = tmp_path / "elsewhere"
        folder.mkdir()
        server = probe("--chdir", str(folder))
        assert body(server, "/cwd") == str(folder)

    def test_app_dir_is_first_on_the_path(self, probe: Serve, tmp_path: Path) -> None:
        assert body(probe(), "/path") == str(tmp_path)

    @rsgun_only
    def test_users_module_with_a_name_of_the_standard_library(
        self, serve: Serve, tmp_path: Path
    ) -> None:
        """A token.py beside the application must not break the interpreter's start."""
        for name in ("token", "types", "socket", "json", "signal", "asyncio", "rsgun"):
            (tmp_path / f"{name}_of_mine.py").touch()
        (tmp_path / "token.py").write_text("raise RuntimeError('wrong token')\n")
        (tmp_path / "types.py").write_text("raise RuntimeError('wrong types')\n")
        (tmp_path / "main.py").write_text(versioned("1"))
        server = serve("main:app", "--app-dir", str(tmp_path))
        assert body(server).startswith("1 ")

    def test_packages(self, serve: Serve, tmp_path: Path) -> None:
        package = tmp_path / "shop" / "web"
        package.mkdir(parents=True)
        (tmp_path / "shop" / "__init__.py").touch()
        (package / "__init__.py").touch()
        (package / "asgi.py").write_text(versioned("package"))
        assert body(serve("shop.web.asgi:app", "--app-dir", str(tmp_path))).startswith("package ")

    def test_nested_attribute(self, serve: Serve, module: Module, tmp_path: Path) -> None:
        module("main", versioned("nested") + "\n\nclass api:\n    inner = staticmethod(app)\n")
        server = serve("main:api.inner", "--app-dir", str(tmp_path))
        assert body(server).startswith("nested ")

    def test_environment_reaches_the_application(self, probe: Serve) -> None:
        server = probe(environment={"TEST_VALUE": "given"})
        assert body(server, "/environment") == "given"


class TestApplicationForms:
    def test_factory(self, serve: Serve, module: Module, tmp_path: Path) -> None:
        module("main", versioned("made") + "\n\ndef make():\n    return app\n")
        assert body(serve("main:make", "--app-dir", str(tmp_path), "--factory")).startswith("made ")

    def test_object_with_call(self, serve: Serve, module: Module, tmp_path: Path) -> None:
        module(
            "main",
            versioned("object").replace("async def app(", "async def function(")
            + "\n\nclass Application:\n    async def __call__(self, scope, receive, send):\n"
            "        await function(scope, receive, send)\n\n\napp = Application()\n",
        )
        assert body(serve("main:app", "--app-dir", str(tmp_path))).startswith("object ")

    @differs("uvicorn", "takes a partial for an ASGI 2 application")
    def test_partial(self, serve: Serve, module: Module, tmp_path: Path) -> None:
        module(
            "main",
            versioned("partial").replace("async def app(scope", "async def function(extra, scope")
            + "\n\nimport functools\n\napp = functools.partial(function, 1)\n",
        )
        assert body(serve("main:app", "--app-dir", str(tmp_path))).startswith("partial ")


class TestLogLevel:
    @pytest.mark.parametrize("level", ["critical", "error", "warning"])
    def test_quiet(self, serve: Serve, level: str) -> None:
        if TARGET != "rsgun":
            pytest.skip("uvicorn does not tell its address then")
        port = free_port()
        server = serve("lab:app", "-b", f"127.0.0.1:{port}", "--log-level", level, wait=False)
        eventually(lambda: is_listening(port), "it listens")
        assert server.get("/ping", address=("127.0.0.1", port)).body == b"pong"
        server.stop()
        assert not [line for line in server.lines("stderr") if line.startswith("INFO")]

    @pytest.mark.parametrize("level", ["info", "debug"])
    def test_debug_says_more(self, serve: Serve, level: str) -> None:
        server = serve("lab:app", "--log-level", level)
        assert server.get("/ping").body == b"pong"
        assert server.stop() == 0
        more = [line for line in server.lines("stderr") if line.startswith("DEBUG:    ")]
        if level == "debug":
            assert any("Worker 1" in line and "exited with code 0" in line for line in more), more
        else:
            assert not more

    def test_logging_of_the_application_is_its_own(
        self, serve: Serve, module: Module, tmp_path: Path
    ) -> None:
        """The server does not touch the root logger."""
        top = (
            "import logging\n"
            "logging.basicConfig(level=logging.INFO, format='APP %(message)s')\n"
            "logging.getLogger('mine').info('at import')\n"
        )
        module("main", versioned("1", top=top))
        server = serve("main:app", "--app-dir", str(tmp_path))
        server.wait_for_line("^APP at import$", stream="stderr")


@rsgun_only
class TestKeepAlive:
    def test_idle_connection_is_closed(self, serve: Serve) -> None:
        server = serve("lab:app", "--keep-alive", "1")

        def lasts() -> float:
            with server.connect() as connection:
                began = time.monotonic()
                connection.get("/ping")
                assert connection.ended()
                return time.monotonic() - began

        # Whatever else the machine does, one of several is in time; by default it is 5 s.
        assert any(1 <= lasts() < 4 for _ in range(3))

    def test_0_closes_after_each_answer(self, serve: Serve) -> None:
        server = serve("lab:app", "--keep-alive", "0")
        with server.connect() as connection:
            assert connection.get("/ping").closes
            assert connection.ended()

    def test_request_that_takes_longer_is_not_idle(self, serve: Serve) -> None:
        server = serve("lab:app", "--keep-alive", "1")
        with server.connect() as connection:
            assert connection.get("/slow?2200").text == "slept 2200"

    def test_stream_that_pauses_longer_is_not_idle(self, serve: Serve) -> None:
        server = serve("lab:app", "--keep-alive", "1")
        with server.connect() as connection:
            connection.request("/first-part-then-wait?pause")
            response = connection.head()
            connection.silent(2.2)
            assert server.get("/release?pause").status == 200
            connection.body(response)
            assert response.body == b"firstsecond"


def test_python_warnings_of_the_server_itself(serve: Serve) -> None:
    """The server's own Python code raises no warning, whatever the user's filter."""
    server = serve("lab:app", environment={"PYTHONWARNINGS": "error", "PYTHONDEVMODE": "1"})
    assert server.get("/ping").body == b"pong"
    assert server.get("/stream").status == 200
    server.stop()
    assert not [line for line in server.lines("stderr") if "Warning" in line]


@rsgun_only
def test_standard_input_is_left_alone(launch: Callable[..., Server]) -> None:
    """A server in a pipe must not eat what is meant for others."""
    reader, writer = os.pipe()
    os.write(writer, b"for somebody else")
    server = launch(serving("lab:app"), stdin=reader)
    server.wait_until_running()
    assert server.get("/ping").body == b"pong"
    server.stop()
    assert os.read(reader, 100) == b"for somebody else"
    os.close(reader)
    os.close(writer)
