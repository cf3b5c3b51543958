"""What `mh doctor` looks at. Django must be set up."""

import shutil
import sys
from pathlib import Path
from typing import Final

from django.conf import settings

from backends import bus, gpu, selectors
from mhsite.cli.finding import Finding
from mhsite.cli.output import size
from mhsite.processes.lock import running_site
from router import registry_payloads
from router.availability import Availability

#: Free space below which an engine cannot be installed (vLLM's CPU build takes 2.5 GB).
FREE_BYTES_MIN: Final = 4 * 1024**3
#: What is wrong with a model, as against an engine that is only off.
_TROUBLES: Final = (Availability.NOT_INSTALLED.value, Availability.NEEDS_CREDENTIALS.value)


def findings() -> list[Finding]:
    """Look at everything."""
    return [
        Finding("python", True, sys.version.split()[0]),
        _space("MH_HOME", settings.MH_HOME),
        _space("cache", settings.MH_CACHE),
        *_site(),
        _gpus(),
        *_engines(),
        *models(),
    ]


def _space(subject: str, path: Path) -> Finding:
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    message = f"{path}, {size(free)} free"
    if free < FREE_BYTES_MIN:
        return Finding(subject, False, f"{message}; {size(FREE_BYTES_MIN)} are needed")
    return Finding(subject, True, message)


def _site() -> list[Finding]:
    site = running_site()
    if site is None:
        return [Finding("site", True, "not running")]
    worker = selectors.worker_alive()
    broker = bus.broker_alive()
    return [
        Finding("site", True, f"running at {site.url} (pid {site.pid})"),
        Finding("broker", broker, "answers" if broker else f"does not answer; see {_logs()}"),
        Finding("worker", worker, "running" if worker else f"not running; see {_logs()}"),
    ]


def _logs() -> Path:
    return settings.MH_HOME / "logs"


def _gpus() -> Finding:
    found = gpu.gpus()
    names = ", ".join(f"{g.name} ({size(g.memory_total or 0)})" for g in found)
    return Finding("gpu", True, names or "no NVIDIA GPU seen; engines run on the CPU")


def _engines() -> list[Finding]:
    rows = []
    for backend in selectors.backend_list():
        found = selectors.detection_now(backend)
        message = f"installed, {found['version']}" if found["installed"] else found["reason"]
        rows.append(Finding(backend.name, bool(found["installed"]), message))
    return rows


def models() -> list[Finding]:
    """Look at the models of the registry: one that is not installed, or has no account, is told before a chat."""
    found = registry_payloads.models(None)
    troubled: dict[str, list[str]] = {}
    for row in found:
        if row["availability"]["state"] in _TROUBLES:
            troubled.setdefault(row["availability"]["message"], []).append(row["id"])
    if not troubled:
        return [Finding("models", True, f"{len(found)} in the registry")]
    return [Finding("models", False, f"{', '.join(ids)}: {why}") for why, ids in troubled.items()]
