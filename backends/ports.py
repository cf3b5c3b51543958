"""Who listens on a TCP port of this machine: read from ``/proc``, never by connecting."""

import contextlib
import errno
import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from backends import keeper


@dataclass(frozen=True)
class Listener:
    """A socket that listens."""

    #: Local address as the kernel writes it, hexadecimal.
    address: str
    inode: int


def port_holder(port: int, host: str) -> str | None:
    """Return who keeps us from listening on ``host:port``; None when it is free.

    ``pid 123 (name)``, or ``another process`` where it is not ours to see. A host that is not an
    address of this machine is nobody's: None.
    """
    if all(_can_bind(family, address) for family, address in _addresses(host, port)):
        return None
    inodes = {listener.inode for listener in listeners(port)}
    for pid in (*keeper.process_table(), os.getpid()):
        if inodes & sockets([pid]) and (stat := keeper.read_stat(pid)):
            return f"pid {pid} ({stat.name})"
    return "another process"


def _addresses(host: str, port: int) -> list[tuple[int, Any]]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError:
        return []
    return [(family, address) for family, _, _, _, address in found]


def _can_bind(family: int, address: Any) -> bool:
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            probe.bind(address)
        except OSError as error:
            return error.errno != errno.EADDRINUSE
    return True


def listeners(port: int) -> list[Listener]:
    """Return the sockets that listen on a TCP port: proc_net_tcp in the kernel's documentation."""
    found = []
    wanted = f":{port:04X}"
    for table in ("/proc/self/net/tcp", "/proc/self/net/tcp6"):
        for line in keeper.read_bytes(table).decode().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[1].endswith(wanted):
                found.append(Listener(fields[1].removesuffix(wanted), int(fields[9])))
    return found


def sockets(pids: Iterable[int]) -> set[int]:
    """Return the inodes of the sockets these processes have open, as far as we may see them."""
    found = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            for entry in os.scandir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    target = os.readlink(entry.path)  # noqa: PTH115 - hundreds per process
                    if target.startswith("socket:["):
                        found.add(int(target[8:-1]))
    return found
