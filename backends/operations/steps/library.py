"""Models fetched and deleted. Neither touches the GPU, nor an engine that serves."""

import time
from collections import deque
from dataclasses import dataclass, field
from typing import Final

import httpx

from accounts.errors import UpstreamFailed
from backends import inventory, selectors, services
from backends.engines.base import Target, Transfer
from backends.errors import DeleteFailed, PullFailed, UnknownModel
from backends.models import OperationState
from backends.operations import library
from backends.operations.context import Context
from backends.words import bytes_in_words

#: Times that a download goes on after the server that did it was stopped.
_SERVERS: Final = 5
_DELETE_SECONDS: Final = 120.0
#: Seconds over which the speed is taken.
_SPEED_SECONDS: Final = 10.0


def download(ctx: Context) -> None:
    """Fetch the model; taken again, it goes on with what is there.

    It outlives the engine's own server: where that is stopped meanwhile, it goes on with another.
    """
    tally = _Tally()
    for servers_left in reversed(range(_SERVERS)):
        with library.server(ctx.backend, checkpoint=ctx.checkpoint) as target:
            try:
                _pull(ctx, target, tally)
            except UpstreamFailed:
                if not servers_left or library.is_there(ctx.backend, target):
                    raise
            else:
                break
    services.step_message(ctx.operation, ctx.step, bytes_in_words(tally.seen.total_bytes))


def _pull(ctx: Context, target: Target, tally: "_Tally") -> None:
    def report(seen: Transfer) -> None:
        tally.add(seen)
        ctx.say(tally.message, tally.progress, eta_seconds=tally.eta_seconds)

    def cancelled() -> bool:
        ctx.checkpoint()
        # The last word, where it came too soon after another and then nothing did.
        if tally.seen.message:
            ctx.say(tally.message, tally.progress, eta_seconds=tally.eta_seconds)
        return False

    model = str(ctx.changes["model"])
    options = selectors.backend_options(ctx.backend)
    try:
        ctx.engine.pull(target, model, report=report, cancelled=cancelled, options=options)
    except (httpx.HTTPError, OSError) as exc:
        raise PullFailed(
            f"{model} could not be downloaded: {exc}. Pull it again to go on."
        ) from exc


@dataclass
class _Tally:
    """How far, how fast, how long still."""

    seen: Transfer = field(default_factory=lambda: Transfer(message=""))
    progress: float = 0.0
    _past: deque[tuple[float, int]] = field(default_factory=deque)

    def add(self, seen: Transfer) -> None:
        now = time.monotonic()
        self.seen = seen
        # The whole can grow, and the bar does not go back.
        self.progress = max(self.progress, min(0.99, seen.fraction))
        self._past.append((now, seen.completed_bytes))
        while len(self._past) > 2 and self._past[0][0] < now - _SPEED_SECONDS:  # noqa: PLR2004
            self._past.popleft()

    @property
    def message(self) -> str:
        if not self.seen.total_bytes:
            return self.seen.message
        if self.seen.completed_bytes >= self.seen.total_bytes:
            return f"checking {bytes_in_words(self.seen.total_bytes)}"
        done, total = map(bytes_in_words, (self.seen.completed_bytes, self.seen.total_bytes))
        speed = f", {bytes_in_words(round(self._speed))}/s" if self._speed else ""
        return f"{done} of {total}{speed}"

    @property
    def _speed(self) -> float:
        """Bytes a second of late; 0 while nobody knows."""
        (began, first), (ended, last) = self._past[0], self._past[-1]
        return max(0.0, (last - first) / (ended - began)) if ended - began > 1.0 else 0.0

    @property
    def eta_seconds(self) -> float | None:
        left = self.seen.total_bytes - self.seen.completed_bytes
        return round(left / self._speed, 1) if self._speed and left > 0 else None


def delete(ctx: Context) -> None:
    """Delete the model, unless it has come into use since that was asked for."""
    model = str(ctx.changes["model"])
    backend = ctx.backend
    inventory.check_unused(backend, model, force=True)
    ctx.say(f"deleting {model}", 0.1)
    options = selectors.backend_options(backend)
    # As it was when it was claimed: running, if a runner before this one began to delete.
    again = ctx.operation.state == OperationState.RUNNING
    try:
        with library.server(backend, checkpoint=ctx.checkpoint) as target:
            ctx.engine.delete(target, model, timeout=_DELETE_SECONDS, options=options)
    except UnknownModel:
        if not again:
            raise
    except (httpx.HTTPError, OSError) as exc:
        raise DeleteFailed(f"{model} could not be deleted: {exc}") from exc
