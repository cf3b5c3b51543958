"""Reasoning that an engine leaves in the text, taken out of it while it comes.

Models write ``<think>…</think>`` before their answer. An engine that knows the model says it apart; one that
does not passes the tags on. Some templates (DeepSeek's) open the tag in the prompt, so that only ``</think>``
comes: nothing tells such a text from an answer, so that is read so only where the caller knows it.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from enum import Enum, auto
from typing import Final

from router.events import ReasoningEvent, TokenEvent, TokenLogprob
from router.providers.base import Delta, Finished

OPEN: Final = "<think>"
CLOSE: Final = "</think>"


class _State(Enum):
    #: Nothing but blanks, or the beginning of a tag, has come.
    BEGIN = auto()
    #: Within the tags.
    THINKING = auto()
    #: After the closing tag, before the first letter of the answer.
    BETWEEN = auto()
    #: What comes now is passed on as it is.
    ANSWER = auto()


class ThinkSplitter:
    """Feed it pieces of text, cut anywhere; it returns pieces of reasoning and of the answer.

    Only a tag at the very beginning counts: later it is text, as when somebody asks about such tags.
    No text is lost: joined together, what it returns is what came, less the two tags and blanks around them.
    """

    def __init__(self, *, opened: bool = False) -> None:
        """``opened``: the prompt has opened the tag, so reasoning comes first, without one."""
        self._opened = opened
        self._state = _State.THINKING if opened else _State.BEGIN
        self._held = ""
        self._begun = False
        self._thought: list[str] = []

    @property
    def done(self) -> bool:
        """Whether all that follows is the answer."""
        return self._state is _State.ANSWER

    def feed(self, text: str) -> list[tuple[bool, str]]:
        """Return pieces, each with whether it is reasoning."""
        self._held += text
        pieces: list[tuple[bool, str]] = []
        while (piece := self._step()) is not None:
            if piece[1]:
                pieces.append(piece)
        return pieces

    def end(self, *, whole: bool = True) -> list[tuple[bool, str]]:
        """Say that no more comes; return what was held back.

        A text that was to begin with reasoning, and never closed it, was an answer where it is ``whole``:
        all of it is returned as such, though it has been returned as reasoning before.
        """
        held, self._held = self._held, ""
        if self._state is not _State.THINKING:
            return [(False, held)] if held and self._state is not _State.BETWEEN else []
        rest = [(True, held)] if held else []
        if self._opened and whole:
            text = "".join(self._thought) + held
            rest += [(False, text)] if text else []
        return rest

    def _step(self) -> tuple[bool, str] | None:
        """Take what is decided from the text held; None when more has to come first."""
        match self._state:
            case _State.BEGIN:
                return self._begin()
            case _State.THINKING:
                return self._think()
            case _State.BETWEEN:
                return self._between()
            case _State.ANSWER:
                held, self._held = self._held, ""
                return (False, held) if held else None

    def _begin(self) -> tuple[bool, str] | None:
        text = self._held.lstrip()
        if text.startswith(OPEN):
            self._held, self._state = text.removeprefix(OPEN), _State.THINKING
            return True, ""
        if OPEN.startswith(text):
            return None
        self._state = _State.ANSWER
        return False, ""

    def _think(self) -> tuple[bool, str] | None:
        if not self._begun and not self._first_thought():
            return None
        before, tag, after = self._held.partition(CLOSE)
        if tag:
            self._held, self._state = after, _State.BETWEEN
            return True, before
        keep = _beginning_of(CLOSE, self._held)
        ready, self._held = self._held[: len(self._held) - keep], self._held[-keep:] if keep else ""
        if not ready:
            return None
        self._begun = True
        if self._opened:
            self._thought.append(ready)
        return True, ready

    def _first_thought(self) -> bool:
        """Take off what comes before the first word of reasoning; say whether that has come."""
        text = self._held.lstrip()
        if self._opened and text != OPEN and OPEN.startswith(text):
            return False
        if self._opened and text.startswith(OPEN):
            # Some engines send the tag though the prompt has opened it.
            self._opened, self._held = False, text.removeprefix(OPEN)
        self._held = self._held.lstrip("\r\n")
        return bool(self._held)

    def _between(self) -> tuple[bool, str] | None:
        self._held = self._held.lstrip()
        if not self._held:
            return None
        self._state = _State.ANSWER
        return False, ""


def _beginning_of(tag: str, text: str) -> int:
    """Return how many characters at the end of ``text`` may be the beginning of ``tag``."""
    for length in range(min(len(tag) - 1, len(text)), 0, -1):
        if text.endswith(tag[:length]):
            return length
    return 0


async def split_reasoning(
    deltas: AsyncIterator[Delta], *, opened: bool = False
) -> AsyncGenerator[Delta, None]:
    """Pass the deltas of a chat on, with reasoning that is in the text as reasoning events.

    An engine that sends reasoning events of its own is believed: its text is left as it is.
    """
    split = _Split(opened=opened)
    async for delta in deltas:
        if split.done:
            yield delta
            continue
        for piece in split.delta(delta):
            yield piece


class _Split:
    """Applies a splitter to deltas."""

    def __init__(self, *, opened: bool) -> None:
        self._splitter = ThinkSplitter(opened=opened)
        self._logprobs: list[TokenLogprob] = []
        self.done = False

    def delta(self, delta: Delta) -> list[Delta]:
        if isinstance(delta, Finished):
            return [*self._end(whole=delta.reason != "length"), delta]
        if not isinstance(delta, dict):
            return [delta]
        if delta["type"] == "token":
            self._logprobs += delta.get("logprobs") or ()
            found = self._events(self._splitter.feed(delta["content"]))
            self.done = self._splitter.done
            return found
        # Reasoning of the engine's own, or a tool call: no tag of the text is to come any more.
        return [*self._end(whole=delta["type"] == "tool_call"), delta]

    def _end(self, *, whole: bool) -> list[Delta]:
        self.done = True
        return self._events(self._splitter.end(whole=whole))

    def _events(self, pieces: list[tuple[bool, str]]) -> list[Delta]:
        events: list[Delta] = []
        for thinking, text in pieces:
            if thinking:
                events.append(ReasoningEvent(type="reasoning", content=text))
                continue
            event = TokenEvent(type="token", content=text)
            if self._logprobs:
                event["logprobs"], self._logprobs = self._logprobs, []
            events.append(event)
        return events
