"""How a fake engine tells its test about itself: one JSON line over a connection that it then holds."""

import json
import os
import signal
import socket

#: Where the test listens: ``host:port``.
ADDRESS = os.environ.get("FAKE_REPORT", "")
_held = []


def report(role, **facts):
    """Say who we are and return the connection, which also brings the test's commands."""
    host, _, port = ADDRESS.rpartition(":")
    connection = socket.create_connection((host, int(port)))
    _held.append(connection)
    connection.sendall(json.dumps({"role": role, "pid": os.getpid(), **facts}).encode() + b"\n")
    return connection


def wait_for_ever():
    """Do nothing until a signal ends us."""
    while True:
        signal.pause()
