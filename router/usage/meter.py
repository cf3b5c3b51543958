"""Measures one request, and records it when it ends."""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Final, Self, TypedDict

from accounts.actors import Actor
from accounts.errors import MhError
from router.events import Timings
from router.usage import flowing
from router.usage.flowing import Progress
from router.usage.recording import Record, begun, ended, record

_ENDED = (asyncio.CancelledError, GeneratorExit)
#: Characters of a token, where nobody has counted.
_PER_TOKEN: Final = 4


class Meter:
    """One request, from when it was let in to its end: ``with Meter(…) as meter``.

    Leaving the ``with`` records it, once: as done where ``done`` was called, by the code of an error
    that leaves it, or else as cancelled. For one task at a time.

    An engine says what it counted at the end of an answer. Of one that has no end the pieces that came are
    counted, and the prompt is estimated: leaving just before the end is no way round a quota.
    """

    def __init__(
        self,
        *,
        actor: Actor,
        kind: str,
        begin: float,
        prompt: Callable[[], int] = lambda: 0,
    ) -> None:
        """Say whose it is.

        Args:
            actor: who asks.
            kind: ``chat``, ``completion``, ``embedding``…
            begin: when it came (``time.perf_counter``).
            prompt: returns the characters of the prompt; asked at the end, where the engine has not counted.
        """
        self._actor, self._kind, self._begin = actor, kind, begin
        self._at = datetime.now(tz=UTC) - timedelta(seconds=time.perf_counter() - begin)
        self._where = ("", "", "", "", "")
        self._attempts = 0
        self._sent: float | None = None
        self._first: float | None = None
        self._tokens: Mapping[str, Any] | None = None
        self._outcome = ""
        self._recorded = False
        #: Pieces of the answer that came, the first one included, about a token each; and characters in them, where known.
        self.pieces = self.characters = 0
        self._prompt = prompt
        self._progress = Progress()

    def sent(
        self, *, provider: str, backend: str, model: str, entry: str = "", role: str = ""
    ) -> None:
        """Say that it goes to an engine now; once for each attempt. The last one counts.

        Args:
            provider: what the entry names: a provider account, or ``active``.
            backend: of ours; empty for a cloud.
            model: by the provider's name for it, from the registry or from what is served.
            entry: the registry's id, if it came by one.
            role: the role, if it came by one.
        """
        self._sent = self._now()
        self._attempts += 1
        self._where = (role, entry, provider, backend, model)

    def piece(self) -> None:
        """Say that a piece of the answer came. After the first one it is enough to count ``pieces`` up."""
        self.pieces += 1
        if self._first is None:
            self._first = self._now()

    def tokens(self, usage: Mapping[str, Any] | None) -> None:
        """Say what the engine counted: ``usage`` in OpenAI's form, or None."""
        if usage:
            self._tokens = usage

    def done(self) -> None:
        """Say that the answer is complete. Call it before the last piece is given to the client."""
        self._outcome = self._outcome or "done"

    def cancelled(self) -> None:
        """Say that the client cancelled it."""
        self._outcome = self._outcome or "cancelled"

    def failed(self, code: str) -> None:
        """Say that it ended with an error, where none leaves the ``with``."""
        self._outcome = self._outcome or code

    def timings(self) -> Timings:
        """Return the times so far."""
        return Timings(queued_ms=self._sent, ttft_ms=self._first, total_ms=self._now())

    def progress(self) -> Progress:
        """Return how far it is. Called from another thread while it is under way."""
        found, counts = self._progress, _counts(self._tokens)
        found.backend = self._where[3]
        found.tokens = counts.get("completion_tokens") or self.pieces
        found.prompt_tokens = counts.get("prompt_tokens") or 0
        found.first = None if self._first is None else self._first / 1000
        return found

    def end(self) -> None:
        """Record it as it is now, if it is not recorded yet."""
        if not self._recorded:
            self._recorded = True
            self.cancelled()
            record(self._record())
            ended(self)
            flowing.ended(self)

    def __enter__(self) -> Self:
        begun(self)
        flowing.begun(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, MhError):
            self.failed(error.code)
        elif error is not None and not isinstance(error, _ENDED):
            self.failed("internal_error")
        self.end()

    def _record(self) -> Record:
        user = self._actor.user
        role, entry, provider, backend, model = self._where
        return Record(
            at=self._at,
            user_id=None if user is None else user.pk,
            user_name=self._actor.name,
            token_id=self._actor.token_id,
            surface=self._actor.surface,
            request_id=self._actor.request_id,
            role=role,
            entry=entry,
            provider=provider,
            backend=backend,
            model=model,
            kind=self._kind,
            outcome=self._outcome,
            queued_ms=self._sent,
            ttft_ms=self._first,
            total_ms=self._now(),
            attempts=self._attempts,
            **(_counts(self._tokens) if self._tokens or not self.pieces else self._estimate()),
        )

    def _estimate(self) -> "_Counts":
        """Return what the answer has cost as far as can be told from what came of it."""
        prompt = self._prompt() // _PER_TOKEN
        made = max(self.pieces, self.characters // _PER_TOKEN)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": made,
            "total_tokens": prompt + made,
            "estimated": True,
        }

    def _now(self) -> float:
        return round((time.perf_counter() - self._begin) * 1000, 1)


@contextmanager
def admission(*, actor: Actor, kind: str, begin: float) -> Iterator[None]:
    """Record a request that is refused inside the ``with``; one that is not has a ``Meter`` of its own."""
    try:
        yield
    except MhError as exc:
        meter = Meter(actor=actor, kind=kind, begin=begin)
        meter.failed(exc.code)
        meter.end()
        raise


class _Counts(TypedDict, total=False):
    prompt_tokens: int | None
    completion_tokens: int | None
    reasoning_tokens: int | None
    total_tokens: int | None
    estimated: bool


def _counts(usage: Mapping[str, Any] | None) -> _Counts:
    """Return the columns of what an engine counted; None for what it did not say."""
    if usage is None:
        return {}
    details = usage.get("completion_tokens_details")
    inside = details if isinstance(details, Mapping) else usage
    prompt, completion = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    total = _count(usage, "total_tokens")
    if total is None and (prompt is not None or completion is not None):
        total = (prompt or 0) + (completion or 0)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "reasoning_tokens": _count(inside, "reasoning_tokens"),
        "total_tokens": total,
    }


#: More than any model reads; beyond it an engine talks nonsense, and a database's number ends.
_COUNT_MAX = 2**40


def _count(usage: Mapping[str, Any], name: str) -> int | None:
    value = usage.get(name)
    good = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _COUNT_MAX
    return value if good else None
