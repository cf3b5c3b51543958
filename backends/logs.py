"""What engines wrote: the logs of past starts, and secrets blotted out of them."""

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypedDict

from backends import supervisor
from backends.words import exit_in_words

BLOT: Final = "•••"
#: Shorter values of the environment are no secrets, and would blot out ordinary words.
_SHORTEST: Final = 8
_SECRET_NAME: Final = re.compile(
    r"(?:^|_)(?:TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?|API_?KEY|KEY)(?:_|$)"
)
#: Secrets by their looks: Hugging Face's and OpenAI's, what stands in a header, a password in a URL.
_SECRET_LOOKS: Final = re.compile(
    r"\bhf_[A-Za-z0-9]{16,}|\bsk-[A-Za-z0-9_-]{16,}"
    r"|(?<=Bearer )[A-Za-z0-9._~+/=-]{8,}|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"
)
#: How ``supervisor.new_instance`` writes the time of a start.
_STAMP: Final = "%y%m%dT%H%M%S%f"


class StartLog(TypedDict):
    """One start of an engine whose log is kept."""

    id: str
    started_at: str | None
    running: bool
    #: How it ended; empty while it runs, or where nobody knows.
    ended: str
    size_bytes: int


def masker(values: Iterable[str], environ: Mapping[str, str] = os.environ) -> Callable[[str], str]:
    """Return a function that blots secrets out of a text.

    Args:
        values: secrets known by value: a backend's options.
        environ: the site's environment, much of which engines inherit; variables whose names say that
            they are secret count.
    """
    inherited = (
        value
        for name, value in environ.items()
        if _SECRET_NAME.search(name.upper()) and len(value) >= _SHORTEST and "/" not in value[:1]
    )
    # Longest first: one secret may be a part of another.
    known = sorted({value for value in (*values, *inherited) if value}, key=len, reverse=True)

    def mask(text: str) -> str:
        for value in known:
            text = text.replace(value, BLOT)
        return _SECRET_LOOKS.sub(BLOT, text)

    return mask


def starts(home: Path, backend: str) -> list[StartLog]:
    """Return the starts of a backend whose logs are kept, newest first."""
    return [_start(inst) for inst in supervisor.instances(home, backend)]


def _start(inst: supervisor.Instance) -> StartLog:
    found = supervisor.inspect(inst)
    return {
        "id": inst.instance_id,
        "started_at": _started_at(inst.instance_id),
        "running": found.alive,
        "ended": exit_in_words(found.exit) if found.exit and not found.alive else "",
        "size_bytes": _size(supervisor.log_path(inst)),
    }


def _started_at(instance_id: str) -> str | None:
    with contextlib.suppress(ValueError):
        moment = datetime.strptime(instance_id.partition("-")[0], _STAMP).replace(tzinfo=UTC)
        return moment.isoformat()
    return None


def _size(path: Path) -> int:
    """Return the size of a log with what was rotated out of it, in bytes."""
    total = 0
    for part in path.parent.glob(f"{path.name}*"):
        with contextlib.suppress(OSError):
            total += part.stat().st_size
    return total
