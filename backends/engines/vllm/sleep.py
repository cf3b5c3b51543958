"""Sleep mode: the engine gives its GPU memory back and stays alive.

Endpoints of vLLM 0.32, there only with ``VLLM_SERVER_DEV_MODE=1`` (vllm/entrypoints/serve/dev); they ask
for no key, so only a loopback address is spoken to. Looked up in its source, and what needs no GPU
tried on its CPU build:

* Without ``--enable-sleep-mode`` ``/sleep`` answers 200 all the same, ``engine_sleep_state`` says that
  the weights are gone, nothing is freed, and chats hang. Only ``/server_info`` tells, so it is asked first.
* ``/wake_up`` answers 200 too for an engine that was not asleep.
* From level 2 weights come back as noise unless they are read again between the two halves of waking.
"""

import contextlib
import threading
import time
from typing import Any, Final

import httpx

from backends.engines.base import Cancelled, Target, never
from backends.engines.common import client as http
from backends.engines.common import is_loopback, post
from backends.engines.vllm import client
from backends.errors import OperationCancelled, StartFailed, StopFailed

#: Seconds between two looks at ``/metrics``.
POLL_SECONDS: Final = 0.05
#: Longest wait for a first token of an engine that is awake, in seconds: not so for one that hangs.
CANARY_TIMEOUT: Final = 60.0
_PROBE_TIMEOUT: Final = 5.0
#: ``sleep_state`` of ``engine_sleep_state`` by level.
_STATES: Final = {1: "weights_offloaded", 2: "discard_all"}


class _Failed(Exception):
    """A step of going to sleep or waking did not work; the message says how, for an operator."""


def park(target: Target, timeout: float) -> None:
    """Put the engine to sleep, as deep as its options say, and see in its metrics that it is.

    Raises:
        StopFailed: it was not started for it, or did not within ``timeout`` seconds.
    """
    level = int(getattr(target.options, "sleepLevel", 1))
    deadline = time.monotonic() + timeout
    try:
        _require_loopback(target)
        _require_sleep_mode(target, deadline)
        _send(target, f"/sleep?level={level}", deadline, never)
        _await_state(target, _STATES[level], deadline, never)
    except (_Failed, httpx.HTTPError, OSError, ValueError) as error:
        msg = f"vLLM did not go to sleep: {_reason(error)}"
        raise StopFailed(msg) from error


def unpark(target: Target, timeout: float, cancelled: Cancelled) -> None:
    """Wake the engine, from whichever level, and have it generate one token.

    Raises:
        StartFailed: it does not wake, or does not answer; ``detail`` says why.
        OperationCancelled: ``cancelled`` said so.
    """
    deadline = time.monotonic() + timeout
    try:
        _require_loopback(target)
        _wake(target, deadline, cancelled)
        _await_state(target, "awake", deadline, cancelled)
        client.warm_up(target, min(CANARY_TIMEOUT, _left(deadline)), cancelled)
    except (_Failed, httpx.HTTPError, OSError, ValueError) as error:
        msg = "vLLM did not wake up."
        raise StartFailed(msg, detail=_reason(error)) from error


def _wake(target: Target, deadline: float, cancelled: Cancelled) -> None:
    state = _state(target, deadline)
    if state == "awake":
        return
    if state != _STATES[2]:
        _send(target, "/wake_up", deadline, cancelled)
        return
    _send(target, "/wake_up?tags=weights", deadline, cancelled)
    _send(target, "/collective_rpc", deadline, cancelled, {"method": "reload_weights"})
    _send(target, "/wake_up?tags=kv_cache", deadline, cancelled)


def prepare(target: Target) -> None:
    """Have the engine find out in the background what ``park`` asks it: it takes seconds, once."""
    if getattr(target.options, "sleepMode", False):
        threading.Thread(target=_ask_once, args=(target,), name="mh-sleep", daemon=True).start()


def _ask_once(target: Target) -> None:
    with contextlib.suppress(httpx.HTTPError):
        _server_info(target, CANARY_TIMEOUT)


def _server_info(target: Target, timeout: float) -> httpx.Response:
    url = f"{target.endpoint}/server_info"
    return http().get(url, params={"config_format": "json"}, timeout=timeout)


def _require_loopback(target: Target) -> None:
    if not is_loopback(httpx.URL(target.endpoint).host):
        msg = f"its endpoints for that ask for no key, and {target.endpoint} is open to others."
        raise _Failed(msg)


def _require_sleep_mode(target: Target, deadline: float) -> None:
    """Ask how the engine was started. Its first answer takes seconds: see ``prepare``."""
    response = _server_info(target, _left(deadline))
    if response.status_code == httpx.codes.NOT_FOUND:
        msg = "it was started without VLLM_SERVER_DEV_MODE, which sleep mode needs."
        raise _Failed(msg)
    response.raise_for_status()
    enabled: Any = None
    with contextlib.suppress(KeyError, TypeError):
        enabled = response.json()["vllm_config"]["model_config"]["enable_sleep_mode"]
    if enabled is not True:
        msg = "it was started without sleep mode (sleepMode)."
        raise _Failed(msg)


def _send(
    target: Target,
    path: str,
    deadline: float,
    cancelled: Cancelled,
    body: dict[str, Any] | None = None,
) -> None:
    response = post(target, path, timeout=_left(deadline), cancelled=cancelled, body=body)
    if response.status_code != httpx.codes.OK:
        msg = f"{path} answered {response.status_code}: {response.text[:300]}"
        raise _Failed(msg)


def _await_state(target: Target, wanted: str, deadline: float, cancelled: Cancelled) -> None:
    while (state := _state(target, deadline)) != wanted:
        if cancelled():
            raise OperationCancelled("The operation was cancelled.")
        if time.monotonic() >= deadline:
            msg = f"its metrics say {state or 'nothing of its state'}, not {wanted}."
            raise _Failed(msg)
        time.sleep(POLL_SECONDS)


def _state(target: Target, deadline: float) -> str:
    """Return what ``engine_sleep_state`` says; raises ``httpx.HTTPError``."""
    return client.sleep_state(target, min(_PROBE_TIMEOUT, _left(deadline)))


def _left(deadline: float) -> float:
    return max(0.1, deadline - time.monotonic())


def _reason(error: Exception) -> str:
    if isinstance(error, _Failed):
        return str(error)
    if isinstance(error, httpx.TimeoutException):
        return "it does not answer in time."
    return f"{type(error).__name__}: {error}"
