"""Why a start of vLLM cannot work, found in a moment and not after half a minute."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from backends.engines import nvidia
from backends.engines.base import Problem
from backends.engines.common import open_address
from backends.engines.models_on_disk import Config, inventory, names_like, problem_of
from backends.engines.vllm import lora
from backends.engines.vllm.command import find_model, gpus_needed, model_places
from backends.engines.vllm.installation import Installation, NotFoundError, detect, find
from backends.engines.vllm.options import VllmOptions

#: Methods that read how the weights were packed from the model, and the file it may be in instead of
#: ``config.json``. The others pack plain weights while they are loaded.
_NEED_CONFIG: Final[dict[str, tuple[str, ...]]] = {
    "awq": ("quant_config.json", "quantize_config.json"),
    "auto_awq": ("quant_config.json", "quantize_config.json"),
    "awq_marlin": ("quant_config.json", "quantize_config.json"),
    "gptq": ("quantize_config.json",),
    "auto_gptq": ("quantize_config.json",),
    "gptq_marlin": ("quantize_config.json",),
    "moe_wna16": ("quantize_config.json",),
    "compressed-tensors": (),
    "modelopt": ("hf_quant_config.json",),
    "modelopt_fp4": ("hf_quant_config.json",),
    "modelopt_mxfp8": ("hf_quant_config.json",),
    "modelopt_mixed": ("hf_quant_config.json",),
    "quark": (),
}

#: Packings that are common, and that this release no longer reads (or never did).
_UNREADABLE: Final = frozenset({"bitsandbytes", "aqlm", "eetq", "gguf", "hqq", "vptq"})
_UNREADABLE_RELEASE: Final = "0.32."


def preflight(options: VllmOptions) -> list[Problem]:
    """Return every reason that can be seen without starting anything; empty means go."""
    problems = [*_network(options), *_together(options)]
    problems += lora.problems(options, model_places(options))
    try:
        installation = find()
    except NotFoundError:
        problems.append(Problem(message=detect().reason, code="engine_not_installed"))
        return problems + list(_model(options))
    problems += _build(options, installation)
    problems += _packing(options, installation)
    return problems + list(_model(options))


def _network(options: VllmOptions) -> Iterator[Problem]:
    yield from open_address(
        options.host,
        "would let everybody on the network use the engine: set apiKey, or host to 127.0.0.1.",
        has_key=bool(options.apiKey),
    )
    if options.sleepMode and options.apiKey:
        # Its endpoints ask for no key, so one does not help.
        yield from open_address(
            options.host,
            "would let everybody on the network put the engine to sleep, since that asks for no key: "
            "set host to 127.0.0.1, or sleepMode to false.",
        )


def _cpu_build(options: VllmOptions) -> Iterator[Problem]:
    """Name the options that the CPU build refuses, or takes and does not obey."""
    asked: dict[str, tuple[object, str]] = {
        "sleepMode": (options.sleepMode, "Set it to false."),
        "kvCacheMemoryGiB": (options.kvCacheMemoryGiB, "Set cpuKvCacheGiB instead."),
        "kvOffloadGiB": (options.kvOffloadGiB, "Leave it empty."),
        "cpuOffloadGiB": (options.cpuOffloadGiB, "Set it to 0."),
        "distributedExecutorBackend": (
            options.distributedExecutorBackend == "ray",
            "Leave it empty, or set it to mp.",
        ),
    }
    for name, (value, instead) in asked.items():
        if value:
            message = (
                f"{name} needs an NVIDIA GPU, and the installed vLLM is the CPU build. {instead}"
            )
            yield Problem(message=message, option=name)


def _build(options: VllmOptions, installation: Installation) -> Iterator[Problem]:
    """Say what the installed build, and the GPUs of this machine, cannot do."""
    if installation.build == "cpu":
        yield from _cpu_build(options)
        return
    seen = nvidia.gpu_count()
    if seen == 0:
        message = (
            "The installed vLLM is the CUDA build, and no NVIDIA GPU is seen on this machine. Check "
            "the driver (nvidia-smi), or install the CPU build: mh vllm install"
        )
        yield Problem(message=message)
    else:
        yield from _gpus(options, seen)


def _gpus(options: VllmOptions, seen: int) -> Iterator[Problem]:
    """Compare the GPUs asked for with those seen; a Ray cluster may have more elsewhere."""
    tensor, stages = options.tensorParallelSize, options.pipelineParallelSize
    if options.distributedExecutorBackend == "ray":
        yield from nvidia.problems(options.gpus)
        return
    if options.distributedExecutorBackend == "uni" and tensor * stages > 1:
        message = f"distributedExecutorBackend uni uses one GPU, and {tensor * stages} are asked for. Leave it empty."
        yield Problem(message=message, option="distributedExecutorBackend")
    elif tensor > seen:
        message = f"tensorParallelSize is {tensor}, and this machine has {seen} GPU(s)."
        yield Problem(message=message, option="tensorParallelSize")
    elif tensor * stages > seen:
        message = (
            f"tensorParallelSize times pipelineParallelSize is {tensor * stages}, and this machine has "
            f"{seen} GPU(s). For GPUs of several machines set distributedExecutorBackend to ray."
        )
        yield Problem(message=message, option="pipelineParallelSize")
    else:
        yield from nvidia.problems(options.gpus, gpus_needed(options))


def _together(options: VllmOptions) -> Iterator[Problem]:
    """Say which options do not go together."""
    if options.autoToolChoice and not options.toolCallParser:
        message = "Automatic tool choice needs a tool call parser: set toolCallParser."
        yield Problem(message=message, option="toolCallParser")
    if options.chatTemplate and not Path(options.chatTemplate).is_file():
        message = f"The chat template {options.chatTemplate} does not exist."
        yield Problem(message=message, option="chatTemplate")
    if options.rayAddress and options.distributedExecutorBackend != "ray":
        message = "rayAddress counts only with Ray: set distributedExecutorBackend to ray."
        yield Problem(message=message, option="distributedExecutorBackend")
    batched, longest = options.maxNumBatchedTokens, options.maxNumSeqs
    if batched and longest and batched < longest:
        message = f"maxNumBatchedTokens is {batched}, and must be at least maxNumSeqs ({longest})."
        yield Problem(message=message, option="maxNumBatchedTokens")


def _model(options: VllmOptions) -> Iterator[Problem]:
    path = find_model(options)
    if path is None:
        yield Problem(message=_not_here(options), option="model", code="model_not_found")
        return
    problem = problem_of(path)
    if problem:
        yield Problem(message=problem, option="model")
        return
    yield from _fits_the_model(options, path, Config.read(path))


def _not_here(options: VllmOptions) -> str:
    if options.model.startswith(("/", "~/")):
        return f"{options.model} does not exist."
    here = names_like(inventory(model_places(options)))
    offer = (
        f"Models here: {here}" if here else "There is no model here yet; mh vllm install brings one"
    )
    fetch = f" Download it: mh vllm pull {options.model}" if "/" in options.model else ""
    return f"The model “{options.model}” is not on this machine. {offer}.{fetch}"


def _fits_the_model(options: VllmOptions, path: Path, config: Config) -> Iterator[Problem]:
    limit = config.max_length
    if isinstance(options.maxModelLen, int) and limit and options.maxModelLen > limit:
        message = (
            f"maxModelLen is {options.maxModelLen}, and {options.model} can do {limit} at most."
        )
        yield Problem(message=message, option="maxModelLen")
    layers, stages = config.layers, options.pipelineParallelSize
    if layers and stages > layers:
        message = f"pipelineParallelSize is {stages}, and {options.model} has only {layers} layers."
        yield Problem(message=message, option="pipelineParallelSize")
    heads, parts = config.attention_heads, options.tensorParallelSize
    if heads and heads % parts:
        message = (
            f"tensorParallelSize is {parts}, and does not divide the {heads} attention heads of "
            f"{options.model}."
        )
        yield Problem(message=message, option="tensorParallelSize")
    if options.quantization:
        yield from _quantization(options.quantization, options.model, path, config)


def _quantization(method: str, model: str, path: Path, config: Config) -> Iterator[Problem]:
    packed = config.quantization
    files = _NEED_CONFIG.get(method)
    if files is None:
        return
    if packed is None:
        if not any((path / name).is_file() for name in files):
            message = (
                f"quantization is {method}, and {model} is not packed that way. Leave it empty."
            )
            yield Problem(message=message, option="quantization")
    elif _family(packed) != _family(method) and method != "moe_wna16":
        message = f"quantization is {method}, and {model} is packed as {packed}. Leave it empty."
        yield Problem(message=message, option="quantization")


def _packing(options: VllmOptions, installation: Installation) -> Iterator[Problem]:
    """Say whether the installed release reads the model's weights as they are packed."""
    path = find_model(options)
    packed = Config.read(path).quantization if path is not None else None
    if packed in _UNREADABLE and installation.version.startswith(_UNREADABLE_RELEASE):
        message = (
            f"{options.model} is packed as {packed}, which vLLM {installation.version} cannot read. Use "
            "another build of the model: AWQ, GPTQ, FP8, or not packed."
        )
        yield Problem(message=message, option="model")


def _family(method: str) -> str:
    """Return the packing a method reads: ``gptq_marlin`` and ``auto_gptq`` read GPTQ."""
    known = ("awq", "gptq", "modelopt", "compressed-tensors", "quark")
    return next((name for name in known if name in method.replace("_", "-")), method)
