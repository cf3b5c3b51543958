"""What a result has to say of the machine it comes from, and where it goes."""

import json
import os
import platform
import time
from pathlib import Path
from typing import Any

from mhsite.cli.benchmarks import result_path


def load() -> float:
    """Processes that run or want to, averaged over the last minute."""
    return round(os.getloadavg()[0], 2)


def facts() -> dict[str, Any]:
    return {
        "cpus": os.cpu_count(),
        "model": _cpu_model(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor()
    for line in info.read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def save(name: str, result: dict[str, Any]) -> None:
    """Write a benchmark's result."""
    path = result_path(name)
    path.parent.mkdir(exist_ok=True)
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    path.write_text(json.dumps({"at": at, **result}, indent=2, ensure_ascii=False) + "\n")
