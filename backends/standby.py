"""Processes that wait, warm, to become an engine: begun, chosen, told what to be, ended.

One is an instance like every start (``backends.supervisor``): its own keeper, folder, log and marker. As
long as ``waiting.json`` is in its folder it is no engine: it is not found as a start of its backend, not
reaped as a leftover of one, and not shown as running. Whoever renames that file has it: to choose and to
discard exclude each other, in whatever process. What it is told goes over a FIFO in the folder (mode
0700), so that secrets reach no disk. Whatever goes wrong with one, a cold start remains.
"""

import contextlib
import errno
import json
import logging
import os
import shutil
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from accounts.errors import MhError
from backends import keeper, supervisor
from backends.engines.base import Launch, Standby
from backends.errors import StopFailed
from backends.supervisor import WAITING_FILE, Instance

logger = logging.getLogger(__name__)

#: ``waiting.json`` is renamed to this by whoever chooses it, and to the other by whoever ends it.
CHOSEN_FILE: Final = "chosen.json"
DISCARDED_FILE: Final = "discarded.json"
RECORD_FILE: Final = "launcher.json"
FIFO: Final = "go"
#: Seconds a process that was just made may take to open its FIFO.
OPEN_SECONDS: Final = 3.0
#: Seconds after which another standby is begun where one died while it waited: doubled each time.
RETRY_SECONDS: Final = 30.0
RETRY_MAX: Final = 3600.0


class Phase(StrEnum):
    """How far a launcher is, in the words of its ``launcher.json``."""

    IMPORTING = "importing"
    WAITING = "waiting"
    #: It is the engine now.
    RUNNING = "running"
    #: It gave up its own way and became a plain start.
    PLAIN = "plain"
    #: It could not get ready.
    FAILED = "failed"
    #: A process it forked crashed, or its fork server did.
    CRASHED = "crashed"


@dataclass(frozen=True, slots=True)
class Record:
    """What a launcher said of itself; no phase when it has said nothing, or is none."""

    phase: Phase | None = None
    reason: str = ""


def record(inst: Instance) -> Record:
    """Return how far the launcher of an instance is."""
    said = keeper.read_json(inst.folder / RECORD_FILE) or {}
    with contextlib.suppress(ValueError):
        return Record(Phase(str(said.get("phase"))), str(said.get("reason") or ""))
    return Record()


def was_standby(inst: Instance) -> bool:
    """Return whether a start came from a standby."""
    return (inst.folder / CHOSEN_FILE).exists()


# One of them.


def begin(home: Path, backend: str, wanted: Standby) -> Instance:
    """Start a standby; it gets ready by itself.

    Raises:
        StartFailed: its process could not be made.
    """
    inst = supervisor.new_instance(home, backend)
    os.mkfifo(inst.folder / FIFO, 0o600)
    kept = {"key": wanted.key, "env": sorted(wanted.env), "at": time.time()}
    keeper.write_json(inst.folder / WAITING_FILE, kept)
    try:
        supervisor.spawn(inst, wanted)
    except MhError:
        shutil.rmtree(inst.folder, ignore_errors=True)
        raise
    return inst


def fits(inst: Instance, wanted: Standby) -> bool:
    """Return whether a waiting instance lives, has not failed, and can become what ``wanted`` can."""
    kept = keeper.read_json(inst.folder / WAITING_FILE) or {}
    if kept.get("key") != wanted.key or record(inst).phase == Phase.FAILED:
        return False
    seen = supervisor.inspect(inst)
    return seen.keeper_alive and seen.engine_pid is not None


def choose(home: Path, backend: str, wanted: Standby | None) -> Instance | None:
    """Take the best standby of a backend: from now on it is a start like any other. None: there is none.

    Who takes it records it as the backend's, and then calls ``tell``.
    """
    if wanted is None:
        return None
    fitting = [inst for inst in supervisor.waiting(home, backend) if fits(inst, wanted)]
    for inst in sorted(fitting, key=lambda inst: record(inst).phase != Phase.WAITING):
        if _rename(inst, CHOSEN_FILE):
            return inst
    return None


