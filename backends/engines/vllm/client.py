"""What a running vLLM says over HTTP."""

import contextlib
import math
import re
from collections.abc import Iterator
from typing import Any, Final

import httpx

from backends.engines.base import Cancelled, Metrics, Target, never
from backends.engines.common import client, post
from backends.errors import StartFailed

#: ``name{labels} value`` of the Prometheus text format; names may carry the suffixes of newer clients.
_SAMPLE = re.compile(
    r"^(?P<name>vllm:\w+)(?:\{(?P<labels>.*)\})?\s+(?P<value>[-+\w.]+)\s*$", re.MULTILINE
)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_NOT_SERVED: Final = frozenset({400, 404})

Samples = list[tuple[str, dict[str, str], float]]


def _get(target: Target, path: str, timeout: float) -> httpx.Response:
    return client().get(f"{target.endpoint}{path}", headers=_headers(target), timeout=timeout)


def _headers(target: Target) -> dict[str, str]:
    return {"Authorization": f"Bearer {target.api_key}"} if target.api_key else {}


def is_healthy(target: Target, timeout: float) -> bool:
    """Say whether ``/health`` answers 200."""
    try:
        return _get(target, "/health", timeout).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def served_models(target: Target, timeout: float) -> list[str]:
    """Return the names in ``/v1/models``; raises ``httpx.HTTPError``."""
    response = _get(target, "/v1/models", timeout)
    response.raise_for_status()
    try:
        return [str(model["id"]) for model in response.json()["data"]]
    except (ValueError, KeyError, TypeError):
        return []


def models_answer(target: Target, timeout: float) -> httpx.Response:
    """Return what ``/v1/models`` answers, whatever its status; raises ``httpx.HTTPError``."""
    return _get(target, "/v1/models", timeout)


def is_ready(target: Target, timeout: float) -> bool:
    """Say whether the engine is healthy and serves ``target.served_model``, and its LoRA modules."""
    if not is_healthy(target, timeout):
        return False
    modules = getattr(target.options, "loraModules", ())
    expected = {target.served_model, *(module.name for module in modules)}
    try:
        return expected <= set(served_models(target, timeout))
    except httpx.HTTPError:
        return False


def version(target: Target, timeout: float) -> str:
    """Return the running engine's version; empty if it does not say."""
    response = _get(target, "/version", timeout)
    response.raise_for_status()
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return str(response.json()["version"]).partition("+")[0]
    return ""


def warm_up(target: Target, timeout: float, cancelled: Cancelled = never) -> None:
    """Generate one token as a chat, or as a completion where the model has no chat template.

    Raises:
        StartFailed: it answered with an error, or without a token.
        OperationCancelled: ``cancelled`` said so.
        httpx.HTTPError: it did not answer.
    """
    question: dict[str, Any] = {"model": target.served_model, "max_tokens": 1, "temperature": 0}
    chat = question | {"messages": [{"role": "user", "content": "Say yes."}]}
    response = _post(target, "/v1/chat/completions", chat, timeout, cancelled)
    if response.status_code in _NOT_SERVED:
        plain = question | {"prompt": "Yes"}
        response = _post(target, "/v1/completions", plain, timeout, cancelled)
    if response.status_code != httpx.codes.OK:
        raise StartFailed("vLLM started, and refused a first question.", detail=response.text[:500])
    if not _has_a_token(response):
        raise StartFailed(
            "vLLM started, and gave no answer to a first question.", detail=response.text[:500]
        )


def _post(
    target: Target, path: str, body: dict[str, Any], timeout: float, cancelled: Cancelled
) -> httpx.Response:
    headers = _headers(target)
    return post(target, path, timeout=timeout, cancelled=cancelled, body=body, headers=headers)


def _has_a_token(response: httpx.Response) -> bool:
    try:
        body = response.json()
        return bool(body["choices"]) and int(body["usage"]["completion_tokens"]) >= 1
    except (ValueError, KeyError, TypeError):
        return False


def metrics(target: Target, timeout: float) -> Metrics:
    """Return what ``/metrics`` says; raises ``httpx.HTTPError``."""
    response = _get(target, "/metrics", timeout)
    response.raise_for_status()
    return read_metrics(response.text)


def read_metrics(text: str) -> Metrics:
    """Read the Prometheus text of vLLM; what is not in it is None."""
    samples = list(_samples(text))
    running, waiting = _sum(samples, "num_requests_running"), _sum(samples, "num_requests_waiting")
    return Metrics(
        running=None if running is None else int(running),
        waiting=None if waiting is None else int(waiting),
        kv_cache_usage=_sum(samples, "kv_cache_usage_perc"),
        prompt_tokens_total=_sum(samples, "prompt_tokens_total"),
        generation_tokens_total=_sum(samples, "generation_tokens_total"),
        asleep=_asleep(samples),
        kv_cache_tokens=_cache_tokens(samples),
        finished=_finished(samples),
        ttft_seconds=_mean(samples, "time_to_first_token_seconds"),
        inter_token_seconds=_mean(samples, "inter_token_latency_seconds"),
        first_tokens_total=_sum(samples, "time_to_first_token_seconds_count"),
        first_token_seconds_total=_sum(samples, "time_to_first_token_seconds_sum"),
    )


def _samples(text: str) -> Iterator[tuple[str, dict[str, str], float]]:
    """Yield name, labels and value of every sample that is a finite number."""
    for match in _SAMPLE.finditer(text):
        with contextlib.suppress(ValueError):
            value = float(match["value"])
            if math.isfinite(value):
                labels = dict(_LABEL.findall(match["labels"] or ""))
                yield match["name"].removeprefix("vllm:"), labels, value


def _sum(samples: Samples, name: str) -> float | None:
    """Return the sum over engines (data parallel ones report each for itself)."""
    values = [value for found, _, value in samples if found == name]
    return sum(values) if values else None


def _mean(samples: Samples, name: str) -> float | None:
    total, count = _sum(samples, f"{name}_sum"), _sum(samples, f"{name}_count")
    return total / count if total is not None and count else None


def sleep_state(target: Target, timeout: float) -> str:
    """Return what every engine core says of its sleep; raises ``httpx.HTTPError``.

    ``awake``, ``weights_offloaded`` (level 1), ``discard_all`` (level 2); ``partly`` when none of them
    holds for all; empty where nothing is said.
    """
    response = _get(target, "/metrics", timeout)
    response.raise_for_status()
    states = _sleep_states(list(_samples(response.text)))
    held = [state for state, values in states.items() if all(values)]
    return held[0] if held else "partly" if states else ""


def _sleep_states(samples: Samples) -> dict[str, list[float]]:
    """Read ``engine_sleep_state``: one sample per state and engine core, 1 for the one that holds."""
    found: dict[str, list[float]] = {}
    for name, labels, value in samples:
        if name == "engine_sleep_state":
            found.setdefault(labels.get("sleep_state", ""), []).append(value)
    return found


def _asleep(samples: Samples) -> bool | None:
    awake = _sleep_states(samples).get("awake")
    return not all(awake) if awake else None


def _cache_tokens(samples: Samples) -> int | None:
    for name, labels, _ in samples:
        if name == "cache_config_info":
            with contextlib.suppress(ValueError, KeyError):
                return int(labels["num_gpu_blocks"]) * int(labels["block_size"])
    return None


def _finished(samples: Samples) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, labels, value in samples:
        if name == "request_success_total":
            reason = labels.get("finished_reason", "")
            found[reason] = found.get(reason, 0) + int(value)
    return found
