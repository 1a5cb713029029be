"""Bad input: a message that names the thing and says what to do, the right exit code,
and nothing left behind.

Exit codes are gunicorn's: 1 for an address or a configuration, 2 for a wrong command
line, 3 for an application that does not load or start, 4 for a missing attribute.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.marks import rsgun_only
from harness.server import Server, free_port, port_is_free
from harness.sources import versioned
from harness.target import (
    APPS,
    binary,
    environment_for,
    extension,
    interpreters,
    lend_extension,
    too_old,
)

pytestmark = rsgun_only

Serve = Callable[..., Server]
Module = Callable[[str, str], Path]
Run = Callable[..., "subprocess.CompletedProcess[str]"]

INSIDE = re.compile(
    r"\.rs:\d+|RUST_BACKTRACE|panicked|<rsgun|bootstrap\.py|_main\(|importlib|in _load|src/"
)
"""What a user must not see of the inside."""


def refused(result: subprocess.CompletedProcess[str], code: int, *texts: str) -> str:
    """Checks code and message; returns standard error."""
    assert result.returncode == code, result.stderr
    for text in texts:
        assert text in result.stderr, result.stderr
    assert not INSIDE.search(result.stderr), result.stderr
    assert "running on" not in result.stderr
    return result.stderr


LOWEST_FREE_PORT = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())


@pytest.fixture(params=[(), ("--preload",), ("-w", "3")], ids=["plain", "preload", "3-workers"])
def attempt(request: pytest.FixtureRequest, run: Run, tmp_path: Path) -> Run:
    """Tries to serve an application of the test's directory; the port is free afterwards."""

    def start(app: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        port = free_port()
        result = run(
            app, "-b", f"127.0.0.1:{port}", "--app-dir", str(tmp_path), *request.param, *arguments
        )
        assert port_is_free(port)
        return result

    return start


class TestApplication:
    def test_module_not_found(self, attempt: Run, tmp_path: Path) -> None:
        errors = refused(attempt("no_such_module:app"), 3, "no_such_module", str(tmp_path))
        assert "Traceback" not in errors

    def test_module_not_found_but_a_near_one(self, attempt: Run, module: Module) -> None:
        module("main", versioned("1"))
        refused(attempt("mian:app"), 3, "mian", '"main"')

    def test_submodule_not_found(self, attempt: Run, tmp_path: Path) -> None:
        (tmp_path / "package").mkdir()
        (tmp_path / "package" / "__init__.py").touch()
        refused(attempt("package.missing:app"), 3, "package.missing")

    def test_file_that_is_not_there(self, attempt: Run) -> None:
        refused(attempt("missing/main.py:app"), 3, "there is no file", "missing/main.py")

    def test_import_inside_the_module_fails(self, attempt: Run, module: Module) -> None:
        """Another module is missing: the user's line is shown."""
        module("main", "import math\nimport not_installed_library\n")
        errors = refused(attempt("main:app"), 3, "not_installed_library", "main.py")
        assert "line 2" in errors
        assert errors.count("Traceback") == 1

    def test_a_missing_package_is_told_with_the_interpreter(
        self, attempt: Run, module: Module
    ) -> None:
        module("not_installed", "")
        module("main", "import not_installed_library.part\n")
        missing = f'there is no module "not_installed_library" in {sys.executable}; install it'
        errors = refused(attempt("main:app"), 3, missing, "--python", "ModuleNotFoundError")
        assert "did you mean" not in errors

    def test_a_missing_part_of_a_package_that_is_there(self, attempt: Run, module: Module) -> None:
        module("main", "import json.missing_part\n")
        errors = refused(attempt("main:app"), 3, "json.missing_part", "main.py")
        assert "install it" not in errors

    def test_a_misspelt_module_of_the_application(self, attempt: Run, module: Module) -> None:
        module("helpers", "")
        module("main", "import helprs\n")
        refused(attempt("main:app"), 3, 'did you mean "helpers"?')

    def test_a_dot_in_the_place_of_the_colon(self, attempt: Run, module: Module) -> None:
        module("main", versioned("1"))
        errors = refused(attempt("main.app"), 3, 'no module "main.app"', "write main:app")
        assert "--app-dir" not in errors
        assert "write main" not in refused(attempt("main.missing"), 3, 'no module "main.missing"')

    @pytest.mark.parametrize(
        ("source", "texts"),
        [
            ("raise RuntimeError('no database')\n", ["RuntimeError: no database", "line 1"]),
            ("def app(:\n", ["SyntaxError", "main.py"]),
            ("app = (\n", ["SyntaxError"]),
            ("undefined_name\n", ["NameError", "undefined_name"]),
            ("import sys\nsys.exit(5)\n", ["SystemExit: 5"]),
            ("raise KeyboardInterrupt\n", ["KeyboardInterrupt"]),
            ("x = '\xff'\n", None),
        ],
        ids=["exception", "syntax", "unclosed", "name", "exit", "interrupt", "encoding"],
    )
    def test_module_raises(
        self, attempt: Run, tmp_path: Path, source: str, texts: list[str] | None
    ) -> None:
        """Their traceback, not ours, and once."""
        (tmp_path / "main.py").write_bytes(source.encode("latin-1"))
        errors = refused(attempt("main:app"), 3, *(texts or ["main"]))
        assert errors.count("Traceback (most recent call last)") <= 1

    def test_traceback_begins_in_the_users_file(self, attempt: Run, module: Module) -> None:
        module("deep", "def connect():\n    raise ValueError('refused')\n")
        module("main", "import deep\n\n\ndeep.connect()\n")
        errors = refused(attempt("main:app"), 3, "ValueError: refused")
        files = re.findall(r'File "([^"]+)", line (\d+)', errors)
        assert [(Path(name).name, line) for name, line in files] == [
            ("main.py", "4"),
            ("deep.py", "2"),
        ]

    def test_module_that_ends_the_process(self, attempt: Run, module: Module) -> None:
        module("main", "import os\nos._exit(9)\n")
        refused(attempt("main:app"), 3, "code 9")

    def test_module_that_crashes(self, attempt: Run, module: Module) -> None:
        module("main", "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
        refused(attempt("main:app"), 3, "SIGSEGV")

    def test_attribute_missing(self, attempt: Run, module: Module) -> None:
        path = module("main", versioned("1"))
        errors = refused(
            attempt("main:application"),
            4,
            f'module "main" ({path}) has no attribute "application"',
            'did you mean "main:app"?',
        )
        assert "Traceback" not in errors

    def test_near_attributes_are_named(self, attempt: Run, module: Module) -> None:
        module("main", versioned("1").replace("def app(", "def my_application("))
        refused(attempt("main:my_aplication"), 4, "my_aplication", '"main:my_application"')

    @pytest.mark.parametrize(
        ("source", "target", "hint"),
        [
            ("application = print", "ap:app", ', did you mean "ap:application"?'),
            ("app = print", "ap.py:application", ', did you mean "ap.py:app"?'),
            (
                "from fastapi import *\nserver = FastAPI()",
                "ap:app",
                ', did you mean "ap:server"?',
            ),
            (
                "from flask import Flask, g, request\nweb = Flask(__name__)",
                "ap:app",
                ', did you mean "ap:web"?',
            ),
            (
                "class Application:\n  def __call__(self, environ, start_response): ...\n"
                "site = Application()",
                "ap:application",
                ', did you mean "ap:site"?',
            ),
            ("def create_app(): ...", "ap:app", ', did you mean "ap:create_app()"?'),
            ("def make_app(): ...", "ap:app", ', did you mean "ap:make_app()"?'),
            ("def create_app(): ...", "ap", ', did you mean "ap:create_app()"?'),
            ("def create_app(): ...", "ap:app()", ', did you mean "ap:create_app()"?'),
            ("def build(): ...", "ap:biuld()", ', did you mean "ap:build()"?'),
            ("app = print", "ap:create_app()", ', did you mean "ap:app"?'),
            ("import json", "ap:app", ": name the application as ap:NAME"),
            ("import json", "ap", ": name the application as ap:NAME"),
            (
                "def __getattr__(name):\n  raise AttributeError(name)\n"
                "def __dir__():\n  return ['apps']",
                "ap:app",
                ": name the application as ap:NAME",
            ),
        ],
    )
    def test_what_the_module_has_is_offered(
        self, run: Run, module: Module, tmp_path: Path, source: str, target: str, hint: str
    ) -> None:
        module("ap", source)
        errors = refused(run(target, "--app-dir", str(tmp_path)), 4, 'module "ap" (')
        assert errors.rstrip().endswith(f'"{hint}'), errors

    @pytest.mark.parametrize(
        ("source", "hint"),
        [
            ("def create_app(): ...", 'did you mean "ap:create_app"?'),
            ("app = print", 'did you mean "ap:app" without --factory?'),
        ],
    )
    def test_what_the_module_has_is_offered_to_who_wants_a_factory(
        self, run: Run, module: Module, tmp_path: Path, source: str, hint: str
    ) -> None:
        module("ap", source)
        result = run("ap:prepare", "--factory", "--app-dir", str(tmp_path))
        refused(result, 4, hint)

    def test_nested_attribute_missing(self, attempt: Run, module: Module) -> None:
        module("main", "class api:\n    pass\n")
        refused(attempt("main:api.app"), 4, "api.app")

    @pytest.mark.parametrize(
        ("value", "kind"), [("5", "int"), ("None", "NoneType"), ("'app'", "str"), ("{}", "dict")]
    )
    def test_not_callable(self, attempt: Run, module: Module, value: str, kind: str) -> None:
        module("main", f"app = {value}\n")
        refused(attempt("main:app"), 3, "main:app", kind)

    def test_factory_raises(self, attempt: Run, module: Module) -> None:
        module("main", "def make():\n    raise LookupError('no settings')\n")
        errors = refused(attempt("main:make", "--factory"), 3, "main:make", "no settings")
        assert 'main.py", line 2, in make' in errors

    def test_factory_that_wants_arguments(self, attempt: Run, module: Module) -> None:
        module("main", versioned("1"))
        result = attempt("main:app", "--factory")
        refused(result, 3, "main:app", "missing 3 required", "leave out --factory")

    def test_an_application_is_no_factory(self, attempt: Run, module: Module) -> None:
        module("main", "from fastapi import FastAPI\napp = FastAPI()\n")
        errors = refused(attempt("main:app", "--factory"), 3, "a FastAPI", "leave out --factory")
        assert "Traceback" not in errors
        refused(attempt("main:app()"), 3, "a FastAPI", "leave out the call")

    def test_factory_that_fails_deeper_with_a_wrong_call(
        self, attempt: Run, module: Module
    ) -> None:
        """That is not about how the factory is called."""
        module("main", "def connect(url): ...\n\n\ndef make():\n    connect()\n")
        errors = refused(attempt("main:make", "--factory"), 3, "line 5, in make", "TypeError")
        assert "leave out" not in errors

    def test_factory_that_is_asynchronous(self, attempt: Run, module: Module) -> None:
        module("main", "async def make(): ...\n")
        errors = refused(attempt("main:make", "--factory"), 3, "asynchronous")
        assert "never awaited" not in errors

    def test_factory_returns_nothing(self, attempt: Run, module: Module) -> None:
        module("main", "def make():\n    pass\n")
        refused(attempt("main:make", "--factory"), 3, "NoneType")

    def test_factory_is_not_a_function(self, attempt: Run, module: Module) -> None:
        module("main", "app = 5\n")
        refused(attempt("main:app", "--factory"), 3, "int")

    def test_lifespan_startup_raises(self, attempt: Run, module: Module) -> None:
        module("main", versioned("1", startup="raise OSError('database is down')"))
        errors = refused(attempt("main:app", "--lifespan", "on"), 3, "database is down")
        assert errors.count("Traceback (most recent call last)") == 1

    def test_lifespan_startup_reports_failure(self, attempt: Run, module: Module) -> None:
        """The message of the application is what the user needs."""
        failure = "await send({'type': 'lifespan.startup.failed', 'message': 'no licence'}); return"
        module("main", versioned("1", startup=failure))
        refused(attempt("main:app"), 3, "no licence")

    def test_lifespan_startup_never_ends(self, attempt: Run, module: Module) -> None:
        module("main", versioned("1", startup="await asyncio.sleep(1000)"))
        # Time enough for a busy machine to come that far.
        result = attempt("main:app", "--boot-timeout", "5")
        assert result.returncode == 3
        # Not a traceback of the application, but where everything in the worker stands.
        for text in ("within 5 s", "--boot-timeout", "main.py", "in app"):
            assert text in result.stderr, result.stderr

    def test_fastapi_lifespan_raises(self, attempt: Run, module: Module) -> None:
        module(
            "main",
            "from contextlib import asynccontextmanager\n"
            "from fastapi import FastAPI\n"
            "@asynccontextmanager\n"
            "async def lifespan(app):\n"
            "    raise RuntimeError('no cache server')\n"
            "    yield\n"
            "app = FastAPI(lifespan=lifespan)\n",
        )
        refused(attempt("main:app"), 3, "no cache server", "line 5")

    def test_no_application(self, run: Run) -> None:
        result = run(None, "--port", "0")
        assert result.returncode == 2
        assert "MODULE:ATTRIBUTE" in result.stderr

    def test_app_dir_that_does_not_exist(self, run: Run, tmp_path: Path) -> None:
        missing = tmp_path / "missing"
        result = run("main:app", "--app-dir", str(missing))
        assert result.returncode in (1, 3)
        assert str(missing) in result.stderr

    def test_chdir_that_does_not_exist(self, run: Run, tmp_path: Path) -> None:
        missing = tmp_path / "missing"
        refused(run("main:app", "--chdir", str(missing)), 1, str(missing), "--chdir")


class TestLoop:
    def test_unknown_loop(self, run: Run) -> None:
        result = run("lab:app", "--loop", "nonsense")
        assert result.returncode in (1, 2, 3)
        assert "nonsense" in result.stderr

    def test_loop_factory_missing(self, run: Run) -> None:
        result = run("lab:app", "--loop", "lab:no_such_factory")
        assert result.returncode in (3, 4)
        assert "no_such_factory" in result.stderr

    def test_loop_factory_raises(self, run: Run, module: Module, tmp_path: Path) -> None:
        module("loops", "def make():\n    raise RuntimeError('no loop today')\n")
        module("main", versioned("1"))
        result = run("main:app", "--app-dir", str(tmp_path), "--loop", "loops:make")
        refused(result, 3, "no loop today")

    def test_uvloop_not_installed(self, run: Run, tmp_path: Path) -> None:
        """A directory before it on sys.path stands for its absence."""
        (tmp_path / "uvloop.py").write_text("raise ModuleNotFoundError('No module named uvloop')\n")
        (tmp_path / "main.py").write_text(versioned("1"))
        environment = {"PYTHONPATH": str(tmp_path)}
        arguments = ("main:app", "--app-dir", str(tmp_path), "--loop", "uvloop")
        refused(run(*arguments, environment=environment), 3, "uvloop")


class TestListen:
    def test_address_in_use(self, run: Run) -> None:
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            address = f"127.0.0.1:{other.getsockname()[1]}"
            refused(run("lab:app", "-b", address), 1, address, "in use")

    def test_address_in_use_by_another_rsgun(self, serve: Serve, run: Run) -> None:
        server = serve("lab:app")
        refused(run("lab:app", "-b", f"127.0.0.1:{server.port}"), 1, str(server.port), "in use")
        assert server.get("/ping").body == b"pong"

    def test_one_of_two_addresses_in_use(self, run: Run, tmp_path: Path) -> None:
        """The other one is given back."""
        path = tmp_path / "socket"
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            address = f"127.0.0.1:{other.getsockname()[1]}"
            refused(run("lab:app", "-b", f"unix:{path}", "-b", address), 1, address)
        assert not path.exists()

    def test_unknown_host(self, run: Run) -> None:
        refused(run("lab:app", "-b", "no-such-host.invalid:8000"), 1, "no-such-host.invalid")

    def test_address_of_another_machine(self, run: Run) -> None:
        refused(run("lab:app", "-b", "192.0.2.1:8000"), 1, "192.0.2.1:8000")

    @pytest.mark.skipif(LOWEST_FREE_PORT <= 80, reason="every user may use every port here")
    def test_no_permission_for_the_port(self, tmp_path: Path) -> None:
        become = []
        python = sys.executable
        if os.geteuid() == 0:
            setpriv = shutil.which("setpriv")
            if setpriv is None:
                pytest.skip("needs setpriv to give up the rights of root")
            become = [setpriv, "--bounding-set=-all", "--inh-caps=-all"]
        result = subprocess.run(
            [*become, binary(), "--python", python, "-b", "127.0.0.1:80", "lab:app"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        refused(result, 1, "127.0.0.1:80", "permission")

    @pytest.mark.parametrize(
        "address",
        ["127.0.0.1:99999", "127.0.0.1:port", "[::1:8000", "fd://x", "unix:", "::1:80:90", ""],
    )
    def test_not_an_address(self, run: Run, address: str) -> None:
        result = run("lab:app", "-b", address)
        assert result.returncode in (1, 2), result.stderr
        assert address in result.stderr
        assert "--bind" in result.stderr

    def test_socket_path_is_a_regular_file(self, run: Run, tmp_path: Path) -> None:
        path = tmp_path / "precious"
        path.write_text("do not lose me")
        refused(run("lab:app", "-b", f"unix:{path}"), 1, str(path), "not a socket")
        assert path.read_text() == "do not lose me"

    def test_socket_path_is_a_directory(self, run: Run, tmp_path: Path) -> None:
        refused(run("lab:app", "-b", f"unix:{tmp_path}"), 1, str(tmp_path))
        assert tmp_path.is_dir()

    def test_socket_path_is_a_link_to_a_file(self, run: Run, tmp_path: Path) -> None:
        target = tmp_path / "precious"
        target.write_text("do not lose me")
        link = tmp_path / "link"
        link.symlink_to(target)
        refused(run("lab:app", "-b", f"unix:{link}"), 1, str(link))
        assert link.is_symlink()
        assert target.read_text() == "do not lose me"

    def test_live_socket_of_somebody_else(self, run: Run, tmp_path: Path) -> None:
        path = tmp_path / "live"
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(path))
            other.listen()
            inode = path.stat().st_ino
            refused(run("lab:app", "-b", f"unix:{path}"), 1, str(path))
            assert path.stat().st_ino == inode

    def test_directory_of_the_socket_does_not_exist(self, run: Run, tmp_path: Path) -> None:
        path = tmp_path / "missing" / "socket"
        refused(run("lab:app", "-b", f"unix:{path}"), 1, str(path.parent))

    def test_socket_path_too_long(self, run: Run, tmp_path: Path) -> None:
        refused(run("lab:app", "-b", f"unix:{tmp_path}/{'x' * 120}"), 1, "x" * 120)

    def test_descriptor_that_is_not_open(self, run: Run) -> None:
        refused(run("lab:app", "--fd", "77"), 1, "77")

    def test_descriptor_that_is_a_file(self, run: Run, tmp_path: Path) -> None:
        with (tmp_path / "file").open("w") as file:
            refused(run("lab:app", "--fd", "0", stdin=file.fileno()), 1, "not a socket")

    def test_descriptor_that_does_not_listen(self, run: Run) -> None:
        with socket.socket() as idle:
            idle.bind(("127.0.0.1", 0))
            refused(run("lab:app", "--fd", "0", stdin=idle.fileno()), 1, "listen")

    def test_descriptor_of_a_datagram_socket(self, run: Run) -> None:
        with socket.socket(type=socket.SOCK_DGRAM) as datagrams:
            datagrams.bind(("127.0.0.1", 0))
            refused(run("lab:app", "--fd", "0", stdin=datagrams.fileno()), 1, "fd 0")

    def test_two_answers_to_where(self, run: Run) -> None:
        result = run("lab:app", "-b", "127.0.0.1:0", "--uds", "socket")
        assert result.returncode in (1, 2)
        assert "--bind" in result.stderr
        assert "--uds" in result.stderr

    def test_no_socket_is_left_when_the_application_fails(self, run: Run, tmp_path: Path) -> None:
        path = tmp_path / "socket"
        assert run("no_such_module:app", "-b", f"unix:{path}").returncode == 3
        assert not path.exists()


class TestCommandLine:
    @pytest.mark.parametrize(
        ("flag", "nearest"),
        [("--worker", "--workers"), ("--binds", "--bind"), ("--acces-log", "--access-log")],
    )
    def test_unknown_flag(self, run: Run, flag: str, nearest: str) -> None:
        refused(run("lab:app", flag, "1"), 2, flag, nearest)

    @pytest.mark.parametrize(
        ("flags", "advice"),
        [
            (("--reload",), "kill -HUP"),
            (("--reload-dir", "src"), "kill -HUP"),
            (("--proxy-headers",), "ProxyHeadersMiddleware"),
            (("--forwarded-allow-ips", "*"), "SECURE_PROXY_SSL_HEADER"),
            (("--ssl-keyfile", "key.pem"), "nginx, Caddy or HAProxy"),
            (("--keyfile", "key.pem"), "nginx, Caddy or HAProxy"),
            (("--log-config", "log.ini"), "logging.config.dictConfig"),
            (("--http", "zttp"), "HTTP/2"),
            (("--env-file", ".env"), "--env NAME=VALUE"),
        ],
    )
    def test_flag_of_another_server(self, run: Run, flags: tuple[str, ...], advice: str) -> None:
        text = refused(
            run("lab:app", *flags), 2, f"{flags[0]} is an option that rsgun does not have", advice
        )
        assert "similar" not in text

    @pytest.mark.parametrize(
        ("option", "value"),
        [
            ("--workers", "many"),
            ("--workers", "0"),
            ("--workers", "-1"),
            ("--workers", "1000000"),
            ("--log-level", "loud"),
            ("--lifespan", "maybe"),
            ("--fd", "-1"),
            ("--port", "70000"),
            ("--graceful-timeout", "soon"),
        ],
    )
    def test_bad_value(self, run: Run, option: str, value: str) -> None:
        refused(run("lab:app", f"{option}={value}"), 2, option, value)

    @pytest.mark.parametrize(
        ("variable", "value"),
        [("WEB_CONCURRENCY", "many"), ("RSGUN_WORKERS", "0"), ("RSGUN_LOG_LEVEL", "loud")],
    )
    def test_bad_variable(self, run: Run, variable: str, value: str) -> None:
        refused(run("lab:app", environment={variable: value}), 1, variable, value)

    def test_missing_value(self, run: Run) -> None:
        result = run(None, "lab:app", "--port", "0", "--workers")
        assert result.returncode == 2
        assert "--workers" in result.stderr

    def test_two_applications(self, run: Run) -> None:
        assert run("lab:app", "scope:app").returncode == 2

    def test_configuration_file_missing(self, run: Run, tmp_path: Path) -> None:
        path = tmp_path / "missing.toml"
        refused(run("lab:app", "-c", str(path)), 1, str(path))

    def test_configuration_file_with_an_unknown_key(self, run: Run, tmp_path: Path) -> None:
        path = tmp_path / "rsgun.toml"
        path.write_text("worker = 3\n")
        refused(run("lab:app", "-c", str(path)), 1, str(path), "`worker`", "`workers`")

    def test_configuration_file_that_is_not_toml(self, run: Run, tmp_path: Path) -> None:
        path = tmp_path / "rsgun.toml"
        path.write_text("workers = = 3\n")
        refused(run("lab:app", "-c", str(path)), 1, str(path), "line 1")

    def test_configuration_file_without_quotes(self, run: Run, tmp_path: Path) -> None:
        path = tmp_path / "rsgun.toml"
        path.write_text("bind = 127.0.0.1\n")
        refused(run("lab:app", "-c", str(path)), 1, "line 1", "bind must be a string")

    def test_worker_class_of_ones_own(self, run: Run) -> None:
        refused(run("lab:app", "-k", "main.MyWorker"), 2, "leave `worker-class` out", "middleware")

    def test_help(self) -> None:
        result = subprocess.run(
            [binary(), "--help"], capture_output=True, text=True, timeout=30, check=True
        )
        assert "--workers" in result.stdout
        assert not result.stderr

    def test_version(self) -> None:
        result = subprocess.run(
            [binary(), "--version"], capture_output=True, text=True, timeout=30, check=True
        )
        assert re.fullmatch(r"rsgun \d+\.\d+\.\d+\S*\n", result.stdout)

    def test_help_into_a_closed_pipe(self) -> None:
        with subprocess.Popen(
            [binary(), "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stdout
            process.stdout.close()
            assert process.stderr
            assert b"panicked" not in process.stderr.read()


class TestInterpreter:
    """The binary is copied to where no interpreter is beside it."""

    @pytest.fixture
    def alone(self, tmp_path: Path) -> Path:
        folder = tmp_path / "bin-alone"
        folder.mkdir()
        shutil.copy2(binary().resolve(), folder / "rsgun")
        return folder / "rsgun"

    def start(
        self, launch: Callable[..., Server], arguments: list[object], **environment: str
    ) -> subprocess.CompletedProcess[str]:
        server = launch([str(argument) for argument in arguments], exact_environment=environment)
        code = server.wait()
        assert not server.leftovers()
        return subprocess.CompletedProcess(
            server.arguments, code, "", "\n".join(server.lines("stderr"))
        )

    def test_no_python_found(
        self, launch: Callable[..., Server], alone: Path, tmp_path: Path
    ) -> None:
        result = self.start(launch, [alone, "--port", "0", "lab:app"], PATH=str(tmp_path))
        refused(result, 1, "Python", "--python", str(tmp_path))

    def test_virtual_env_without_an_interpreter(
        self, launch: Callable[..., Server], alone: Path, tmp_path: Path
    ) -> None:
        folder = tmp_path / "bin"
        folder.mkdir()
        (folder / "python3").symlink_to("/bin/true")
        variables = {"PATH": str(folder), "VIRTUAL_ENV": str(tmp_path / "venv")}
        result = self.start(launch, [alone, "--port", "0", "lab:app"], **variables)
        warning = f"$VIRTUAL_ENV has no interpreter: {tmp_path}/venv/bin/python3: there is no"
        refused(result, 1, warning, f"{folder}/python3 is used", "--python")
        result = self.start(
            launch, [alone, "--python", folder / "python3", "--port", "0", "lab:app"], **variables
        )
        assert "VIRTUAL_ENV" not in refused(result, 1)

    def test_no_path_at_all(self, launch: Callable[..., Server], alone: Path) -> None:
        refused(self.start(launch, [alone, "--port", "0", "lab:app"]), 1, "Python", "--python")

    def test_named_python_is_missing(self, launch: Callable[..., Server], alone: Path) -> None:
        line = [alone, "--python", "/no/such/python", "--port", "0", "lab:app"]
        result = self.start(launch, line)
        refused(result, 1, "/no/such/python", "--python")

    def test_named_python_is_not_python(self, launch: Callable[..., Server], alone: Path) -> None:
        result = self.start(
            launch, [alone, "--python", "/bin/true", "--port", "0", "lab:app"], PATH="/usr/bin"
        )
        refused(result, 1, "/bin/true")

    def test_named_python_is_a_directory(
        self, launch: Callable[..., Server], alone: Path, tmp_path: Path
    ) -> None:
        result = self.start(launch, [alone, "--python", tmp_path, "--port", "0", "lab:app"])
        refused(result, 1, str(tmp_path))

    @pytest.mark.parametrize("version", too_old() or [None], ids=str)
    def test_python_too_old(
        self, launch: Callable[..., Server], version: tuple[int, int] | None
    ) -> None:
        if version is None:
            pytest.skip("no Python before 3.11 on this machine")
        old = interpreters()[version]
        arguments = ["--python", old, "--port", "0", "--app-dir", APPS, "lab:app"]
        result = self.start(launch, [binary(), *arguments], PATH=os.environ["PATH"])
        found = f"{old} is Python {version[0]}.{version[1]}."
        refused(result, 1, found, "rsgun needs 3.11 or newer: name another", "--python")
        assert result.stderr.count("\n") == 0, result.stderr

    def test_extension_not_installed(self, launch: Callable[..., Server], alone: Path) -> None:
        """No extension beside the binary, none in the interpreter."""
        version = sys.version_info[:2]
        base = interpreters().get(version, sys.executable)
        probe = subprocess.run([base, "-c", "import rsgun"], capture_output=True, check=False)
        if probe.returncode == 0:
            pytest.skip("this interpreter has rsgun installed")
        result = self.start(
            launch,
            [alone, "--python", base, "--port", "0", "--app-dir", APPS, "lab:app"],
            PATH=os.environ["PATH"],
        )
        refused(result, 1, "rsgun._rsgun", base)

    def test_extension_of_another_version(
        self, launch: Callable[..., Server], alone: Path, tmp_path: Path
    ) -> None:
        """An older installation in the interpreter meets a newer binary."""
        package = tmp_path / "site" / "rsgun"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "_rsgun.py").write_text(
            "import json, socket\n"
            "def _main(mode, fd, extension):\n"
            "    channel = socket.socket(fileno=int(fd))\n"
            "    hello = {'Hello': {'version': '0.0.1', 'python': '3.12.0'}}\n"
            "    channel.send(b'\\0' + json.dumps(hello).encode())\n"
            "    channel.setblocking(True)\n"
            "    channel.recv(65536)\n"
        )
        result = self.start(
            launch,
            [alone, "--python", sys.executable, "--port", "0", "--app-dir", APPS, "lab:app"],
            PATH=os.environ["PATH"],
            PYTHONPATH=str(package.parent),
        )
        refused(result, 1, "0.0.1", "install")

    def test_interpreter_of_the_virtual_environment(
        self, launch: Callable[..., Server], tmp_path: Path
    ) -> None:
        """A link in its bin directory is enough; VIRTUAL_ENV need not be set."""
        environment = tmp_path / "venv"
        subprocess.run(
            [sys.executable, "-m", "venv", "--without-pip", environment], check=True, timeout=60
        )
        lend_extension(environment / "bin" / "python")
        command = environment / "bin" / "rsgun"
        command.symlink_to(binary().resolve())
        (tmp_path / "main.py").write_text(
            versioned("1", top="print('prefix', sys.prefix, flush=True)")
        )
        server = launch([str(command), "--port", "0", "main:app"])
        server.wait_until_running()
        assert server.wait_for_line("^prefix (.*)")[1] == str(environment)

    @pytest.mark.parametrize("way", ["VIRTUAL_ENV", "PATH"])
    def test_layout_of_a_cargo_build(
        self, launch: Callable[..., Server], alone: Path, tmp_path: Path, way: str
    ) -> None:
        """The extension lies beside the binary, the interpreter somewhere else."""
        (alone.parent / "deps").mkdir()
        (alone.parent / "deps" / "librsgun_worker.so").symlink_to(extension())
        environment = tmp_path / "venv"
        subprocess.run(
            [sys.executable, "-m", "venv", "--without-pip", environment], check=True, timeout=60
        )
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "python3").symlink_to("/bin/false")
        variables = {"PATH": f"{environment / 'bin'}:{tmp_path / 'other'}"}
        if way == "VIRTUAL_ENV":
            variables = {"PATH": str(tmp_path / "other"), "VIRTUAL_ENV": str(environment)}
        (tmp_path / "main.py").write_text(
            versioned("1", top="print('prefix', sys.prefix, flush=True)")
        )
        server = launch([str(alone), "--port", "0", "main:app"], exact_environment=variables)
        server.wait_until_running()
        assert server.wait_for_line("^prefix (.*)")[1] == str(environment)
        assert server.get().text.startswith("1 ")

    def test_every_supported_version_is_found(self) -> None:
        assert environment_for(sys.version_info[:2]) == sys.executable


def test_an_unknown_flag_suggests_only_what_is_near(run: Run) -> None:
    assert "'--workers'" in refused(run("lab:app", "--wokers", "2"), 2, "'--wokers'")
    errors = refused(run("lab:app", "--foo"), 2, "unexpected argument '--foo' found")
    assert "--loop" not in errors
    assert "similar" not in errors
