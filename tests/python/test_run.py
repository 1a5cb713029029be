"""`rsgun.run` in a Python program."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.frames import PING, Socket
from harness.marks import rsgun_only
from harness.server import RUNNING, Server, free_port
from harness.target import ROOT
from harness.waiting import eventually, wait_gone

pytestmark = rsgun_only

Program = Callable[..., Server]

GREETER = """
import os
import rsgun

class App:
    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                print(message["type"], flush=True)
                await send({"type": message["type"] + ".complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        headers = [(b"content-type", b"text/plain")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"%d" % os.getpid()})

app = App()
"""

THE_SEED = (
    GREETER
    + """
if __name__ == "__main__":
    rsgun.run("main:app", host="127.0.0.1", port=0, log_level="info")
    print("after it", flush=True)
"""
)

WITH_AN_OBJECT = (
    GREETER
    + """
if __name__ == "__main__":
    rsgun.run(app, host="127.0.0.1", port=0, log_level="info")
    print("after it", flush=True)
"""
)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("source", [THE_SEED, WITH_AN_OBJECT], ids=["string", "object"])
def test_a_program_serves_and_goes_on_after_a_stop(
    program: Program, source: str, number: int
) -> None:
    server = program(source)
    assert server.get().status == 200
    assert server.stop(number) == 0
    assert server.lines("stdout").count("lifespan.startup") == 1
    assert server.lines("stdout")[-2:] == ["lifespan.shutdown", "after it"]
    requests = [line for line in server.lines("stdout") if '"GET / HTTP/1.1" 200 OK' in line]
    assert len(requests) == 1


@pytest.mark.parametrize("source", [THE_SEED, WITH_AN_OBJECT], ids=["string", "object"])
def test_a_program_in_the_background_of_a_script_ends_by_an_interrupt(
    program: Program, source: str
) -> None:
    """The shell has it ignore SIGINT (POSIX, 2.11)."""
    ignores = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    server = program(ignores + source)
    assert server.stop(signal.SIGINT) == 0
    assert server.lines("stdout")[-1] == "after it"


def test_an_import_string_has_all_workers(program: Program) -> None:
    source = THE_SEED.replace("port=0", "port=0, workers=2, timeout_keep_alive=3")
    server = program(source)
    server.wait_for_workers(2)
    assert int(server.get().text) in {process.pid for process in server.workers()}
    assert server.titled("^rsgun: master \\[main:app\\]")


def test_an_object_is_served_by_the_program_itself(program: Program) -> None:
    server = program(WITH_AN_OBJECT)
    assert int(server.get().text) == server.pid
    assert len(server.family()) == 1


def test_a_master_is_sent_the_signals_of_the_program(program: Program, tmp_path: Path) -> None:
    server = program(THE_SEED)
    since = server.output.mark()
    server.send_signal(signal.SIGHUP)
    server.wait_for_line("generation 2", since=since)
    server.wait_for_generation(2, 1)
    server.send_signal(signal.SIGTTIN)
    server.wait_for_workers(2)


def test_a_master_does_not_outlive_the_program(program: Program) -> None:
    server = program(THE_SEED)
    (master,) = server.titled("^rsgun: master")
    server.process.kill()
    assert wait_gone(master.pid)
    assert not server.leftovers()


def test_the_module_is_found_from_anywhere(
    launch: Callable[..., Server], package: dict[str, str], tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "main.py").write_text("raise RuntimeError('the wrong one')")
    library = tmp_path / "library"
    library.mkdir()
    (library / "helper.py").write_text("")
    start = f"import sys\nsys.path.append({str(library)!r})\nimport helper\n"
    script = tmp_path / "main.py"
    # A worker imports this one, and never comes by the line above.
    script.write_text(THE_SEED.replace("import os", "import os\nimport helper\n", 1))
    call = THE_SEED[THE_SEED.index("if __name__") :]
    (tmp_path / "start.py").write_text(f"{start}import rsgun\n{call}")
    server = launch(
        [sys.executable, str(tmp_path / "start.py")], environment=package, cwd=elsewhere
    )
    server.wait_until_running()
    assert server.get().status == 200


def ended(program: Program, source: str, **more: object) -> tuple[int, str]:
    server = program(source, wait=False, **more)
    server.tolerates_tracebacks = True
    code = server.wait()
    return code, "\n".join(server.lines("stderr"))


@pytest.mark.parametrize(
    ("call", "code", "message"),
    [
        ('rsgun.run("main:missing", port=0)', 4, 'no attribute "missing"'),
        ('rsgun.run("nowhere:app", port=0)', 3, 'no module "nowhere"'),
        ("rsgun.run(fails, port=0)", 3, "the lifespan startup raised"),
        ('rsgun.run("main:fails", port=0, lifespan="on")', 3, "the lifespan startup raised"),
        ("rsgun.run(42, port=0)", 3, "the application is an int and cannot be called"),
        ('rsgun.run("main:app", wrokers=4)', 1, "did you mean `workers`?"),
        (
            "rsgun.run(app, reload=True)",
            1,
            "TypeError: unexpected keyword argument `reload`: files",
        ),
        ('rsgun.run("main:app", reload=True)', 1, "`kill -HUP` the process id of the master"),
        ("rsgun.run(app, log_config={'version': 1})", 1, "call logging.config.dictConfig"),
        ('rsgun.run(app, headers=[("a", "b")])', 1, "argument `headers`: headers are added by"),
        ("rsgun.run(app, workers={})", 1, "ConfigError: the argument workers is an object of type"),
        ('rsgun.run("main:app", port="many")', 1, "ConfigError: the argument port: `many`"),
        ("rsgun.run(app, port=0, factory=True)", 3, "leave out factory=True"),
        ("rsgun.run(fails_to_make, port=0, factory=True)", 3, "ERROR:    the factory failed"),
        ("rsgun.Server(app).run()", 1, "TypeError: rsgun.Server takes a Config: rsgun.Server("),
        ("asyncio.run(inside(app))", 1, "await rsgun.Server(rsgun.Config(app)).serve()"),
        ("asyncio.run(inside_server(app))", 1, "await rsgun.Server(rsgun.Config(app)).serve()"),
        ("rsgun.run(app, port=True)", 1, "ConfigError: the argument port is true or false"),
        ("rsgun.run(app, workers=4)", 1, "pass an import string"),
        ('rsgun.run(app, port=0, loop="nowhere:loop")', 3, "--loop nowhere:loop"),
    ],
)
def test_a_start_that_fails_has_its_exit_code(
    program: Program, call: str, code: int, message: str
) -> None:
    source = f"""{GREETER}
import asyncio

async def fails(scope, receive, send):
    raise RuntimeError("on purpose")

def fails_to_make():
    raise RuntimeError("on purpose")

async def inside(app):
    rsgun.run(app, port=0)

async def inside_server(app):
    rsgun.Server(rsgun.Config(app, port=0)).run()

if __name__ == "__main__":
    {call.replace("fails, port=0", 'fails, port=0, lifespan="on"')}
"""
    found, text = ended(program, source)
    assert (found, message in text) == (code, True), text
    assert "never awaited" not in text


@pytest.mark.parametrize("app", ["app", '"main:app"'])
def test_an_address_in_use_is_code_1(program: Program, app: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        source = f"{GREETER}\nif __name__ == '__main__':\n    rsgun.run({app}, port={port})\n"
        code, text = ended(program, source)
    assert code == 1
    assert f"127.0.0.1:{port}" in text
    assert "Traceback" not in text


def test_a_call_without_a_guard_is_explained(program: Program) -> None:
    code, text = ended(program, f'{GREETER}\nrsgun.run("main:app", port=0)\n')
    assert code == 3
    assert 'if __name__ == "__main__"' in text


@pytest.mark.parametrize("source", [THE_SEED, WITH_AN_OBJECT], ids=["string", "object"])
def test_arguments_of_uvicorn_that_ask_for_nothing(program: Program, source: str) -> None:
    more = 'port=0, reload=False, reload_dirs=[], http="auto", headers=[], use_colors=True'
    server = program(
        source.replace("port=0", more), environment={"FORWARDED_ALLOW_IPS": "127.0.0.1"}
    )
    assert server.get().status == 200
    (warning,) = (line for line in server.lines("stderr") if line.startswith("WARNING"))
    assert "FORWARDED_ALLOW_IPS has no effect" in warning


ECHO = """
import rsgun

async def app(scope, receive, send):
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await receive()

if __name__ == "__main__":
    rsgun.run("main:app", port=0, ws_ping_interval=None)
"""


@pytest.mark.parametrize("app", ['"main:app"', "app"], ids=["string", "object"])
def test_none_means_no_pings_and_no_limit_as_with_uvicorn(program: Program, app: str) -> None:
    echo = ECHO.replace('"main:app"', app)
    # What is not given would come from here.
    environment = {"RSGUN_WS_PING_INTERVAL": "0.05", "RSGUN_WS_PING_TIMEOUT": "0.2"}
    server = program(echo, environment=environment)
    with Socket.open(server.address) as client:
        assert client.connection.silent(1)
    server.stop()
    unlimited = echo.replace("ws_ping_interval=", "ws_ping_timeout=")
    server = program(unlimited, environment=environment)
    with Socket.open(server.address) as client:
        assert client.receive().opcode == PING
        # Which it does not answer for much longer than the limit would be.
        assert client.connection.silent(1)


def test_the_environment_counts_less_than_arguments(program: Program) -> None:
    port = free_port()
    environment = {"RSGUN_PORT": "1", "RSGUN_HOST": "localhost", "WEB_CONCURRENCY": "2"}
    source = WITH_AN_OBJECT.replace("port=0", f"port={port}").replace('host="127.0.0.1", ', "")
    server = program(source, environment=environment)
    assert server.port == port
    server = program(
        THE_SEED.replace('host="127.0.0.1", port=0, ', ""),
        environment={**environment, "RSGUN_PORT": "0"},
    )
    server.wait_for_workers(2)


def test_log_files_and_levels_hold_without_a_master(program: Program, tmp_path: Path) -> None:
    log, access = tmp_path / "error.log", tmp_path / "access.log"
    source = WITH_AN_OBJECT.replace(
        'log_level="info"', f"error_logfile={str(log)!r}, access_logfile={str(access)!r}"
    )
    server = program(source, wait=False)
    found = eventually(lambda: log.exists() and RUNNING.search(log.read_text()), "it runs")
    assert server.get(address=("127.0.0.1", int(found["port"]))).status == 200
    eventually(lambda: '"GET / HTTP/1.1" 200 OK' in access.read_text(), "the line of a request")


def test_the_second_ctrl_c_ends_requests_at_once(program: Program) -> None:
    source = WITH_AN_OBJECT.replace(
        "headers = ", 'print("at work", flush=True); await receive(); await receive(); headers = '
    )
    server = program(source)
    with server.connect() as connection:
        connection.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        server.wait_for_line("at work")
        server.send_signal(signal.SIGINT)
        server.wait_for_line("Shutting down")
        assert server.stop(signal.SIGINT) == 0


def test_the_types_are_complete(package: dict[str, str], tmp_path: Path) -> None:
    script = """
import inspect, rsgun
for name in rsgun.__all__:
    value = getattr(rsgun, name)
    assert name.startswith("__") or inspect.getdoc(value), name
assert set(rsgun.__all__) <= set(dir(rsgun))
print(rsgun.Config("main:app", port=5))
"""
    finished = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **package},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert finished.stdout.strip() == "<rsgun.Config of 'main:app'>"


@pytest.mark.parametrize("arguments", [[], ["embedded"]])
def test_the_example(
    launch: Callable[..., Server], package: dict[str, str], arguments: list[str]
) -> None:
    folder = ROOT / "examples" / "program"
    environment = {**package, "RSGUN_LOG_LEVEL": "info"}
    if not arguments:
        # It names no address.
        environment["RSGUN_PORT"] = "0"
    server = launch(
        [sys.executable, "main.py", *arguments], environment=environment, cwd=folder
    ).wait_until_running()
    assert server.get("/x").text == "Hello from /x\n"
    assert server.stop(signal.SIGINT) == 0
