"""Ollama's options. Add a field here and it appears in the form, the API, the command line and the schema."""
# ruff: noqa: N815 — the names are the keys of etc/llm-backend.json

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import BeforeValidator, Field, StringConstraints, model_validator

from backends.engines import common
from backends.engines.base import Options, facts
from backends.engines.common import Host, Text

#: A name as Ollama takes it: ``qwen3:14b``, ``team/model:tag``, ``hf.co/org/model:Q4_K_M``.
ModelName = Annotated[
    str,
    StringConstraints(
        pattern=r"^(?:(?:[A-Za-z0-9._-]+(?::[0-9]+)?/)?[A-Za-z0-9_][A-Za-z0-9_.-]*/)?"
        r"[A-Za-z0-9_][A-Za-z0-9_.-]*(?::[A-Za-z0-9_][A-Za-z0-9_.-]*)?$",
        max_length=512,
    ),
]
#: Go's notation of a time: ``5m``, ``1h30m``, ``90s``; a bare number is seconds, below zero is for ever.
Duration = Annotated[
    str,
    BeforeValidator(lambda value: str(value) if type(value) is int else value),
    StringConstraints(
        pattern=r"^-?(?:[0-9]{1,10}|(?:[0-9]{1,10}(?:\.[0-9]{1,9})?(?:ms|s|m|h))+)$", max_length=40
    ),
]
KvCacheType = Literal["f16", "q8_0", "q4_0"]

#: What ``etc/llm-backend.json`` calls the model.
DEFAULT_MODEL: Final = "defaultModel"


class OllamaOptions(Options):
    """What an Ollama server is started with."""

    file_names: ClassVar[Mapping[str, str]] = {"model": DEFAULT_MODEL}

    model: ModelName = Field(
        default="qwen3:14b",
        title="Default model",
        description="A model in Ollama's store, with its tag: qwen3:14b. It is loaded at the start, and "
        "answers where no other is asked for.",
        json_schema_extra=facts("Model", restart=False),
    )
    loadOnStart: bool = Field(
        default=True,
        title="Load at the start",
        description="Put the default model into memory when Ollama starts. Otherwise its first request "
        "waits for that.",
        json_schema_extra=facts("Model", restart=False),
    )
    keepAlive: Duration = Field(
        default="5m",
        title="Keep in memory",
        description="Time a model stays in memory after its last request: 5m, 1h30m, a number of "
        "seconds. 0: leaves at once. -1: stays.",
        json_schema_extra=facts("Model"),
    )
    modelsDir: Text | None = Field(
        default=None,
        title="Models folder",
        description="Absolute path of the folder that holds Ollama's models. Empty: Ollama's own, "
        ".ollama/models in the home folder.",
        json_schema_extra=facts("Model"),
    )

    host: Host = common.host_field(
        "Address Ollama listens on. It has no key of its own, so only this machine itself is allowed."
    )
    port: int = common.port_field(11434, "Ollama")

    service: Literal["auto", "own"] = Field(
        default="auto",
        title="Systemd service",
        description="auto: where Ollama is an enabled service of systemd on this machine, that is started, "
        "with the service's own settings and models. own: always start Ollama ourselves.",
        json_schema_extra=facts("Network", restart=False),
    )

    contextLength: int | None = Field(
        default=None,
        ge=256,
        le=100_000_000,
        title="Longest conversation",
        description="Longest prompt and answer together, where a request does not say. Empty: Ollama's "
        "choice by GPU memory, at least 4096.",
        json_schema_extra=facts("Memory", unit="tokens"),
    )
    flashAttention: bool | None = Field(
        default=None,
        title="Flash attention",
        description="Compute attention in less memory. Empty: where the model and the GPU can.",
        json_schema_extra=facts("Memory"),
    )
    kvCacheType: KvCacheType | None = Field(
        default=None,
        title="Cache number format",
        description="How keys and values are kept. q8_0 halves the cache and q4_0 quarters it; both need "
        "flash attention. Empty: f16.",
        json_schema_extra=facts("Memory"),
    )
    maxLoadedModels: int | None = Field(
        default=None,
        ge=1,
        le=64,
        title="Models in memory",
        description="Models in memory at once. Empty: three per GPU, or three without one.",
        json_schema_extra=facts("Memory", unit="models"),
    )
    numParallel: int | None = Field(
        default=None,
        ge=1,
        le=256,
        title="Requests at once",
        description="Requests a model answers at once; others wait. Each takes a context of its own. "
        "Empty: 1.",
        json_schema_extra=facts("Memory", unit="requests"),
    )

    startTimeoutSeconds: int = common.start_timeout_field(
        300,
        5,
        "Time allowed from start to ready, the default model loaded. Big models on slow disks need more.",
    )
    stopTimeoutSeconds: int = common.stop_timeout_field("Ollama")

    @property
    def keeps_models(self) -> bool:
        """Whether a model stays in memory at all once it has answered."""
        return bool(re.search(r"[1-9]", self.keepAlive))

    @model_validator(mode="before")
    @classmethod
    def _default_model(cls, values: Any) -> Any:
        """Take ``defaultModel`` for ``model``; of both, the one said last."""
        if not isinstance(values, Mapping) or DEFAULT_MODEL not in values:
            return values
        names = [name for name in values if name in {"model", DEFAULT_MODEL}]
        kept = {name: value for name, value in values.items() if name not in names}
        return kept | {"model": values[names[-1]]}
