"""Answers that were to have a format: held against it, and asked for once more.

A streamed answer has been sent by the time it is known to be wrong: it ends in an ``error`` event instead of
``done``. One that is not streamed is asked for again, with what was wrong, before that is said.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Final

from accounts.errors import MhError
from router.events import ChatEvent, ChatResult, ErrorEvent, Usage
from router.structured import Format, not_followed, problem_of, repair, unwrapped

#: Ends of an answer at which it is whole, or was to be.
ENDS: Final = ("stop", "length")


async def format_checked(
    events: AsyncGenerator[ChatEvent, None], wanted: Format, request_id: str
) -> AsyncGenerator[ChatEvent, None]:
    """Pass the events of a chat on; ``error`` in place of ``done`` where the answer lacks the format."""
    pieces: list[str] = []
    async with aclosing(events):
        async for event in events:
            if event["type"] == "token":
                pieces.append(event["content"])
            if event["type"] == "done" and event["finish_reason"] in ENDS:
                error = await _wrong(wanted, "".join(pieces), event["finish_reason"])
                if error is not None:
                    yield ErrorEvent(type="error", error=error.body(request_id))
                    return
            yield event


async def _wrong(wanted: Format, answer: str, reason: str) -> MhError | None:
    try:
        problem = await problem_found(wanted, answer)
    except MhError as exc:
        return exc
    return not_followed(problem, reason) if problem else None


async def format_followed(
    result: ChatResult,
    wanted: Format,
    again: Callable[[list[dict[str, Any]]], Awaitable[ChatResult]],
) -> ChatResult:
    """Return ``result`` if it has the format, else what comes of one more try.

    Args:
        result: the answer to the first try.
        wanted: the format.
        again: asks once more, with further messages.

    Raises:
        FormatNotFollowed: the second answer does not have it either, or there was not room for one.
    """
    problem = await _settled(result, wanted)
    if not problem:
        return result
    if result["finish_reason"] == "length":
        raise not_followed(problem, "length")
    second = await again(repair(result["content"], problem))
    second["usage"] = _both(result["usage"], second["usage"])
    second["timings"] = {
        **second["timings"],
        "queued_ms": result["timings"]["queued_ms"],
        "ttft_ms": result["timings"]["ttft_ms"],
        "total_ms": _sum(result["timings"]["total_ms"], second["timings"]["total_ms"]),
    }
    if problem := await _settled(second, wanted):
        raise not_followed(problem, second["finish_reason"], again=True)
    return second


async def _settled(result: ChatResult, wanted: Format) -> str:
    """Say what is wrong with an answer; one within a code fence is taken out of it."""
    if result["finish_reason"] not in ENDS:
        return ""
    content = unwrapped(result["content"])
    problem = await problem_found(wanted, content)
    if not problem:
        result["content"] = content
    return problem


async def problem_found(wanted: Format, answer: str) -> str:
    """Say why ``answer`` does not follow the format, as ``structured.problem_of`` does."""
    # In a thread: a big answer and a big schema take a while, and other chats go on meanwhile.
    return await asyncio.to_thread(problem_of, wanted, answer)


def _both(first: Usage | None, second: Usage | None) -> Usage | None:
    """Return what both tries cost."""
    if first is None or second is None:
        return first or second
    return Usage(
        prompt_tokens=first["prompt_tokens"] + second["prompt_tokens"],
        completion_tokens=first["completion_tokens"] + second["completion_tokens"],
        total_tokens=first["total_tokens"] + second["total_tokens"],
    )


def _sum(first: float, second: float) -> float:
    return round(first + second, 1)
