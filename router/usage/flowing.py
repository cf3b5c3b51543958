"""What the requests of this process add to their backends, told to the broker once a second.

For charts, of engines that do not count tokens themselves: while a request is under way, each piece of its
answer is taken for a token; at its end it is what the engine has counted.
"""

import logging
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from backends.flow import flow_add

logger = logging.getLogger(__name__)

#: Seconds between two times that it is told.
EVERY: Final = 1.0
#: Requests that have ended since; where nobody looks (a command), the oldest are forgotten.
_ENDED_MAX: Final = 10_000


@dataclass(slots=True)
class Progress:
    """How far one request is, and how much of that was told."""

    backend: str = ""
    tokens: int = 0
    prompt_tokens: int = 0
    #: Seconds to the first token; None before it.
    first: float | None = None
    _told: dict[str, float] = field(default_factory=dict)

    def news(self) -> dict[str, float]:
        """Return what has come since this was asked last; never less than nothing."""
        now: dict[str, float] = {
            "tokens": self.tokens,
            "prompt_tokens": self.prompt_tokens,
            "firsts": 0 if self.first is None else 1,
            "first_seconds": self.first or 0.0,
        }
        news = {name: max(0.0, value - self._told.get(name, 0)) for name, value in now.items()}
        for name, value in news.items():
            self._told[name] = self._told.get(name, 0) + value
        return news


class Flows(Protocol):
    """A request that says how far it is."""

    def progress(self) -> Progress:
        """Return how far it is; the same object each time."""


class Flow:
    """The requests of one process."""

    def __init__(
        self, tell: Callable[[Mapping[str, Mapping[str, float]]], None] = flow_add
    ) -> None:
        """``tell`` takes what is added, by backend and count."""
        self._tell = tell
        self._under_way: set[Flows] = set()
        self._ended: deque[Progress] = deque(maxlen=_ENDED_MAX)
        #: Whether there is anything to look at: a process without requests is not woken.
        self._some = threading.Event()
        self._thread: threading.Thread | None = None

    def begun(self, request: Flows) -> None:
        """Follow a request."""
        self._under_way.add(request)
        if not self._some.is_set():
            self._some.set()

    def ended(self, request: Flows) -> None:
        """Look at a request for the last time."""
        self._under_way.discard(request)
        self._ended.append(request.progress())

    def look(self) -> None:
        """Tell what has come since the last look."""
        ended = [self._ended.popleft() for _ in range(len(self._ended))]
        added = _sums([*ended, *(request.progress() for request in list(self._under_way))])
        if added:
            self._tell(added)

    def start(self) -> None:
        """Look once a second, from now on, while there are requests."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="flow", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while True:
            self._some.wait()
            self._some.clear()
            time.sleep(EVERY)
            try:
                self.look()
            except Exception:  # the boundary of a thread: charts must go on
                logger.exception("What flows could not be told once")
            if self._under_way:
                self._some.set()


def _sums(requests: Iterable[Progress]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for request in requests:
        if not request.backend:
            continue  # a cloud's, or refused
        for name, value in request.news().items():
            if value:
                found[request.backend][name] += value
    return {backend: dict(counts) for backend, counts in found.items()}


_flow: Final = Flow()
begun, ended, start = _flow.begun, _flow.ended, _flow.start
