"""What is asked of the planner."""

from dataclasses import dataclass

from backends.engines.estimates import Estimate
from backends.planning.machine import Machine
from backends.planning.needs import PastStart


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked: all a judge sees."""

    backend: str
    #: The engine's name for people.
    title: str
    estimate: Estimate
    machine: Machine
    #: Backends that give their memory back first, as the operation does.
    leaving: tuple[str, ...] = ()
    past: PastStart | None = None

    @property
    def leaving_others(self) -> tuple[str, ...]:
        """Those that leave for it."""
        held = self.machine.holders
        return tuple(name for name in self.leaving if name in held)
