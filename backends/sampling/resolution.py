"""At which resolution samples are kept, and which one answers a question."""

from dataclasses import dataclass
from typing import Final

#: Most points that an answer has for each series.
POINTS_MAX: Final = 500
#: Seconds between two points, from which an answer's is chosen.
STEPS: Final = (
    5, 10, 15, 30, 60, 120, 180, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Resolution:
    """Buckets of ``step`` seconds, kept for at least ``kept`` seconds."""

    step: int
    kept: int

    @property
    def reaches(self) -> int:
        """Seconds that they are kept for: some more, so that a page that is a while old still has all of it."""
        return self.kept + self.kept // 12


#: In the broker; in the database; there, too.
FINE: Final = Resolution(5, 3600)
MINUTES: Final = Resolution(60, 24 * 3600)
QUARTERS: Final = Resolution(900, 30 * 24 * 3600)
RESOLUTIONS: Final = (FINE, MINUTES, QUARTERS)


@dataclass(frozen=True, slots=True)
class Reach:
    """How a question is answered: from which buckets, and as points of how many seconds."""

    source: Resolution
    step: int


def reach(*, now: float, since: float, until: float, step: int | None = None) -> Reach:
    """Choose: no more than ``POINTS_MAX`` points, as fine as what is kept for all of the time asked for.

    Args:
        now: seconds since 1970, as are ``since`` and ``until``, which is later than ``since``.
        since: begin of what is asked for.
        until: its end.
        step: seconds between two points, where somebody wants to see fewer of them; a rounder number may be
            taken.
    """
    wanted = max(step or 0, (until - since) / (POINTS_MAX - 1))
    enough = [one for one in RESOLUTIONS if now - since <= one.reaches] or [QUARTERS]
    # Of those that reach back far enough the coarsest that is fine enough: the least to read.
    source = next((one for one in reversed(enough) if one.step <= wanted), enough[0])
    least = max(wanted, source.step)
    return Reach(source, next((one for one in STEPS if one >= least), STEPS[-1]))
