"""A plugin for tests: runs tests/fakes/fake_vllm.py, a real process that only pretends to be an engine.

Found through its entry point by any process that has this folder on its path (``PYTHONPATH``).
Where it listens and how it misbehaves are options, and environment variables so that a whole site
can be given them: ``MH_FAKE_PORT``, ``MH_FAKE_ARGS``, ``MH_FAKE_PROGRAM`` (instead of
``fake_vllm.py``), ``MH_FAKE_GPUS`` (``0,1``; none without it: the fakes
run side by side).
"""

import os
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import Field

from backends.engines import common
from backends.engines.base import (
    Capabilities,
    Detection,
    Engine,
    Launch,
    Metrics,
    ModelInfo,
    Options,
    Problem,
    Progress,
)
from backends.engines.vllm import client, sleep

PROGRAM = Path(
    os.environ.get("MH_FAKE_PROGRAM") or Path(__file__).resolve().parent.parent / "fake_vllm.py"
)
MODELS = ("fake-model", "other-model")


class FakeOptions(Options):
    model: str = "fake-model"
    host: str = "127.0.0.1"
    port: int = Field(int(os.environ.get("MH_FAKE_PORT", "8000")), ge=1, le=65535)
    gpus: tuple[int, ...] | None = (
        tuple(map(int, os.environ["MH_FAKE_GPUS"].split(",")))
        if "MH_FAKE_GPUS" in os.environ
        else None
    )
    arguments: str = os.environ.get("MH_FAKE_ARGS", "")
    apiKey: str = Field("", json_schema_extra={"secret": True})  # noqa: N815
    startTimeoutSeconds: float = 20.0  # noqa: N815
    stopTimeoutSeconds: float = 2.0  # noqa: N815
    drainSeconds: float = Field(2.0, ge=0, le=60)  # noqa: N815


class FakeEngine(Engine):
    name = "fake"
    title = "Fake engine"
    Options = FakeOptions
    capabilities = Capabilities()

    def detect(self):
        return Detection(installed=True, version="1.0", path=str(PROGRAM))

    def models(self, options):
        return [ModelInfo(id=name, path=name, size_bytes=1) for name in MODELS]

    def preflight(self, options):
        if options.model in MODELS:
            return []
        return [
            Problem(
                message=f"There is no model {options.model!r} here. Models: {', '.join(MODELS)}.",
                option="model",
                code="model_not_found",
            )
        ]

    def launch(self, options):
        return Launch(
            argv=(
                sys.executable, str(PROGRAM), "--port", str(options.port),
                "--served-model-name", options.model, *shlex.split(options.arguments),
            ),
            secret_env={"VLLM_API_KEY": options.apiKey} if options.apiKey else {},
            host=options.host,
            port=options.port,
            served_model=options.model,
            start_timeout=options.startTimeoutSeconds,
            stop_timeout=options.stopTimeoutSeconds,
            gpus=options.gpus or (),
        )  # fmt: skip

    def _get(self, target, path, timeout):
        headers = {"Authorization": f"Bearer {target.api_key}"} if target.api_key else {}
        return common.client().get(target.endpoint + path, headers=headers, timeout=timeout)

    def is_ready(self, target, *, timeout):
        if self._get(target, "/health", timeout).status_code != 200:
            return False
        return self.loaded_model(target, timeout=timeout) == target.served_model

    def is_healthy(self, target, *, timeout):
        return self._get(target, "/health", timeout).status_code == 200

    def loaded_model(self, target, *, timeout):
        models = self._get(target, "/v1/models", timeout).json()["data"]
        return models[0]["id"] if models else None

    def version(self, target, *, timeout):
        return self._get(target, "/version", timeout).json()["version"]

    def warm_up(self, target, *, timeout, cancelled=lambda: False):
        body = {
            "model": target.served_model,
            "messages": [{"role": "user", "content": "hi"}],
            "max_tokens": 1,
        }
        headers = {"Authorization": f"Bearer {target.api_key}"} if target.api_key else {}
        url = target.endpoint + "/v1/chat/completions"
        answer = common.client().post(url, json=body, headers=headers, timeout=timeout)
        answer.raise_for_status()

    def _behave(self, target, *behaviour):
        url = target.endpoint + "/_fake/behaviour"
        body = {"behaviour": behaviour}
        common.client().post(url, json=body, timeout=5).raise_for_status()

    def park(self, target, *, timeout):
        """Answer nothing, as an engine asleep. Tests say that it can: ``FakeEngine.capabilities``."""
        self._behave(target, "silent")

    def unpark(self, target, *, timeout, cancelled=lambda: False):
        self._behave(target)

    def metrics(self, target, *, timeout):
        return Metrics(running=0, waiting=0)

    def progress(self, log_tail):
        return Progress(fraction=0.5, message="pretending to load")

    def failure_reason(self, log_tail):
        return next((line for line in reversed(log_tail) if "rror" in line), "")


class OtherFakeEngine(FakeEngine):
    """The same under another name, to switch to."""

    name = "fake2"
    title = "Other fake"


class SleeperOptions(FakeOptions):
    sleepMode: bool = True  # noqa: N815
    sleepLevel: Literal[1, 2] = 1  # noqa: N815


class SleeperEngine(FakeEngine):
    """One that is parked by vLLM's own sleep mode, checks included; ``arguments`` say how that fails.

    Tests give it to the site themselves: ``registry.engines``, as the fixture ``fake`` does.
    """

    name = "sleeper"
    title = "Sleeper"
    Options = SleeperOptions
    capabilities = Capabilities(park=True)

    def launch(self, options):
        made = super().launch(options)
        if not options.sleepMode:
            return made
        return replace(
            made,
            argv=(*made.argv, "--enable-sleep-mode"),
            env={**made.env, "VLLM_SERVER_DEV_MODE": "1"},
        )

    def can_park(self, options):
        return options.sleepMode

    def park(self, target, *, timeout):
        sleep.park(target, timeout)

    def unpark(self, target, *, timeout, cancelled=lambda: False):
        sleep.unpark(target, timeout, cancelled)

    def metrics(self, target, *, timeout):
        return client.metrics(target, timeout)
