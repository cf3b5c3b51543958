"""A circuit breaker per target: what has failed again and again is left alone for a while. Pure; time is given.

Closed, requests pass. After ``FAILURES`` in a row it is open: requests go elsewhere, or hear when to come
back. When its time is over one request tries (half open): it closes the breaker, or doubles the time.
Source: M. Nygard, "Release It!", 2007, "Circuit Breaker".
"""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final

#: Seconds a breaker is open at first, and at most.
OPEN_SECONDS: Final = 5.0
OPEN_SECONDS_MAX: Final = 120.0
#: Targets remembered; the oldest are forgotten first.
_TARGETS_MAX: Final = 1024


@dataclass(slots=True)
class _Circuit:
    failures: int = 0
    #: How often it has opened since it last worked.
    opened: int = 0
    open_until: float = 0.0
    #: Until when the one that tries is given to say what came of it.
    trying_until: float = 0.0


class Breaker:
    """The circuits of one process."""

    def __init__(self, failures: int) -> None:
        """Open a circuit after ``failures`` in a row."""
        self._failures = failures
        self._circuits: dict[Hashable, _Circuit] = {}

    def open_for(self, target: Hashable, now: float) -> float:
        """Return for how many seconds nothing should be sent to ``target``; 0 if it may be tried now.

        Who is told 0 is expected to try, and to say what came of it.
        """
        circuit = self._circuits.get(target)
        if circuit is None or not circuit.open_until:
            return 0.0
        until = max(circuit.open_until, circuit.trying_until)
        if now < until:
            return until - now
        circuit.trying_until = now + OPEN_SECONDS
        return 0.0

    def worked(self, target: Hashable) -> None:
        """Say that ``target`` has answered."""
        self._circuits.pop(target, None)

    def failed(self, target: Hashable, now: float, rest: float = 0.0) -> None:
        """Say that ``target`` has failed; it asked for ``rest`` seconds, if it said so."""
        circuit = self._circuits.get(target)
        if circuit is None:
            if len(self._circuits) >= _TARGETS_MAX:
                self._circuits.pop(next(iter(self._circuits)))
            circuit = self._circuits[target] = _Circuit()
        circuit.failures += 1
        tried = circuit.trying_until > 0
        circuit.trying_until = 0.0
        if rest <= 0 and not tried and circuit.failures < self._failures:
            return
        seconds = rest or min(OPEN_SECONDS * 2**circuit.opened, OPEN_SECONDS_MAX)
        circuit.opened += 1
        circuit.open_until = now + min(seconds, OPEN_SECONDS_MAX)
