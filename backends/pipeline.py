"""Commands to the broker from an event loop: each goes out in one round trip with what others send at the moment.

On a connection of its own, without what redis-py does around each command: that costs more than the command.
"""

import asyncio
from typing import Any, Final

import redis
import redis.asyncio
from django.conf import settings

#: Seconds the broker has for an answer.
_ANSWER_SECONDS: Final = 2.0

Command = tuple[str | float, ...]


def checked(answer: Any) -> Any:
    """Return ``answer``, or raise it where it is an error."""
    if isinstance(answer, Exception):
        raise answer
    return answer


class Pipeline:
    """The commands of one event loop. They go out in the order they were asked in."""

    def __init__(self) -> None:
        self._client = redis.asyncio.Redis.from_url(
            settings.REDIS_URL, socket_timeout=2, socket_connect_timeout=2, decode_responses=True
        )
        pool: Any = redis.asyncio.Redis.from_url(
            settings.REDIS_URL, socket_connect_timeout=2, decode_responses=True
        ).connection_pool
        self._connection = pool.make_connection()
        self._waiting: list[tuple[Command, asyncio.Future[Any]]] = []
        self._sending: asyncio.Task[None] | None = None

    def ask(self, *command: str | float) -> "asyncio.Future[Any]":
        """Send ``command``; an error comes as the result, so nobody needs to wait for it."""
        answer = asyncio.get_running_loop().create_future()
        self._waiting.append((command, answer))
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send())
        return answer

    async def _send(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            for (_, future), answer in zip(
                batch, await self._answers([command for command, _ in batch]), strict=True
            ):
                if not future.done():
                    future.set_result(answer)

    async def _answers(self, commands: list[Command]) -> list[Any]:
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                return await self._answers_at_once(commands)
        except TimeoutError:
            return [redis.TimeoutError("The broker does not answer.")] * len(commands)
        except redis.RedisError:
            # Of a broker that was started anew, perhaps; redis-py tries again.
            return await self._answers_patiently(commands)

    async def _answers_at_once(self, commands: list[Command]) -> list[Any]:
        connection = self._connection
        await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
        answers: list[Any] = []
        for _ in commands:
            try:
                answers.append(await connection.read_response())
            except redis.ResponseError as exc:
                answers.append(exc)
        return answers

    async def _answers_patiently(self, commands: list[Command]) -> list[Any]:
        try:
            async with self._client.pipeline(transaction=False) as pipe:
                for command in commands:
                    pipe.execute_command(*command)
                return list(await pipe.execute(raise_on_error=False))
        except redis.RedisError as exc:
            return [exc] * len(commands)
