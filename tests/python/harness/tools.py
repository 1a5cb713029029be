"""An interpreter with the agents and tools that people start servers with.

They bring heavy dependencies and patch much of what they meet, so they live in an
environment of their own, which is made at first use.
"""

from __future__ import annotations

import fcntl
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from .target import CACHE, binary, lend_extension, version_of

PACKAGES = (
    "coverage>=7.10",
    "ddtrace>=4",
    "fastapi>=0.120",
    "newrelic>=11",
    "opentelemetry-distro>=0.57b0",
    "opentelemetry-instrumentation-fastapi>=0.57b0",
)


@cache
def tools() -> Path:
    """The directory with their commands; skips the test where they cannot be had."""
    version = version_of(sys.executable)
    assert version
    folder = CACHE / f"tools{version[0]}.{version[1]}"
    python = folder / "bin" / "python"
    ready = folder / "complete"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{folder.name}.lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if not ready.exists() or ready.read_text() != "\n".join(PACKAGES):
            subprocess.run(
                [sys.executable, "-m", "venv", "--clear", folder], check=True, timeout=120
            )
            install = [python, "-m", "pip", "install", "--quiet", "--retries", "1", *PACKAGES]
            installed = subprocess.run(
                install, check=False, timeout=400, capture_output=True, text=True
            )
            if installed.returncode != 0:
                pytest.skip(f"the tools cannot be installed: {installed.stderr.strip()[-300:]}")
            ready.write_text("\n".join(PACKAGES))
        lend_extension(python)
        command = folder / "bin" / "rsgun"
        command.unlink(missing_ok=True)
        command.symlink_to(binary().resolve())
    return folder / "bin"
