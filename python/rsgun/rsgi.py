"""What RSGI applications can import: the errors, and the classes for annotations.

    from rsgun.rsgi import HTTPProtocol, ProtocolClosed, Scope

An application that catches the errors of `granian.rsgi` need not be changed: where it has
imported that, these are of both kinds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import _rsgun
from ._rsgun import (
    RSGIHeaders as Headers,
)
from ._rsgun import (
    RSGIHTTPProtocol as HTTPProtocol,
)
from ._rsgun import (
    RSGIHTTPStreamTransport as HTTPStreamTransport,
)
from ._rsgun import (
    RSGIScope as Scope,
)
from ._rsgun import (
    RSGIWebsocketMessage as WebsocketMessage,
)
from ._rsgun import (
    RSGIWebsocketProtocol as WebsocketProtocol,
)
from ._rsgun import (
    RSGIWebsocketTransport as WebsocketTransport,
)

if TYPE_CHECKING:

    class ProtocolError(RuntimeError):
        """A method of a protocol or transport is called when it does not fit."""

    class ProtocolClosed(RuntimeError):
        """The client is gone: nothing can be sent to it or received from it any more."""

else:
    _errors = _rsgun._rsgi_errors()
    ProtocolError = _errors.ProtocolError
    ProtocolClosed = _errors.ProtocolClosed

__all__ = [
    "HTTPProtocol",
    "HTTPStreamTransport",
    "Headers",
    "ProtocolClosed",
    "ProtocolError",
    "Scope",
    "WebsocketMessage",
    "WebsocketProtocol",
    "WebsocketTransport",
]
