"""Who listens on a TCP port of this machine: read from ``/proc``, never by connecting. And a port that nobody has."""

import contextlib
import errno
import os
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

#: The state of a listening socket in ``/proc/net/tcp``: ``TCP_LISTEN`` in the kernel's tcp_states.h.
_LISTEN: Final = "0A"


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
    for pid in (int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit()):
        if inodes & sockets([pid]):
            return f"pid {pid} ({_name(pid)})"
    return "another process"


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on now; somebody else may be faster."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    except OSError:
        return "ended"


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
    for line in _socket_table():
        fields = line.split()
        if fields[3] == _LISTEN and fields[1].endswith(wanted):
            found.append(Listener(fields[1].removesuffix(wanted), int(fields[9])))
    return found


def _socket_table() -> Iterator[str]:
    for path in ("/proc/self/net/tcp", "/proc/self/net/tcp6"):
        with contextlib.suppress(OSError):  # a machine without IPv6
            yield from Path(path).read_text().splitlines()[1:]


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
