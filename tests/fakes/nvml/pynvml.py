"""A fake NVML: stands in for the module ``pynvml`` and answers from a JSON file.

For a whole site put this folder first on ``PYTHONPATH`` and name the file in ``FAKE_NVML``::

    PYTHONPATH=tests/fakes/nvml FAKE_NVML=/tmp/gpus.json mh up

In a test use the fixture ``nvml`` (``tests/backends/conftest.py``): it gives the test process and what it
reads the GPUs of a file that can be changed at any time. Without ``FAKE_NVML``, or without the file,
it is a machine without a driver.

The file::

    {"gpus": [{"name": "Fake H200", "uuid": "GPU-0", "total": 150_000_000_000, "driver": 0,
               "utilization": 50, "power": 310.5, "power_limit": 700, "temperature": 61,
               "errors": {"nvmlDeviceGetUUID": 3}, "lost": false}, …],
     "uses": [{"backend": "fake", "command": "EngineCore", "gpu": 0, "memory": 8_000_000_000}, …],
     "release_seconds": 0,
     "errors": {"nvmlInit": 9}}

``gpus``
    One entry each; everything has a default. ``driver``: bytes in use that are nobody's. ``errors``: an NVML
    error code by the name of the function that fails for this GPU. ``lost``: it fell off the bus. ``power``
    and ``power_limit`` are watts, which NVML gives in milliwatts; null: this card does not measure it (error 3).
    ``utilization``, ``power`` and ``temperature`` may be ``{"from": 20, "to": 90, "seconds": 60}``: there and back
    again in so many seconds, as a card that works does.
``uses``
    Which living processes hold memory: those whose environment has ``MH_INSTANCE=<backend>/…`` (left out:
    any) and whose command line contains ``command`` (left out: any; no keeper is ever meant). ``memory``
    null: the driver does not say how much. ``gpu`` may be a list: as much on each.
``release_seconds``
    How long the memory of a dead process stays: it counts from when this module first saw it dead. null: for
    ever. A process that was never seen alive holds nothing afterwards.
``errors``
    For functions of the whole driver, or of every GPU.

A process can also say itself what it holds, and change it (a fake engine that sleeps): a file
``<pid>-<gpu>`` in the folder ``<file>.held`` with the bytes as text. What was seen is noted there too, so all
processes that read see the same.

The error codes and classes are the real binding's (1 uninitialised, 3 not supported, 4 no permission, 9 driver
not loaded, 12 library not found, 15 GPU is lost, 999 unknown).
"""

import contextlib
import importlib.machinery
import importlib.util
import json
import math
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

_HERE = Path(__file__).resolve().parent
KEEPER = "keeper.py"


