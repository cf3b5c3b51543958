"""uvicorn's server, which sleeps while nobody asks.

uvicorn looks ten times a second whether it shall end. A process that sleeps has to be woken for that, and
finds nothing of what it needs in the processor's caches: on a small machine that is a hundredth of a
processor, all day, and a tenth of what tokens cost that come 2,000 a second.
"""

import asyncio
import contextlib
from types import FrameType
from typing import Final

import uvicorn

#: Seconds between two looks at the clock: the ``Date`` header says seconds.
_TICK: Final = 1.0


class Server(uvicorn.Server):
    """Ends as soon as it is told to, and else looks around once a second."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._told = asyncio.Event()

    async def main_loop(self) -> None:
        """Return when the server shall end."""
        self._loop = asyncio.get_running_loop()
        # Zero: each look is one of those that write the headers' date.
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TICK):
                    await self._told.wait()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Note a signal to end, as uvicorn does, and wake what waits for it."""
        super().handle_exit(sig, frame)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._told.set)