def tell(inst: Instance, launch: Launch) -> bool:
    """Have a chosen standby become ``launch``; return False when it is gone.

    It may be told before it is ready: the line waits in the kernel.
    """
    kept = keeper.read_json(inst.folder / CHOSEN_FILE) or {}
    env = launch.env | launch.secret_env
    unset = [name for name in kept.get("env", []) if name not in env]
    line = json.dumps({"argv": launch.argv, "env": env, "unset": unset}).encode() + b"\n"
    descriptor = _open_fifo(inst)
    if descriptor is None:
        return False
    try:
        return os.write(descriptor, line) == len(line)
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _open_fifo(inst: Instance) -> int | None:
    """Return the FIFO open for writing, once somebody reads it; None when nobody will."""
    deadline = time.monotonic() + OPEN_SECONDS
    while True:
        try:
            return os.open(inst.folder / FIFO, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            alive = supervisor.inspect(inst).engine_pid is not None
            if error.errno != errno.ENXIO or not alive or time.monotonic() > deadline:
                return None
            time.sleep(0.02)


def discard(inst: Instance) -> bool:
    """End a waiting instance and remove its folder; False when it was chosen or discarded meanwhile."""
    if not _rename(inst, DISCARDED_FILE):
        return False
    try:
        supervisor.stop(inst, grace=0.5)
    except StopFailed as exc:
        logger.error("standby of %s: %s", inst.backend, exc.message)  # noqa: TRY400
        return True
    shutil.rmtree(inst.folder, ignore_errors=True)
    return True


def discard_all(home: Path, backend: str) -> None:
    """End every waiting instance of a backend."""
    for inst in supervisor.waiting(home, backend):
        discard(inst)


def end_all(home: Path) -> None:
    """End every waiting instance of this site. Needs no database."""
    for folder in (home / "engines").glob("*/*/" + WAITING_FILE):
        discard(supervisor.instance(home, folder.parent.parent.name, folder.parent.name))


def _rename(inst: Instance, name: str) -> bool:
    try:
        (inst.folder / WAITING_FILE).rename(inst.folder / name)
    except OSError:
        return False
    return True


def ensure(home: Path, backend: str, wanted: Standby | None) -> None:
    """Have a standby of a backend get ready, unless one does or is."""
    if wanted is None:
        return
    if any(fits(inst, wanted) for inst in supervisor.waiting(home, backend)):
        return
    begin(home, backend, wanted)


def launcher_failure(inst: Instance) -> str:
    """Return why a start failed by its launcher's own fault, so that a plain start may do better; or empty."""
    said = record(inst)
    exited = supervisor.inspect(inst).exit
    if exited is None or exited.requested:
        return ""
    match said.phase:
        case Phase.IMPORTING | Phase.WAITING:
            return "the launcher ended before it had begun the engine"
        case Phase.CRASHED | Phase.FAILED:
            return said.reason
        case _:
            return ""


# Those a machine keeps.


@dataclass
class Reserve:
    """Keeps one standby for each backend that wants one, and none for others. The observer's."""

    home: Path
    _failures: dict[str, int] = field(default_factory=dict)
    _not_before: dict[str, float] = field(default_factory=dict)

    def look(self, backend: str, wanted: Standby | None) -> None:
        """Make it so for one backend that no operation is changing; never raises ``MhError``."""
        good = 0
        for inst in supervisor.waiting(self.home, backend):
            if wanted is not None and not good and fits(inst, wanted):
                good += 1
                if record(inst).phase == Phase.WAITING:
                    self._failures.pop(backend, None)
            else:
                self._clear(inst)
        if good or wanted is None or time.monotonic() < self._not_before.get(backend, 0.0):
            return
        try:
            begin(self.home, backend, wanted)
        except MhError as exc:
            self._failed(backend, exc.message)

    def end_others(self, backends: Collection[str]) -> None:
        """End those of backends that are not here any more."""
        for folder in (self.home / "engines").glob("*/*/" + WAITING_FILE):
            name = folder.parent.parent.name
            if name not in backends:
                discard(supervisor.instance(self.home, name, folder.parent.name))

    def _clear(self, inst: Instance) -> None:
        """End one that is of no use; where it died or failed by itself, wait before the next."""
        said, alive = record(inst), supervisor.inspect(inst).alive
        if said.phase == Phase.FAILED or not alive:
            self._failed(inst.backend, said.reason or "its process ended")
        discard(inst)

    def _failed(self, backend: str, why: str) -> None:
        failures = self._failures[backend] = self._failures.get(backend, 0) + 1
        delay = min(RETRY_MAX, RETRY_SECONDS * 2 ** (failures - 1))
        # A first death may be anybody's doing; the next one is a habit.
        self._not_before[backend] = time.monotonic() + (delay if failures > 1 else 0.0)
        logger.warning("standby of %s: %s; failures in a row: %d", backend, why, failures)


def facts(home: Path, backend: str) -> dict[str, Any] | None:
    """Return what a person should know of the standby of a backend: how far, how much memory (bytes)."""
    for inst in supervisor.waiting(home, backend):
        pids = supervisor.inspect(inst).pids
        if pids:
            ready = record(inst).phase == Phase.WAITING
            state = "ready" if ready else "warming"
            return {"state": state, "memory": proportional_bytes(pids)}
    return None


def proportional_bytes(pids: Iterable[int]) -> int:
    """Return the memory of processes that share much of it, each page counted once: ``Pss`` of proc(5)."""
    kib = 0
    for pid in pids:
        for line in keeper.read_bytes(f"/proc/{pid}/smaps_rollup").splitlines():
            if line.startswith(b"Pss:"):
                kib += int(line.split()[1])
    return kib * 1024
