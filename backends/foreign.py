"""Engines that answer where a backend is configured, and that no operation of ours has started.

Looking costs nothing where nothing listens; otherwise it asks over HTTP, so it is for the observer, the
worker and the command line, never for a web request.
"""

import contextlib
import functools
import ipaddress
from dataclasses import dataclass
from typing import Any, Final

import httpx
import psutil
from django.conf import settings

from accounts.errors import MhError
from backends import gpu, ports, selectors, supervisor, systemd
from backends.engines.base import Engine, Launch, Target
from backends.models import Backend

#: Seconds each question to a server may take.
ASK_TIMEOUT: Final = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """An engine that answers at a backend's endpoint."""

    endpoint: str
    version: str
    #: What it serves: the model in memory, else the configured one. Empty when it lets us in to none.
    model: str
    #: Who listens; None where that is not ours to see.
    pid: int | None
    #: Name of the user whose process that is; empty when unknown.
    user: str
    #: The service it runs as, where stopping that would stop it and nothing else.
    unit: systemd.Unit | None
    #: The start of ours that it is: one our database had lost.
    instance: supervisor.Instance | None

    def facts(self) -> dict[str, Any]:
        """Return what a snapshot keeps."""
        return {
            "endpoint": self.endpoint,
            "version": self.version,
            "model": self.model,
            "pid": self.pid,
            "user": self.user,
            "unit": self.unit.name if self.unit else "",
            "unit_of_user": bool(self.unit and self.unit.user),
        }


def endpoint_of(options: Any) -> str:
    """Return where an engine with ``options`` is to answer; empty when that cannot be said."""
    host, port = getattr(options, "host", ""), getattr(options, "port", None)
    if not host or not port:
        return ""
    return Launch(argv=(), host=host, port=port, served_model="").endpoint


def is_loopback(endpoint: str) -> bool:
    """Say whether only this machine answers at ``endpoint``; no name is looked up."""
    host = endpoint.removeprefix("http://").rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


def listening(options: Any) -> frozenset[int]:
    """Return the inodes of the sockets that listen on the port of ``options``: who is there, unasked."""
    port = getattr(options, "port", None)
    return frozenset(found.inode for found in ports.listeners(port)) if port else frozenset()


def find(backend: Backend) -> Server | None:
    """Return the engine that answers at the endpoint of ``backend``; None when none does.

    Only at loopback addresses: what answers elsewhere is another machine's.
    """
    engine = selectors.backend_engine(backend)
    options = selectors.backend_options(backend)
    if not is_loopback(endpoint_of(options)) or not listening(options):
        return None
    seen = engine.running(options, timeout=ASK_TIMEOUT)
    if seen is None:
        return None
    model = seen.model or ""
    if not model and engine.capabilities.many_models:
        model = str(getattr(options, "model", ""))
    return Server(
        endpoint=seen.endpoint,
        version=seen.version,
        model=model,
        pid=seen.pid,
        user=_user(seen.pid),
        unit=_unit(engine, seen.pid),
        instance=_own_instance(backend, options.port),
    )


def _own_instance(backend: Backend, port: int) -> supervisor.Instance | None:
    for inst in supervisor.find(settings.MH_HOME, backend.name):
        if supervisor.owns_listener(inst, port):
            return inst
    return None


def _user(pid: int | None) -> str:
    if pid is not None:
        with contextlib.suppress(psutil.Error, KeyError):
            return psutil.Process(pid).username()
    return ""


def _unit(engine: Engine, pid: int | None) -> systemd.Unit | None:
    if pid is None:
        return None
    with contextlib.suppress(psutil.Error):
        began = psutil.Process(pid).create_time()
        return _unit_of(pid, began, engine.units, engine.name)
    return None


@functools.lru_cache(maxsize=32)
def _unit_of(pid: int, began: float, units: tuple[str, ...], name: str) -> systemd.Unit | None:  # noqa: ARG001 — a pid can come again
    """Ask once per process: ``systemctl`` is a program to run."""
    return systemd.unit_of(pid, names=units, word=name)


def gpus_of(backend: Backend, options: Any) -> tuple[int, ...]:
    """Return the GPUs a server may be on: as ours would be, else those configured, else all there are."""
    try:
        return tuple(selectors.backend_engine(backend).launch(options).gpus)
    except MhError:  # its program is not on this machine
        return tuple(options.gpus or (card.index for card in gpu.gpus()))


def can_unload(engine: Engine) -> bool:
    """Say whether a server of this engine gives its memory back when asked, whoever started it."""
    return engine.capabilities.park and engine.capabilities.many_models


def service_to_start(backend: Backend) -> systemd.Unit | None:
    """Return the service the engine runs as on this machine, where that is stopped; None where it is none.

    It counts when it is enabled: then it is how the engine is meant to run here, with the folders and
    the user of the service.
    """
    engine = selectors.backend_engine(backend)
    options = selectors.backend_options(backend)
    if getattr(options, "service", "") != "auto" or not is_loopback(endpoint_of(options)):
        return None
    known = systemd.first_known(engine.units) if engine.units else None
    if known is None or not known[1].enabled or known[1].active:
        return None
    return known[0]


def target_of(backend: Backend, model: str = "") -> Target:
    """Return where to talk to what ``backend`` is attached to."""
    known = selectors.backend_target(backend)
    return Target(
        endpoint=known.endpoint, served_model=model or known.served_model, api_key=known.api_key
    )


def said_by(title: str, endpoint: str, facts: dict[str, Any]) -> str:
    """Return who started an engine, as the first half of a sentence.

    Args:
        title: the engine's name.
        endpoint: where it answers.
        facts: those of a ``Server``; empty ones where nothing is known.
    """
    who = [f"pid {facts['pid']}"] if facts.get("pid") else []
    who += [f"user {facts['user']}"] if facts.get("user") else []
    who += [f"service {facts['unit']}"] if facts.get("unit") else []
    aside = f" ({', '.join(who)})" if who else ""
    return f"{title} at {endpoint} was started by somebody else{aside}"


def find_all() -> dict[str, dict[str, Any]]:
    """Look for every backend of this machine now; return the facts of what answers, by backend."""
    found = {}
    for row in selectors.backend_list():
        with contextlib.suppress(httpx.HTTPError, OSError, MhError):
            if row.node == settings.MH_NODE and (server := find(row)) is not None:
                found[row.name] = server.facts()
    return found
