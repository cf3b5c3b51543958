"""A lease in the broker for each request in flight, taken atomically with the check that the gate is open.

It is taken for one token of the backend, what ran there when the request found its way: where something else
serves by then, the request looks again. How leases are held: ``backends.lease_holder``.
"""

import asyncio
import time
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any

import redis

from backends import leases
from backends.errors import BackendHeld, BackendMoved, BackendNotRunning
from backends.lease_holder import MOVED, TAKEN, Lease, holder


class _Request:
    """What ``request_lease`` returns."""

    def __init__(self, backend: str, request_id: str, token: str, *, sure: bool) -> None:
        self._purpose = (backend, token)
        self._name = request_id
        self._sure = sure
        self._lease: Lease | None = None

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        if task is None:
            msg = "request_lease needs a task"
            raise RuntimeError(msg)
        self._holder = holder()
        self._lease = self._holder.take_over(self._purpose, task) or await self._taken(task)

    async def _taken(self, task: "asyncio.Task[Any]") -> Lease:
        holder = self._holder
        lease = Lease(self._purpose, f"{self._name}:{id(task):x}:{time.monotonic_ns()}")
        try:
            word = await holder.take(lease, task)
            if word == MOVED and self._sure:
                await holder.correct(lease)
                word = await holder.take(lease, task)
        except redis.RedisError as exc:
            msg = "The site's broker does not answer. It restarts by itself; try again in a few seconds."
            raise BackendNotRunning(msg, code="broker_unavailable", retry_after=2) from exc
        if word != TAKEN:
            raise _refusal(self._purpose[0], word)
        return lease

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        lease = self._lease
        if lease is None:
            return
        task = lease.task
        await self._holder.leave(lease)
        if lease.was_cut and task is not None and isinstance(error, asyncio.CancelledError):
            task.uncancel()
            msg = f"{self._purpose[0]} was stopped while it was answering."
            raise BackendNotRunning(msg, code="engine_stopped") from None


def request_lease(
    backend: str, request_id: str, token: str = "", *, sure: bool = False
) -> AbstractAsyncContextManager[None]:
    """Count a request as in flight to ``backend`` while the body runs.

    Enter and leave it in the same task. When the backend is stopped under it, the body is cancelled
    and ``BackendNotRunning`` comes out.

    Args:
        backend: who is to answer.
        request_id: names the request; need not be unique.
        token: what serves there, as the request's route says; empty to take whatever does.
        sure: the route was read twice, and says the same: the broker is behind, not the route.

    Raises:
        BackendHeld: the backend is being switched or restarted; wait.
        BackendMoved: something else serves there by now; look again.
        BackendNotRunning: the backend is being stopped, was stopped under the request, or the broker
            is away.
    """
    return _Request(backend, request_id, token, sure=sure)


def _refusal(backend: str, word: str) -> BackendNotRunning:
    if word == MOVED:
        return BackendMoved(f"{backend} serves something else by now. Try again.", retry_after=1)
    msg = f"{backend} is being stopped or switched. Try again in a few seconds."
    refusal = BackendHeld if word == leases.HELD else BackendNotRunning
    return refusal(msg, code="backend_draining", retry_after=5)
