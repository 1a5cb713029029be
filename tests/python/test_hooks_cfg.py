"""The configuration as hooks see it: all of gunicorn's settings, and the values in force."""

from __future__ import annotations

import json
import os

from gunicorn.config import Config
from harness.hooks import RECORDS, Hooked
from harness.marks import rsgun_only

pytestmark = rsgun_only

DUMP = """
def on_starting(server):
    plain = lambda value: "function" if callable(value) else value
    record("all", settings={
        name: plain(setting.value) for name, setting in server.cfg.settings.items()
    })
"""

OWN = {
    # What rsgun does in another way, and what stands in the file or on the command line.
    "asgi_loop", "bind", "control_socket", "errorlog", "keepalive", "on_starting", "root_path",
    "umask", "websocket_max_message_size", "wsgi_app", "accesslog", "backlog", "default_proc_name",
    "asgi_lifespan", "chdir", "user", "group",
}  # fmt: skip


def test_all_settings_are_there_with_the_defaults_of_gunicorn(hooked: Hooked) -> None:
    recorded = hooked(base=RECORDS, conf=DUMP)
    (record,) = recorded.wait("all")
    seen = record["settings"]
    assert isinstance(seen, dict)
    theirs = {
        name: "function" if callable(setting.value) else setting.value
        for name, setting in Config().settings.items()
    }
    assert set(seen) == set(theirs)
    different = {name for name in theirs if seen[name] != json.loads(json.dumps(theirs[name]))}
    assert different <= OWN, {name: (seen[name], theirs[name]) for name in different - OWN}
    assert seen["wsgi_app"] == seen["default_proc_name"] == "main:app"
    assert (seen["chdir"], seen["accesslog"]) == (str(recorded.folder), "-")
    assert (seen["user"], seen["group"]) == (os.geteuid(), os.getegid())


def test_values_in_force(hooked: Hooked) -> None:
    conf = """
def look(hook, cfg):
    record(hook, threads=cfg.settings["threads"].value, get=cfg.settings["timeout"].get(),
           bind=cfg.bind, address=cfg.address, access=cfg.accesslog, paths=cfg.pythonpath,
           allowed=cfg.forwarded_allow_ips, connections=cfg.worker_connections,
           kind=cfg.worker_class_str, ssl=bool(cfg.is_ssl), name=cfg.proc_name, env=cfg.env,
           ids=[cfg.uid, cfg.gid], own=cfg.boot_timeout, same=cfg.post_fork is post_fork,
           none=cfg.when_ready(None))

def on_starting(server):
    look("on_starting", server.cfg)
    record("listeners", found=server.LISTENERS)

def post_fork(server, worker):
    assert worker.cfg is server.cfg
    look("post_fork", worker.cfg)

timeout = 10
forwarded_allow_ips = "10.0.0.1, 10.0.0.2"
worker_connections = 2000
raw_env = ["A=1"]
pythonpath = "..,."
rsgun_boot_timeout = 77
"""
    arguments = ("--threads", "3", "--timeout", "7", "--no-access-log", "--name", "shop")
    recorded = hooked(*arguments, base=RECORDS, conf=conf, app="def app(environ, start): pass\n")
    for hook in ("on_starting", "post_fork"):
        (seen,) = recorded.wait(hook)
        assert (seen["threads"], seen["get"]) == (3, 7)
        assert (seen["bind"], seen["address"]) == (["127.0.0.1:0"], [["127.0.0.1", 0]])
        assert (seen["access"], seen["env"], seen["name"]) == (None, {"A": "1"}, "shop")
        assert (seen["allowed"], seen["connections"]) == (["10.0.0.1", "10.0.0.2"], 2000)
        assert (seen["kind"], seen["ssl"], seen["own"]) == ("gthread", False, 77)
        assert seen["ids"] == [os.geteuid(), os.getegid()]
        assert isinstance(seen["paths"], str)
        assert len(seen["paths"].split(",")) == 2
        assert (seen["same"], seen["none"]) == (True, None)
    assert recorded.records("listeners")[0]["found"] == []


def test_changes(hooked: Hooked) -> None:
    """They are seen by hooks alone, which is said; what is no setting can be anything."""
    conf = """
def on_starting(server):
    cfg = server.cfg
    cfg.set("timeout", 99)
    cfg.http = "httptools"
    refused = []
    for change in (lambda: setattr(cfg, "timeout", 1), lambda: cfg.set("nothing", 1)):
        try:
            change()
        except AttributeError as error:
            refused.append(str(error))
    record("changed", timeout=cfg.timeout, http=cfg.http, refused=refused)
    cfg.nothing
"""
    recorded = hooked(base=RECORDS, conf=conf)
    recorded.server.tolerates_tracebacks = True
    (seen,) = recorded.wait("changed")
    assert (seen["timeout"], seen["http"]) == (99, "httptools")
    refused = ["Invalid access!", "No configuration setting for: nothing"]
    assert seen["refused"] == refused
    recorded.server.wait_for_line(r"^WARNING: +cfg.set\('timeout'\) changes nothing but what")
    recorded.server.wait_for_line(r"^AttributeError: No configuration setting for: nothing$")
