"""A vLLM that answers where ours would, whoever started it."""

import contextlib
from typing import Any, Final

import httpx
import psutil

from backends.engines import listening
from backends.engines.base import Launch, RunningServer, Target
from backends.engines.vllm import client
from backends.engines.vllm.options import VllmOptions

_MODULE: Final = "vllm.entrypoints"
#: What vLLM says of itself in ``/v1/models``: ``ModelCard.owned_by``.
_OWNER: Final = "vllm"


def find(options: VllmOptions, timeout: float) -> RunningServer | None:
    """Return the vLLM at the endpoint of ``options``; None when nothing answers, or something else does.

    Many servers speak OpenAI's API: it is vLLM when ``/version`` says one and every model of ``/v1/models``
    is owned by vLLM. One that wants another API key than ours answers with no model.
    """
    endpoint = Launch(
        argv=(), host=options.host, port=options.port, served_model=options.served_name
    ).endpoint
    target = Target(endpoint=endpoint, api_key=options.apiKey or "")
    try:
        version = client.version(target, timeout)
        models = _models(target, timeout) if version else None
    except httpx.HTTPError:
        return None
    if models is None:
        return None
    wanted = options.served_name
    return RunningServer(
        endpoint=endpoint,
        version=version,
        model=wanted if wanted in models else next(iter(models), None),
        pid=listening.listener(options.port, is_server),
    )


def _models(target: Target, timeout: float) -> list[str] | None:
    """Return the served names, none where our key is refused; None when it is no vLLM."""
    response = client.models_answer(target, timeout)
    if response.status_code == httpx.codes.UNAUTHORIZED:
        return [] if _said(response) == {"error": "Unauthorized"} else None
    if response.status_code != httpx.codes.OK:
        return None
    try:
        cards = _said(response)["data"]
        names = [str(card["id"]) for card in cards if card["owned_by"] == _OWNER]
    except (KeyError, TypeError):
        return None
    return names if names and len(names) == len(cards) else None


def _said(response: httpx.Response) -> Any:
    with contextlib.suppress(ValueError):
        return response.json()
    return None


def is_server(process: psutil.Process) -> bool:
    """Say whether ``process`` looks like vLLM's API server, by its arguments."""
    with contextlib.suppress(psutil.Error):
        words = process.cmdline()
        served = "serve" in words and any(word.rpartition("/")[2] == "vllm" for word in words)
        return served or any(word.startswith(_MODULE) for word in words)
    return False
