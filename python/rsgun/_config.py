"""The settings of a server in a Python program."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol

from . import _rsgun

if TYPE_CHECKING:
    from typing import Unpack

    from ._settings import Settings


class RSGIApplication(Protocol):
    """An object that is an application by this method; it need not be callable itself."""

    def __rsgi__(self, scope: Any, protocol: Any, /) -> Awaitable[Any]:
        """Answer a request or a WebSocket."""
        ...


Application = Callable[..., Any] | RSGIApplication
"""An ASGI, RSGI or WSGI application, or with `factory=True` a function that makes one."""

NONE_IS_OFF = ("ws_ping_interval", "ws_ping_timeout")
"""Settings whose None means, as with uvicorn, that there is no such thing."""

OBJECT = "program:application"
"""What stands for an application that has no import string."""


class Config:
    """What a server serves, and how.

    `app` is an import string, `"main:app"`, or the application itself. The settings are
    those of the command line and the file (docs/settings.md), with `_` for `-`; the names
    that gunicorn and uvicorn have for them are understood as well. A setting that is not
    given, or is None, comes from the environment (`RSGUN_LOG_LEVEL`), the file that
    `config` names, or the default; but `ws_ping_interval=None` sends no pings, and
    `ws_ping_timeout=None` waits for their answers without limit.

    Raises `TypeError` for an argument that is no setting, with the nearest one that is,
    and `ConfigError` for a wrong value.
    """

    def __init__(self, app: str | Application, **settings: Unpack[Settings]) -> None:
        self.app = app
        given: dict[str, object] = dict(settings)
        for name in NONE_IS_OFF:
            if name in given and given[name] is None:
                given[name] = 0
        level = given.get("log_level")
        if isinstance(level, int) and not isinstance(level, bool):
            given["log_level"] = logging.getLevelName(level)
        name = app if isinstance(app, str) else OBJECT
        self._arguments = _rsgun._Arguments(name, given)
        self._given = frozenset(name for name, value in given.items() if value is not None)

    def __repr__(self) -> str:
        return f"<rsgun.Config of {self.app!r}>"
