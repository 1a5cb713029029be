"""The stacks of this process, for a master that finds it hanging."""

import contextlib
import faulthandler
import gc
import os
import signal
import sys
import traceback
import types

TASKS_MAX = 50
FRAMES_MAX = 50


def prepare(number, descriptor):
    """Writes all stacks to `descriptor` whenever the signal `number` comes.

    The threads are written by the native handler of faulthandler, whoever holds the
    interpreter's lock. It then calls the handler of Python, which adds the tasks and a
    NUL as soon as the main thread can run Python.
    """

    def add_tasks(_number, _frame):
        try:
            text = _all_tasks()
        except Exception as error:
            text = f"The asyncio tasks cannot be shown: {type(error).__name__}\n"
        os.write(descriptor, text.encode(errors="replace") + b"\0")

    # A forked worker has inherited the registration of its fork server.
    faulthandler.unregister(number)
    signal.signal(number, add_tasks)
    faulthandler.register(number, file=descriptor, all_threads=True, chain=True)


def end_on_abort(first=None):
    """Ends this process on SIGABRT without a core file, unless somebody else does.

    What is to be called `first` is, whoever would end it otherwise.
    """

    def end(_number, _frame):
        if first is not None:
            first()
        for stream in (sys.stdout, sys.stderr):
            # It may be closed, None, or in the middle of a write that was interrupted.
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(1)

    taken = faulthandler.is_enabled() or signal.getsignal(signal.SIGABRT) is not signal.SIG_DFL
    if first is not None or not taken:
        signal.signal(signal.SIGABRT, end)


def _all_tasks():
    # Without asyncio in use there is nothing to show, and this is no time to import it.
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return ""
    try:
        tasks = asyncio.all_tasks()
    except RuntimeError:
        return ""
    parts = ["\nAsyncio tasks (most recent call last):\n"]
    parts += [describe(task, with_source=False) for task in list(tasks)[:TASKS_MAX]]
    if len(tasks) > TASKS_MAX:
        parts.append(f"and {len(tasks) - TASKS_MAX} more tasks\n")
    return "".join(parts)


def describe(task, with_source=True):
    """Returns the stack of a task, through everything that it awaits."""
    frames, awaited = _chain(task.get_coro())
    summary = traceback.StackSummary.from_list(
        [
            traceback.FrameSummary(
                frame.f_code.co_filename,
                frame.f_lineno,
                frame.f_code.co_name,
                lookup_line=False,
                line=None if with_source else "",
            )
            for frame in frames
            if not frame.f_code.co_filename.startswith("<rsgun/")
        ]
    )
    text = f"Task {task.get_name()}:\n" + "".join(summary.format())
    if getattr(task.get_coro(), "cr_running", False):
        text += "  running, see its thread\n"
    elif awaited is not None:
        text += f"  waiting for {type(awaited).__module__}.{type(awaited).__qualname__}\n"
    return text


def _chain(awaited):
    """Returns the frames of what is awaited, outermost first, and what has no frame."""
    frames = []
    while awaited is not None and len(frames) < FRAMES_MAX:
        if type(awaited).__name__ in ("async_generator_asend", "async_generator_athrow"):
            # It does not tell whose it is.
            known = gc.get_referents(awaited)
            awaited = next((it for it in known if isinstance(it, types.AsyncGeneratorType)), None)
        for prefix, following in (("cr", "await"), ("gi", "yieldfrom"), ("ag", "await")):
            if hasattr(awaited, f"{prefix}_frame"):
                frame = getattr(awaited, f"{prefix}_frame")
                if frame is not None:
                    frames.append(frame)
                awaited = getattr(awaited, f"{prefix}_{following}")
                break
        else:
            break
    return frames, awaited
