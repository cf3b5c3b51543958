"""One `mh up` per ``MH_HOME``: a lock that dies with its process, and a note of who holds it."""

import errno
import fcntl
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from accounts.errors import Conflict
from mhsite import home


class AlreadyRunning(Conflict):
    """Another `mh up` runs this ``MH_HOME``."""

    code = "already_running"


@dataclass(frozen=True, slots=True)
class RunningSite:
    """A site that runs: its `mh up`, by pid and start time together, and where it listens."""

    pid: int
    #: Clock ticks between the machine's boot and the start of ``pid`` (proc(5), stat field 22).
    started: int
    url: str

    def is_alive(self) -> bool:
        """Return whether that very process still runs."""
        return process_started(self.pid) == self.started


def process_started(pid: int) -> int | None:
    """Return when ``pid`` started, in clock ticks since boot; None if it does not run."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name, field 2, is in parentheses and may hold anything: count from behind its end.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in {"Z", "X"} else int(fields[19])


def lock_path() -> Path:
    """Return the lock file's path."""
    return home.folder("run") / "up.lock"


def running_site() -> RunningSite | None:
    """Return the site that runs on this ``MH_HOME``, if one does."""
    try:
        site = RunningSite(**json.loads(lock_path().read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return site if site.is_alive() else None


class SiteLock:
    """Held by `mh up` for as long as it lives."""

    def __init__(self) -> None:
        self._file: int | None = None

    def __enter__(self) -> Self:
        """Take the lock.

        Raises:
            AlreadyRunning: another process holds it.
        """
        descriptor = os.open(lock_path(), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            os.close(descriptor)
            if exc.errno not in {errno.EAGAIN, errno.EACCES}:
                raise
            raise AlreadyRunning(_who_runs()) from exc
        self._file = descriptor
        return self

    def __exit__(self, *_exc: object) -> None:
        """Let it go, and forget who held it."""
        if self._file is not None:
            os.ftruncate(self._file, 0)
            os.close(self._file)
            self._file = None

    def announce(self, url: str) -> None:
        """While the lock is held, write down who holds it, and where the site listens."""
        pid = os.getpid()
        site = RunningSite(pid=pid, started=process_started(pid) or 0, url=url)
        if self._file is not None:
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, json.dumps(asdict(site)).encode(), 0)


def _who_runs() -> str:
    site = running_site()
    if site is None:
        return f"Another mh up is starting on {home.home()}."
    return f"mh is already running at {site.url} (pid {site.pid}). Stop it with: mh down"
