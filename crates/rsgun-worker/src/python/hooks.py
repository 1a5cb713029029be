"""The objects that hooks of a gunicorn.conf.py are called with, and how they are called.

They have what such files use of gunicorn's arbiter and worker. The fork server has one
Server, and a Worker for each process that it has forked; a forked worker has inherited
both.
"""

import logging
import os
import sys
import time
import traceback
import types
from http import HTTPStatus
from urllib.parse import quote

from rsgun._cfg import Config
from rsgun._conf import hooks as functions
from rsgun._conf import values as assigned
from rsgun._loader import LoadError

here = types.SimpleNamespace(server=None, workers={}, worker=None)
"""What is known in this process: the Server, once it is configured; the Worker of each
living worker that this fork server knows, by its number; the Worker that it is itself."""


class Handler(logging.Handler):
    """Passes records on to the server's own log."""

    def __init__(self, write):
        super().__init__()
        self.write = write
        self.formatter = logging.Formatter("%(message)s")

    def emit(self, record):
        """Writes one record."""
        try:
            level = record.levelname.lower()
            text = self.format(record).encode("utf-8", "backslashreplace").decode()
            self.write(level, text)
        except Exception:
            self.handleError(record)


class Log(logging.Logger):
    """The server's log, as gunicorn's files use it: `server.log.info("text %s", value)`."""

    def __init__(self, write):
        super().__init__("rsgun")
        self.addHandler(Handler(write))
        self.error_log = self
        self.access_log = self


class Tmp:
    """Stands for the file that gunicorn's workers touch to show that they live."""

    def __init__(self, beat):
        self._beat = beat
        self._last = time.monotonic()

    def notify(self):
        """Shows that the worker lives."""
        self._last = time.monotonic()
        self._beat()

    def last_update(self):
        """Tells when it was shown last, on the monotonic clock."""
        return self._last

    def close(self):
        """There is nothing to be closed."""


class App:
    """The application: one for the server and all workers of a process.

    It is imported when it is first asked for. If a hook does that in the fork server,
    the workers that are forked later have it as well. What a hook has assigned to
    `callable` is taken instead.
    """

    def __init__(self, load, cfg):
        self._load = load
        self.cfg = cfg
        self.app_uri = cfg.wsgi_app
        self.callable = None

    def load(self):
        """Imports it."""
        return self._load()

    def wsgi(self):
        """Returns it, of whichever kind it is."""
        if self.callable is None:
            self.callable = self.load()
        return self.callable


class Worker:
    """A worker. `pid` is that of the process once it exists, `wsgi` what it serves."""

    def __init__(self, native, age, slot):
        self._native = native
        self.age = age
        self.slot = slot
        self.pid = "[booting]"
        self.ppid = here.server.pid
        self.cfg = here.server.cfg
        self.log = here.server.log
        self.timeout = here.server.cfg.timeout
        self.max_requests = here.server.cfg.max_requests or sys.maxsize
        self.booted = False
        self.aborted = False
        self.alive = True
        self.app = here.server.app
        self.tmp = Tmp(native.show_alive)

    def __str__(self):
        return f"<Worker {self.pid}>"

    @property
    def nr(self):
        """How many requests it has begun; 0 in other processes."""
        return self._native.requests()

    @property
    def nr_conns(self):
        """How many connections it holds; 0 in other processes."""
        return self._native.connections()

    def notify(self):
        """Shows that the worker lives."""
        self.tmp.notify()


class Server:
    """The master, of which this process is a part."""

    def __init__(self, native, settings, generation, pid, num_workers):
        self.log = Log(native.log)
        self.cfg = Config(settings, assigned, functions, self.log.warning)
        self.app = App(native.load, self.cfg)
        self.pid = pid
        self.num_workers = num_workers
        self.address = self.cfg.address
        self.timeout = self.cfg.timeout
        self.proc_name = self.cfg.proc_name
        self.generation = generation
        self.worker_age = 0
        self.WORKERS = {}
        # The master's, which lends them to nobody but the workers.
        self.LISTENERS = []


def configure(native, settings, generation, pid, num_workers):
    """Makes the Server. `settings` are the values of Config."""
    here.server = Server(native, settings, generation, pid, num_workers)


