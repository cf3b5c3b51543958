"""Which process listens on a port, also where its files are not ours to see."""

import contextlib
from collections.abc import Callable

import psutil

from backends import ports

#: Says of a process whether it looks like the engine's server, by its name and arguments.
IsServer = Callable[[psutil.Process], bool]


def listener(port: int, is_server: IsServer) -> int | None:
    """Return who listens on ``port``; of another user's processes only names are seen.

    Where nobody is seen to hold the socket, it is the only process that looks like the engine's server
    and whose files are hidden from us; None if there is none or more than one.
    """
    inodes = {found.inode for found in ports.listeners(port)}
    if not inodes:
        return None
    hidden = []
    owners = []
    for process in psutil.process_iter():
        held = ports.sockets([process.pid])
        if inodes & held:
            owners.append(process)
        elif not held and is_server(process):
            hidden.append(process.pid)
    if owners:
        return _first(owners)
    return hidden[0] if len(hidden) == 1 else None


def _first(owners: list[psutil.Process]) -> int:
    """Return the process the socket was handed down from."""
    pids = {process.pid for process in owners}
    for process in owners:
        with contextlib.suppress(psutil.Error):
            if process.ppid() not in pids:
                return process.pid
    return owners[0].pid
