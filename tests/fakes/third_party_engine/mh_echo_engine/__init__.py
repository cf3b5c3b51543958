"""The smallest complete engine plugin: serves a folder of files and says that it is a model."""

import sys
from collections.abc import Sequence
from typing import ClassVar

import httpx
from pydantic import Field

from backends.engines.base import (
    Cancelled,
    Capabilities,
    Detection,
    Engine,
    Launch,
    ModelInfo,
    Options,
    Problem,
    Progress,
    Target,
    never,
)


class EchoOptions(Options):
    """What the echo is started with."""

    model: str = Field(default="echo", title="Model", json_schema_extra={"restart": True})
    port: int = Field(
        default=8765, ge=1, le=65535, title="Port", json_schema_extra={"restart": True}
    )


class EchoEngine(Engine):
    """An engine with one model, ``echo``."""

    name: ClassVar[str] = "echo"
    title: ClassVar[str] = "Echo"
    Options: ClassVar[type[EchoOptions]] = EchoOptions
    capabilities: ClassVar[Capabilities] = Capabilities(openai_api=False)

    def detect(self) -> Detection:
        return Detection(installed=True, version="1.0", path=sys.executable)

    def models(self, options: EchoOptions) -> list[ModelInfo]:
        return [ModelInfo(id="echo", path="", size_bytes=0)]

    def preflight(self, options: EchoOptions) -> list[Problem]:
        if options.model == "echo":
            return []
        return [
            Problem(message="The only model is “echo”.", option="model", code="model_not_found")
        ]

    def launch(self, options: EchoOptions) -> Launch:
        argv = (sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(options.port))
        return Launch(argv=argv, host="127.0.0.1", port=options.port, served_model=options.model)

    def is_ready(self, target: Target, *, timeout: float) -> bool:
        return self.is_healthy(target, timeout=timeout)

    def is_healthy(self, target: Target, *, timeout: float) -> bool:
        try:
            return httpx.get(target.endpoint, timeout=timeout, trust_env=False).is_success
        except httpx.HTTPError:
            return False

    def loaded_model(self, target: Target, *, timeout: float) -> str | None:
        return "echo"

    def version(self, target: Target, *, timeout: float) -> str:
        return "1.0"

    def warm_up(self, target: Target, *, timeout: float, cancelled: Cancelled = never) -> None:
        httpx.get(target.endpoint, timeout=timeout, trust_env=False).raise_for_status()

    def progress(self, log_tail: Sequence[str]) -> Progress | None:
        return None

    def failure_reason(self, log_tail: Sequence[str]) -> str:
        return next((line for line in reversed(log_tail) if line.strip()), "")
