"""The loggers that applications take from a server, and those that nobody has set up.

Applications log through the loggers of uvicorn and gunicorn, copy their handlers, or
configure nothing and expect to be heard. All of that comes out as lines of the server
here. An application that sets up logging itself is in charge: nothing is added to the root
logger, and what was changed there is taken back as soon as it gets a handler.

Libraries say at INFO what they do, each request of a client and each run of a job, and are
not heard under any other server. What an application says at INFO is to be heard. So what
is below WARNING passes if the call stands in a file that nobody has installed, or the
logger has the name of such a module, since libraries call loggers that they were given. The
package that is served may well be installed itself, and counts as if it was not.

`logging.warning()` and its like call `basicConfig()` themselves while there is no handler.
Whoever uses them has set up nothing, so the handler that it makes is not let in.
"""

import functools
import logging
import os
import sys

from rsgun._loader import packages

ERROR = ("uvicorn", "gunicorn.error", "rsgun")
"""They write where the server logs; `uvicorn.error` and `rsgun.error` are below them."""
ACCESS = ("uvicorn.access", "gunicorn.access", "rsgun.access")
"""They write where the access log is."""
BELOW = ("uvicorn.error", "rsgun.error")
INSTALLED = {"site-packages", "dist-packages"}
"""The names of directories for what was installed."""
STANDARD = (os.path.join(os.path.dirname(os.__file__), ""), "<frozen ")
"""What the files of the standard library begin with."""


class LineHandler(logging.Handler):
    """Writes records as lines of the server.

    `write` takes the level, the text, and whether it is for the access log.
    """

    def __init__(self, write, is_access=False):
        super().__init__()
        self.write = write
        self.is_access = is_access

    def emit(self, record):
        """Writes one record."""
        try:
            self.write(record.levelno, self.format(record), self.is_access)
        except RecursionError:
            raise
        except Exception:
            self.handleError(record)


class OwnRecords(logging.Filter):
    """Lets through what an application says, and of libraries what warns."""

    def filter(self, record):
        """Tells whether a record passes."""
        # A record that somebody has made may have anything there.
        return (
            record.levelno >= logging.WARNING
            or _is_own_file(str(record.pathname))
            or _is_own_module(str(record.name).partition(".")[0])
        )


def _is_own_module(name):
    """Tells whether a top-level module belongs to the application."""
    if name in packages:
        return True
    # Not by its attributes: a module may import others when it is asked for one.
    known = getattr(sys.modules.get(name), "__dict__", {})
    files = [known.get("__file__"), *(known.get("__path__") or ())]
    return any(_is_own_file(file) for file in files if isinstance(file, str))


def _is_own_file(path):
    """Tells whether a file belongs to the application."""
    library = _library(path)
    return library is None or library in packages


@functools.lru_cache(1024)
def _library(path):
    """Returns which library a file is of: a top-level name, or "" for Python itself."""
    parts = path.split(os.sep)
    places = [index for index, part in enumerate(parts[:-1]) if part in INSTALLED]
    if places:
        return parts[places[-1] + 1].partition(".")[0]
    return "" if path.startswith(STANDARD) else None


def prepare(write, level, has_access_log):
    """Sets up the loggers for the number of `--log-level`.

    Those that have handlers already are left alone.
    """
    for name in ERROR:
        _set_up(name, LineHandler(write), level)
    for name in ACCESS:
        # Without an access log nothing must reach the handler of last resort.
        handler = LineHandler(write, is_access=True) if has_access_log else logging.NullHandler()
        _set_up(name, handler, level)
    for name in BELOW:
        logging.getLogger(name).setLevel(level)
    _hear_the_rest(write, level)


def _set_up(name, handler, level):
    logger = logging.getLogger(name)
    if not logger.handlers:
        logger.addHandler(handler)
        logger.setLevel(level)
        logger.propagate = False


def _hear_the_rest(write, level):
    """Hears records without any handler, those of the application from INFO on.

    That ends when somebody sets up logging.

    `logging.lastResort` is for them, but the level of the root logger, WARNING, would let
    none through. The first handler of the root logger brings its old level back, so that
    `logging.basicConfig()` and `dictConfig()` find what they would find without a server.
    """
    root = logging.getLogger()
    logging.lastResort = LineHandler(write)
    logging.lastResort.addFilter(OwnRecords())
    if root.handlers or root.level != logging.WARNING or level > logging.INFO:
        return
    root.setLevel(logging.INFO)

    def add_handler(handler):
        if _is_asked_by_logging_itself(sys._getframe(1)):
            return
        del root.addHandler
        if root.level == logging.INFO:
            root.setLevel(logging.WARNING)
        root.addHandler(handler)

    root.addHandler = add_handler


def _is_asked_by_logging_itself(frame):
    """Whether a caller is `basicConfig()`, and its caller a function of `logging`."""
    own = vars(logging)
    return (
        frame.f_globals is own
        and frame.f_code.co_name == "basicConfig"
        and frame.f_back is not None
        and frame.f_back.f_globals is own
    )
