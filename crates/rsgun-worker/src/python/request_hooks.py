"""The hooks pre_request and post_request, put around each request.

They are told of a request and of a response by objects that have what gunicorn's have,
whichever interface the application has.
"""

from http import HTTPStatus
from urllib.parse import quote

from rsgun._arbiter import here
from rsgun._hooks import call


class Request:
    """A request, as pre_request is told of it."""

    def __init__(self, method, path, query, target, version, headers, scheme, peer):
        self.method = method
        self.path = path
        self.query = query
        self.fragment = ""
        self.uri = target
        self.version = tuple(int(part) for part in (version + ".0").split(".")[:2])
        self.headers = headers
        self.scheme = scheme
        self.peer_addr = self.remote_addr = peer

    @classmethod
    def of_asgi(cls, scope):
        """Makes one of a scope."""
        query = scope["query_string"].decode("latin-1")
        target = (scope.get("raw_path") or scope["path"].encode()).decode("latin-1")
        headers = [
            (name.decode("latin-1").upper(), value.decode("latin-1"))
            for name, value in scope["headers"]
        ]
        return cls(
            scope["method"],
            scope["path"],
            query,
            f"{target}?{query}" if query else target,
            scope["http_version"],
            headers,
            scope["scheme"],
            scope.get("client"),
        )

    @classmethod
    def of_rsgi(cls, scope):
        """Makes one of a scope of RSGI."""
        query = scope.query_string
        host, _, port = scope.client.rpartition(":")
        return cls(
            scope.method,
            scope.path,
            query,
            quote(scope.path) + (f"?{query}" if query else ""),
            scope.http_version,
            [(name.upper(), value) for name, value in scope.headers.items()],
            scope.scheme,
            (host.strip("[]"), int(port)) if port else None,
        )

    @classmethod
    def of_wsgi(cls, environ):
        """Makes one of an environ."""
        path = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
        path = path.encode("latin-1").decode("utf-8", "replace")
        query = environ.get("QUERY_STRING", "")
        target = quote(path) + (f"?{query}" if query else "")
        names = {"CONTENT_TYPE": "CONTENT-TYPE", "CONTENT_LENGTH": "CONTENT-LENGTH"}
        headers = [
            (names.get(name, name.removeprefix("HTTP_").replace("_", "-")), value)
            for name, value in environ.items()
            if name in names or name.startswith("HTTP_")
        ]
        return cls(
            environ["REQUEST_METHOD"],
            path,
            query,
            environ.get("RAW_URI") or environ.get("REQUEST_URI") or target,
            environ["SERVER_PROTOCOL"].removeprefix("HTTP/"),
            headers,
            environ["wsgi.url_scheme"],
            (environ.get("REMOTE_ADDR"), int(environ.get("REMOTE_PORT") or 0)),
        )


class Response:
    """A response, as post_request is told of it; without a status if none was begun."""

    def __init__(self, request):
        self.req = request
        self.status = None
        self.status_code = None
        self.headers = []
        self.sent = 0

    def begin(self, status, headers):
        """Notes the head, of which `status` is a number or a number and words."""
        self.headers = headers
        if isinstance(status, str):
            self.status = status
            self.status_code = int(status.split(None, 1)[0])
            return
        self.status_code = status
        try:
            self.status = f"{status} {HTTPStatus(status).phrase}"
        except ValueError:
            self.status = str(status)


def around_asgi(run):
    """Returns `run` of serve.py with pre_request and post_request around it."""

    async def run_with_hooks(app, scope, cycle):
        if scope["type"] != "http":
            await run(app, scope, cycle)
            return
        request = Request.of_asgi(scope)
        response = Response(request)

        async def watched(scope, receive, send):
            def note(message):
                sending = send(message)
                if message["type"] == "http.response.start":
                    headers = [
                        (bytes(name).decode("latin-1"), bytes(value).decode("latin-1"))
                        for name, value in message.get("headers", ())
                    ]
                    response.begin(message["status"], headers)
                elif message["type"] == "http.response.body":
                    response.sent += len(message.get("body", b""))
                return sending

            await app(scope, receive, note)

        call("pre_request", here.worker, request)
        await run(watched, scope, cycle)
        call("post_request", here.worker, request, scope, response)

    return run_with_hooks


class Watched:
    """The protocol of an RSGI request, which notes how it is answered."""

    def __init__(self, protocol, response):
        self._protocol = protocol
        self._response = response

    def __getattr__(self, name):
        attribute = getattr(self._protocol, name)
        if not name.startswith("response_"):
            return attribute

        def answer(status=200, headers=(), *body):
            headers = list(headers)
            answered = attribute(status, headers, *body)
            if self._response.status_code is None:
                self._response.begin(status, headers)
            return answered

        return answer

    def __call__(self):
        """Takes the body of the request."""
        return self._protocol()

    def __aiter__(self):
        return self._protocol.__aiter__()


def around_rsgi(run):
    """Returns `run` of rsgi.py with pre_request and post_request around it."""

    async def run_with_hooks(app, scope, cycle):
        if scope.proto != "http":
            await run(app, scope, cycle)
            return
        request = Request.of_rsgi(scope)
        response = Response(request)

        async def watched(scope, protocol):
            await app(scope, Watched(protocol, response))

        call("pre_request", here.worker, request)
        await run(watched, scope, cycle)
        call("post_request", here.worker, request, scope, response)

    return run_with_hooks


class Body:
    """The body of a WSGI response, at whose end post_request is called."""

    def __init__(self, body, request, environ, response):
        self._body = body
        self._end = (request, environ, response)
        self._response = response

    def __iter__(self):
        for part in self._body:
            self._response.sent += len(part)
            yield part

    def close(self):
        """Lets go of the application's body."""
        try:
            if hasattr(self._body, "close"):
                self._body.close()
        finally:
            call("post_request", here.worker, *self._end)


def around_wsgi(app):
    """Returns a WSGI application with pre_request and post_request around it."""

    def application(environ, start_response):
        request = Request.of_wsgi(environ)
        response = Response(request)

        def note(status, headers, exc_info=None):
            write = start_response(status, headers, exc_info)
            response.begin(status, list(headers))

            def count(data):
                write(data)
                response.sent += len(data)

            return count

        call("pre_request", here.worker, request)
        try:
            return Body(app(environ, note), request, environ, response)
        except BaseException:
            call("post_request", here.worker, request, environ, response)
            raise

    return application
