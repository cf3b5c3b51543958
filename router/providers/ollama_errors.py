"""Ollama's errors, mapped once to ours. What it says of its insides stays here.

Ollama says ``{"error": "…"}``, sometimes with the runner's own JSON inside that text, plain text for
paths it does not know, and nothing at all where it refuses a host. Source: as recorded, 0.24 and 0.32.
"""

import json
import re
from http import HTTPStatus
from typing import Any, Final

from accounts.errors import InvalidRequest, MhError, NotFound, TooMany, Unavailable, UpstreamFailed
from router.errors import ContextTooLong, NotSupported

_TEXT_MAX: Final = 300
#: Longest ``Retry-After`` that is passed on, in seconds.
_RETRY_MAX: Final = 120
#: Paths and addresses have no business with a client.
_INSIDES = re.compile(r"(?:/[\w.\-]+){2,}|\b0x[0-9a-f]{6,}|\b127\.0\.0\.1\b|goroutine|sha256-")
_NO_LOAD = re.compile(
    r"unable to load model|error loading model|failed to load model|process has terminated"
    r"|exceeds file size|llama runner|timed out waiting for .* to start",
    re.I,
)
_NO_MEMORY = re.compile(r"requires more system memory|out of memory|not enough memory", re.I)
_TOO_LONG = re.compile(r"exceeds? (?:the )?(?:available |maximum )?context (?:length|size)", re.I)
_SIZES = re.compile(r"\((\d+) tokens\).*\((\d+) tokens\)")
_OPTION = re.compile(r'option "(\w+)" must be of type (\w+)')


def refusal_error(status: int, body: bytes, *, model: str, retry_after: str = "") -> MhError:
    """Return our error for an answer of Ollama that is not 200."""
    text, inner = _read(body)
    known = _by_text(text, inner, model) or _by_status(status, text, model, _seconds(retry_after))
    if known is not None:
        return known
    if status < HTTPStatus.INTERNAL_SERVER_ERROR:
        return _refused(text)
    return UpstreamFailed("Ollama failed to answer. Its log has the reason: mh ollama logs")


def load_error(text: str, model: str) -> MhError | None:
    """Return our error where ``text`` says that the model could not be loaded; None where not."""
    if _NO_MEMORY.search(text):
        return _lasting(
            Unavailable(
                f"There is not enough memory for the model {model!r}. Choose a smaller one, or a shorter"
                " context (numCtx of its entry).",
                code="engine_out_of_memory",
            )
        )
    if "exit status" in text or ("encountered" not in text and _NO_LOAD.search(text)):
        return _lasting(
            UpstreamFailed(
                f"Ollama could not load the model {model!r}. Its log has the reason: mh ollama logs",
                code="model_load_failed",
            )
        )
    return None


def _lasting(error: MhError) -> MhError:
    """Return an error that another try of the same model will not change."""
    error.retryable = False
    return error


def no_model(model: str) -> NotFound:
    """Return the error for a model that is not in Ollama's store."""
    return NotFound(
        f"Ollama has no model {model[:120]!r}. Download it with: mh ollama pull {model[:120]}",
        code="model_not_found",
        param="model",
    )


def _by_text(text: str, inner: dict[str, Any], model: str) -> MhError | None:
    if _TOO_LONG.search(text):
        return _too_long(text, inner)
    if found := _OPTION.search(text):
        return InvalidRequest(
            f"{found[1]} must be of type {found[2]}.", param=f"options.{found[1]}"
        )
    if "does not support" in text or "support multimodal" in text:
        return _not_able(text, model)
    return load_error(text, model)


def _by_status(status: int, text: str, model: str, retry_after: int | None) -> MhError | None:
    if status == HTTPStatus.NOT_FOUND:
        if "not found" in text and not text.startswith("404 "):
            return no_model(model)
        return UpstreamFailed("This Ollama is too old for that. Update it.", code="engine_too_old")
    if status in {401, 403}:
        return UpstreamFailed(
            "Ollama refused the site's request: its OLLAMA_ORIGINS, or its sign-in for cloud models,"
            " does not let the site in. Its owner must check that.",
            code="upstream_refused_key",
        )
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return TooMany("Ollama has too much to do. Try again in a moment.", retry_after=retry_after)
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        return Unavailable(
            "Ollama's queue is full. Try again in a moment.",
            code="engine_unavailable",
            retry_after=retry_after,
        )
    return None


def _not_able(text: str, model: str) -> NotSupported:
    """Return the error for a model without what was asked for."""
    for word, what, param in (
        ("tools", "call tools", "tools"),
        ("thinking", "think", "options.think"),
        ("multimodal", "see images", "messages"),
        ("embed", "embed texts", "model"),
        ("generate", "generate text", "model"),
        ("chat", "chat", "model"),
        ("insert", "fill in", "suffix"),
    ):
        if word in text.rpartition("support")[2]:
            return NotSupported(f"The model {model!r} cannot {what}. Name another.", param=param)
    return NotSupported(f"The model {model!r} cannot do that. Name another.", param="model")


def _too_long(text: str, inner: dict[str, Any]) -> ContextTooLong:
    sizes = _SIZES.search(text)
    count = inner.get("n_prompt_tokens") or (sizes[1] if sizes else "")
    limit = inner.get("n_ctx") or (sizes[2] if sizes else "")
    size = f"has {count} tokens" if count else "is too long"
    room = f"the model takes {limit} in all" if limit else "for the model's context"
    joined = f"{size}; {room}" if count or limit else f"{size} {room}"
    return ContextTooLong(f"The prompt {joined}. Shorten the messages.", param="messages")


def _refused(text: str) -> InvalidRequest:
    if not text or _INSIDES.search(text):
        return InvalidRequest("Ollama did not accept the request.", code="refused_by_engine")
    text = " ".join(text.split())[:_TEXT_MAX]
    return InvalidRequest(f"Ollama did not accept the request: {text}", code="refused_by_engine")


def _read(body: bytes) -> tuple[str, dict[str, Any]]:
    """Return the text of an error, and the runner's own object where there is one."""
    found = _json(body)
    if not isinstance(found, dict):
        return body.decode(errors="replace").strip(), {}
    error = found.get("error")
    nested = _json(error) if isinstance(error, str) else error
    inner = nested.get("error", nested) if isinstance(nested, dict) else None
    if isinstance(inner, dict):
        return str(inner.get("message") or ""), inner
    return str(error or ""), {}


def _json(text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _seconds(header: str) -> int | None:
    return min(int(header), _RETRY_MAX) if re.fullmatch(r"\d{1,9}", header) else None
