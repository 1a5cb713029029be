"""Node.js as a client: runs a script of ``clients/`` with the packages that it needs."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from pathlib import Path

from .server import Output, clean_environment
from .target import CACHE, TESTS

NODE = shutil.which("node")
NPM = shutil.which("npm")
PACKAGES = ["ws@8"]
FOLDER = CACHE.parent / "test-node"


def packages() -> Path:
    """The directory with the packages, which npm installs at first use."""
    assert NPM
    ready = FOLDER / ",".join(PACKAGES)
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / "lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if not ready.exists():
            command = [NPM, "install", "--no-audit", "--no-fund", "--prefix", str(FOLDER)]
            done = subprocess.run(
                [*command, *PACKAGES], capture_output=True, text=True, timeout=100, check=False
            )
            assert done.returncode == 0, f"npm: {done.stderr}"
            ready.touch()
    return FOLDER / "node_modules"


class Script:
    """A running script; its output is read line by line."""

    def __init__(self, name: str, *arguments: str) -> None:
        assert NODE
        self.output = Output()
        self.process = subprocess.Popen(
            [NODE, str(TESTS / "clients" / name), *arguments],
            env=clean_environment({"NODE_PATH": str(packages())}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self.process.stdout and self.process.stderr
        self._readers = [
            self.output.follow("stdout", self.process.stdout),
            self.output.follow("stderr", self.process.stderr),
        ]

    def __enter__(self) -> Script:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        for reader in self._readers:
            reader.join(2)

    def wait(self, deadline: float) -> list[str]:
        """Waits for its end, which must be a good one; returns what it wrote."""
        code = self.process.wait(deadline)
        assert code == 0, self.output.text()
        return self.output.lines("stdout")
