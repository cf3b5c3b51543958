"""Ctrl-C, told apart: the first asks for a stop in good order, the second one hurries."""

import signal
import threading
from types import FrameType
from typing import Final

#: Ctrl-C, `mh down` and service managers, a closed terminal.
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """Counts the signals that ask this process to end, from ``install`` on."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self._count = 0

    def install(self) -> None:
        """Take over the signals; nohup's promise, that a hang-up is ignored, is kept."""
        for signum in SIGNALS:
            if signum != signal.SIGHUP or signal.getsignal(signum) != signal.SIG_IGN:
                signal.signal(signum, self._received)

    def _received(self, _signum: int, _frame: FrameType | None) -> None:
        self._count += 1
        self.asked.set()

    def hurry(self) -> bool:
        """Return whether somebody has asked twice."""
        return self._count > 1
