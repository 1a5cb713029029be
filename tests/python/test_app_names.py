"""How an application is named: a call, a module, a file, or by the settings of Django."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.marks import rsgun_only
from harness.server import Server

pytestmark = rsgun_only

Serve = Callable[..., Server]
Run = Callable[..., subprocess.CompletedProcess[str]]


class TestCalls:
    @pytest.mark.parametrize(
        ("call", "answer"),
        [
            ("create_app()", "plain False ()"),
            ("create_app('prod', debug=True)", "prod True ()"),
            ("create_app('a:b', values=[1, {'x': None}])", "a:b False [1, {'x': None}]"),
        ],
    )
    def test_with_literal_arguments(
        self, serve: Serve, kinds: Path, call: str, answer: str
    ) -> None:
        server = serve(f"kinds:{call}", "--app-dir", str(kinds))
        assert server.get("/").text == answer

    @pytest.mark.parametrize(
        ("call", "code", "said"),
        [
            ("create_app(name)", 4, "literals"),
            ("create_app(", 4, "neither the name of an attribute nor a call"),
            ("create_app().x", 4, "not a call"),
            ("missing()", 4, "missing"),
            ("create_app(nonsense=1)", 3, "nonsense"),
            ("Holder()", 3, "cannot be called"),
        ],
    )
    def test_others_are_refused(
        self, run: Run, kinds: Path, call: str, code: int, said: str
    ) -> None:
        result = run(f"kinds:{call}", "--app-dir", str(kinds))
        assert (result.returncode, said in result.stderr) == (code, True), result.stderr


class TestModules:
    @pytest.mark.parametrize(
        ("source", "answer"),
        [
            ("from kinds import wsgi as app, asgi3 as application", "asgi3"),
            ("from kinds import wsgi as app", "wsgi"),
        ],
    )
    def test_alone_they_stand_for_application_then_app(
        self, serve: Serve, kinds: Path, source: str, answer: str
    ) -> None:
        (kinds / "alone.py").write_text(source + "\n")
        server = serve("alone", "--app-dir", str(kinds))
        assert server.get("/").text == answer

    def test_neither_is_an_error(self, run: Run, kinds: Path) -> None:
        (kinds / "empty.py").write_text("")
        result = run("empty", "--app-dir", str(kinds))
        assert result.returncode == 4
        assert 'neither "application" nor "app"' in result.stderr


class TestFiles:
    @pytest.mark.parametrize("suffix", ["", ":wsgi", ":Holder.nested"])
    def test_a_path_stands_for_its_module(
        self, serve: Serve, kinds: Path, suffix: str, tmp_path: Path
    ) -> None:
        server = serve(f"{kinds}/kinds.py{suffix}", "--app-dir", ".", cwd=tmp_path)
        assert server.get("/").text == "wsgi"

    def test_a_path_into_a_package(self, serve: Serve, kinds: Path) -> None:
        package = kinds / "src" / "project" / "web"
        package.mkdir(parents=True)
        for folder in (package, package.parent):
            (folder / "__init__.py").write_text("")
        (package.parent / "names.py").write_text("NAME = 'from a package'\n")
        (package / "main.py").write_text(
            "from ..names import NAME\n\n\n"
            "def app(environ, start_response):\n"
            "    start_response('200 OK', [])\n"
            "    return [f'{NAME} {__name__}'.encode()]\n"
        )
        server = serve("src/project/web/main.py", "--app-dir", ".", cwd=kinds)
        assert server.get("/").text == "from a package project.web.main"


class TestDjangoSettings:
    """No application is named, but DJANGO_SETTINGS_MODULE."""

    VARIABLE = "DJANGO_SETTINGS_MODULE"

    @pytest.fixture
    def project(self, kinds: Path) -> Path:
        """A project as Django's template has it, without Django."""
        package = kinds / "project"
        (package / "settings").mkdir(parents=True)
        for folder in (package, package / "settings"):
            (folder / "__init__.py").write_text("")
        (package / "settings" / "base.py").write_text("")
        (package / "wsgi.py").write_text("from kinds import wsgi as application\n")
        (package / "asgi.py").write_text("from kinds import asgi3 as application\n")
        return package

    @pytest.mark.parametrize(
        ("source", "arguments", "kind"),
        [
            ('WSGI_APPLICATION = "kinds.wsgi_instance"', [], "wsgi"),
            ('ASGI_APPLICATION = "kinds.asgi3_instance"', [], "asgi3"),
            ('ASGI_APPLICATION = "kinds.asgi3"; WSGI_APPLICATION = "x.y"', [], "asgi3"),
            ('ASGI_APPLICATION = "x.y"; WSGI_APPLICATION = "kinds.wsgi"', ["-k", "sync"], "wsgi"),
            ('WSGI_APPLICATION = "x.y"', ["--interface", "asgi3"], "asgi3"),
            ("WSGI_APPLICATION = None", [], "wsgi"),
            ("", ["-k", "uvicorn.workers.UvicornWorker"], "asgi3"),
            ("", ["--preload"], "wsgi"),
        ],
    )
    def test_the_application_of_the_project_is_served(
        self, serve: Serve, project: Path, source: str, arguments: list[str], kind: str
    ) -> None:
        (project / "settings" / "base.py").write_text(source)
        server = serve(
            None,
            "--app-dir",
            str(project.parent),
            *arguments,
            environment={self.VARIABLE: "project.settings.base"},
        )
        assert server.get("/").text == kind

    def test_env_names_the_settings_too(self, serve: Serve, project: Path) -> None:
        server = serve(
            None, "--app-dir", str(project.parent), "--env", f"{self.VARIABLE}=project.settings"
        )
        assert server.get("/").text == "wsgi"
        [master] = server.titled("^rsgun: master")
        assert f"[{self.VARIABLE}=project.settings]" in master.title

    def test_asgi_is_served_where_there_is_no_wsgi(self, serve: Serve, project: Path) -> None:
        (project / "wsgi.py").unlink()
        server = serve(
            None,
            "--app-dir",
            str(project.parent),
            environment={self.VARIABLE: "project.settings.base"},
        )
        assert server.get("/").text == "asgi3"

    def test_a_named_application_comes_first(self, serve: Serve, project: Path) -> None:
        server = serve(
            "kinds:asgi3",
            "--app-dir",
            str(project.parent),
            environment={self.VARIABLE: "project.settings"},
        )
        assert server.get("/").text == "asgi3"

    @pytest.mark.parametrize(
        ("settings", "source", "code", "said"),
        [
            (
                "nowhere.settings",
                "",
                3,
                [
                    'DJANGO_SETTINGS_MODULE names "nowhere.settings": there is no module',
                    "--app-dir",
                ],
            ),
            ("project.settings.base", "1 / 0", 3, ["ZeroDivisionError", "project.settings.base"]),
            (
                "project.settings.base",
                "WSGI_APPLICATION = 'wsgi'",
                4,
                ["WSGI_APPLICATION of the settings", "'wsgi'", '"project.wsgi.application"'],
            ),
            (
                "other",
                "",
                3,
                [
                    'DJANGO_SETTINGS_MODULE names "other"',
                    "no ASGI_APPLICATION or WSGI_APPLICATION",
                    "no module wsgi or asgi",
                    "name the application",
                ],
            ),
        ],
    )
    def test_errors(
        self, run: Run, project: Path, settings: str, source: str, code: int, said: list[str]
    ) -> None:
        (project / "settings" / "base.py").write_text(source)
        (project.parent / "other.py").write_text("")
        result = run(None, "--app-dir", str(project.parent), environment={self.VARIABLE: settings})
        assert result.returncode == code, result.stderr
        for text in said:
            assert text in result.stderr
