import sys

if sys.path and sys.path[0] == "":
    del sys.path[0]
_mode, _fd, _extension = sys.argv[1:4]


def _unsuitable(reason):
    import json
    import socket

    channel = socket.fromfd(int(_fd), socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel.send(b"\0" + json.dumps({"Unsuitable": {"reason": reason}}).encode())
    raise SystemExit(1)


def _load():
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < (3, 11):
        _unsuitable(
            "%s is Python %s, rsgun needs 3.11 or newer: "
            "name another interpreter with --python or activate its virtual environment"
            % (sys.executable, version)
        )
    if _extension == "-":
        try:
            from rsgun import _rsgun
        except ImportError as error:
            _unsuitable(
                "%s (Python %s) cannot import rsgun._rsgun: %s; "
                "install rsgun into this interpreter or name another one with --python"
                % (sys.executable, version, error)
            )
        return _rsgun
    import importlib.machinery
    import importlib.util

    loader = importlib.machinery.ExtensionFileLoader("rsgun._rsgun", _extension)
    spec = importlib.util.spec_from_file_location("rsgun._rsgun", _extension, loader=loader)
    try:
        module = importlib.util.module_from_spec(spec)
        loader.exec_module(module)
    except ImportError as error:
        _unsuitable(
            "%s (Python %s) cannot load %s: %s" % (sys.executable, version, _extension, error)
        )
    return module


_load()._main(_mode, int(_fd), _extension)
