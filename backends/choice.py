"""Which backend is to be the active one: the auto-select rule and the start-up behaviours. Pure."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

#: Engines in the order in which they are preferred; others follow by name.
PREFERENCE: Final = ("vllm", "ollama")
AUTO: Final = "auto"
FALLBACK: Final = "fallback"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A backend as far as the choice goes."""

    name: str
    installed: bool
    running: bool

    @property
    def usable(self) -> bool:
        """Whether it runs or could be started; one that others run need not be installed here."""
        return self.running or self.installed


def by_preference(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Return the candidates, the preferred one first."""

    def rank(candidate: Candidate) -> tuple[int, str]:
        known = candidate.name in PREFERENCE
        return PREFERENCE.index(candidate.name) if known else len(PREFERENCE), candidate.name

    return sorted(candidates, key=rank)


def auto(candidates: Iterable[Candidate]) -> str | None:
    """Return the preferred backend that runs, else the preferred one that is installed, else None."""
    ordered = by_preference(candidates)
    return _first(ordered, lambda found: found.running) or _first(
        ordered, lambda found: found.installed
    )


def _first(ordered: Sequence[Candidate], holds: Callable[[Candidate], bool]) -> str | None:
    return next((found.name for found in ordered if holds(found)), None)


def at_startup(
    behavior: str,
    candidates: Iterable[Candidate],
    *,
    configured: str | None,
    failed: frozenset[str] = frozenset(),
) -> str | None:
    """Return the backend that is to be active when the site comes up; None when there is none.

    Args:
        behavior: ``auto``, ``fallback``, or the name of a backend, installed or not.
        candidates: the backends of this machine.
        configured: the one chosen in the configuration, for ``fallback``.
        failed: those whose start has failed since; only ``fallback`` goes on to another.
    """
    every = by_preference(candidates)
    if behavior == AUTO:
        return auto(every)
    if behavior != FALLBACK:
        return behavior if any(found.name == behavior for found in every) else None
    usable = [found.name for found in every if found.usable and found.name not in failed]
    return configured if configured in usable else next(iter(usable), None)
