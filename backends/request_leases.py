"""A lease in the broker for each request in flight, taken atomically with the check that the gate is open.

A lease lives ``LEASE_SECONDS`` unless its holder renews it, so those of a killed web process vanish. It is
taken for one token of the backend, what ran there when the request found its way: where something else
serves by then, the request looks again.
"""

import asyncio
import contextlib
import logging
import time
import weakref
from collections.abc import AsyncIterator
from typing import Any, Final

import redis
import redis.asyncio
from django.conf import settings

from backends import leases
from backends.errors import BackendHeld, BackendMoved, BackendNotRunning

logger = logging.getLogger(__name__)

LEASE_SECONDS: Final = 15
RENEW_SECONDS: Final = 1.0
#: Seconds the broker has for an answer.
_ANSWER_SECONDS: Final = 2.0

#: KEYS: gate, leases, token of what serves. ARGV: now, expiry, lease id, token the request was sent to.
#: Returns ``taken``, ``moved``, or what the gate says.
_TAKE = """
local gate = redis.call('GET', KEYS[1])
if gate then return gate end
local serving = redis.call('GET', KEYS[3])
if serving and ARGV[4] ~= '' and serving ~= ARGV[4] then return 'moved' end
redis.call('SET', KEYS[2] .. ':used', ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', ARGV[1])
redis.call('ZADD', KEYS[2], ARGV[2], ARGV[3])
return 'taken'
"""
_TAKEN, _MOVED = "taken", "moved"


class _Lease:
    """One request in flight, held by the task that entered ``request_lease``."""

    def __init__(self, backend: str, token: str, lease_id: str, task: "asyncio.Task[Any]") -> None:
        self.backend = backend
        self.token = token
        self.id = lease_id
        self.task = task
        self.was_cut = False

    def end(self) -> None:
        self.was_cut = True
        self.task.cancel()


_Command = tuple[str | float, ...]


def _checked(answer: Any) -> Any:
    if isinstance(answer, Exception):
        raise answer
    return answer


