"""What vLLM's log says: how far a start is, and why it failed.

Written from real logs of vLLM 0.32; ``tests/backends/engines/logs`` keeps them.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Final

from backends.engines.base import Progress

#: What each line of a start means, and the share of the usual time that has passed when it is written.
STAGES: Final[tuple[tuple[str, float, str], ...]] = (
    ("non-default args", 0.33, "reading the model's configuration"),
    ("Resolved architecture", 0.34, "configuring the engine"),
    ("Initializing a V1 LLM engine", 0.62, "starting the workers"),
    ("Starting to load model", 0.88, "loading weights"),
    ("Loading weights took", 0.90, "preparing the cache"),
    ("init engine", 0.95, "starting the server"),
    ("Starting vLLM server on", 0.99, "opening the port"),
    ("Application startup complete.", 1.0, "ready"),
)
REASON_MAX: Final = 600

_PREFIX = re.compile(
    r"^(?:\((?P<who>[A-Za-z_]+)[^)]*\) )?"
    r"(?:(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL) [\d-]+ [\d:]+ \[[^\]]*\] ?)?"
)
#: An exception's own line: ``ValueError: …``, ``torch.OutOfMemoryError: …``; never a line of source.
_EXCEPTION = re.compile(
    r"^(?:[A-Za-z_]\w*\.)*(?P<kind>[A-Z_]\w*(?:Error|Exception|Interrupt)): (?P<text>.+)"
)
_USAGE = re.compile(r"^\S+: error: (?P<text>.+)")
_VALUE = re.compile(r"^  (?P<text>Value error, .+)")
_VALIDATION = re.compile(r"\d+ validation errors? for \w+$")
_PYDANTIC_TAIL = re.compile(r"\s*\[type=\w+, input_value=.*$")
#: Lines that say only that something else failed.
_EMPTY_REASONS: Final = (
    "WorkerProc initialization failed",
    "Engine core initialization failed",
    "See stack trace (above)",
    "Executor failed.",
    "For further information visit",
    "[Errno 24]",
)
_DEATH = re.compile(r"died unexpectedly|exited unexpectedly|Out of memory", re.IGNORECASE)
_SPEAKER = re.compile(r"^\[\w+\] \w+: ")


def progress(log_tail: Sequence[str]) -> Progress | None:
    """Return how far a start is by the latest stage in the log; None before the first one."""
    for words, fraction, message in reversed(STAGES):
        if any(words in line for line in log_tail):
            return Progress(fraction=fraction, message=message)
    return None


def failure_reason(log_tail: Sequence[str]) -> str:
    """Return the line that says why vLLM failed; empty if none does.

    In order: an exception a worker logged, one the engine core logged, what pydantic or the command
    line refused, the last exception of all, a last word about a process that died.
    """
    lines = [line.rstrip("\r\n") for line in log_tail]
    reason = (
        _last(_logged_exceptions(lines, "worker"))
        or _last(_logged_exceptions(lines, "enginecore"))
        or _refused_value(lines)
        or _last(_refused_arguments(lines))
        or _last(_exceptions(lines))
        or _last(_words_about_a_death(lines))
    )
    return _clean(reason)


def _last(reasons: Iterable[str]) -> str:
    return next((reason for reason in reversed(list(reasons)) if not _is_empty(reason)), "")


def _is_empty(reason: str) -> bool:
    return any(words in reason for words in _EMPTY_REASONS)


def _logged_exceptions(lines: Sequence[str], who: str) -> Iterable[str]:
    for line in lines:
        prefix = _PREFIX.match(line)
        if prefix and prefix["level"] == "ERROR" and who in (prefix["who"] or "").lower():
            rest = line[prefix.end() :]
            if _EXCEPTION.match(rest):
                yield rest


def _refused_value(lines: Sequence[str]) -> str:
    """Read pydantic's report: ``Value error, …``, or the field's name and what is wrong with it."""
    for number, line in enumerate(lines):
        value = _VALUE.match(line)
        if value:
            return value["text"]
        if _VALIDATION.search(line) and number + 2 < len(lines):
            field, wrong = lines[number + 1], lines[number + 2]
            if wrong.startswith("  ") and not field.startswith(" "):
                return f"{field.strip()}: {wrong.strip()}"
    return ""


def _refused_arguments(lines: Sequence[str]) -> Iterable[str]:
    for line in lines:
        usage = _USAGE.match(line)
        if usage:
            yield f"vllm: error: {usage['text']}"


def _exceptions(lines: Sequence[str]) -> Iterable[str]:
    for line in lines:
        prefix = _PREFIX.match(line)
        rest = line[prefix.end() :] if prefix else line
        if _EXCEPTION.match(rest) and not (prefix and prefix["level"] == "WARNING"):
            yield rest


def _words_about_a_death(lines: Sequence[str]) -> Iterable[str]:
    for line in lines:
        prefix = _PREFIX.match(line)
        if prefix and prefix["level"] in {"ERROR", "WARNING"} and _DEATH.search(line):
            yield _SPEAKER.sub("", line[prefix.end() :])


def _clean(reason: str) -> str:
    """Drop the module path before an exception's name and pydantic's notes to programmers."""
    reason = _PYDANTIC_TAIL.sub("", reason.strip())
    exception = _EXCEPTION.match(reason)
    if exception:
        reason = f"{exception['kind']}: {exception['text']}"
    return reason if len(reason) <= REASON_MAX else f"{reason[: REASON_MAX - 1]}…"
