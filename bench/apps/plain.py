"""A bare WSGI application: all that is measured is the server."""

_HEADERS = [("Content-Type", "text/plain"), ("Content-Length", "13")]
_BODY = [b"Hello, World!"]


def hello(environ, start_response):
    """Answer every request with thirteen bytes."""
    start_response("200 OK", _HEADERS)
    return _BODY
