"""A gunicorn.conf.py for rsgun: every hook, each with what it is good for.

    rsgun -c config/gunicorn.conf.py main:app

Settings have gunicorn's names; with rsgun_ before it the file can also set what only rsgun
has. gunicorn ignores those, so it can use the same file. docs/migration.md says what
differs. The hooks here only write a line to the log: keep those that you need.

Where a hook runs: those with `server` run in the fork server, which forks all workers of a
generation, but for post_fork and worker_exit; all others run in the worker.
"""

import os

bind = os.environ.get("BIND", "127.0.0.1:8000")
workers = int(os.environ.get("WEB_CONCURRENCY", "2"))
timeout = 30
graceful_timeout = 30
max_requests = 10_000
max_requests_jitter = 1_000
preload_app = True

rsgun_request_timeout = 60
rsgun_max_rss = "1G"


# === the server ===


def on_starting(server):
    """Once a master, before the first worker: remove what an earlier run left.

    With `preload_app` the application is imported already: what its import needs, such as a
    directory, is made at the top of this file. sys.exit() ends the start here.
    """
    server.log.info("on_starting: master %s", server.pid)


def when_ready(server):
    """Once in each fork server, when the one before is gone: at the start before any worker.

    These do not serve yet; a health check tells when they do.
    """
    server.log.info("when_ready: %s", server.address)


def on_reload(server):
    """Called at a reload, in the new fork server, before its first worker."""
    server.log.info("on_reload: master %s", server.pid)


def nworkers_changed(server, new_value, old_value):
    """Called when the number of workers is set: in each fork server, and when it changes.

    The old value is None at the start.
    """
    server.log.info("nworkers_changed: from %s to %s", old_value, new_value)


def pre_exec(server):
    """Called right before the binary is exchanged."""
    server.log.info("pre_exec: master %s", server.pid)


def on_exit(server):
    """Once a master, when all workers are gone."""
    server.log.info("on_exit: master %s", server.pid)


# === a worker, from birth to death ===


def pre_fork(server, worker):
    """Before a worker is forked: close what it must not inherit."""
    server.log.info("pre_fork: worker number %s", worker.age)


def post_fork(server, worker):
    """In the worker, first of all: replace connections that preloading has opened.

    For example `main.engine.dispose(close=False)` with SQLAlchemy (`main.engine.sync_engine`
    if it is an async one); see docs/preload.md.
    """
    server.log.info("post_fork: worker number %s is process %s", worker.age, worker.pid)


def post_worker_init(worker):
    """In the worker, when the application is loaded."""
    worker.log.info("post_worker_init: process %s", worker.pid)


def worker_int(worker):
    """In the worker, when it is told to end quickly (the master got INT or QUIT)."""
    worker.log.info("worker_int: process %s", worker.pid)


def worker_abort(worker):
    """In the worker, when it hangs and is about to be killed: there is one second left."""
    worker.log.info("worker_abort: process %s", worker.pid)


def worker_exit(server, worker):
    """In the worker, last of all, unless it was killed."""
    server.log.info("worker_exit: process %s", worker.pid)


def child_exit(server, worker):
    """In the fork server, when a worker is gone, in whichever way.

    The place for `prometheus_client.multiprocess.mark_process_dead(worker.pid)`.
    """
    server.log.info("child_exit: process %s", worker.pid)


# === requests ===
# Both are called for every request, and cost time. Remove what you do not need.


def pre_request(worker, req):
    """In the worker, before the application is called."""
    worker.log.debug("pre_request: %s %s", req.method, req.path)


def post_request(worker, req, environ, resp):
    """In the worker, when the application has returned. For ASGI, environ is the scope."""
    worker.log.debug("post_request: %s %s %s", req.method, req.path, resp.status)
