"""Fast streams are read in turns, all together, while there are many tokens.

To read, parse and write a token costs the same for one as for five. A stream that brings more than 50 pieces a
second, in a process that passes on more than 1,000, is therefore left alone until the next turn, a few
milliseconds later, and what has come by then is passed on as one piece; meanwhile the kernel keeps it. Slower
streams, the first piece of each, and everything in a process that has little to do go on as they come. Network
cards do the same with their interrupts, for the same reason.
"""

import asyncio
from collections.abc import Callable
from typing import Final

#: Pieces in a turn's time, of all streams, above which it is worth it: 1,000 a second at 15 ms.
_MANY: Final = 15
#: A stream is fast whose pieces come within this many turns of each other.
_FAST: Final = 1.2


class Turns:
    """The turns of one event loop.

    Args:
        loop: whose they are.
        length: seconds from one to the next; 0: everything goes on as it comes.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, length: float) -> None:
        self._loop = loop
        self._length = length
        self._waiting: list[Callable[[], None]] = []
        self._begun = 0.0
        self._count = self._before = 0

    def waits(self, since: float, now: float, go_on: Callable[[], None]) -> bool:
        """Note a piece of a stream; return whether the stream shall wait until ``go_on`` is called.

        Args:
            since: when its piece before came, in seconds of the loop's clock.
            now: when this one came.
            go_on: is called with the next turn.
        """
        length = self._length
        passed = now - self._begun
        if passed >= length:
            self._before = self._count if passed < 2 * length else 0
            self._begun, self._count = now, 0
        self._count += 1
        if now - since >= _FAST * length or max(self._count, self._before) < _MANY:
            return False
        if not self._waiting:
            self._loop.call_later(length, self._turn)
        self._waiting.append(go_on)
        return True

    def _turn(self) -> None:
        waiting, self._waiting = self._waiting, []
        for go_on in waiting:
            go_on()
