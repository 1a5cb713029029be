"""Which server is under test, and how it is started.

``SERVER_UNDER_TEST`` is ``rsgun`` (the default) or ``uvicorn``: the same tests run on
both, which shows that they test the protocol and not one implementation; ``marks`` says
which tests do not.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from functools import cache
from pathlib import Path

TARGET = os.environ.get("SERVER_UNDER_TEST", "rsgun")
TESTS = Path(__file__).resolve().parent.parent
ROOT = TESTS.parent.parent
APPS = TESTS / "apps"
REQUESTS = ROOT / "tests" / "requests"
CACHE = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "test-pythons"

INSTALLED = ("fastapi", "uvloop", "sniffio")
"""What there is in the environment of each version of Python."""


class NothingToTest(SystemExit):
    """There is no rsgun: ends the program with what to do."""


@cache
def binary() -> Path:
    """The rsgun to test.

    ``RSGUN_BIN``, else the one that is installed beside the running interpreter, else
    the newest that cargo has built.
    """
    if chosen := os.environ.get("RSGUN_BIN"):
        if not Path(chosen).exists():
            raise NothingToTest(f"there is no {chosen} to test: RSGUN_BIN names it")
        return Path(chosen).absolute()
    installed = Path(sys.executable).parent / "rsgun"
    if installed.exists():
        return installed
    built = [ROOT / "target" / profile / "rsgun" for profile in ("debug", "release")]
    found = [path for path in built if path.exists()]
    if not found:
        raise NothingToTest("no rsgun to test: run `cargo build`, or name one with RSGUN_BIN")
    return max(found, key=lambda path: path.stat().st_mtime)


def brings_its_extension() -> bool:
    """Whether the extension lies beside :func:`binary`, as after a cargo build.

    Otherwise it is installed in the running interpreter only.
    """
    folder = binary().resolve().parent
    names = ("librsgun_worker.so", "deps/librsgun_worker.so")
    return any((folder / name).exists() for name in names)


def extension() -> Path:
    """The shared object with the extension that :func:`binary` loads."""
    if not brings_its_extension():
        return Path(sysconfig.get_path("platlib")) / "rsgun" / "_rsgun.abi3.so"
    folder = binary().resolve().parent
    built = [folder / name for name in ("librsgun_worker.so", "deps/librsgun_worker.so")]
    return max((path for path in built if path.exists()), key=lambda path: path.stat().st_mtime)


def lend_extension(python: Path) -> None:
    """Makes the extension of the running interpreter known to another one's environment."""
    if TARGET != "rsgun" or brings_its_extension():
        return
    package = Path(sysconfig.get_path("platlib")) / "rsgun"
    version = version_of(str(python))
    assert version
    place = python.parent.parent / "lib" / f"python{version[0]}.{version[1]}" / "site-packages"
    link = place / "rsgun"
    if not link.is_symlink() or link.readlink() != package:
        fresh = place / f".rsgun-{os.getpid()}"
        fresh.symlink_to(package)
        fresh.replace(link)


def lay_out_package(folder: Path) -> dict[str, str]:
    """Makes `import rsgun` find what is under test, and returns the variables for that.

    An installed rsgun needs nothing. What cargo has built is laid out in ``folder`` as an
    installation with ``pip install --target`` would be.
    """
    if not brings_its_extension():
        return {}
    shutil.copytree(ROOT / "python" / "rsgun", folder / "rsgun")
    (folder / "rsgun" / "_rsgun.abi3.so").symlink_to(extension())
    (folder / "bin").mkdir()
    (folder / "bin" / "rsgun").symlink_to(binary().resolve())
    return {"PYTHONPATH": str(folder)}


def lend_package(folder: Path) -> dict[str, str]:
    """The variables with which another interpreter, too, imports the installed rsgun.

    What :func:`lay_out_package` lays out needs no more.
    """
    if brings_its_extension():
        return {}
    link = folder / "rsgun"
    if not link.exists():
        link.symlink_to(Path(sysconfig.get_path("platlib")) / "rsgun")
    return {"PYTHONPATH": str(folder)}


def command(app: str | None, *arguments: str, python: str | None = None) -> list[str]:
    """The command line that serves ``app``."""
    python = python or sys.executable
    if TARGET == "rsgun":
        start = [str(binary()), "--python", python]
    else:
        start = [python, "-m", TARGET]
    return [*start, *arguments, *([app] if app else [])]


@cache
def version_of(python: str) -> tuple[int, int] | None:
    """Major and minor version of an interpreter, None if it does not run."""
    try:
        answer = subprocess.run(
            [python, "-c", "import sys; print('%d %d' % sys.version_info[:2])"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        ).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return None
    return int(answer[0]), int(answer[1])


@cache
def interpreters() -> dict[tuple[int, int], str]:
    """One interpreter of each version that the machine has, the running one first."""
    if named := os.environ.get("RSGUN_TEST_PYTHONS"):
        candidates = named.split(os.pathsep)
    else:
        versions = Path.home() / ".pyenv" / "versions"
        candidates = [sys.executable, *map(str, sorted(versions.glob("[23].*/bin/python")))]
        for name in ["python2.7", *(f"python3.{minor}" for minor in range(6, 16))]:
            if found := shutil.which(name):
                candidates.append(found)
    found_versions: dict[tuple[int, int], str] = {}
    for candidate in candidates:
        version = version_of(candidate)
        if version and version not in found_versions:
            found_versions[version] = candidate
    return found_versions


def supported() -> list[tuple[int, int]]:
    """The versions found that rsgun supports."""
    return sorted(version for version in interpreters() if version >= (3, 11))


def too_old() -> list[tuple[int, int]]:
    """The versions found that rsgun must refuse."""
    return sorted(version for version in interpreters() if version < (3, 11))


def add_package(python: str, requirement: str) -> str | None:
    """Installs a package into one of the environments of :func:`environment_for`, once.

    Returns why it cannot be had, None when it is there.
    """
    folder = Path(python).parent.parent
    if folder.parent != CACHE:
        return None
    ready = folder / f"with-{requirement}"
    with (CACHE / f"{folder.name}.lock").open("w") as guard:
        import fcntl

        fcntl.flock(guard, fcntl.LOCK_EX)
        if ready.exists():
            return None
        install = [python, "-m", "pip", "install", "--quiet", requirement]
        done = subprocess.run(install, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            return f"{requirement} cannot be installed for {folder.name}: {done.stderr[-300:]}"
        ready.touch()
    return None


def environment_for(version: tuple[int, int]) -> str:
    """An interpreter of this version with the packages of ``INSTALLED``.

    The virtual environment is made once and kept in the build directory.
    """
    if version == sys.version_info[:2]:
        return sys.executable
    base = interpreters()[version]
    folder = CACHE / f"python{version[0]}.{version[1]}"
    python = folder / "bin" / "python"
    ready = folder / "complete"
    lock = CACHE / f"{folder.name}.lock"
    CACHE.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as guard:
        import fcntl

        fcntl.flock(guard, fcntl.LOCK_EX)
        wanted = " ".join(INSTALLED)
        if not ready.exists() or ready.read_text() != wanted:
            subprocess.run([base, "-m", "venv", "--clear", folder], check=True, timeout=120)
            install = [python, "-m", "pip", "install", "--quiet", *INSTALLED]
            subprocess.run(install, check=True, timeout=300)
            ready.write_text(wanted)
        lend_extension(python)
    return str(python)
