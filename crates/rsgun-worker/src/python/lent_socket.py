"""``gunicorn.socket``: what a WSGI application gets in place of its client's connection."""

import socket
import sys


def blocking_class():
    """Returns the class of sockets that block their thread.

    Where gevent or eventlet has patched the class, its sockets belong to the loop of one
    thread. The threads of the server, and of what reads from such a socket, have none.
    """
    if gevent := sys.modules.get("gevent.monkey"):
        return gevent.get_original("socket", "socket")
    if eventlet := sys.modules.get("eventlet.patcher"):
        return eventlet.original("socket").socket
    return socket.socket


class LentSocket(blocking_class()):
    """One end of a pair of sockets; the server connects the other one with the client.

    It closes itself without a ``ResourceWarning``: whoever took gunicorn's never had to.
    """

    def __init__(self, descriptor):
        """Takes over a descriptor, and blocks whatever the default of the program is."""
        super().__init__(socket.AF_UNIX, socket.SOCK_STREAM, 0, descriptor)
        self.setblocking(True)

    def __del__(self):
        """Closes it."""
        self.close()

    def end(self):
        """Lets whoever reads from it read the end."""
        try:
            self.shutdown(socket.SHUT_RD)
        except OSError:
            # The application has closed it.
            pass
