"""Where settings come from: which source wins, and what is meant for another server."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.marks import rsgun_only
from harness.server import Server
from harness.sources import versioned
from harness.target import APPS, command
from harness.waiting import eventually

pytestmark = rsgun_only

Serve = Callable[..., Server]
Module = Callable[[str, str], Path]


class TestPrecedence:
    def test_workers_of_the_command_line(self, serve: Serve) -> None:
        server = serve(
            "lab:app", "-w", "2", environment={"WEB_CONCURRENCY": "3", "RSGUN_WORKERS": "4"}
        )
        server.wait_for_workers(2)

    def test_own_variable_before_the_common_one(self, serve: Serve) -> None:
        server = serve("lab:app", environment={"WEB_CONCURRENCY": "3", "RSGUN_WORKERS": "2"})
        server.wait_for_workers(2)

    def test_web_concurrency(self, serve: Serve) -> None:
        serve("lab:app", environment={"WEB_CONCURRENCY": "3"}).wait_for_workers(3)

    def test_empty_variable_counts_as_not_set(self, serve: Serve) -> None:
        serve("lab:app", environment={"WEB_CONCURRENCY": ""}).wait_for_workers(1)

    def test_variable_before_the_file(self, serve: Serve, tmp_path: Path) -> None:
        path = tmp_path / "rsgun.toml"
        path.write_text("workers = 3\n")
        serve("lab:app", "-c", str(path), environment={"RSGUN_WORKERS": "2"}).wait_for_workers(2)

    def test_file(self, serve: Serve, tmp_path: Path) -> None:
        path = tmp_path / "rsgun.toml"
        path.write_text("workers = 2\nroot_path = '/from/file'\naccess-log = false\n")
        server = serve("scope:app", "-c", str(path))
        server.wait_for_workers(2)
        assert "'root_path': '/from/file'" in server.get("/").text

    def test_switch_turned_off_on_the_command_line(self, serve: Serve) -> None:
        server = serve("lab:app", "--no-access-log", environment={"RSGUN_ACCESS_LOG": "true"})
        server.get("/ping")
        server.stop()
        assert not server.lines("stdout")

    def test_file_is_read_again_by_a_reload(self, serve: Serve, tmp_path: Path) -> None:
        path = tmp_path / "rsgun.toml"
        path.write_text("workers = 1\n")
        server = serve("lab:app", "-c", str(path))
        server.wait_for_workers(1)
        path.write_text("workers = 3\n")
        server.send_signal(signal.SIGHUP)
        server.wait_for_generation(2, 3)

    def test_broken_file_leaves_the_server_as_it_is(self, serve: Serve, tmp_path: Path) -> None:
        path = tmp_path / "rsgun.toml"
        path.write_text("workers = 2\n")
        server = serve("lab:app", "-c", str(path))
        before = {worker.pid for worker in server.wait_for_workers(2)}
        path.write_text("workers = 'many'\n")
        since = server.output.mark()
        server.send_signal(signal.SIGHUP)
        server.wait_for_line("^ERROR: .*[Rr]eload", since=since)
        server.wait_for_line(re.escape(str(path)), stream="stderr", since=since)
        assert {worker.pid for worker in server.workers()} == before
        assert server.get("/ping").body == b"pong"

    def test_new_address_after_a_reload(self, serve: Serve, tmp_path: Path) -> None:
        path = tmp_path / "rsgun.toml"
        first, second = tmp_path / "first", tmp_path / "second"
        path.write_text(f"bind = ['unix:{first}']\n")
        server = Server(
            command("lab:app", "-c", str(path), "--app-dir", str(APPS)),
            cwd=tmp_path,
        )
        try:
            server.wait_for_line("running on")
            path.write_text(f"bind = ['unix:{first}', 'unix:{second}']\n")
            server.send_signal(signal.SIGHUP)
            eventually(second.exists, "the new address")
            assert server.get("/ping", address=str(second)).body == b"pong"
            assert server.get("/ping", address=str(first)).body == b"pong"
        finally:
            assert server.close() == []


class TestWhatOthersRead:
    """What is meant for another server is named once, when this one starts."""

    @staticmethod
    def warnings(server: Server) -> list[str]:
        return [line for line in server.lines("stderr") if line.startswith("WARNING")]

    def test_flags_that_ask_for_nothing(self, serve: Serve) -> None:
        server = serve("lab:app", "--http", "auto", "--no-proxy-headers")
        assert server.get("/ping").body == b"pong"
        notes = [line for line in server.lines("stderr") if "is accepted, and not needed" in line]
        assert [note.split()[1] for note in notes] == ["--http", "--no-proxy-headers"]
        assert all(note.startswith("INFO") for note in notes)

    @pytest.mark.parametrize(
        ("variable", "value", "words"),
        [
            ("FORWARDED_ALLOW_IPS", "127.0.0.1", "ProxyHeadersMiddleware"),
            ("GUNICORN_CMD_ARGS", "--workers 4", "a file that `-c` names"),
            ("RSGUN_WORKER", "2", "did you mean RSGUN_WORKERS?"),
            ("UVICORN_WORKERS", "2", "set RSGUN_WORKERS instead"),
            ("UVICORN_RELOAD", "true", "files are not watched yet"),
            ("GRANIAN_SSL_KEYFILE", "key.pem", "let nginx, Caddy or HAProxy"),
        ],
    )
    def test_variable(self, serve: Serve, variable: str, value: str, words: str) -> None:
        server = serve("lab:app", environment={variable: value})
        since = server.output.mark()
        server.send_signal(signal.SIGHUP)
        server.wait_for_line("Reload complete", since=since)
        (warning,) = self.warnings(server)
        assert variable in warning
        assert words in warning

    def test_variables_of_a_service_in_kubernetes(self, serve: Serve) -> None:
        service = {"RSGUN_SERVICE_HOST": "10.0.0.1", "RSGUN_PORT_80_TCP": "tcp://10.0.0.1:80"}
        assert not self.warnings(serve("lab:app", environment=service))

    def test_file_of_gunicorn_in_the_current_directory(
        self, launch: Callable[..., Server], module: Module, tmp_path: Path
    ) -> None:
        module("main", versioned("1"))
        (tmp_path / "gunicorn.conf.py").write_text("workers = 2\n")
        server = launch(command("main:app", "--port", "0")).wait_until_running()
        (warning,) = self.warnings(server)
        assert f"{tmp_path}/gunicorn.conf.py is not read unless it is named" in warning
        assert "`-c gunicorn.conf.py`" in warning
        server.stop()
        named = launch(command("main:app", "--port", "0", "-c", "gunicorn.conf.py"))
        named.wait_until_running()
        named.wait_for_workers(2)
        assert not self.warnings(named)
