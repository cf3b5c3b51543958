"""Ask the running supervisord about its programs, over its control socket."""

import contextlib
import http.client
import xmlrpc.client
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mhsite.processes.layout import control_socket

#: What a socket that is gone, or a supervisord that is ending, answers with.
UNREACHABLE = (OSError, http.client.HTTPException, xmlrpc.client.Error)


@dataclass(frozen=True, slots=True)
class ProgramState:
    """One program as supervisord sees it."""

    name: str
    #: ``STARTING``, ``RUNNING``, ``BACKOFF``, ``STOPPING``, ``EXITED``, ``FATAL``, ``STOPPED``.
    state: str
    pid: int


@contextlib.contextmanager
def _connection() -> Iterator[Any]:
    from supervisor.xmlrpc import SupervisorTransport

    transport = SupervisorTransport(None, None, f"unix://{control_socket()}")
    with xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport) as proxy:
        yield proxy.supervisor


def program_states() -> list[ProgramState]:
    """Return the state of every program; [] while supervisord does not answer."""
    try:
        with _connection() as supervisor:
            rows = supervisor.getAllProcessInfo()
    except UNREACHABLE:
        return []
    return [ProgramState(row["name"], row["statename"], row["pid"]) for row in rows]


def program_start(name: str) -> None:
    """Start a program that supervisord has given up on."""
    with contextlib.suppress(*UNREACHABLE), _connection() as supervisor:
        supervisor.startProcess(name, False)
