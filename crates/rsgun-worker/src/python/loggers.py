"""The loggers that applications take from a server, and those that nobody has set up.

Applications log through the loggers of uvicorn and gunicorn, copy their handlers, or
configure nothing and expect to be heard. All of that comes out as lines of the server
here. An application that sets up logging itself is in charge: nothing is added to the root
logger, and what was changed there is taken back as soon as it gets a handler.

`logging.warning()` and its like call `basicConfig()` themselves while there is no handler.
Whoever uses them has set up nothing, so the handler that it makes is not let in.
"""

import logging
import sys

ERROR = ("uvicorn", "gunicorn.error", "rsgun")
"""They write where the server logs; `uvicorn.error` and `rsgun.error` are below them."""
ACCESS = ("uvicorn.access", "gunicorn.access", "rsgun.access")
"""They write where the access log is."""
BELOW = ("uvicorn.error", "rsgun.error")


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
    """Hears records without any handler, from INFO on, until somebody sets up logging.

    `logging.lastResort` is for them, but the level of the root logger, WARNING, would let
    none through. The first handler of the root logger brings its old level back, so that
    `logging.basicConfig()` and `dictConfig()` find what they would find without a server.
    """
    root = logging.getLogger()
    logging.lastResort = LineHandler(write)
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
