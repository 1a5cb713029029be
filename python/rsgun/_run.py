"""`rsgun.run`: a server until it is stopped."""

from __future__ import annotations

import os
import site
import sys
import sysconfig
import threading
from typing import TYPE_CHECKING

from . import _rsgun
from .__main__ import find_command
from ._config import Application, Config
from ._server import Server

if TYPE_CHECKING:
    from types import FrameType
    from typing import Unpack

    from ._settings import Settings


def run(app: str | Application, **settings: Unpack[Settings]) -> None:
    """Serve an application until the server is stopped.

    With an import string, `"main:app"`, the process manager runs as a child of this
    program, with as many `workers` as are asked for: everything that the command can do.
    Signals that are sent to this program are passed on to it. Put the call below
    `if __name__ == "__main__":`, since every worker imports the module.

    With an application object this process is the only one: settings that need the process
    manager, such as `workers=4`, are a `ConfigError`.

    Returns when the server was stopped by SIGTERM or CTRL+C and has finished. Raises
    `SystemExit` with the exit code of a server that could not start (1 for an address that
    is in use, 3 or 4 for the application) or that ended otherwise; `TypeError` and
    `ConfigError` for wrong settings, as `Config`; and `RuntimeError` when a worker comes by
    while it imports the application, or for an object while an event loop runs on this
    thread.
    """
    if _rsgun._is_served():
        raise RuntimeError(
            "rsgun.run() was called while a worker imports the application: put the call "
            'below `if __name__ == "__main__":`'
        )
    config = Config(app, **settings)
    if isinstance(app, str):
        code = _manage(config)
        if code != 0:
            raise SystemExit(code)
        return
    try:
        Server(config)._run_alone(_package_of(sys._getframe(1)))
    except KeyboardInterrupt:
        # A CTRL+C before the server has begun to listen for it.
        pass


def _package_of(frame: FrameType) -> str:
    """Return the top-level module whose code the frame runs; of a script, `__main__`."""
    spec = frame.f_globals.get("__spec__")
    name = str(frame.f_globals.get("__name__") if spec is None else spec.name)
    return name.partition(".")[0]


def _manage(config: Config) -> int:
    """Run the process manager to its end; returns its exit code."""
    line = [str(find_command())]
    if "python" not in config._given:
        line += ["--python", sys.executable]
    path = _own_path()
    if path and not _names_directory(config) and not sys.flags.safe_path:
        # Where this program finds its modules first: the directory of its script.
        line += ["--app-dir", os.path.abspath(path.pop(0))]
    variables = {"PYTHONPATH": os.pathsep.join(path)} if path else {}
    sys.stdout.flush()
    sys.stderr.flush()
    relays = threading.current_thread() is threading.main_thread()
    return _rsgun._manage([*line, *config._arguments.command_line()], variables, relays)


def _names_directory(config: Config) -> bool:
    """Whether somebody says where the application is."""
    given = config._given & {"app_dir", "config", "chdir"}
    return bool(given) or "RSGUN_APP_DIR" in os.environ or "RSGUN_CONFIG" in os.environ


def _own_path() -> list[str]:
    """Return the entries of `sys.path` that a fresh interpreter would not have."""
    roots = {sys.prefix, sys.base_prefix, sys.exec_prefix, site.getuserbase()}
    roots |= {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}
    inside = tuple(os.path.join(root, "") for root in roots)
    own = []
    for index, entry in enumerate(sys.path):
        directory = os.path.abspath(entry)
        is_installed = index > 0 and f"{directory}{os.sep}".startswith(inside)
        if not is_installed and os.pathsep not in entry and directory not in own:
            own.append(directory)
    return own
