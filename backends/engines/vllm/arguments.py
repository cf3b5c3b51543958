"""Further arguments of vLLM's command line that may be given as they are, and no others.

On the list is what changes speed, limits and answers. Not on it: what reads or writes files, loads
code or another model, listens, or sets a key; and what has an option of its own.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

Value = bool | int | float | str | dict[str, bool | int | float | str]

#: Most arguments in one option.
MOST: Final = 50
_NAME = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*")
_LARGEST: Final = 2**53


class _Wrong(ValueError):
    """A value that its argument cannot have; the message says what it can be."""


def _switch(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise _Wrong("true or false")


def _count(least: int = 0, most: int = _LARGEST) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if isinstance(value, str) and re.fullmatch(r"[0-9]{1,16}", value):
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
            return value
        raise _Wrong(f"a whole number from {least}" + (f" to {most}" if most < _LARGEST else " on"))

    return check


def _number(most: float) -> Callable[[Any], float]:
    def check(value: Any) -> float:
        if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", value):
            value = float(value)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= most:
            return value
        raise _Wrong(f"a number from 0 to {most:g}")

    return check


def _one_of(*words: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if isinstance(value, str) and value in words:
            return value
        raise _Wrong(f"one of {', '.join(words)}")

    return check


def _word(pattern: str, what: str) -> Callable[[Any], str]:
    """Check a name that vLLM knows and we do not: one word, so nothing but a name."""

    def check(value: Any) -> str:
        if isinstance(value, str) and re.fullmatch(pattern, value):
            return value
        raise _Wrong(what)

    return check


def _table(
    key: str, check_value: Callable[[Any], Any], forbidden: frozenset[str] = frozenset()
) -> Callable[[Any], dict[str, Any]]:
    """Check an object of plain values: names that match ``key``, none of them ``forbidden``."""

    def check(value: Any) -> dict[str, Any]:
        if not isinstance(value, Mapping) or not value or len(value) > MOST:
            raise _Wrong('an object, as {"image": 2}')
        for name in value:
            if not isinstance(name, str) or not re.fullmatch(key, name) or name in forbidden:
                raise _Wrong(f"an object without the key {str(name)[:40]!r}")
        return {name: check_value(part) for name, part in value.items()}

    return check


def _plain(value: Any) -> bool | int | float | str:
    """Check a value of a chat template or of generation: a number, a truth or a short line of text."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float) and math.isfinite(value) and abs(value) <= _LARGEST:
        return value
    if isinstance(value, str) and re.fullmatch(r"[^\x00-\x1f\x7f]{0,200}", value):
        return value
    raise _Wrong("an object of numbers, truths and short texts")


_BACKEND: Final = _word(r"[A-Za-z][A-Za-z0-9_]{0,60}", "the name of a backend, as vLLM lists it")
#: What would replace the template or bring in code, were it let through to it.
_NOT_FOR_TEMPLATES: Final = frozenset(
    {"chat_template", "tokenize", "return_tensors", "return_dict", "trust_remote_code", "tokenizer"}
)

_SWITCHES: Final = (
    "async-scheduling",
    "cudagraph-metrics",
    "disable-cascade-attn",
    "disable-chunked-mm-input",
    "disable-custom-all-reduce",
    "disable-hybrid-kv-cache-manager",
    "disable-sliding-window",
    "disable-uvicorn-access-log",
    "enable-chunked-prefill",
    "enable-dbo",
    "enable-eplb",
    "enable-expert-parallel",
    "enable-flashinfer-autotune",
    "enable-force-include-usage",
    "enable-mfu-metrics",
    "enable-nccl-comm-suspend",
    "enable-per-request-metrics",
    "enable-prompt-tokens-details",
    "enable-request-id-headers",
    "enable-server-load-tracking",
    "exclude-tools-when-tool-choice-none",
    "fully-sharded-loras",
    "interleave-mm-strings",
    "kv-cache-metrics",
    "language-model-only",
    "numa-bind",
    "return-tokens-as-token-ids",
    "scheduler-reserve-full-isl",
    "skip-mm-profiling",
    "sleep-mode-offload-cudagraph",
    "specialize-active-lora",
    "use-tqdm-on-load",
)

