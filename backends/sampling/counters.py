"""What was added to counts that only grow, between two readings of them."""

from dataclasses import dataclass

#: Seconds between two readings above which nobody knows when what came between them came.
GAP_SECONDS = 15.0


@dataclass
class Counter:
    """One count: tokens since an engine's start, for one."""

    _value: float | None = None
    _at: float = 0.0

    def read(self, at: float, value: float | None) -> tuple[float, float] | None:
        """Take a reading; return what was added since the one before, and in how many seconds.

        A count that has become less was begun anew (an engine's restart): all of it was added since, as
        Prometheus's ``rate`` has it. None at the first reading, where there is no value (the next reading
        counts from the last one that there was), and after a gap.

        Args:
            at: seconds on a clock that is never set.
            value: the count; None where it could not be read.
        """
        if value is None:
            return None
        before, self._value = self._value, value
        seconds, self._at = at - self._at, at
        if before is None or not 0 < seconds <= GAP_SECONDS:
            return None
        return (value - before if value >= before else value), seconds
