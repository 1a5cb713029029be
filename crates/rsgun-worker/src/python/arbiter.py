"""The objects that hooks of a gunicorn.conf.py are called with.

They have what such files use of gunicorn's arbiter and worker. The fork server has one
Server, and a Worker for each process that it has forked; a forked worker has inherited
both.
"""

import logging
import sys
import time
import types

from rsgun._cfg import Config
from rsgun._conf import hooks as functions
from rsgun._conf import values as assigned

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
