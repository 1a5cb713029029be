"""A bare RSGI application: all that is measured is the server."""

_HEADERS = [("content-type", "text/plain")]


async def hello(scope, protocol):
    """Answer every request with thirteen bytes."""
    protocol.response_str(200, _HEADERS, "Hello, World!")
