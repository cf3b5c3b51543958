"""The answer: a verdict with its numbers, and what would help."""

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final

_GIB: Final = 2**30


class Verdict(StrEnum):
    """Whether it fits."""

    FITS = "fits"
    #: Once the backends in ``releases`` have given their memory back.
    FITS_AFTER_RELEASE = "fits_after_release"
    DOES_NOT_FIT = "does_not_fit"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuPart:
    """One GPU in a plan. Bytes; None for what nobody knows."""

    index: int
    name: str
    total: int | None
    free: int | None
    #: What those who leave give back.
    freed: int | None
    #: What the engine takes of it: its share where it takes a fixed one, else what it needs.
    takes: int
    needs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """A change that would make it fit."""

    message: str
    #: Options to change, where that is all it takes.
    options: dict[str, int | float | str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Obstacle:
    """What else than memory stands against a start."""

    message: str
    #: Option at fault, if one is.
    option: str | None
    code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Does it fit? Bytes; ``weights``, ``kv_cache`` and ``other`` are per GPU where there are GPUs."""

    backend: str
    model: str
    verdict: Verdict
    #: It surely does not: even the least it can need is more than there can be. Only then is a start refused.
    certain: bool = False
    #: Why, in a sentence with the numbers.
    because: str
    #: Backends that give their memory back first.
    releases: tuple[str, ...] = ()
    #: ``gpu`` or ``host``: whose memory is meant; empty when unknown.
    memory: str = ""
    weights: int | None = None
    kv_cache: int | None = None
    other: int | None = None
    #: On all GPUs, or on the machine.
    needed: int | None = None
    #: What can be had of the machine's memory; where there are GPUs they say it each.
    free: int | None = None
    freed: int | None = None
    kv_bytes_per_token: int | None = None
    kv_format: str = ""
    context_length: int | None = None
    #: Longest conversation that would fit, in tokens; None when unknown.
    context_fits: int | None = None
    #: What of it would be kept on the machine, and be slow, because the GPUs are too small.
    spilled: int = 0
    #: The numbers come from a past start.
    measured: bool = False
    gpus: tuple[GpuPart, ...] = ()
    suggestions: tuple[Suggestion, ...] = ()
    problems: tuple[Obstacle, ...] = ()
    expected_seconds: float | None = None

    @property
    def refused(self) -> bool:
        """Whether a start is refused."""
        return self.verdict == Verdict.DOES_NOT_FIT and self.certain

    def payload(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        found = asdict(self)
        found["verdict"] = str(self.verdict)
        return found


def gib(count: int | None) -> str:
    """Return bytes for a sentence: ``12.4 GiB``; less than one in MiB."""
    if count is None:
        return "an unknown amount"
    if abs(count) < _GIB:
        return f"{round(count / 2**20)} MiB"
    return f"{count / _GIB:.1f} GiB"


def names(found: tuple[str, ...]) -> str:
    """Return names for a sentence: ``a, b and c``."""
    head, last = found[:-1], found[-1:]
    return " and ".join(part for part in (", ".join(head), *last) if part)
