"""A chat as a job: submitted once, followed by polling, cancelled when nobody wants it any more."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any, Final

from accounts.errors import MhError
from router.errors import JobFailed
from router.providers.base import Delta, Waits
from router.providers.openai_stream import broken_off
from router.providers.runpod import errors
from router.providers.runpod.endpoint import Endpoint, Poll, PollFailed
from router.providers.runpod.output import OutputReader
from router.providers.runpod.settings import RunPodSettings
from router.providers.runpod.waiting import waits_from

#: What a job waits for is said again after so many seconds, so that nobody takes it for dead.
SAID_SECONDS: Final = 15.0
#: Polls in a row that may bring nothing.
FAILURES_MAX: Final = 5
_QUEUED: Final = "IN_QUEUE"
_COMPLETED: Final = "COMPLETED"
_UNDERWAY: Final = frozenset({"", _QUEUED, "IN_PROGRESS", "RUNNING"})
#: What RunPod is given beyond its own time-out before we stop waiting for it to say so, in seconds.
_GRACE: Final = 15.0
_GROWTH: Final = 1.5
#: Polls a queued job is asked about before anybody asks why it waits: a warm worker takes it at once.
_QUIET_POLLS: Final = 1

#: Keeps what runs on after its request from being collected.
_background: set["asyncio.Task[None]"] = set()


@asynccontextmanager
async def job_running(
    endpoint: Endpoint, payload: Mapping[str, Any], reader: OutputReader, settings: RunPodSettings
) -> AsyncIterator[AsyncIterator[Delta]]:
    """Submit a job and yield its deltas. Left before its end, it is cancelled, whatever the reason.

    Raises:
        MhError: it was not taken; from iterating, it failed.
    """
    job = await _submitted(endpoint, payload)
    following = _Following(endpoint, job, reader, settings)
    try:
        async with aclosing(following.deltas()) as deltas:
            yield deltas
    finally:
        if not following.over:
            await asyncio.shield(_go_on(endpoint.cancel(job)))


async def _submitted(endpoint: Endpoint, payload: Mapping[str, Any]) -> str:
    submitting = asyncio.ensure_future(endpoint.run(payload))
    try:
        return await asyncio.shield(submitting)
    except asyncio.CancelledError:
        # The job may be taken at this very moment: wait for its id, without whoever left.
        _go_on(_cancel_late(endpoint, submitting))
        raise


async def _cancel_late(endpoint: Endpoint, submitting: "asyncio.Future[str]") -> None:
    try:
        job = await submitting
    except MhError:
        return
    await endpoint.cancel(job)


def _go_on(work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
    task = asyncio.create_task(work)
    _background.add(task)
    task.add_done_callback(_background.discard)
    return task


class _Following:
    """Polls one job to its end.

    Chunks are given once: when an answer to a poll is lost, what it held is not given again. Then the rest is
    taken from the job's whole output at its end, if what was seen before is how that begins.
    """

    def __init__(
        self, endpoint: Endpoint, job: str, reader: OutputReader, settings: RunPodSettings
    ) -> None:
        self._endpoint, self._job, self._reader, self._settings = endpoint, job, reader, settings
        self._seen: list[Any] = []
        self._lossy = False
        self._failures = 0
        self._queued_polls = 0
        self._waits: Waits | None = None
        self._said_at = 0.0
        self._pause = settings.poll_min
        #: Whether the job needs no cancelling any more.
        self.over = False

    async def deltas(self) -> AsyncGenerator[Delta, None]:
        """Yield the job's deltas, ``Finished`` last."""
        deadline = asyncio.get_running_loop().time() + self._settings.ttl + _GRACE
        while True:
            poll = await self._polled()
            for delta in self._read(poll):
                yield delta
            if self._reader.complete:
                self.over = True
                return
            if poll.status == _COMPLETED and not poll.elements:
                for delta in await self._rest():
                    yield delta
                return
            for waits in await self._waiting(poll):
                yield waits
            if asyncio.get_running_loop().time() > deadline:
                raise errors.timed_out("ttl")
            await self._rested(poll)

    async def _polled(self) -> Poll:
        """Poll once; a poll that failed is one without news, unless too many do."""
        try:
            poll = await self._asked()
        except PollFailed as failed:
            self._failures += failed.lossy
            self._lossy = self._lossy or failed.lossy
            if self._failures > FAILURES_MAX:
                raise failed.reason from failed
            self._pause = max(failed.wait, self._settings.poll_max)
            return Poll("")
        except JobFailed:
            self.over = True  # RunPod knows of no such job
            raise
        self._failures = 0
        if poll.status not in _UNDERWAY and poll.status != _COMPLETED:
            await self._failed(poll)
        return poll

    async def _asked(self) -> Poll:
        if not self._lossy:
            poll = await self._endpoint.stream(self._job)
            # Without a state in the answer, silence may be the end.
            if poll.status or poll.elements:
                return poll
        poll = await self._endpoint.status(self._job)
        if poll.status == _QUEUED:
            self._lossy = False  # nothing was there to be lost
        return Poll(poll.status, [], poll.error)

    async def _failed(self, poll: Poll) -> None:
        self.over = True
        error = poll.error
        if error is None and poll.status == "FAILED":
            with suppress(PollFailed):
                error = (await self._endpoint.status(self._job)).error
        raise errors.ended(poll.status, error)

    def _read(self, poll: Poll) -> list[Delta]:
        self._seen += poll.elements
        return [delta for element in poll.elements for delta in self._reader.feed(element)]

    async def _rest(self) -> list[Delta]:
        """Return what the completed job's whole output has beyond what was seen, and the end."""
        self.over = True
        output = await self._whole_output()
        rest: list[Any] = []
        if output[: len(self._seen)] == self._seen:
            rest = output[len(self._seen) :]
        elif self._lossy:
            raise broken_off()
        return [delta for element in rest for delta in self._reader.feed(element)] + (
            self._reader.end()
        )

    async def _whole_output(self) -> list[Any]:
        for _ in range(FAILURES_MAX):
            try:
                return (await self._endpoint.status(self._job)).elements
            except PollFailed as failed:
                await asyncio.sleep(max(failed.wait, self._settings.poll_max))
        raise broken_off()

    async def _waiting(self, poll: Poll) -> list[Waits]:
        """Return what the job waits for, where that is news, or has not been said for long."""
        if poll.status != _QUEUED or self._seen:
            return []
        self._queued_polls += 1
        if self._queued_polls <= _QUIET_POLLS:
            return []
        try:
            waits = waits_from(await self._endpoint.health())
        except MhError:
            waits = self._waits or Waits("queued at RunPod")
        now = asyncio.get_running_loop().time()
        if waits == self._waits and now - self._said_at < SAID_SECONDS:
            return []
        self._waits, self._said_at = waits, now
        return [waits]

    async def _rested(self, poll: Poll) -> None:
        if poll.elements:
            self._pause = self._settings.poll_min
        await asyncio.sleep(self._pause)
        self._pause = min(self._pause * _GROWTH, self._settings.poll_max)
