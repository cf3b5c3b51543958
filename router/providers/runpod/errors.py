"""What RunPod refuses, and how jobs fail, as our errors."""

import json
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from accounts.errors import MhError, TooMany, Unavailable
from router.errors import JobFailed, JobTimedOut, ProviderRefused
from router.providers.openai_errors import refusal_error
from router.providers.retry_after import wait_asked

_DEPTH: Final = 4
_MESSAGES: Final = ("message", "error_message", "detail")
_NESTED: Final = ("error", "error_message", "message")
_CLIENT_ERRORS: Final = range(400, 500)
_TOO_LONG: Final = re.compile(r"maximum context length is \d+")
_TYPE: Final = re.compile(r"[A-Za-z_]\w{0,63}")
_NO_WORKERS: Final = re.compile(rb"no workers? (?:is |are )?available", re.IGNORECASE)


def refused(status: int, body: bytes, headers: Mapping[str, str]) -> MhError:
    """Return the error for a refusal of RunPod's own, or of a worker behind its OpenAI route."""
    if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        return ProviderRefused(
            "RunPod refused the site's key. The site's owner must check it, and what it may do."
        )
    if status == HTTPStatus.NOT_FOUND and b"model" not in body:
        return ProviderRefused(
            "RunPod has no such endpoint. The site's owner must check the endpoint's id.",
            code="endpoint_not_found",
        )
    if _NO_WORKERS.search(body):
        return Unavailable(
            "No worker of the RunPod endpoint is up yet. Try again in a moment.",
            code="engine_unavailable",
        )
    return refusal_error(status, body, retry_after=wait_asked(headers))


def submit_refused(status: int, body: bytes, headers: Mapping[str, str]) -> MhError:
    """Return the error for a job that was not taken, or that nobody can say so of (5xx)."""
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return uncertain()
    error = refused(status, body, headers)
    if isinstance(error, TooMany):
        error.message = "RunPod takes no more jobs for this endpoint now. Try again in a moment."
    return error


def uncertain() -> JobFailed:
    """Return the error for a job whose sending got no answer: it may run, and is not sent again."""
    return JobFailed(
        "RunPod did not say whether it took the job. It is not sent again, because it may run already.",
        code="job_uncertain",
    )


def lost() -> JobFailed:
    """Return the error for a job RunPod no longer knows."""
    return JobFailed(
        "RunPod no longer knows the job: its time to live was over, or its result was kept no longer.",
        code="job_lost",
    )


def timed_out(what: str) -> JobTimedOut:
    """Return the error for a job whose time is over; ``what`` names the setting that says so."""
    return JobTimedOut(f"The RunPod job did not end in its time ({what}). It is cancelled.")


def ended(status: str, error: object) -> MhError:
    """Return the error for a job that ended as ``FAILED``, ``TIMED_OUT`` or ``CANCELLED``."""
    if status == "TIMED_OUT":
        return timed_out("executionTimeout or ttl")
    if status == "CANCELLED":
        return JobFailed("The RunPod job was cancelled by somebody else.", code="job_cancelled")
    return job_error(error)


def job_error(error: object) -> MhError:
    """Return the error for what a worker says went wrong: a text, often itself JSON, or an object.

    What the request itself has wrong keeps its kind; insides of the worker stay inside.
    """
    message, fields = _unwrapped(error)
    code = fields.get("code", fields.get("status_code"))
    if isinstance(code, int) and code in _CLIENT_ERRORS:
        return refused_by_worker(code, message, fields)
    if _TOO_LONG.search(message):
        return refused_by_worker(400, message, fields)
    if "timeout" in str(fields.get("error_type", "")).lower():
        return timed_out("executionTimeout")
    kind = _TYPE.findall(str(fields.get("error_type", "")))
    named = f" ({kind[-1]})" if kind else ""
    return JobFailed(f"The RunPod job failed{named}. The endpoint's log at RunPod has the reason.")


def refused_by_worker(code: int, message: str, fields: Mapping[str, Any]) -> MhError:
    """Return the error for what the engine in a worker refused with an HTTP status."""
    body = {"error": {"message": message, "param": fields.get("param")}}
    return refusal_error(code, json.dumps(body).encode())


def _unwrapped(error: object) -> tuple[str, dict[str, Any]]:
    """Return the innermost message, and the fields found on the way to it."""
    fields: dict[str, Any] = {}
    for _ in range(_DEPTH):
        found = _object(error)
        if found is None:
            break
        fields.update(found)
        error = next((found[key] for key in _NESTED if found.get(key)), "")
    message = error if isinstance(error, str) else ""
    return message or next((str(fields[key]) for key in _MESSAGES if key in fields), ""), fields


def _object(error: object) -> dict[str, Any] | None:
    if isinstance(error, str) and error.lstrip().startswith("{"):
        try:
            error = json.loads(error)
        except (ValueError, RecursionError):
            return None
    return error if isinstance(error, dict) else None
