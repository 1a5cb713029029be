"""Autobahn's fuzzing client: 517 cases for a server that echoes WebSocket messages.

The suite has not moved since CPython 2.7, which therefore must be at hand: named by
``PYTHON2``, or as ``python2.7`` on ``PATH``, or in pyenv. It is installed from PyPI at
first use and kept in the build directory.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .target import CACHE, version_of

SUITE = CACHE.parent / "autobahn"
AGENT = "rsgun"
STRICT = ("OK", "INFORMATIONAL")


@dataclass(frozen=True)
class Result:
    """How a case went: its own verdict, and the one on the close."""

    case: str
    behavior: str
    close: str

    @property
    def is_strict(self) -> bool:
        """Whether it passed without any concession."""
        return self.behavior in STRICT and self.close in STRICT

    def __str__(self) -> str:
        return f"case {self.case}: {self.behavior}, close: {self.close}"


@cache
def python2() -> str | None:
    """A CPython 2.7, or None."""
    named = os.environ.get("PYTHON2")
    versions = Path.home() / ".pyenv" / "versions"
    candidates = [
        *([named] if named else []),
        *filter(None, [shutil.which("python2.7")]),
        *map(str, sorted(versions.glob("2.7*/bin/python"))),
    ]
    return next((python for python in candidates if version_of(python) == (2, 7)), None)


def installed(python: str) -> Path:
    """The directory with the suite, which is installed if it is not there."""
    folder = SUITE / "suite"
    ready = SUITE / "suite.complete"
    SUITE.mkdir(parents=True, exist_ok=True)
    with (SUITE / "suite.lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if not ready.exists():
            shutil.rmtree(folder, ignore_errors=True)
            command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            command += ["--target", str(folder), "autobahntestsuite==0.8.2"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
            assert done.returncode == 0, f"autobahntestsuite: {done.stderr}"
            # Without it, zope.interface cannot be imported from here.
            (folder / "zope" / "__init__.py").touch()
            ready.touch()
    return folder


def run(python: str, url: str, cases: list[str], folder: Path, deadline: float) -> list[Result]:
    """Runs the cases, which may have wildcards, against a server; in the order of the suite.

    Reports with every frame of every case are left in ``folder``.
    """
    suite = installed(python)
    reports = folder / "reports"
    specification = folder / "specification.json"
    specification.write_text(
        json.dumps(
            {
                "outdir": str(reports),
                "servers": [{"agent": AGENT, "url": url}],
                "cases": cases,
                "exclude-cases": [],
                "exclude-agent-cases": {},
            }
        )
    )
    start = "from autobahntestsuite.wstest import run; run()"
    with (folder / "client.log").open("w") as log:
        done = subprocess.run(
            [python, "-c", start, "-m", "fuzzingclient", "-s", str(specification)],
            env={**os.environ, "PYTHONPATH": str(suite)},
            cwd=folder,
            stdout=log,
            stderr=log,
            timeout=deadline,
            check=False,
        )
    assert done.returncode == 0, (folder / "client.log").read_text()
    found = json.loads((reports / "index.json").read_text())[AGENT]
    results = [
        Result(case, result["behavior"], result["behaviorClose"]) for case, result in found.items()
    ]
    return sorted(results, key=lambda result: [int(part) for part in result.case.split(".")])
