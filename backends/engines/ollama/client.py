"""What a running Ollama says over HTTP, and loading and unloading, verified through ``/api/ps``."""

import re
import time
from datetime import UTC, datetime
from typing import Any, Final

import httpx

from backends.engines.base import Cancelled, LoadedModel, ModelDetails, ModelInfo, Target, never
from backends.engines.common import client
from backends.engines.ollama.exchange import Line, Refused, lines
from backends.engines.ollama.names import is_same
from backends.errors import StartFailed, StopFailed, UnknownModel

#: Seconds between two looks at ``/api/ps`` while a load or an unload is awaited.
POLL_SECONDS: Final = 0.05
#: Seconds after a good answer to a load within which ``/api/ps`` must list the model.
LISTED_TIMEOUT: Final = 5.0
_PROBE_TIMEOUT: Final = 5.0
#: ``keep_alive: -1`` shows as the year 2319.
_FOREVER_YEARS: Final = 100
_FRACTION = re.compile(r"(\.\d{6})\d+")


def ask(
    target: Target, method: str, path: str, timeout: float, body: Line | None = None
) -> dict[str, Any]:
    """Send a request and return the object that answers it; empty for an empty answer.

    Raises:
        Refused: an error status.
        httpx.HTTPError: no answer, or not JSON.
    """
    response = client().request(method, f"{target.endpoint}{path}", json=body, timeout=timeout)
    if response.status_code != httpx.codes.OK:
        raise Refused.of(response.status_code, response.text)
    if not response.content:
        return {}
    try:
        found = response.json()
    except ValueError as error:
        raise httpx.DecodingError(f"{path} answered something that is not JSON.") from error
    return found if isinstance(found, dict) else {}


def version(target: Target, timeout: float) -> str:
    """Return the running server's version; empty if it is no Ollama."""
    try:
        found = ask(target, "GET", "/api/version", timeout).get("version")
    except (Refused, httpx.DecodingError):
        return ""
    return found if isinstance(found, str) else ""


def is_healthy(target: Target, timeout: float) -> bool:
    """Say whether an Ollama answers. It does so too while its runner hangs: only a chat would tell."""
    try:
        return bool(version(target, timeout))
    except httpx.HTTPError:
        return False


# What is in memory, and what is in the store.


def loaded(target: Target, timeout: float) -> list[LoadedModel]:
    """Return what ``/api/ps`` lists. A runner killed behind Ollama's back stays listed."""
    return [_loaded(entry) for entry in _entries(target, "/api/ps", timeout)]


def _entries(target: Target, path: str, timeout: float) -> list[dict[str, Any]]:
    try:
        found = ask(target, "GET", path, timeout).get("models")
    except Refused as error:
        raise httpx.DecodingError(f"{path} answered {error}") from error
    entries = found if isinstance(found, list) else []
    return [entry for entry in entries if isinstance(entry, dict) and _id(entry)]


def _id(entry: dict[str, Any]) -> str:
    return str(entry.get("model") or entry.get("name") or "")


def _loaded(entry: dict[str, Any]) -> LoadedModel:
    return LoadedModel(
        id=_id(entry),
        size_bytes=_number(entry.get("size")),
        vram_bytes=_number(entry.get("size_vram")),
        context_length=_number(entry.get("context_length")),
        expires_at=_moment(entry.get("expires_at")),
    )


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _moment(value: Any) -> datetime | None:
    """Read Go's time, which has nine digits of a second; None for one that never comes."""
    try:
        found = datetime.fromisoformat(_FRACTION.sub(r"\1", str(value)).replace("Z", "+00:00"))
    except ValueError:
        return None
    if found.tzinfo is None or found.year > datetime.now(UTC).year + _FOREVER_YEARS:
        return None
    return found


def loaded_model(target: Target, timeout: float) -> str | None:
    """Return the served model if it is in memory, else another one that is, else None."""
    names = [model.id for model in loaded(target, timeout)]
    wanted = target.served_model
    if any(is_same(name, wanted) for name in names):
        return wanted
    return next(iter(names), None)


def models(target: Target, timeout: float) -> list[ModelInfo]:
    """Return what ``/api/tags`` lists."""
    return [
        ModelInfo(id=_id(entry), path="", size_bytes=_number(entry.get("size")) or 0)
        for entry in _entries(target, "/api/tags", timeout)
    ]


def show(target: Target, model: str, timeout: float) -> ModelDetails:
    """Return what ``/api/show`` says; raises ``UnknownModel``."""
    try:
        found = ask(target, "POST", "/api/show", timeout, {"model": model})
    except Refused as error:
        raise unknown_or_failed(error, model, "describe") from error
    details, info = _object(found.get("details")), _object(found.get("model_info"))
    architecture = str(info.get("general.architecture", ""))
    return ModelDetails(
        id=model,
        family=str(details.get("family") or ""),
        parameters=str(details.get("parameter_size") or ""),
        quantization=str(details.get("quantization_level") or ""),
        context_length=_number(info.get(f"{architecture}.context_length")),
        capabilities=tuple(map(str, found.get("capabilities") or ())),
        defaults=str(found.get("parameters") or ""),
        template=str(found.get("template") or ""),
        license=str(found.get("license") or ""),
    )


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def unknown_or_failed(error: Refused, model: str, what: str) -> UnknownModel | StartFailed:
    """Return the error a person should see for a refusal that names a model."""
    if error.status == httpx.codes.NOT_FOUND or error.reason == "invalid model name":
        return UnknownModel(
            f"Ollama has no model “{model}”. Pull it: mh ollama pull {model}", param="model"
        )
    return StartFailed(f"Ollama could not {what} {model}.", detail=error.reason)


# Loading and unloading.