#: Name of each argument, as ``vllm serve --help`` of 0.32 has it, and what its value can be.
ALLOWED: Final[Mapping[str, Callable[[Any], Value]]] = {
    **dict.fromkeys(_SWITCHES, _switch),
    "all2all-backend": _BACKEND,
    "attention-backend": _BACKEND,
    "block-size": _count(1, 4096),
    "chat-template-content-format": _one_of("auto", "string", "openai"),
    "convert": _one_of("auto", "none", "embed", "classify"),
    "decode-context-parallel-size": _count(1, 64),
    "default-chat-template-kwargs": _table(r"[a-z][a-z0-9_]{0,60}", _plain, _NOT_FOR_TEMPLATES),
    "distributed-timeout-seconds": _count(1, 86_400),
    "generation-config": _one_of("auto", "vllm"),
    "limit-mm-per-prompt": _table(r"image|video|audio", _count(0, 10_000)),
    "linear-backend": _BACKEND,
    "load-format": _one_of("auto", "safetensors", "fastsafetensors", "runai_streamer"),
    "logprobs-mode": _one_of(
        "processed_logits", "processed_logprobs", "raw_logits", "raw_logprobs"
    ),
    "long-prefill-token-threshold": _count(),
    "lora-dtype": _one_of("auto", "bfloat16", "float16"),
    "mamba-cache-dtype": _one_of("auto", "bfloat16", "float16", "float32"),
    "mamba-ssm-cache-dtype": _one_of("auto", "bfloat16", "float16", "float32"),
    "max-cudagraph-capture-size": _count(),
    "max-logprobs": _count(0, 1_000_000),
    "max-num-active-seqs": _count(1),
    "max-num-queued-reqs": _count(1),
    "max-num-queued-tokens": _count(1),
    "max-num-scheduled-tokens": _count(1),
    "max-parallel-loading-workers": _count(1, 1024),
    "mm-encoder-tp-mode": _one_of("data", "weights"),
    "mm-processor-cache-gb": _number(1024),
    "model-impl": _one_of("auto", "vllm", "transformers"),
    "moe-backend": _BACKEND,
    "num-gpu-blocks-override": _count(1),
    "optimization-level": _count(0, 3),
    "override-generation-config": _table(r"[a-z][a-z0-9_]{0,60}", _plain),
    "performance-mode": _one_of("balanced", "interactivity", "throughput"),
    "prefix-caching-hash-algo": _one_of("sha256", "sha256_cbor", "xxhash", "xxhash_cbor"),
    "response-role": _one_of("assistant"),
    "runner": _one_of("auto", "generate", "pooling"),
    "safetensors-load-strategy": _one_of("lazy", "eager", "prefetch"),
    "scheduling-policy": _one_of("fcfs", "priority"),
    "spec-method": _one_of("ngram", "suffix"),
    "spec-tokens": _count(1, 1024),
    "stream-interval": _count(1, 10_000),
    "tokenizer-mode": _one_of("auto", "hf", "mistral"),
    "video-pruning-rate": _number(1),
    "watermark": _number(1),
}

