"""A prompt that is too long: what may be left out of it. Pure.

What is left out goes in whole turns, the oldest first: a question with everything that was said to it. System
messages and the last question stay. Where that is not enough, the oldest calls of tools within the last turn
go, each with its results, since one without the other is refused by engines.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

Message = Mapping[str, Any]

#: Share of the context kept for the answer where the request does not say how long that may be.
_ANSWER_SHARE: Final = 8


def room(limit: int, options: Mapping[str, Any]) -> int:
    """Return how many tokens of ``limit`` a prompt may have, so that the answer has its place."""
    wanted = options.get("max_completion_tokens") or options.get("max_tokens")
    kept = int(wanted) if wanted else limit // _ANSWER_SHARE
    return limit - kept if kept < limit else limit


def trim(messages: Sequence[Message], count: int, limit: int) -> list[Message]:
    """Return ``messages`` without as many old ones as it takes to come from ``count`` to ``limit`` tokens.

    How many tokens each has is estimated by its length: whoever calls counts again, and calls again. At least
    one turn is left out where there is one to leave out; the same messages come back where there is none.
    """
    if count <= limit:
        return list(messages)
    sizes = [_size(message) for message in messages]
    per_token = max(1.0, sum(sizes) / max(1, count))
    over = (count - limit) * per_token
    gone: set[int] = set()
    for turn in _turns(messages):
        if over <= 0:
            break
        gone.update(turn)
        over -= sum(sizes[index] for index in turn)
    return [message for index, message in enumerate(messages) if index not in gone]


def _turns(messages: Sequence[Message]) -> list[list[int]]:
    """Return what may be left out, by index, in the order in which it is."""
    last = max(
        (i for i, message in enumerate(messages) if message.get("role") == "user"), default=-1
    )
    turns: list[list[int]] = []
    for index in range(max(last, 0)):
        role = messages[index].get("role")
        if role in {"system", "developer"}:
            continue
        if role == "user" or not turns:
            turns.append([])
        turns[-1].append(index)
    # What was said last is never left out: it is what the model is to go on from.
    return turns + _calls(messages, last + 1)[:-1]


def _calls(messages: Sequence[Message], begin: int) -> list[list[int]]:
    """Return what follows the last question, each call of tools together with its results."""
    groups: list[list[int]] = []
    for index in range(begin, len(messages)):
        role = messages[index].get("role")
        if role in {"system", "developer"}:
            continue
        if role != "tool" or not groups:
            groups.append([])
        groups[-1].append(index)
    return groups


def characters(messages: Iterable[Message]) -> int:
    """Return about how many characters of ``messages`` become tokens."""
    return sum(_size(message) for message in messages)


def _size(message: Message) -> int:
    """Return the characters of a message that become tokens; images are not text, and count little."""
    content = message.get("content")
    if isinstance(content, list):
        texts = (part.get("text", "") for part in content if isinstance(part, Mapping))
        size = sum(len(str(text)) for text in texts)
    else:
        size = len(str(content or ""))
    calls = message.get("tool_calls")
    return size + 16 + (len(json.dumps(calls)) if calls else 0)