def load(target: Target, model: str, timeout: float, cancelled: Cancelled = never) -> None:
    """Put a model into memory and wait until ``/api/ps`` lists it.

    Raises:
        UnknownModel, StartFailed, OperationCancelled; httpx.HTTPError when there is no answer.
    """
    try:
        _ask_for_load(target, model, timeout, cancelled)
    except Refused as error:
        if error.status == httpx.codes.SERVICE_UNAVAILABLE:
            msg = f"Ollama is too busy to load {model}: too many loads are waiting. Try again soon."
            raise StartFailed(msg, detail=error.reason) from error
        raise unknown_or_failed(error, model, "load") from error
    except httpx.ReadTimeout as error:
        raise _load_timed_out(model, timeout) from error
    deadline = time.monotonic() + LISTED_TIMEOUT
    while not _is_loaded(target, model):
        if cancelled() or time.monotonic() > deadline:
            msg = (
                f"Ollama says that it loaded {model}, and does not keep it in memory: keepAlive may be too "
                "short, or memory too small."
            )
            raise StartFailed(msg)
        time.sleep(POLL_SECONDS)


def _ask_for_load(target: Target, model: str, timeout: float, cancelled: Cancelled) -> None:
    """Ask by an empty prompt; a model that only embeds refuses that and is asked to embed nothing."""
    try:
        _silent(target, "/api/generate", {"model": model, "stream": False}, timeout, cancelled)
    except Refused as error:
        if error.status != httpx.codes.BAD_REQUEST or "does not support" not in error.reason:
            raise
        _silent(target, "/api/embed", {"model": model, "input": []}, timeout, cancelled)


def _silent(target: Target, path: str, body: Line, timeout: float, cancelled: Cancelled) -> Line:
    """Return the one object of an answer that takes long to begin."""
    found: Line = {}
    for line in lines(target, path, body, silence=timeout, cancelled=cancelled):
        found = line
    if "error" in found:
        raise Refused(httpx.codes.OK, str(found["error"])[:500])
    return found


def _load_timed_out(model: str, timeout: float) -> StartFailed:
    msg = (
        f"Ollama had not loaded {model} after {timeout:.0f} s. A bigger model needs more: "
        "mh ollama config startTimeoutSeconds NUMBER"
    )
    return StartFailed(msg)


def _is_loaded(target: Target, model: str) -> bool:
    return any(is_same(found.id, model) for found in loaded(target, _PROBE_TIMEOUT))


def unload(target: Target, model: str, timeout: float) -> None:
    """Take a model out of memory and wait until ``/api/ps`` lists it no more.

    Ollama answers at once and does it later: when the streams of the model have ended.

    Raises:
        StopFailed: it is still there after ``timeout`` seconds; httpx.HTTPError when there is no answer.
    """
    if not _is_loaded(target, model):
        return
    deadline = time.monotonic() + timeout
    refusal = _ask_for_unload(target, model)
    while _is_loaded(target, model):
        if time.monotonic() > deadline:
            raise _still_loaded(model, timeout, refusal)
        time.sleep(POLL_SECONDS)


def _ask_for_unload(target: Target, model: str) -> str:
    """Return why it was refused, as it is for a model that was deleted while in memory."""
    body = {"model": model, "keep_alive": 0, "stream": False}
    ways: tuple[tuple[str, Line], ...] = (("/api/generate", {}), ("/api/embed", {"input": []}))
    for path, more in ways:
        try:
            ask(target, "POST", path, _PROBE_TIMEOUT, body | more)
        except Refused as error:
            if error.status != httpx.codes.BAD_REQUEST:
                return error.reason
        else:
            return ""
    return ""


def _still_loaded(model: str, timeout: float, refusal: str) -> StopFailed:
    why = (
        f"it refused ({refusal})"
        if refusal
        else "a request may still be running, or its runner hangs"
    )
    msg = (
        f"Ollama still holds {model} in memory {timeout:.0f} s after it was asked to unload it: {why}. "
        "Stopping Ollama frees the memory: mh ollama stop"
    )
    return StopFailed(msg)


def unload_all(target: Target, timeout: float) -> None:
    """Take every model out of memory, within ``timeout`` seconds in all; raises as ``unload`` does."""
    deadline = time.monotonic() + timeout
    found = loaded(target, _PROBE_TIMEOUT)
    for model in found:
        _ask_for_unload(target, model.id)
    for model in found:
        unload(target, model.id, max(0.0, deadline - time.monotonic()))


def warm_up(target: Target, timeout: float, cancelled: Cancelled = never) -> None:
    """Load the served model and have it generate one token, or embed a word where it only embeds.

    Raises:
        UnknownModel, StartFailed, OperationCancelled; httpx.HTTPError when there is no answer.
    """
    deadline = time.monotonic() + timeout
    load(target, target.served_model, timeout, cancelled)
    left = max(1.0, deadline - time.monotonic())
    try:
        answered = _first_answer(target, left, cancelled)
    except Refused as error:
        raise StartFailed(
            "Ollama started, and refused a first question.", detail=error.reason
        ) from error
    if not answered:
        raise StartFailed("Ollama started, and gave no answer to a first question.")


def _first_answer(target: Target, timeout: float, cancelled: Cancelled) -> bool:
    question = {"model": target.served_model, "prompt": "Say yes.", "stream": False}
    limit = {"options": {"num_predict": 1, "temperature": 0}}
    try:
        found = _silent(target, "/api/generate", question | limit, timeout, cancelled)
    except Refused as error:
        if error.status != httpx.codes.BAD_REQUEST or "does not support" not in error.reason:
            raise
        word = {"model": target.served_model, "input": "yes"}
        return bool(_silent(target, "/api/embed", word, timeout, cancelled).get("embeddings"))
    return found.get("done") is True and bool(_number(found.get("eval_count")))
