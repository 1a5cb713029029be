"""Tests of other projects, run against this server.

Their sources with the tests come from PyPI; they and what the tests need are kept in
an environment of their own in the build directory.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from .target import CACHE, TESTS, lend_extension

PLACE = CACHE.parent / "conformance"
FILES = TESTS / "conformance"
PROJECTS = {"starlette": "1.10.0", "asgiref": "3.13.0", "requests": "2.34.2"}
"""The releases whose tests are run."""
PACKAGES = [
    *(f"{name}=={version}" for name, version in PROJECTS.items()),
    *("pytest>=9", "pytest-asyncio>=1.3", "pytest-mock>=3.15", "trustme>=1.2", "pysocks>=1.7"),
    *("anyio>=4.10", "h11>=0.16", "wsproto>=1.2", "httpx>=0.28", "httpx2>=2.16"),
    *("itsdangerous>=2.2", "jinja2>=3.1", "python-multipart>=0.0.20", "pyyaml>=6"),
    "httpbin>=0.10",
]


@dataclass(frozen=True)
class Outcome:
    """How a test ended, with the requests and WebSockets that it made over the wire."""

    name: str
    outcome: str
    calls: int
    text: str

    @property
    def has_failed(self) -> bool:
        """Whether it failed, in any phase."""
        return self.outcome == "failed"


def environment() -> Path:
    """The interpreter with everything that the tests need, made at first use."""
    folder = PLACE / f"python{sys.version_info[0]}.{sys.version_info[1]}"
    python = folder / "bin" / "python"
    wanted = "\n".join(PACKAGES)
    ready = folder / "complete"
    PLACE.mkdir(parents=True, exist_ok=True)
    with (PLACE / "lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if not ready.exists() or ready.read_text() != wanted:
            run(sys.executable, "-m", "venv", "--clear", str(folder))
            run(*pip(python), "install", "--quiet", *PACKAGES)
            for name, version in PROJECTS.items():
                fetch(python, name, version)
            ready.write_text(wanted)
        lend_extension(python)
    return python


def pip(python: Path) -> list[str]:
    return [str(python), "-m", "pip", "--disable-pip-version-check", "--no-input"]


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"


def fetch(python: Path, name: str, version: str) -> None:
    """Unpacks the source distribution of a project, which has its tests."""
    options = ["--quiet", "--no-deps", "--no-binary", ":all:", "--dest", str(PLACE)]
    run(*pip(python), "download", *options, f"{name}=={version}")
    with tarfile.open(PLACE / f"{name}-{version}.tar.gz") as archive:
        archive.extractall(PLACE, filter="data")


def sources(name: str) -> Path:
    """The directory of a project."""
    return PLACE / f"{name}-{PROJECTS[name]}"


def wire_environment(name: str, arguments: Iterable[str], results: Path) -> dict[str, str]:
    """The variables for `conformance/wire.py`."""
    return {
        "WIRE_TESTS": str(sources(name)),
        "WIRE_ARGUMENTS": json.dumps(list(arguments)),
        "WIRE_RESULTS": str(results),
    }


def outcomes(results: Path) -> list[Outcome]:
    """What `conformance/wire.py` has written."""
    found: Mapping[str, dict] = json.loads(results.read_text())
    return [
        Outcome(name, result["outcome"], result["calls"], result["text"])
        for name, result in found.items()
    ]


def unexplained(project: str, found: Iterable[Outcome]) -> list[str]:
    """What differs from the table of differences, in either direction."""
    table = tomllib.loads((FILES / "differences.toml").read_text()).get(project, [])
    patterns = [
        pattern
        for entry in table
        for pattern in entry["tests"]
        if not entry.get("as_root_only") or os.geteuid() == 0
    ]
    problems = []
    unused = set(patterns)
    for outcome in found:
        name = outcome.name.split("::", 1)[1]
        matching = [pattern for pattern in patterns if fnmatchcase(name, pattern)]
        if outcome.has_failed:
            unused -= set(matching)
        if outcome.has_failed and not matching:
            problems.append(f"{outcome.name} failed:\n{outcome.text}")
        elif matching and not outcome.has_failed:
            problems.append(f"{outcome.name} is expected to differ, but {outcome.outcome}")
    return problems + [f"no test matches {pattern}" for pattern in sorted(unused)]
