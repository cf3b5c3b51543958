"""``response_format`` of OpenAI's API: answers are held against it, and asked for once more.

As ``formats`` does it for our own: a streamed answer that lacks the format ends in an error instead of
``[DONE]``, one that is not streamed is asked for again. Engines get ``response_format`` as it is. Requests that
ask for no format pass by, their answers unread.
"""

import json
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing
from typing import Any, Final

from accounts.errors import MhError
from router.errors import UpstreamGarbled
from router.providers.openai_compatible import encode
from router.providers.sse import data_of, frames_in
from router.services import relaying
from router.services.admission import Admitted, OpenAICall, admit
from router.services.formats import ENDS, problem_found
from router.structured import Format, not_followed, repair, unwrapped

_PARAM: Final = "response_format"
_COUNTS: Final = ("prompt_tokens", "completion_tokens", "total_tokens")


def relay(
    admitted: Admitted[OpenAICall], write: relaying.Write | None = None
) -> AsyncGenerator[bytes, None]:
    """Do what ``relaying.relay`` does; ``FormatNotFollowed`` in place of ``[DONE]`` where the format is missed."""
    wanted = admitted.asked.format
    if wanted is None:
        return relaying.relay(admitted, write)
    return _held_against(relaying.relay(admitted), wanted)


async def relay_complete(admitted: Admitted[OpenAICall]) -> bytes:
    """Do what ``relaying.relay_complete`` does; once more where the answer lacks its format.

    Raises:
        FormatNotFollowed: the second answer does not have it either, or there was not room for one.
        MhError: it could not be answered.
    """
    body, wanted = await relaying.relay_complete(admitted), admitted.asked.format
    if wanted is None:
        return body
    answer: dict[str, Any] = json.loads(body)
    changed = False
    for choice in _objects(answer.get("choices")):
        changed |= await _settle(admitted, answer, choice, wanted)
    return encode(answer) if changed else body


async def _held_against(
    frames: AsyncGenerator[bytes, None], wanted: Format
) -> AsyncGenerator[bytes, None]:
    answers = _Answers()
    async with aclosing(frames):
        async for block in frames:
            for frame in frames_in(block):
                if answers.add(frame):
                    await answers.check(wanted)
                yield frame


class _Answers:
    """The answers of a stream, put together."""

    def __init__(self) -> None:
        self._pieces: dict[int, list[str]] = {}
        self._reasons: dict[int, str] = {}

    def add(self, frame: bytes) -> bool:
        """Take a frame; return whether it is the end marker."""
        data = data_of(frame).strip()
        if data == "[DONE]":
            return True
        for choice in _choices(data):
            index = choice["index"] if isinstance(choice.get("index"), int) else 0
            delta = choice.get("delta")
            text = delta.get("content") if isinstance(delta, Mapping) else None
            if isinstance(text, str):
                self._pieces.setdefault(index, []).append(text)
            if choice.get("finish_reason"):
                self._reasons[index] = choice["finish_reason"]
        return False

    async def check(self, wanted: Format) -> None:
        """Raise ``FormatNotFollowed`` where one of the answers lacks the format."""
        for index, reason in self._reasons.items():
            if reason in ENDS and (
                problem := await _problem(wanted, "".join(self._pieces.get(index, ())))
            ):
                raise not_followed(problem, reason, param=_PARAM)


def _choices(data: str) -> Iterator[dict[str, Any]]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return
    if isinstance(found, dict):
        yield from _objects(found.get("choices"))


def _objects(found: object) -> Iterator[dict[str, Any]]:
    if isinstance(found, list):
        yield from (item for item in found if isinstance(item, dict))


async def _settle(
    admitted: Admitted[OpenAICall], answer: dict[str, Any], choice: dict[str, Any], wanted: Format
) -> bool:
    """See to it that ``choice`` has the format; return whether it was changed.

    Raises:
        FormatNotFollowed: it cannot be brought about.
    """
    text = _text(choice)
    if text is None:
        return False
    content = unwrapped(text)
    problem = await _problem(wanted, content)
    if problem:
        if choice["finish_reason"] == "length":
            raise not_followed(problem, "length", param=_PARAM)
        await _again(admitted, answer, choice, problem, wanted)
        return True
    choice["message"]["content"] = content
    return content != text


async def _again(
    admitted: Admitted[OpenAICall],
    answer: dict[str, Any],
    choice: dict[str, Any],
    problem: str,
    wanted: Format,
) -> None:
    """Ask once more for ``choice``, and put what comes in its place."""
    call = admitted.asked
    fields = {name: value for name, value in call.fields.items() if name != "n"}
    fields["messages"] = [*fields["messages"], *repair(choice["message"]["content"], problem)]
    more = OpenAICall(call.path, encode(fields), fields)
    let_in = await admit(lambda _: admitted.actor, lambda: more)
    second: dict[str, Any] = json.loads(await relaying.relay_complete(let_in))
    found = next(_objects(second.get("choices")), None)
    if found is None:
        raise UpstreamGarbled("The engine sent an answer that cannot be read.")
    text = _text(found)
    if text is not None:
        content = unwrapped(text)
        if problem := await _problem(wanted, content):
            raise not_followed(problem, found["finish_reason"], again=True, param=_PARAM)
        found["message"]["content"] = content
    choice |= {**found, "index": choice.get("index", 0)}
    _add_usage(answer, second)


def _text(choice: Mapping[str, Any]) -> str | None:
    """Return the answer that is to have the format; None where it is a call of a tool, or a refusal."""
    message = choice.get("message")
    if choice.get("finish_reason") not in ENDS or not isinstance(message, Mapping):
        return None
    text = message.get("content")
    return text if isinstance(text, str) else None


def _add_usage(answer: dict[str, Any], second: Mapping[str, Any]) -> None:
    """Count what both tries cost."""
    first, more = answer.get("usage"), second.get("usage")
    if isinstance(first, dict) and isinstance(more, Mapping):
        for name in _COUNTS:
            first[name] = int(first.get(name) or 0) + int(more.get(name) or 0)


async def _problem(wanted: Format, answer: str) -> str:
    try:
        return await problem_found(wanted, answer)
    except MhError as exc:
        exc.param = _PARAM
        raise
