"""Downloading and deleting models."""

import contextlib
import re
from collections.abc import Callable
from typing import Final

import httpx

from accounts.errors import UpstreamFailed
from backends.engines.base import Cancelled, Target, Transfer
from backends.engines.ollama.client import ask, unknown_or_failed
from backends.engines.ollama.exchange import Line, Refused, lines
from backends.errors import UnknownModel

#: Seconds without a frame. They come every 60 ms while bytes do; checking a big model is silent.
PULL_SILENCE: Final = 900.0
_NO_MODEL = re.compile(
    r"file does not exist|manifest unknown|model .* not found|repository does not exist|invalid model name",
    re.IGNORECASE,
)
_NO_REGISTRY = re.compile(
    r"no such host|connection refused|network is unreachable|i/o timeout|no route to host"
    r"|TLS handshake|certificate",
    re.IGNORECASE,
)
_NO_SPACE = re.compile(r"no space left on device|not enough space", re.IGNORECASE)


def pull(
    target: Target, model: str, *, report: Callable[[Transfer], None], cancelled: Cancelled
) -> None:
    """Download ``model``. Ollama keeps what it has of an unfinished one, and goes on there next time.

    Raises:
        UnknownModel: the registry has no such model.
        UpstreamFailed: it failed, or ended without saying that it is done.
        OperationCancelled: ``cancelled`` said so. Leaving makes Ollama stop.
    """
    tally = _Tally()
    body: Line = {"model": model, "stream": True}
    frames = lines(target, "/api/pull", body, silence=PULL_SILENCE, cancelled=cancelled)
    done = False
    try:
        with contextlib.closing(frames):
            for frame in frames:
                if "error" in frame:  # under HTTP 200
                    raise _failure(model, str(frame["error"]))
                done = frame.get("status") == "success"
                report(tally.add(frame))
    except Refused as error:
        raise _failure(model, error.reason) from error
    except httpx.HTTPError as error:
        msg = (
            f"The download of {model} broke off: Ollama stopped answering. Pull it again to go on."
        )
        raise UpstreamFailed(msg, code="pull_failed") from error
    if not done:
        msg = f"The download of {model} ended before it was complete. Pull it again to go on."
        raise UpstreamFailed(msg, code="pull_failed")


class _Tally:
    """Bytes over all parts of a model; each part is told of for itself."""

    def __init__(self) -> None:
        self._parts: dict[str, tuple[int, int]] = {}

    def add(self, frame: Line) -> Transfer:
        digest, total = frame.get("digest"), frame.get("total")
        if isinstance(digest, str) and isinstance(total, int):
            completed = frame.get("completed")  # left out at 0
            done = completed if isinstance(completed, int) else 0
            before = self._parts.get(digest, (0, 0))[0]
            self._parts[digest] = (max(done, before), total)
        return Transfer(
            message=str(frame.get("status", ""))[:200],
            completed_bytes=sum(done for done, _ in self._parts.values()),
            total_bytes=sum(total for _, total in self._parts.values()),
        )


def _failure(model: str, reason: str) -> UnknownModel | UpstreamFailed:
    reason = reason[:500]
    if _NO_MODEL.search(reason):
        msg = f"There is no model “{model}” to download. Check its name and tag: {reason}."
        return UnknownModel(msg, param="model")
    if _NO_REGISTRY.search(reason):
        why = "the registry cannot be reached from this machine"
    elif _NO_SPACE.search(reason):
        why = "the disk of the models folder is full"
    else:
        why = "Ollama says"
    return UpstreamFailed(f"{model} could not be downloaded: {why}: {reason}", code="pull_failed")


def delete(target: Target, model: str, timeout: float) -> None:
    """Delete ``model``; what is in memory of it stays until it is unloaded.

    Raises:
        UnknownModel: there is no such model.
        UpstreamFailed: it could not be deleted.
    """
    try:
        ask(target, "DELETE", "/api/delete", timeout, {"model": model})
    except Refused as error:
        found = unknown_or_failed(error, model, "delete")
        if isinstance(found, UnknownModel):
            raise found from error
        msg = f"Ollama could not delete {model}: {error.reason}"
        raise UpstreamFailed(msg, code="delete_failed") from error
