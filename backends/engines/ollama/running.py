"""An Ollama that answers where ours would, whoever started it."""

import contextlib
import re
from pathlib import Path

import httpx
import psutil

from backends.engines import listening
from backends.engines.base import RunningServer, Target
from backends.engines.ollama import client
from backends.engines.ollama.options import OllamaOptions

_UNIT = re.compile(r"/([^/]+\.service)(?:/|$)")


def find(options: OllamaOptions, endpoint: str, timeout: float) -> RunningServer | None:
    """Return the Ollama at ``endpoint``; None when nothing answers, or something else does."""
    target = Target(endpoint=endpoint, served_model=options.model)
    try:
        version = client.version(target, timeout)
    except httpx.HTTPError:
        return None
    if not version:
        return None
    try:
        model = client.loaded_model(target, timeout)
    except httpx.HTTPError:  # others have /api/version too
        return None
    pid = listening.listener(options.port, _is_server)
    return RunningServer(
        endpoint=endpoint, version=version, model=model, pid=pid, unit=_unit(pid) if pid else ""
    )


def _is_server(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.name() == "ollama" and "serve" in process.cmdline()
    return False


def _unit(pid: int) -> str:
    """Return the systemd unit of a process: the last service in its control group's path."""
    with contextlib.suppress(OSError):
        units = _UNIT.findall(Path(f"/proc/{pid}/cgroup").read_text())
        return next((unit for unit in reversed(units) if not unit.startswith("user@")), "")
    return ""
