"""One queue-based endpoint of RunPod: the few calls a chat needs.

Source: Runpod documentation, "Operation reference".
"""

import asyncio
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

import aiohttp

from accounts.errors import MhError
from router.errors import UpstreamGarbled
from router.providers.exchange import Answer, ask, exchange
from router.providers.openai_errors import TRANSPORT_ERRORS, transport_error
from router.providers.runpod import errors

logger = logging.getLogger(__name__)

#: No byte of the request was sent: the connection was not made.
_NOT_SENT: Final = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    ConnectionRefusedError,
)
#: Seconds before the second, third … try to cancel. Cancelling twice does no harm.
_CANCEL_PAUSES: Final = (0.0, 0.3, 1.0, 3.0)
_CANCEL_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Poll:
    """What one poll told."""

    #: ``IN_QUEUE``, ``IN_PROGRESS``, ``COMPLETED`` …; empty where it was not said.
    status: str
    #: What the worker has put out: since the last poll (stream), or in all (status).
    elements: list[Any] = field(default_factory=list)
    error: object = None


class PollFailed(Exception):
    """A poll brought nothing; another one may. ``wait`` is what RunPod asks for, in seconds."""

    def __init__(self, reason: MhError, *, wait: float = 0.0, lossy: bool) -> None:
        super().__init__(str(reason))
        self.reason = reason
        self.wait = wait
        #: Whether an answer was perhaps on its way: what it held is not given again.
        self.lossy = lossy


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an endpoint's calls go. ``url`` ends with its id."""

    url: str
    #: Whose connections are used.
    pool: str
    headers: Mapping[str, str] = field(repr=False)

    async def run(self, payload: Mapping[str, Any]) -> str:
        """Submit a job; return its id. Never sends it twice.

        Raises:
            MhError: it was not taken; or, as ``JobFailed``, nobody knows.
        """
        body = json.dumps(payload, separators=(",", ":")).encode()
        try:
            answer = await self._exchange("POST", "run", body)
        except TRANSPORT_ERRORS as exc:
            if isinstance(exc.__cause__ or exc, _NOT_SENT):
                raise transport_error(exc, begun=False) from exc
            raise errors.uncertain() from exc
        if answer.status not in {HTTPStatus.OK, HTTPStatus.CREATED, HTTPStatus.ACCEPTED}:
            raise errors.submit_refused(answer.status, answer.body, answer.headers)
        return _job_id(answer)

    async def stream(self, job: str) -> Poll:
        """Return what the job's worker put out since the last call.

        Raises:
            PollFailed: nothing came back, this time.
            MhError: nothing will.
        """
        data = (await self._poll("stream", job)).json()
        if isinstance(data, list):
            return Poll("", [_element(item) for item in data])
        if not isinstance(data, dict):
            raise UpstreamGarbled("RunPod sent an answer that cannot be read.")
        items = data.get("stream")
        elements = [_element(item) for item in items] if isinstance(items, list) else []
        return Poll(str(data.get("status") or ""), elements, data.get("error"))

    async def status(self, job: str) -> Poll:
        """Return the job's state, and everything its worker put out if it is over. Raises as ``stream`` does."""
        data = (await self._poll("status", job)).json()
        if not isinstance(data, dict):
            raise UpstreamGarbled("RunPod sent an answer that cannot be read.")
        output = data.get("output")
        elements = output if isinstance(output, list) else [] if output is None else [output]
        return Poll(str(data.get("status") or ""), elements, data.get("error"))

    async def health(self) -> dict[str, Any]:
        """Return what ``/health`` says of workers and jobs.

        Raises:
            MhError: it says nothing.
        """
        answer = await ask(f"{self.url}/health", endpoint=self.pool, headers=self.headers)
        if answer.status != HTTPStatus.OK:
            raise errors.refused(answer.status, answer.body, answer.headers)
        data = answer.json()
        return data if isinstance(data, dict) else {}

    async def cancel(self, job: str) -> None:
        """Cancel the job, patiently. Never raises: nobody is there to be told; the log is."""
        try:
            async with asyncio.timeout(_CANCEL_SECONDS):
                for pause in _CANCEL_PAUSES:
                    await asyncio.sleep(pause)
                    if await self._cancelled(job):
                        return
        except TimeoutError:
            pass
        logger.warning("RunPod job %s could not be cancelled; it runs until its time-out", job)

    async def _cancelled(self, job: str) -> bool:
        try:
            answer = await self._exchange("POST", f"cancel/{job}")
        except (*TRANSPORT_ERRORS, UpstreamGarbled):
            return False
        # 400 and 404: it is over already.
        return answer.status < HTTPStatus.INTERNAL_SERVER_ERROR and answer.status != 429  # noqa: PLR2004

    async def _poll(self, call: str, job: str) -> Answer:
        try:
            answer = await self._exchange("GET", f"{call}/{job}")
        except TRANSPORT_ERRORS as exc:
            raise PollFailed(transport_error(exc, begun=True), lossy=True) from exc
        if answer.status == HTTPStatus.OK:
            return answer
        if answer.status == HTTPStatus.NOT_FOUND:
            raise errors.lost()
        error = errors.refused(answer.status, answer.body, answer.headers)
        if answer.status == HTTPStatus.TOO_MANY_REQUESTS and error.retryable:
            raise PollFailed(error, wait=error.retry_after or 0, lossy=False)
        if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise PollFailed(error, wait=error.retry_after or 0, lossy=True)
        raise error

    async def _exchange(self, method: str, path: str, body: bytes | None = None) -> Answer:
        return await exchange(
            method, f"{self.url}/{path}", endpoint=self.pool, headers=self.headers, content=body
        )


def _job_id(answer: Answer) -> str:
    try:
        data = answer.json()
    except UpstreamGarbled as exc:
        raise errors.uncertain() from exc
    job = data.get("id") if isinstance(data, dict) else None
    if not isinstance(job, str) or not job or "/" in job:
        raise errors.uncertain()
    return job


def _element(item: object) -> Any:
    return item["output"] if isinstance(item, dict) and "output" in item else item
