"""Units of systemd, through ``systemctl`` and without ever asking for a password. No shell, no D-Bus library.

Where ``systemctl`` is missing or systemd does not run, there simply is no unit.
"""

import contextlib
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

#: Seconds to ask for facts, and to wait for a stop: ``TimeoutStopSec`` is 90 by default.
ASK_TIMEOUT: Final = 5.0
CHANGE_TIMEOUT: Final = 100.0
#: Unit names as ``systemd.unit(5)`` allows them, services only; never an option of ``systemctl``.
_NAME: Final = re.compile(r"[A-Za-z0-9:_.\\@][A-Za-z0-9:_.\\@-]*\.service")
_IN_CGROUP: Final = re.compile(r"/([^/]+\.service)(?=/|$)")
_MANAGER: Final = re.compile(r"user@(\d+)\.service")
_PROPERTIES: Final = "LoadState,ActiveState,UnitFileState,MainPID"


@dataclass(frozen=True, slots=True)
class Unit:
    """A service and the manager it belongs to."""

    name: str
    #: Whether it is one of our own user's manager and not of the system's.
    user: bool = False

    def __str__(self) -> str:
        return f"{self.name} (user)" if self.user else self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What systemd says of a unit."""

    loaded: bool
    active: bool
    #: Whether it is started at boot: that is how the service is meant to run.
    enabled: bool
    #: 0 when nothing of it runs.
    main_pid: int


def facts(unit: Unit) -> Facts | None:
    """Return what systemd says of ``unit``; None when it says nothing or does not know it."""
    answer = _systemctl(unit, "show", f"--property={_PROPERTIES}", timeout=ASK_TIMEOUT)
    if answer is None or answer.returncode:
        return None
    said = dict(line.split("=", 1) for line in answer.stdout.splitlines() if "=" in line)
    if said.get("LoadState") != "loaded":
        return None
    pid = said.get("MainPID", "0")
    return Facts(
        loaded=True,
        active=said.get("ActiveState") in {"active", "activating", "reloading"},
        enabled=said.get("UnitFileState", "").startswith("enabled"),
        main_pid=int(pid) if pid.isdigit() else 0,
    )


def start(unit: Unit) -> str:
    """Start ``unit``; return why that did not work, empty when it did."""
    return _change(unit, "start")


def stop(unit: Unit) -> str:
    """Stop ``unit`` and wait until systemd says it is; return why that did not work, empty when it did."""
    return _change(unit, "stop")


def _change(unit: Unit, verb: str) -> str:
    answer = _systemctl(unit, verb, timeout=CHANGE_TIMEOUT)
    if answer is None:
        return f"systemctl {verb} {unit.name} did not answer"
    if answer.returncode == 0:
        return ""
    said = (answer.stderr or answer.stdout).strip().splitlines()
    return said[0][:300] if said else f"systemctl ended with status {answer.returncode}"


def _systemctl(
    unit: Unit, *arguments: str, timeout: float
) -> "subprocess.CompletedProcess[str] | None":
    if not _NAME.fullmatch(unit.name):
        return None
    scope = ["--user"] if unit.user else []
    command = ["systemctl", "--no-ask-password", "--no-pager", *scope, *arguments, unit.name]
    try:
        return subprocess.run(
            command,
            env={**os.environ, "LC_ALL": "C", "SYSTEMD_COLORS": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None


def first_known(names: tuple[str, ...]) -> tuple[Unit, Facts] | None:
    """Return the first of the units called ``names`` that systemd knows: the system's, then our user's."""
    for name in names:
        for unit in (Unit(name), Unit(name, user=True)):
            if (found := facts(unit)) is not None:
                return unit, found
    return None


def unit_of(pid: int, *, names: tuple[str, ...], word: str) -> Unit | None:
    """Return the service whose process ``pid`` is, so that stopping it stops that process and no other.

    A program that cron or a login started is in *their* unit, and stopping that would be a disaster: a
    unit counts when ``pid`` is its main process, or when a wrapper is and the unit carries the
    engine's name.

    Args:
        pid: the process that listens.
        names: units the engine usually runs as; asked where the control group says nothing.
        word: the engine's name.
    """
    by_group = _unit_in_cgroup(pid)
    usual = [Unit(name, user=user) for name in names for user in (False, True)]
    candidates = [by_group] if by_group else usual
    for unit in candidates:
        found = facts(unit)
        if found is None or not found.main_pid:
            continue
        wrapped = unit == by_group and word in unit.name and found.main_pid in _ancestors(pid)
        if found.main_pid == pid or wrapped:
            return unit
    return None


def _unit_in_cgroup(pid: int) -> Unit | None:
    """Return the last service in the control group's path; only of the system or of our own user."""
    with contextlib.suppress(OSError):
        text = Path(f"/proc/{pid}/cgroup").read_text()
        services = [name for name in _IN_CGROUP.findall(text) if not name.startswith("user@")]
        manager = _MANAGER.search(text)
        if services and (manager is None or int(manager[1]) == os.getuid()):
            return Unit(services[-1], user=manager is not None)
    return None


def _ancestors(pid: int) -> set[int]:
    with contextlib.suppress(psutil.Error):
        return {parent.pid for parent in psutil.Process(pid).parents()}
    return set()