#: Arguments that are an option of ours.
OWN: Final[Mapping[str, str]] = {
    "api-key": "apiKey",
    "chat-template": "chatTemplate",
    "cpu-offload-gb": "cpuOffloadGiB",
    "distributed-executor-backend": "distributedExecutorBackend",
    "download-dir": "downloadDir",
    "dtype": "dtype",
    "enable-auto-tool-choice": "autoToolChoice",
    "enable-lora": "enableLora",
    "enable-prefix-caching": "enablePrefixCaching",
    "enable-sleep-mode": "sleepMode",
    "enforce-eager": "enforceEager",
    "gpu-memory-utilization": "gpuMemoryUtilization",
    "host": "host",
    "kv-cache-dtype": "kvCacheDtype",
    "kv-cache-memory-bytes": "kvCacheMemoryGiB",
    "kv-offloading-size": "kvOffloadGiB",
    "lora-modules": "loraModules",
    "max-cpu-loras": "maxCpuLoras",
    "max-lora-rank": "maxLoraRank",
    "max-loras": "maxLoras",
    "max-model-len": "maxModelLen",
    "max-num-batched-tokens": "maxNumBatchedTokens",
    "max-num-seqs": "maxNumSeqs",
    "model": "model",
    "pipeline-parallel-size": "pipelineParallelSize",
    "port": "port",
    "quantization": "quantization",
    "reasoning-parser": "reasoningParser",
    "revision": "revision",
    "seed": "seed",
    "served-model-name": "servedModelName",
    "tensor-parallel-size": "tensorParallelSize",
    "tool-call-parser": "toolCallParser",
    "trust-remote-code": "trustRemoteCode",
}


def checked(given: Any) -> dict[str, Value]:
    """Return extra arguments by name, in the order of the list; raises ``ValueError`` with what to do.

    Args:
        given: a mapping of names to values, or a list of ``--name=value``, ``--name`` and
            ``--no-name``. Names may carry their dashes.
    """
    pairs = list(_pairs(given))
    if len(pairs) > MOST:
        msg = f"at most {MOST} extra arguments"
        raise ValueError(msg)
    found: dict[str, Value] = {}
    for said, value in pairs:
        name = _allowed_name(said)
        if name in found:
            msg = f"--{name} is given twice"
            raise ValueError(msg)
        try:
            found[name] = ALLOWED[name](value)
        except _Wrong as wrong:
            msg = f"--{name} must be {wrong}"
            raise ValueError(msg) from None
    return {name: found[name] for name in ALLOWED if name in found}


def _pairs(given: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(given, Mapping):
        yield from ((str(name), value) for name, value in given.items())
        return
    if not isinstance(given, list | tuple):
        msg = 'an object, as {"stream-interval": 4}, or a list, as ["--stream-interval=4"]'
        raise ValueError(msg)  # noqa: TRY004 — pydantic reports ValueError
    for item in given:
        if not isinstance(item, str):
            msg = "every item of the list is a text, as --stream-interval=4"
            raise ValueError(msg)  # noqa: TRY004 — pydantic reports ValueError
        name, equals, value = item.partition("=")
        if equals:
            yield name, value
        elif name.removeprefix("--").startswith("no-"):
            yield name.removeprefix("--").removeprefix("no-"), False
        else:
            yield name, True


def _allowed_name(said: str) -> str:
    """Return the name as on the list; raises ``ValueError`` for any other."""
    name = said.removeprefix("--").replace("_", "-")
    if name in ALLOWED:
        return name
    if name in OWN:
        msg = f"--{name} is an option of its own: set {OWN[name]}"
        raise ValueError(msg)
    shown = f"--{name}" if _NAME.fullmatch(name) else repr(said[:60])
    msg = (
        f"{shown} is not among the arguments that may be given as they are. They are: "
        f"{', '.join(ALLOWED)}"
    )
    raise ValueError(msg)


def _option(given: Any) -> dict[str, Value]:
    try:
        return checked(given)
    except ValueError as error:
        raise PydanticCustomError("extra_arguments", "{reason}", {"reason": str(error)}) from None


#: The option: any of the forms of ``checked``, kept as an object.
ExtraArguments = Annotated[
    dict[str, Value],
    BeforeValidator(_option),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "object", "propertyNames": {"enum": list(ALLOWED)}},
                {"type": "array", "items": {"type": "string", "pattern": "^--[a-z0-9-]+(=.*)?$"}},
            ]
        }
    ),
]
