"""Logs of engines: of the running start, of earlier ones, and as they grow. Without secrets."""

from collections.abc import Iterator
from pathlib import Path

from django.conf import settings

from backends import (
    launch_spec,
    logs,
    secrets,
    supervisor,
)
from backends.errors import (
    UnknownStart,
)
from backends.models import (
    Backend,
)
from backends.selectors.rows import backend_get, backend_instance

#: Bytes of log read at once for somebody who follows it.
_LOG_CHUNK = 256 * 1024


def backend_log(name: str, lines: int = 200, *, start: str = "") -> list[str]:
    """Return the last lines of a start of backend ``name``, without secrets.

    Args:
        name: of the backend.
        lines: at most so many.
        start: id of the start; empty for the current one, or the one before it.

    Raises:
        UnknownBackend, UnknownStart.
    """
    backend = backend_get(name)
    inst = _start_kept(backend, start) if start else _last_start(backend)
    if inst is None:
        return []
    blot = logs.masker(_secret_values(backend))
    return [blot(line) for line in supervisor.log_tail(inst, lines)]


def backend_starts(name: str) -> list[logs.StartLog]:
    """Return the starts of backend ``name`` whose logs are kept, newest first."""
    return logs.starts(settings.MH_HOME, backend_get(name).name)


def _last_start(backend: Backend) -> supervisor.Instance | None:
    inst = backend_instance(backend)
    if inst is None and backend.last_instance_id:
        return supervisor.instance(settings.MH_HOME, backend.name, backend.last_instance_id)
    return inst


def _start_kept(backend: Backend, start: str) -> supervisor.Instance:
    kept = supervisor.instances(settings.MH_HOME, backend.name)
    found = next((inst for inst in kept if inst.instance_id == start), None)
    if found is None:
        msg = (
            f"There is no start {start[:80]!r} of {backend.name}, or its log is no longer kept. Those "
            f"kept are listed by GET /api/llm-backend/{backend.name}/logs."
        )
        raise UnknownStart(msg, param="start")
    return found


def mask(text: str, backend: Backend) -> str:
    """Return ``text`` with secrets blotted out: options of ``backend``, and what the site inherited."""
    return logs.masker(_secret_values(backend))(text)


def _secret_values(backend: Backend) -> list[str]:
    """Return the secret options as they are configured, and as what runs was started with."""
    tokens = {backend.secrets, launch_spec.token_of(backend.started_options) or ""}
    return [value for token in tokens for value in secrets.unseal(token).values()]


class LogFollower:
    """Reads what is added to a backend's log, across starts and rotations."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._instance_id, self._offset = self._end()

    def _end(self) -> tuple[str, int]:
        inst = self._current()
        if inst is None:
            return "", 0
        path = supervisor.log_path(inst)
        return inst.instance_id, path.stat().st_size if path.exists() else 0

    def _current(self) -> supervisor.Instance | None:
        return backend_instance(backend_get(self._name))

    def read(self) -> tuple[list[str], bool]:
        """Return the lines added since the last call, and whether they are of a new start."""
        backend = backend_get(self._name)
        inst = backend_instance(backend)
        if inst is None:
            return [], False
        fresh = inst.instance_id != self._instance_id
        if fresh:
            self._instance_id, self._offset = inst.instance_id, 0
        path = supervisor.log_path(inst)
        if not path.exists():
            return [], fresh
        return mask(self._added(path), backend).splitlines(), fresh

    def _added(self, path: Path) -> str:
        """Return whole lines after the last offset; a file that shrank was rotated."""
        with path.open("rb") as file:
            size = file.seek(0, 2)
            if size < self._offset:
                self._offset = 0
            file.seek(self._offset)
            data = file.read(_LOG_CHUNK)
        whole = data.rfind(b"\n") + 1
        if len(data) == _LOG_CHUNK and not whole:
            whole = len(data)  # a line without end: shown in pieces rather than waited for
        self._offset += whole
        return data[:whole].decode(errors="replace")


def backend_log_whole(name: str, *, start: str = "") -> Iterator[str]:
    """Yield every line that is kept of a start of backend ``name``, oldest first, without secrets.

    Args:
        name: of the backend.
        start: id of the start; empty for the current one, or the one before it.

    Raises:
        UnknownBackend, UnknownStart: before the first line.
    """
    backend = backend_get(name)
    inst = _start_kept(backend, start) if start else _last_start(backend)
    blot = logs.masker(_secret_values(backend))
    return (blot(line) for line in supervisor.log_lines(inst)) if inst else iter(())
