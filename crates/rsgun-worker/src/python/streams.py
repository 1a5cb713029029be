"""Streams of server-sent events that last until somebody ends them.

A stop waits for every answer, and such a stream would use up the graceful time-out.
`sse-starlette`, and with it the SDK of MCP, ends its streams when uvicorn stops. It learns of
that by replacing `uvicorn.Server.handle_exit`, or finds the server by the handler of SIGTERM.
Neither exists here, where workers are told by the master. So what it would do then is done
for it: the streams of all its versions look at `AppStatus.should_exit`, and those of 1 and 2
wait for an event beside it. (Those of 3.0 that wait can be reached by nobody.)

The library cancels the application then, which returns in the middle of its answer. That is
how the stream ends, and no mistake any more.
"""

import sys

_ended = []
"""The `AppStatus` whose streams were ended."""


def end():
    """Ends the streams that are open, and those that begin from now on.

    Returns whether there is such a library, and the application has not asked it to leave
    that to the application.
    """
    status = getattr(sys.modules.get("sse_starlette.sse"), "AppStatus", None)
    if status is None or not getattr(status, "enable_automatic_graceful_drain", True):
        return False
    if not getattr(status, "should_exit", True):
        _ended.append(status)
    status.should_exit = True
    event = getattr(status, "should_exit_event", None)
    if event is not None:
        event.set()
    return True


def resume():
    """Takes it back: in a program another server may follow."""
    while _ended:
        status = _ended.pop()
        status.should_exit = False
        if getattr(status, "should_exit_event", None) is not None:
            status.should_exit_event = None
