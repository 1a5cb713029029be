"""rsgun: a process manager and HTTP server for Python web applications.

The server is the native command `rsgun`, which `python -m rsgun` starts too. In a Python
program:

* `run("main:app", workers=4)` serves until it is stopped;
* `Config` and `Server` serve inside a running event loop.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._config import Config
    from ._errors import ConfigError, StartupError
    from ._run import run
    from ._server import Server

__all__ = ["Config", "ConfigError", "Server", "StartupError", "__version__", "run"]

__version__ = "0.1.0"

_HOMES = {
    "Config": "_config",
    "ConfigError": "_errors",
    "Server": "_server",
    "StartupError": "_errors",
    "run": "_run",
}


if not TYPE_CHECKING:
    # To a type checker it would say that there is every name.
    def __getattr__(name: str) -> object:
        # Every worker imports this package, and none of them needs the rest of it.
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import importlib  # noqa: PLC0415

        value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
