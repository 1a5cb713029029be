"""Notices when somebody is at the prompt of pdb, or of a debugger made from it (ipdb).

Whichever way one gets there, `pdb.set_trace()` or `pdb.post_mortem()`, it is by
`Pdb.interaction`. pdb is not imported for this: the module may not even be Python's own,
nor those that it imports, once the directory of the application is first on the path.
"""

import functools
import importlib.util
import sys


def watch(tell):
    """Has `tell()` called whenever a prompt opens."""
    if "pdb" in sys.modules:
        _watch(sys.modules["pdb"], tell)
    else:
        sys.meta_path.insert(0, _Finder(tell))


class _Finder:
    """Is asked for every module that is imported, until it is pdb."""

    def __init__(self, tell):
        self._tell = tell

    def find_spec(self, name, *_):
        if name != "pdb":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = getattr(spec and spec.loader, "exec_module", None)
        if execute:

            def exec_module(module):
                execute(module)
                _watch(module, self._tell)

            spec.loader.exec_module = exec_module
        return spec


def _watch(module, tell):
    debugger = getattr(module, "Pdb", None)
    if not hasattr(debugger, "interaction"):
        # A module of the application by that name.
        return
    interaction = debugger.interaction

    @functools.wraps(interaction)
    def watched(self, *arguments, **keywords):
        tell()
        # Otherwise `continue` takes SIGINT for the debugger, and CTRL+C no longer ends the
        # server.
        self.nosigint = True
        return interaction(self, *arguments, **keywords)

    debugger.interaction = watched
