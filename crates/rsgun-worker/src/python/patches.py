"""Refuses a WSGI application for which threads are none any more.

gevent and eventlet can put green threads into the place of threads, for the whole process.
The threads of a pool are then green threads of the main thread: the first that waits for a
request blocks it for ever, and the worker never gets to serve.
"""

import sys

from rsgun._loader import LoadError

PATCHERS = (
    (
        "gevent",
        ("gevent.monkey", "is_module_patched", "threading"),
        "monkey.patch_all()",
        "patch_all",
    ),
    (
        "eventlet",
        ("eventlet.patcher", "is_monkey_patched", "thread"),
        "monkey_patch()",
        "monkey_patch",
    ),
)
"""Who patches, what tells that, what does it, and what can be told to leave threads alone."""


def refuse_green_threads():
    """Raises LoadError if threads have been patched."""
    for name, (module, question, subject), call, function in PATCHERS:
        is_patched = getattr(sys.modules.get(module), question, None)
        if is_patched is not None and is_patched(subject):
            raise LoadError(
                "NotCallable",
                f"{name} has patched threads ({call}), which rsgun's threads for WSGI cannot "
                f"work with: remove it, or {function}(thread=False)",
                None,
            )
