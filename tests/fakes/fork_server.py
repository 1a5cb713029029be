#!/usr/bin/env python3
"""Stands in for an interpreter: speaks the fork server's side of the channel, badly.

FAKE says how. The master runs it as `FILE -c SCRIPT fork-server 3 EXTENSION`.
"""

import json
import os
import signal
import socket
import sys

channel = socket.socket(fileno=int(sys.argv[4]))
channel.setblocking(True)
held = []
"""Descriptors that came with requests, kept open as a fork server that hangs does."""


def say(message):
    channel.send(b"\0" + json.dumps(message).encode())


def hear():
    """The next message; ends this process when the master has closed the channel."""
    data, descriptors, _, _ = socket.recv_fds(channel, 1 << 16, 250)
    held.extend(descriptors)
    if not data:
        raise SystemExit(0)
    return json.loads(data[1:]) if data[0] == 0 else None


def greet(version=None):
    version = version or os.environ["FAKE_VERSION"]
    say({"Hello": {"version": version, "python": "3.99.0"}})


def load():
    greet()
    hear()
    say("Loaded")


def silent():
    signal.pause()


def garbage():
    channel.send(b"\0this is no message")
    channel.send(b"\xffnor is this")
    signal.pause()


def old():
    greet("0.0.1")
    hear()


def closes():
    load()
    channel.close()
    signal.pause()


def dies():
    load()
    hear()
    os.kill(os.getpid(), signal.SIGKILL)


def no_processes():
    load()
    request = hear()
    identity = request["Spawn"]["identity"]
    say({"SpawnFailed": {"id": identity["id"], "error": "Resource temporarily unavailable"}})
    while True:
        hear()


def swallows():
    load()
    while True:
        hear()


{
    "silent": silent,
    "garbage": garbage,
    "old": old,
    "closes": closes,
    "dies": dies,
    "no-processes": no_processes,
    "swallows": swallows,
}[os.environ["FAKE"]]()
