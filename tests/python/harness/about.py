"""An application that tells about the process which serves it, and that every user may run."""

from __future__ import annotations

import json
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.target import binary, brings_its_extension
from harness.waiting import DEADLINE
from harness.wire import Connection

ABOUT_ITSELF = """
import json, os, sys, time

def about():
    status = dict(line.split(":\\t", 1) for line in open("/proc/self/status") if ":\\t" in line)
    mask = os.umask(0)
    os.umask(mask)
    try:
        os.setuid(0)
        regained = True
    except PermissionError:
        regained = False
    return {
        "uids": [int(word) for word in status["Uid"].split()],
        "gids": [int(word) for word in status["Gid"].split()],
        "groups": [int(word) for word in status["Groups"].split()],
        "capabilities": int(status["CapEff"], 16),
        "regained": regained,
        "umask": mask,
        "environment": dict(os.environ),
        "streams": [os.readlink(f"/proc/self/fd/{number}") for number in range(3)],
        "parent": os.getppid(),
    }

async def app(scope, receive, send):
    if scope["type"] == "http" and scope["path"] == "/hang":
        print("hanging", flush=True)
        time.sleep(600)
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    body = json.dumps(about()).encode()
    await send({"type": "http.response.start", "status": 200,
                "headers": [(b"content-length", str(len(body)).encode())]})
    await send({"type": "http.response.body", "body": body})
"""


def about(port: int) -> dict[str, object]:
    """What a worker says about itself."""
    with Connection.open(("127.0.0.1", port)) as connection:
        found: dict[str, object] = json.loads(connection.get("/", close=True).body)
        return found


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that every user may read, with the application that tells about itself."""
    folder = Path(tempfile.mkdtemp(prefix="rsgun-service-"))
    folder.chmod(0o755)
    (folder / "main.py").write_text(ABOUT_ITSELF)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def public_binary(public: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A server that any interpreter can run: its extension is beside the binary, as
    after a cargo build, and not in some virtual environment."""
    if brings_its_extension():
        yield
        return
    (extension,) = (Path(sysconfig.get_path("platlib")) / "rsgun").glob("_rsgun*.so")
    place = public / "build"
    place.mkdir()
    shutil.copy(binary(), place / "rsgun")
    shutil.copy(extension, place / "librsgun_worker.so")
    monkeypatch.setenv("RSGUN_BIN", str(place / "rsgun"))
    binary.cache_clear()
    yield
    monkeypatch.undo()
    binary.cache_clear()


@pytest.fixture
def public_python(public_binary: None) -> str:
    """An interpreter that other users can reach, and that finds the extension."""
    for candidate in ("/usr/bin/python3", "/usr/local/bin/python3"):
        probe = [candidate, "-c", "import sys; raise SystemExit(sys.version_info < (3, 11))"]
        try:
            done = subprocess.run(probe, user="nobody", check=False, timeout=DEADLINE)
        except (OSError, LookupError):
            continue
        if done.returncode == 0:
            return candidate
    pytest.skip("there is no interpreter that the user nobody can run")