def _real() -> Any:
    """Load the real binding under another name: its codes and classes are ours."""
    elsewhere = [place for place in sys.path if Path(place or ".").resolve() != _HERE]
    found = importlib.machinery.PathFinder.find_spec("pynvml", elsewhere)
    assert found
    assert found.origin
    spec = importlib.util.spec_from_file_location("real_pynvml", found.origin)
    assert spec
    assert spec.loader
    module = sys.modules["real_pynvml"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_REAL = sys.modules.get("pynvml") if __name__ != "pynvml" else None
_REAL = _REAL or _real()
NVMLError = _REAL.NVMLError
nvmlMemory_v2 = _REAL.nvmlMemory_v2  # noqa: N816 - the binding's name
globals().update({name: getattr(_REAL, name) for name in dir(_REAL) if name.startswith("NVML_")})


def _file() -> Path | None:
    return Path(os.environ["FAKE_NVML"]) if os.environ.get("FAKE_NVML") else None


def _answers(name: str, gpu: int | None = None) -> dict[str, Any]:
    """Return the file's content, once nothing in it says that ``name`` fails."""
    path = _file()
    try:
        said = json.loads(path.read_text()) if path else None
    except FileNotFoundError:
        said = None
    if said is None:
        raise NVMLError(_REAL.NVML_ERROR_LIBRARY_NOT_FOUND)
    errors = dict(said.get("errors", {}))
    if gpu is not None:
        if gpu >= len(said["gpus"]):
            raise NVMLError(_REAL.NVML_ERROR_INVALID_ARGUMENT)
        if said["gpus"][gpu].get("lost"):
            raise NVMLError(_REAL.NVML_ERROR_GPU_IS_LOST)
        errors |= said["gpus"][gpu].get("errors", {})
    if name in errors:
        raise NVMLError(errors[name])
    return dict(said)


def nvmlInit() -> None:  # noqa: N802
    _answers("nvmlInit")


def nvmlShutdown() -> None:  # noqa: N802
    _answers("nvmlShutdown")


def nvmlSystemGetDriverVersion() -> str:  # noqa: N802
    _answers("nvmlSystemGetDriverVersion")
    return "999.99.fake"


def nvmlDeviceGetCount() -> int:  # noqa: N802
    return len(_answers("nvmlDeviceGetCount")["gpus"])


def nvmlDeviceGetHandleByIndex(index: int) -> int:  # noqa: N802
    _answers("nvmlDeviceGetHandleByIndex", index)
    return index


def _fact(function: str, handle: int, name: str, default: Any) -> Any:
    return _answers(function, handle)["gpus"][handle].get(name, default)


def nvmlDeviceGetName(handle: int) -> str:  # noqa: N802
    return str(_fact("nvmlDeviceGetName", handle, "name", f"Fake GPU {handle}"))


def nvmlDeviceGetUUID(handle: int) -> str:  # noqa: N802
    return str(_fact("nvmlDeviceGetUUID", handle, "uuid", f"GPU-fake-{handle}"))


def nvmlDeviceGetUtilizationRates(handle: int) -> SimpleNamespace:  # noqa: N802
    rate = round(_now(_fact("nvmlDeviceGetUtilizationRates", handle, "utilization", 0)))
    return SimpleNamespace(gpu=rate, memory=rate)


def _now(said: Any) -> float:
    """Return a number, or where one that moves is by now."""
    if not isinstance(said, dict):
        return float(said)
    part = (1 - math.cos(2 * math.pi * time.time() / said["seconds"])) / 2
    return float(said["from"] + part * (said["to"] - said["from"]))


def _milliwatts(function: str, handle: int, name: str, default: float) -> int:
    watts = _fact(function, handle, name, default)
    if watts is None:
        raise NVMLError(_REAL.NVML_ERROR_NOT_SUPPORTED)
    return round(_now(watts) * 1000)


def nvmlDeviceGetPowerUsage(handle: int) -> int:  # noqa: N802
    return _milliwatts("nvmlDeviceGetPowerUsage", handle, "power", 60)


def nvmlDeviceGetEnforcedPowerLimit(handle: int) -> int:  # noqa: N802
    return _milliwatts("nvmlDeviceGetEnforcedPowerLimit", handle, "power_limit", 700)


def nvmlDeviceGetTemperatureV(handle: int, sensor: int) -> int:  # noqa: N802
    return _degrees("nvmlDeviceGetTemperatureV", handle, sensor)


def nvmlDeviceGetTemperature(handle: int, sensor: int) -> int:  # noqa: N802
    return _degrees("nvmlDeviceGetTemperature", handle, sensor)


def _degrees(function: str, handle: int, sensor: int) -> int:
    if sensor != _REAL.NVML_TEMPERATURE_GPU:
        raise NVMLError(_REAL.NVML_ERROR_INVALID_ARGUMENT)
    return round(_now(_fact(function, handle, "temperature", 35)))


def nvmlDeviceGetMemoryInfo(handle: int, version: int | None = None) -> SimpleNamespace:  # noqa: N802
    said = _answers("nvmlDeviceGetMemoryInfo", handle)
    card = said["gpus"][handle]
    total = card.get("total", 24 << 30)
    used = card.get("driver", 0) + sum(amount or 0 for amount in _held(said, handle).values())
    return SimpleNamespace(total=total, used=min(used, total), free=max(0, total - used))


def nvmlDeviceGetComputeRunningProcesses(handle: int) -> list[SimpleNamespace]:  # noqa: N802
    said = _answers("nvmlDeviceGetComputeRunningProcesses", handle)
    held = _held(said, handle)
    return [SimpleNamespace(pid=pid, usedGpuMemory=held[pid]) for pid in sorted(held)]


def nvmlDeviceGetGraphicsRunningProcesses(handle: int) -> list[SimpleNamespace]:  # noqa: N802
    _answers("nvmlDeviceGetGraphicsRunningProcesses", handle)
    return []


# Who holds what.


def _held(said: dict[str, Any], gpu: int) -> dict[int, int | None]:
    """Return bytes by pid on one GPU, after noting who lives and who has died."""
    folder = _notes()
    _note_living(said, folder)
    found: dict[int, int | None] = {}
    for note in folder.glob(f"*-{gpu}"):
        pid = int(note.name.partition("-")[0])
        if _is_held(note, pid, said.get("release_seconds", 0)):
            text = note.read_text().strip()
            amount = int(text) if text.isdigit() else None
            if amount != 0:
                found[pid] = amount
    return found


def _notes() -> Path:
    path = _file()
    assert path
    folder = path.with_name(f"{path.name}.held")
    folder.mkdir(exist_ok=True)
    return folder


def _note_living(said: dict[str, Any], folder: Path) -> None:
    for use in said.get("uses", []):
        gpus = use["gpu"] if isinstance(use["gpu"], list) else [use["gpu"]]
        for pid in _living(use.get("backend", ""), use.get("command", "")):
            for gpu in gpus:
                _write(folder / f"{pid}-{gpu}", str(use["memory"]))


def _write(note: Path, text: str) -> None:
    """Write at once: others read at the same time."""
    with contextlib.suppress(OSError):
        if note.read_text() == text:
            return
    half = note.with_name(f"half.{os.getpid()}.{note.name}.tmp")
    half.write_text(text)
    half.replace(note)


def _living(backend: str, command: str) -> list[int]:
    prefix = f"MH_INSTANCE={backend}/" if backend else "MH_INSTANCE="
    return [
        pid
        for pid, mark, line in _marked()
        if mark.startswith(prefix) and KEEPER not in line and command in line
    ]


#: When all processes were looked at last, and what was found; one reading of all GPUs is one look.
_looked: list[Any] = [0.0, []]
_LOOK_SECONDS = 0.1


def _marked() -> list[tuple[int, str, str]]:
    """Return pid, mark and command line of every process of an engine of ours."""
    if time.monotonic() - _looked[0] > _LOOK_SECONDS:
        _looked[:] = [time.monotonic(), list(_look())]
    return list(_looked[1])


def _is_here(environ: bytes) -> bool:
    """Whether a process is of this site: other tests run at the same time, with engines of the same name."""
    home = os.environ.get("MH_HOME", "")
    folder = f"MH_INSTANCE_FOLDER={home}/engines/".encode()
    return not home or folder in environ


def _look() -> Iterator[tuple[int, str, str]]:
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            own = (entry / "environ").read_bytes()
            if b"MH_INSTANCE=" not in own or not _is_here(own):
                continue
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            for item in own.decode(errors="replace").split("\0"):
                if item.startswith("MH_INSTANCE=") and line:
                    yield int(entry.name), item, line


def _is_held(note: Path, pid: int, release_seconds: float | None) -> bool:
    if _lives(pid):
        return True
    if release_seconds is None:
        return True
    death = note.with_name(f"{note.name}.died")
    with contextlib.suppress(FileExistsError), death.open("x") as file:
        file.write(str(time.time()))
    try:
        died = float(death.read_text() or time.time())
    except (OSError, ValueError):
        died = time.time()
    return time.time() - died < release_seconds


def _lives(pid: int) -> bool:
    with contextlib.suppress(OSError):
        stat = Path(f"/proc/{pid}/stat").read_text()
        return stat.rpartition(")")[2].split()[0] not in {"Z", "X"}
    return False
