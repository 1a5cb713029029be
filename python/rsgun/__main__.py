"""`python -m rsgun ...`: the native command, with this interpreter.

The module is replaced by the command (exec), so the process that a supervisor
started is the master itself: no Python parent stays behind.
"""

import os
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path


def candidates() -> Iterator[Path]:
    """Yield the places where an installation puts the command, best first."""
    yield Path(sysconfig.get_path("scripts")) / "rsgun"
    yield Path(sys.executable).parent / "rsgun"
    user_scheme = sysconfig.get_preferred_scheme("user")
    yield Path(sysconfig.get_path("scripts", scheme=user_scheme)) / "rsgun"
    # `pip install --target DIR` puts `bin` beside the package.
    yield Path(__file__).resolve().parent.parent / "bin" / "rsgun"


def find_command() -> Path:
    """Return the path of the native command.

    Raises `SystemExit` with what to do when no installation has it.
    """
    searched = list(dict.fromkeys(candidates()))
    for path in searched:
        if path.is_file() and os.access(path, os.X_OK):
            return path
    directories = ", ".join(str(path.parent) for path in searched)
    message = (
        f"Error: the rsgun command is not installed for {sys.executable} "
        f"(searched in {directories}): install it again, with "
        f"`{sys.executable} -m pip install --force-reinstall rsgun`"
    )
    raise SystemExit(message)


def arguments(given: list[str]) -> list[str]:
    """Return the arguments of the command: those given, after this interpreter.

    A `--python` of the user's own stays the only one.
    """
    options = given[: given.index("--")] if "--" in given else given
    if any(option == "--python" or option.startswith("--python=") for option in options):
        return given
    return ["--python", sys.executable, *given]


def main() -> None:
    """Become the native command."""
    command = str(find_command())
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(command, [command, *arguments(sys.argv[1:])])  # noqa: S606


if __name__ == "__main__":
    main()