def call(name, *arguments, may_exit=False):
    """Calls a hook, if the file has it. What it raises is logged, and goes no further.

    The SystemExit of one that `may_exit` is no accident, and is returned.
    """
    function = functions.get(name)
    if function is None:
        return None
    try:
        function(*arguments)
    except BaseException as error:
        if may_exit and isinstance(error, SystemExit):
            return error
        frames = error.__traceback__.tb_next
        text = "".join(traceback.format_exception(type(error), error, frames))
        here.server.log.error("the hook %s has raised\n%s", name, text.rstrip())
    return None


def _words(decision):
    """Returns what a SystemExit says, for a message."""
    code = decision.code
    return f"sys.exit({'' if code is None else code})" if _has_code(decision) else str(code)


def _has_code(decision):
    return decision.code is None or isinstance(decision.code, int)


def before_fork(native, number, slot):
    """Notes that a worker is about to be forked."""
    here.server.worker_age = number
    for former in _workers_of(slot):
        # It leaves its place to the new one, and what else it has.
        former.alive = False
    here.workers[number] = Worker(native, number, slot)
    call("pre_fork", here.server, here.workers[number])


def _workers_of(slot):
    return [worker for worker in here.workers.values() if worker.slot == slot]


def forked(number, pid):
    """Notes that the worker exists."""
    here.workers[number].pid = pid
    here.server.WORKERS[pid] = here.workers[number]


def not_forked(number):
    """Notes that there is no such worker after all."""
    _forget(number)


def _forget(number):
    """Forgets a worker, and returns it if it was known."""
    worker = here.workers.pop(number, None)
    if worker is not None:
        here.server.WORKERS.pop(worker.pid, None)
        worker.alive = False
        # One that was to be replaced by it stays.
        for former in _workers_of(worker.slot)[-1:]:
            former.alive = True
    return worker


def after_fork(native, number, slot):
    """Notes that this process is the worker."""
    # One that was started by exec has not inherited it.
    worker = here.workers.get(number) or Worker(native, number, slot)
    worker.pid = os.getpid()
    here.worker = worker
    here.server.WORKERS[worker.pid] = worker
    _call_at_start("post_fork", here.server, worker)


def _call_at_start(name, *arguments):
    """Calls a hook of a worker that starts, and that it may end."""
    decision = call(name, *arguments, may_exit=True)
    if decision is not None:
        text = f"the hook {name} has ended the worker: {_words(decision)}"
        raise LoadError("Declined", text, None)


def died(native, number, pid):
    """Notes the end of a worker.

    Another fork server may have forked it. `pid` is None if the master has never heard
    of it.
    """
    dead = _forget(number)
    if dead is None and pid is not None:
        dead = Worker(native, number, None)
        dead.pid = pid
        dead.alive = False
    if dead is not None:
        call("child_exit", here.server, dead)


def workers_changed(new, old):
    """Notes that there are to be more workers, or fewer."""
    here.server.num_workers = new
    call("nworkers_changed", here.server, new, old)


def moment(name):
    """Calls a hook that has only the server as an argument."""
    call(name, here.server)


def starting():
    """Calls on_starting. Returns an exit code and the reason if that ends the start."""
    decision = call("on_starting", here.server, may_exit=True)
    if decision is None:
        return None
    code = (decision.code or 0) & 0xFF if _has_code(decision) else 1
    return code, f"the hook on_starting has ended the start: {_words(decision)}"


def application():
    """Returns the application, which is imported if it was not yet."""
    return here.server.app.wsgi()


def loaded(app):
    """Notes that this worker has its application; returns what it is to serve."""
    here.worker.wsgi = app
    here.worker.booted = True
    _call_at_start("post_worker_init", here.worker)
    return here.worker.wsgi


def interrupted():
    """Notes that this worker is told to end quickly."""
    if here.worker.alive:
        here.worker.alive = False
        call("worker_int", here.worker)


def aborted():
    """Notes that this worker is about to be killed."""
    here.worker.alive = False
    here.worker.aborted = True
    call("worker_abort", here.worker)
    leaving()


def leaving():
    """Notes that this worker is about to end."""
    here.worker.alive = False
    call("worker_exit", here.server, here.worker)


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
