"""What Ollama's log says: how far a start or a load is, and why it failed.

Lines are ``time=… level=INFO source=… msg="…" error="…"`` (Go's slog), those of the runner as llama.cpp
writes them, ``[GIN] …`` per request, and ``Error: …`` when the program gives up.
"""

import json
import re
from collections.abc import Iterable, Sequence
from typing import Final

from backends.engines.base import Progress

#: What a line means, and the share of the usual time that has passed when it is written.
STAGES: Final[tuple[tuple[str, float, str], ...]] = (
    ('msg="server config"', 0.05, "reading its settings"),
    ('msg="Listening on', 0.15, "the server listens"),
    ('msg="starting runner"', 0.25, "loading the model"),
    ('msg="starting llama server"', 0.25, "loading the model"),
    ("llama_model_loader: loaded meta data", 0.35, "reading the model"),
    ("load_tensors:", 0.5, "loading weights"),
    ("runner started in", 1.0, "the model is loaded"),
)
REASON_MAX: Final = 600

_FATAL = re.compile(r"^Error: (?P<text>.+)")
_PANIC = re.compile(r"^(?:panic|fatal error): (?P<text>.+)")
_LEVEL = re.compile(r"\blevel=(?:ERROR|FATAL)\b")
_FIELD = re.compile(r'\b(?P<key>msg|error|err)=(?P<value>"(?:[^"\\]|\\.)*"|\S+)')
#: The runner's own reasons, which say more than the server's "exit status 1".
_RUNNER = re.compile(
    r"^.*?(?P<text>cudaMalloc failed: out of memory|CUDA error: .+|ROCm error: .+|"
    r"error loading model: .+|unable to allocate \S+ buffer.*|"
    r"failed to allocate (?:buffer|compute).*)"
)
#: What the runner says of every failure, whatever the reason.
_EMPTY: Final = re.compile(r"error loading model: (?:unable to load model|)$")


def progress(log_tail: Sequence[str]) -> Progress | None:
    """Return how far a start is by its latest line that says so; None before the first one."""
    for line in reversed(log_tail):
        for words, fraction, message in STAGES:
            if words in line:
                return Progress(fraction=fraction, message=message)
    return None


def failure_reason(log_tail: Sequence[str]) -> str:
    """Return the line that says why Ollama failed; empty if none does.

    In order: why the program gave up, a reason of the runner, the last error the server logged, a
    crash of the server itself.
    """
    lines = [line.rstrip("\r\n") for line in log_tail]
    reason = (
        _last(_matches(lines, _FATAL))
        or _last(_matches(lines, _RUNNER))
        or _last(_logged_errors(lines))
        or _last(_matches(lines, _PANIC))
    )
    reason = reason.strip()
    return reason if len(reason) <= REASON_MAX else f"{reason[: REASON_MAX - 1]}…"


def _last(reasons: Iterable[str]) -> str:
    return next((reason for reason in reversed(list(reasons)) if reason), "")


def _matches(lines: Sequence[str], pattern: re.Pattern[str]) -> Iterable[str]:
    for line in lines:
        found = pattern.match(line)
        if found and not _EMPTY.search(found["text"]):
            yield found["text"]


def _logged_errors(lines: Sequence[str]) -> Iterable[str]:
    for line in lines:
        if _LEVEL.search(line):
            fields = {found["key"]: _unquoted(found["value"]) for found in _FIELD.finditer(line)}
            error = fields.get("error") or fields.get("err", "")
            yield ": ".join(part for part in (fields.get("msg", ""), error) if part)


def _unquoted(value: str) -> str:
    if not value.startswith('"'):
        return value
    try:
        return str(json.loads(value))
    except ValueError:  # an escape of Go's that JSON has not
        return value[1:-1]
