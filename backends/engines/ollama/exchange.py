"""Requests that may be silent for minutes and must be given up at once.

Ollama sends nothing, not even headers, before it has something to say, and stops working when its
client leaves. So the request runs on a thread of its own, and whoever asked looks every
``CHECK_SECONDS`` at whether it is still wanted.
"""

import asyncio
import contextlib
import json
import queue
import threading
from collections.abc import Generator
from typing import Any, Final

import httpx

from backends.engines.base import Cancelled, Target
from backends.errors import OperationCancelled

#: Seconds between two looks at whether the request is still wanted.
CHECK_SECONDS: Final = 0.1
_CONNECT_TIMEOUT: Final = 5.0

Line = dict[str, Any]


class Refused(Exception):
    """An answer with an error status. ``status`` is HTTP's, ``reason`` Ollama's own words."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"{status}: {reason}")
        self.status = status
        self.reason = reason

    @classmethod
    def of(cls, status: int, body: str) -> "Refused":
        """Read an error: ``{"error": "…"}``, plain text, or nothing."""
        try:
            found = json.loads(body)["error"]
            reason = found["message"] if isinstance(found, dict) else str(found)
        except (ValueError, KeyError, TypeError):
            reason = body.strip()
        return cls(status, str(reason)[:500] or f"an empty answer with status {status}")


def lines(
    target: Target, path: str, body: Line, *, silence: float, cancelled: Cancelled
) -> Generator[Line, None, None]:
    """POST ``body`` and yield the objects of the answer, one per line, as they come.

    Args:
        target: where.
        path: ``/api/pull``.
        body: the request.
        silence: seconds without a byte after which it is given up.
        cancelled: asked in the caller's thread; true, or an exception, ends the request at once.

    Close the generator when it is not used up (``contextlib.closing``): that ends the request.

    Raises:
        Refused: an error status, before the first line.
        OperationCancelled: ``cancelled`` said so.
        httpx.HTTPError: no connection, silence, or an answer cut short.
    """
    request = _Request(target, path, body, silence)
    request.start()
    try:
        while True:
            if cancelled():
                raise OperationCancelled("The operation was cancelled.")
            item = request.next()
            if isinstance(item, Exception):
                raise item
            if item is _END:
                return
            if item is not None:
                yield item
    finally:
        request.stop()


_END: Final[Line] = {}


class _Request(threading.Thread):
    """One request on a thread and an event loop of its own."""

    def __init__(self, target: Target, path: str, body: Line, silence: float) -> None:
        super().__init__(name="mh-ollama-request", daemon=True)
        self._url, self._body, self._silence = f"{target.endpoint}{path}", body, silence
        self._inbox: queue.SimpleQueue[Line | Exception] = queue.SimpleQueue()
        self._loop = asyncio.new_event_loop()
        self._task = self._loop.create_task(self._exchange())

    def next(self) -> Line | Exception | None:
        """Return the next line or what went wrong; None when there is neither for a while."""
        try:
            return self._inbox.get(timeout=CHECK_SECONDS)
        except queue.Empty:
            return None

    def stop(self) -> None:
        """Close the connection, if it is open, and wait for the thread."""
        if self.is_alive():
            with contextlib.suppress(RuntimeError):  # it has just ended
                self._loop.call_soon_threadsafe(self._task.cancel)
        self.join()

    def run(self) -> None:
        """Do the exchange; whatever goes wrong is for the one who asked."""
        try:
            self._loop.run_until_complete(self._task)
            self._inbox.put(_END)
        except asyncio.CancelledError:
            self._inbox.put(_END)
        except Exception as error:  # noqa: BLE001 — carried over to the caller's thread
            self._inbox.put(error)
        finally:
            self._loop.close()

    async def _exchange(self) -> None:
        timeout = httpx.Timeout(self._silence, connect=_CONNECT_TIMEOUT)
        async with (
            httpx.AsyncClient(trust_env=False, timeout=timeout, verify=False) as client,  # noqa: S501 — plain HTTP only
            client.stream("POST", self._url, json=self._body) as response,
        ):
            if response.status_code != httpx.codes.OK:
                body = (await response.aread()).decode(errors="replace")
                raise Refused.of(response.status_code, body)
            async for line in response.aiter_lines():
                if line.strip():
                    self._inbox.put(_parsed(line))


def _parsed(line: str) -> Line:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise httpx.DecodingError("Ollama sent a line that is not JSON.") from error
    if not isinstance(found, dict):
        raise httpx.DecodingError("Ollama sent a line that is not a JSON object.")
    return found
