"""The interpreter and the virtual environment in which all servers run."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from processes import BenchmarkError
from servers import Environment

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "bench" / "requirements.txt"
# The figures are stated for 3.12; the others only when there is no 3.12.
VERSIONS = ("3.12", "3.13", "3.14", "3.11")


def find_interpreter() -> Path:
    """Return CPython 3.12 if one is installed, else the newest that rsgun supports."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for version in VERSIONS:
        candidates = [shutil.which(f"python{version}"), shutil.which("python3")]
        candidates += [str(path / "bin" / "python3") for path in pyenv.glob(f"{version}.*")]
        for candidate in filter(None, candidates):
            if _version(candidate) == version:
                return Path(candidate)
    raise BenchmarkError("no CPython 3.11 or newer found: install one, best 3.12")


def _version(interpreter: str) -> str | None:
    """Return `MAJOR.MINOR` of an interpreter that works."""
    program = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"
    try:
        finished = subprocess.run(
            [interpreter, "-I", "-c", program], capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    return finished.stdout.strip() if finished.returncode == 0 else None


def prepare(directory: Path, python: Path | None) -> Environment:
    """Make the environment if there is none, and put the present rsgun into it."""
    executable = directory / "bin" / "python"
    if not executable.exists():
        interpreter = python or find_interpreter()
        _say(f"making {directory} with {interpreter}")
        _run([str(interpreter), "-m", "venv", str(directory)])
    pip = [str(executable), "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
    _run([*pip, "-r", str(REQUIREMENTS)])
    _say("installing rsgun")
    _run([*pip, "--no-deps", "--no-build-isolation", str(ROOT)])
    return Environment(directory, directory / "bin" / "rsgun")


def describe(environment: Environment) -> dict[str, str]:
    """Return what a reader of the figures must know about the machine."""
    packages = "uvicorn granian gunicorn uvloop rloop httptools websockets wsproto fastapi flask"
    program = (
        "import platform, importlib.metadata as m\n"
        "print(platform.python_version())\n"
        f"for name in {packages.split()}:\n"
        "    print(name, m.version(name))\n"
    )
    output = _run([environment.command("python"), "-c", program]).splitlines()
    return {
        "python": output[0],
        "packages": ", ".join(output[1:]),
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "kernel": platform.release(),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _run(command: list[str]) -> str:
    finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if finished.returncode != 0:
        raise BenchmarkError(f"`{' '.join(command)}` failed with code {finished.returncode}")
    return finished.stdout


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
