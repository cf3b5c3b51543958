"""What a machine has. Bytes; None for what nobody knows."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """Memory of one GPU."""

    index: int
    name: str = ""
    total: int | None
    used: int | None
    #: What each of our backends holds of it; None for one whose amount the driver does not say.
    held: Mapping[str, int | None] = field(default_factory=dict)

    @property
    def free(self) -> int | None:
        """What can be had now."""
        if self.total is None or self.used is None:
            return None
        return max(0, self.total - self.used)

    def freed(self, leaving: Collection[str]) -> int | None:
        """Return what those who leave would give back; None when nobody knows."""
        return _sum(self.held, leaving)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Memory of a machine and its GPUs."""

    gpus: tuple[Gpu, ...] = ()
    total: int | None = None
    #: What can be had without moving anything to the disk.
    available: int | None = None
    swap_free: int = 0
    #: What the processes of each of our backends hold of the machine's memory; None: nobody knows.
    held: Mapping[str, int | None] = field(default_factory=dict)

    def freed(self, leaving: Collection[str]) -> int | None:
        """Return what those who leave would give back of the machine's memory; None when nobody knows."""
        return _sum(self.held, leaving)

    @property
    def holders(self) -> tuple[str, ...]:
        """The backends that hold anything that counts: GPU memory where there are GPUs."""
        on_gpus = [name for gpu in self.gpus for name, held in gpu.held.items() if held != 0]
        names = on_gpus if self.gpus else [name for name, held in self.held.items() if held != 0]
        return tuple(dict.fromkeys(names))


def _sum(held: Mapping[str, int | None], leaving: Collection[str]) -> int | None:
    amounts = [held[name] for name in leaving if name in held]
    return None if None in amounts else sum(amount or 0 for amount in amounts)
