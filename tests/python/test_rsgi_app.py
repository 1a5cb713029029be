"""RSGI applications as a whole: what one is, how it begins and ends, and what it imports."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.marks import rsgun_only
from harness.server import Server
from harness.waiting import eventually

pytestmark = rsgun_only

Serve = Callable[..., Server]
Run = Callable[..., subprocess.CompletedProcess[str]]


class TestLife:
    def test_init_and_del_frame_it(self, serve: Serve) -> None:
        server = serve("rsgi_lab:app")
        assert server.get("/").text == "hello"
        assert server.stop() == 0
        lines = server.lines("stdout")
        assert [line for line in lines if "the loop runs" in line] == [
            "init: the loop runs: False",
            "del: the loop runs: False",
        ]

    @pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["plain", "preload"])
    def test_reload(self, serve: Serve, tmp_path: Path, preload: tuple[str, ...]) -> None:
        source = (
            "import asyncio\n\n\nasync def app(scope, protocol):\n"
            "    if scope.path == '/slow':\n        await asyncio.sleep(0.5)\n"
            "    protocol.response_str(200, [], {!r})\n"
        )
        main = tmp_path / "main.py"
        main.write_text(source.format("first"))
        server = serve("main:app", "--app-dir", str(tmp_path), "-w", "2", *preload)
        server.wait_for_workers(2)
        main.write_text(source.format("second"))
        with server.connect() as connection:
            connection.request("/slow")
            server.send_signal(signal.SIGHUP)
            assert connection.response().text == "first"
        server.wait_for_generation(2, 2)
        assert server.get("/").text == "second"

    def test_stop_finishes_what_has_begun(self, serve: Serve) -> None:
        server = serve("rsgi_lab:app")
        with server.connect() as connection:
            connection.request("/head-first")
            head = connection.head()
            with server.connect() as other:
                other.request("/scope")
                other.response()
                server.send_signal(signal.SIGTERM)
                server.wait_for_line("Shutting down")
                other.request("/release")
                assert other.response().status == 204
            connection.body(head)
            assert head.body == b"rest"
        assert server.wait() == 0

    def test_failing_init_ends_the_server(self, serve: Serve, tmp_path: Path) -> None:
        (tmp_path / "main.py").write_text(
            "class App:\n"
            "    def __rsgi_init__(self, loop):\n        raise OSError('no database')\n\n"
            "    async def __rsgi__(self, scope, protocol):\n        pass\n\n\napp = App()\n"
        )
        server = serve("main:app", "--app-dir", str(tmp_path), wait=False)
        server.tolerates_tracebacks = True
        assert server.wait() == 3
        told = "\n".join(server.lines("stderr"))
        assert "__rsgi_init__ has raised" in told
        assert "OSError: no database" in told
        assert "<rsgun/" not in told, "frames of the server are nobody's business"

    def test_failing_del_is_told(self, serve: Serve, tmp_path: Path) -> None:
        (tmp_path / "main.py").write_text(
            "class App:\n"
            "    def __rsgi_del__(self, loop):\n        raise OSError('still there')\n\n"
            "    async def __rsgi__(self, scope, protocol):\n        pass\n\n\napp = App()\n"
        )
        server = serve("main:app", "--app-dir", str(tmp_path))
        server.tolerates_tracebacks = True
        assert server.stop() == 0
        assert "OSError: still there" in "\n".join(server.lines("stderr"))

    def test_coroutines_may_frame_it(self, serve: Serve, tmp_path: Path) -> None:
        (tmp_path / "main.py").write_text(
            "class App:\n"
            "    async def __rsgi_init__(self, loop):\n        self.text = 'made'\n\n"
            "    async def __rsgi_del__(self, loop):\n        print('unmade', flush=True)\n\n"
            "    async def __rsgi__(self, scope, protocol):\n"
            "        protocol.response_str(200, [], self.text)\n\n\napp = App()\n"
        )
        server = serve("main:app", "--app-dir", str(tmp_path))
        assert server.get("/").text == "made"
        assert server.stop() == 0
        assert "unmade" in server.lines("stdout")

    def test_requests_are_counted(self, serve: Serve) -> None:
        server = serve("rsgi_lab:app", "--max-requests", "3")
        [first] = server.wait_for_workers(1)
        for _ in range(3):
            assert server.get("/").text == "hello"
        eventually(
            lambda: [worker.pid for worker in server.workers()] not in ([first.pid], []),
            "another worker",
        )
        assert server.get("/").text == "hello"


class TestInterface:
    @pytest.mark.parametrize(
        ("app", "arguments", "text"),
        [
            ("app", [], "hello"),
            ("plain", [], "plain"),
            ("plain", ["--interface", "rsgi"], "plain"),
            ("nameless", ["--interface", "rsgi"], "plain"),
            ("both", [], "hello"),
            ("both", ["--interface", "asgi"], "as ASGI"),
            ("both", ["-k", "uvicorn.workers.UvicornWorker"], "as ASGI"),
            ("Lab", ["--factory"], "hello"),
        ],
    )
    def test_is_found(self, serve: Serve, app: str, arguments: list[str], text: str) -> None:
        assert serve(f"rsgi_lab:{app}", *arguments).get("/").text == text

    @pytest.mark.parametrize(
        ("source", "arguments", "said"),
        [
            ("async def app(scope, receive, send): ...", ["--interface", "rsgi"], "an RSGI"),
            ("def app(environ, start_response): ...", ["--interface", "rsgi"], "a WSGI"),
            ("async def app(scope, protocol): ...", ["--interface", "asgi3"], "an ASGI 3"),
            ("async def app(scope, protocol): ...", ["-k", "asgi"], "an ASGI"),
            ("async def app(one, two): ...", [], "--interface asgi3, asgi2, rsgi or wsgi"),
            (
                "class app:\n    async def __rsgi__(self, scope, protocol): ...",
                ["--interface", "rsgi"],
                "--factory",
            ),
            ("app = 3", ["--interface", "rsgi"], "cannot be called"),
        ],
    )
    def test_is_refused(
        self, run: Run, tmp_path: Path, source: str, arguments: list[str], said: str
    ) -> None:
        (tmp_path / "main.py").write_text(source + "\n")
        result = run("main:app", "--app-dir", str(tmp_path), *arguments)
        assert result.returncode != 0
        assert said in result.stderr


def test_hooks_see_requests(serve: Serve, tmp_path: Path) -> None:
    conf = tmp_path / "gunicorn.conf.py"
    conf.write_text(
        "def pre_request(worker, request):\n"
        "    print('pre', request.method, request.uri, request.peer_addr[0], flush=True)\n\n\n"
        "def post_request(worker, request, environ, response):\n"
        "    print('post', response.status, response.headers, flush=True)\n"
    )
    server = serve("rsgi_lab:app", "-c", str(conf))
    with server.connect() as connection:
        body = b"body"
        assert connection.get("/echo", method="POST", body=body).body == body
        assert connection.get("/count", method="POST", body=body).text == "[4, false]"
    server.wait_for_line(r"^pre POST /echo 127\.0\.0\.1$")
    server.wait_for_line(r"^post 200 OK \[\]$")


def test_errors_are_importable_and_those_of_granian(
    serve: Serve, package: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "granian").mkdir()
    (tmp_path / "granian" / "__init__.py").write_text("")
    (tmp_path / "granian" / "rsgi.py").write_text(
        "class ProtocolError(RuntimeError): ...\n\n\nclass ProtocolClosed(RuntimeError): ...\n"
    )
    (tmp_path / "main.py").write_text(
        "from granian import rsgi as theirs\n"
        "from rsgun import rsgi as ours\n\n\n"
        "async def app(scope, protocol):\n"
        "    assert isinstance(protocol, ours.HTTPProtocol)\n"
        "    assert isinstance(scope, ours.Scope)\n"
        "    await protocol()\n"
        "    try:\n        await protocol()\n"
        "    except theirs.ProtocolError as error:\n"
        "        text = str(isinstance(error, ours.ProtocolError))\n"
        "    protocol.response_str(200, [], text)\n"
    )
    server = serve("main:app", "--app-dir", str(tmp_path), environment=package)
    assert server.get("/").text == "True"


def test_in_a_program(program: Callable[..., Server]) -> None:
    server = program(
        "import rsgun\n\n\n"
        "class App:\n"
        "    async def __rsgi_init__(self, loop):\n        self.text = 'in a program'\n\n"
        "    def __rsgi_del__(self, loop):\n        print('gone', flush=True)\n\n"
        "    async def __rsgi__(self, scope, protocol):\n"
        "        protocol.response_str(200, [], self.text)\n\n\n"
        "if __name__ == '__main__':\n    rsgun.run(App(), port=0)\n"
    )
    assert server.get("/").text == "in a program"
    assert server.stop() == 0
    assert "gone" in server.lines("stdout")