class _Holder:
    """The leases held on one event loop, renewed together."""

    def __init__(self) -> None:
        self.client = redis.asyncio.Redis.from_url(
            settings.REDIS_URL, socket_timeout=2, socket_connect_timeout=2, decode_responses=True
        )
        # Its own, without what redis-py does around each command: that costs more than the command.
        pool: Any = redis.asyncio.Redis.from_url(
            settings.REDIS_URL, socket_connect_timeout=2, decode_responses=True
        ).connection_pool
        self.connection = pool.make_connection()
        self.leases: set[_Lease] = set()
        self.renewing: asyncio.Task[None] | None = None
        self.waiting: list[tuple[_Command, asyncio.Future[Any]]] = []
        self.sending: asyncio.Task[None] | None = None

    async def add(self, lease: _Lease) -> str:
        """Take the lease; return what came of it: ``taken``, ``moved``, ``held`` or ``closed``."""
        now = time.time()
        keys = [
            leases.gate_key(lease.backend),
            leases.leases_key(lease.backend),
            leases.serving_key(lease.backend),
        ]
        expiry = now + LEASE_SECONDS
        asked = self._ask(("EVAL", _TAKE, 3, *keys, now, expiry, lease.id, lease.token))
        try:
            word = str(_checked(await asyncio.shield(asked)))
        except asyncio.CancelledError:
            # It may be taken all the same; commands go out in order.
            self._ask(("ZREM", leases.leases_key(lease.backend), lease.id))
            raise
        if word == _TAKEN:
            self.leases.add(lease)
            if self.renewing is None or self.renewing.done():
                self.renewing = asyncio.create_task(self._renew())
        return word

    async def correct(self, lease: _Lease) -> None:
        """Say that what ``lease`` is for is what serves: the database says so, and it is the truth."""
        _checked(await self._ask(("SET", leases.serving_key(lease.backend), lease.token)))

    async def remove(self, lease: _Lease) -> None:
        self.leases.discard(lease)
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(self._ask(("ZREM", leases.leases_key(lease.backend), lease.id)))

    def _ask(self, command: _Command) -> "asyncio.Future[Any]":
        """Send ``command``, in one round trip with what others send now; an error comes as the result."""
        answer = asyncio.get_running_loop().create_future()
        self.waiting.append((command, answer))
        if self.sending is None or self.sending.done():
            self.sending = asyncio.create_task(self._send())
        return answer

    async def _send(self) -> None:
        while self.waiting:
            batch, self.waiting = self.waiting, []
            for (_, future), answer in zip(
                batch, await self._answers([command for command, _ in batch]), strict=True
            ):
                if not future.done():
                    future.set_result(answer)

    async def _answers(self, commands: list[_Command]) -> list[Any]:
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                return await self._answers_at_once(commands)
        except TimeoutError:
            return [redis.TimeoutError("The broker does not answer.")] * len(commands)
        except redis.RedisError:
            # Of a broker that was started anew, perhaps; redis-py tries again.
            return await self._answers_patiently(commands)

    async def _answers_at_once(self, commands: list[_Command]) -> list[Any]:
        connection = self.connection
        await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
        answers: list[Any] = []
        for _ in commands:
            try:
                answers.append(await connection.read_response())
            except redis.ResponseError as exc:
                answers.append(exc)
        return answers

    async def _answers_patiently(self, commands: list[_Command]) -> list[Any]:
        try:
            async with self.client.pipeline(transaction=False) as pipe:
                for command in commands:
                    pipe.execute_command(*command)
                return list(await pipe.execute(raise_on_error=False))
        except redis.RedisError as exc:
            return [exc] * len(commands)

    async def _renew(self) -> None:
        while self.leases:
            await asyncio.sleep(RENEW_SECONDS)
            try:
                await self._renew_once()
            except redis.RedisError as exc:
                logger.warning("leases not renewed: %s", exc)

    async def _renew_once(self) -> None:
        backends = {lease.backend for lease in self.leases}
        expiry = time.time() + LEASE_SECONDS
        async with self.client.pipeline(transaction=False) as pipe:
            for backend in backends:
                held = {lease.id: expiry for lease in self.leases if lease.backend == backend}
                pipe.zadd(leases.leases_key(backend), held, xx=True)
                pipe.exists(leases.cut_key(backend))
            answers = await pipe.execute()
        for backend, is_cut in zip(backends, answers[1::2], strict=True):
            for lease in [held for held in self.leases if is_cut and held.backend == backend]:
                lease.end()


_holders: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Holder]" = (
    weakref.WeakKeyDictionary()
)


def _holder() -> _Holder:
    loop = asyncio.get_running_loop()
    holder = _holders.get(loop)
    if holder is None:
        holder = _holders[loop] = _Holder()
    return holder


@contextlib.asynccontextmanager
async def request_lease(
    backend: str, request_id: str, token: str = "", *, sure: bool = False
) -> AsyncIterator[None]:
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
    task = asyncio.current_task()
    if task is None:
        msg = "request_lease needs a task"
        raise RuntimeError(msg)
    holder = _holder()
    lease = _Lease(backend, token, f"{request_id}:{id(task):x}:{time.monotonic_ns()}", task)
    await _take(holder, lease, sure=sure)
    try:
        yield
    except asyncio.CancelledError:
        if not lease.was_cut:
            raise
        task.uncancel()
        msg = f"{backend} was stopped while it was answering."
        raise BackendNotRunning(msg, code="engine_stopped") from None
    finally:
        await holder.remove(lease)


async def _take(holder: _Holder, lease: _Lease, *, sure: bool) -> None:
    try:
        word = await holder.add(lease)
        if word == _MOVED and sure:
            await holder.correct(lease)
            word = await holder.add(lease)
    except redis.RedisError as exc:
        msg = (
            "The site's broker does not answer. It restarts by itself; try again in a few seconds."
        )
        raise BackendNotRunning(msg, code="broker_unavailable", retry_after=2) from exc
    if word != _TAKEN:
        raise _refusal(lease.backend, word)


def _refusal(backend: str, word: str) -> BackendNotRunning:
    if word == _MOVED:
        return BackendMoved(f"{backend} serves something else by now. Try again.", retry_after=1)
    msg = f"{backend} is being stopped or switched. Try again in a few seconds."
    refusal = BackendHeld if word == leases.HELD else BackendNotRunning
    return refusal(msg, code="backend_draining", retry_after=5)
