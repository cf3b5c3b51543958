"""vLLM's options. Add a field here and it appears in the form, the API, the command line and the schema."""
# ruff: noqa: N815 — the names are the keys of etc/llm-backend.json

from typing import Annotated, Any, Final, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from backends.engines import common
from backends.engines.base import Options, facts
from backends.engines.common import Host, Key, Text
from backends.engines.vllm.arguments import ExtraArguments

#: Where a Ray cluster is: ``10.0.0.5:6379``, ``ray://head:10001``, or ``auto`` for the one of this machine.
RayAddress = Annotated[
    str,
    StringConstraints(pattern=r"^(?:ray://)?[A-Za-z0-9\[][A-Za-z0-9._:\[\]-]*$", max_length=253),
]

Dtype = Literal["auto", "half", "float16", "bfloat16", "float", "float32"]
KvCacheDtype = Literal["auto", "float16", "bfloat16", "fp8", "fp8_e4m3", "fp8_e5m2"]
#: ``QuantizationMethods`` of vLLM 0.32, less the deprecated ones.
Quantization = Literal[
    "awq",
    "auto_awq",
    "awq_marlin",
    "gptq",
    "auto_gptq",
    "gptq_marlin",
    "fp8",
    "compressed-tensors",
    "experts_int8",
    "humming",
    "inc",
    "modelopt",
    "modelopt_fp4",
    "modelopt_mxfp8",
    "modelopt_mixed",
    "moe_wna16",
    "mxfp4",
    "gpt_oss_mxfp4",
    "deepseek_v4_fp8",
    "quark",
    "torchao",
    "online",
    "fp8_per_tensor",
    "fp8_per_block",
    "fp8_per_channel",
    "int8_per_channel_weight_only",
    "nvfp4_per_token",
    "mxfp8",
]

#: ``MaxLoRARanks`` of vLLM 0.32.
LoraRank = Literal[1, 8, 16, 32, 64, 128, 256, 320, 512]
Executor = Literal["mp", "ray", "uni"]

#: Longest prompt and answer when nobody says, in tokens, where the model can do more.
DEFAULT_MAX_MODEL_LEN: Final = 8192


#: Bounds of ``maxModelLen``, in tokens.
SHORTEST, LONGEST = 16, 100_000_000


def _length(value: Any) -> Any:
    """Check a length in one go, so that a wrong one is told in one sentence."""
    if isinstance(value, str) and value.isascii() and value.isdecimal():
        value = int(value[:12])
    whole = isinstance(value, int) and not isinstance(value, bool)
    if value is None or value == "auto" or (whole and SHORTEST <= value <= LONGEST):
        return value
    reason = f"must be a whole number from {SHORTEST} to {LONGEST}, or auto"
    raise PydanticCustomError("model_length", "{reason}", {"reason": reason})


MaxModelLen = Annotated[
    int | Literal["auto"] | None,
    BeforeValidator(_length),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": SHORTEST, "maximum": LONGEST},
                {"const": "auto"},
                {"type": "null"},
            ]
        }
    ),
]


class LoraModule(BaseModel):
    """A LoRA adapter that is served beside the model, under a name of its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Text = Field(description="Name clients use for it, as model.")
    path: Text = Field(description="Absolute path of its folder, or its name in the cache.")


class VllmOptions(Options):
    """What a vLLM server is started with."""

    model: Text = Field(
        default="Qwen/Qwen2.5-14B-Instruct",
        title="Model",
        description="A model on this machine: a Hugging Face name that is in the cache, the name of a "
        "folder among the model folders, or an absolute path.",
        json_schema_extra=facts("Model"),
    )
    servedModelName: Text | None = Field(
        default=None,
        title="Served name",
        description="Name clients use for the model. Empty: the model as given above.",
        json_schema_extra=facts("Model"),
    )
    revision: Text | None = Field(
        default=None,
        title="Revision",
        description="Branch, tag or commit of a model in the Hugging Face cache. Empty: main.",
        json_schema_extra=facts("Model"),
    )
    downloadDir: Text | None = Field(
        default=None,
        title="Cache folder",
        description="Another folder in the Hugging Face cache's layout, looked into first.",
        json_schema_extra=facts("Model"),
    )
    chatTemplate: Text | None = Field(
        default=None,
        title="Chat template",
        description="Absolute path of a Jinja template that replaces the model's own.",
        json_schema_extra=facts("Model"),
    )
    trustRemoteCode: bool = Field(
        default=False,
        title="Trust remote code",
        description="Run Python code that comes with the model. It can do all that the engine can.",
        json_schema_extra=facts("Model"),
    )

    host: Host = common.host_field(
        "Address the engine listens on. Anything but this machine itself needs an API key."
    )
    port: int = common.port_field(8000, "the engine")
    apiKey: Key | None = Field(
        default=None,
        repr=False,
        title="API key",
        description="Key that clients of the engine must send. The site sends it by itself.",
        json_schema_extra=facts("Network", secret=True),
    )

    gpuMemoryUtilization: float = Field(
        default=0.9,
        gt=0,
        le=1,
        title="GPU memory share",
        description="Share of each GPU's memory that the engine takes for weights and cache.",
        json_schema_extra=facts("Memory", step=0.01),
    )
    maxModelLen: MaxModelLen = Field(
        default=None,
        title="Longest conversation",
        description="Longest prompt and answer together. Empty: what the model can do, at most "
        f"{DEFAULT_MAX_MODEL_LEN}. auto: as much of what the model can do as fits into the GPU's memory.",
        json_schema_extra=facts("Memory", unit="tokens"),
    )
    kvCacheDtype: KvCacheDtype = Field(
        default="auto",
        title="Cache number format",
        description="How keys and values are kept. fp8 halves the cache and needs a GPU that has it.",
        json_schema_extra=facts("Memory"),
    )
    kvCacheMemoryGiB: float | None = Field(
        default=None,
        gt=0,
        le=4096,
        allow_inf_nan=False,
        title="Cache on each GPU",
        description="Memory for keys and values on each GPU. Then the GPU memory share does not count. "
        "Empty: what the share leaves.",
        json_schema_extra=facts("Memory", unit="GiB"),
    )
    kvOffloadGiB: float | None = Field(
        default=None,
        gt=0,
        le=4096,
        allow_inf_nan=False,
        title="Cache in main memory",
        description="Main memory for keys and values that no longer fit on the GPUs. Empty: none.",
        json_schema_extra=facts("Memory", unit="GiB"),
    )
    cpuOffloadGiB: float = Field(
        default=0,
        ge=0,
        le=4096,
        allow_inf_nan=False,
        title="Weights in main memory",
        description="Weights kept in main memory for each GPU, and read from there at every step: slow, "
        "but a bigger model fits.",
        json_schema_extra=facts("Memory", unit="GiB"),
    )
    enablePrefixCaching: bool | None = Field(
        default=None,
        title="Prefix caching",
        description="Keep the beginnings of prompts for the next request. Empty: vLLM's choice, on where "
        "the model can.",
        json_schema_extra=facts("Memory"),
    )
    cpuKvCacheGiB: int | None = Field(
        default=None,
        ge=1,
        le=4096,
        title="Cache on CPU",
        description="Memory for keys and values when running without a GPU. Empty: as much as one "
        "conversation of full length needs, and at least 1.",
        json_schema_extra=facts("Memory", unit="GiB"),
    )

    tensorParallelSize: int = Field(
        default=1,
        ge=1,
        le=64,
        title="GPUs per model",
        description="GPUs that share the model. Must divide its number of attention heads.",
        json_schema_extra=facts("Engine", step=1, bound="gpus"),
    )
    pipelineParallelSize: int = Field(
        default=1,
        ge=1,
        le=64,
        title="Pipeline stages",
        description="Groups of GPUs that each hold some of the layers, times GPUs per model. For several "
        "machines, or GPUs without a fast link.",
        json_schema_extra=facts("Engine", bound="gpus"),
    )
    distributedExecutorBackend: Executor | None = Field(
        default=None,
        title="How GPUs work together",
        description="mp: processes on this machine. ray: a Ray cluster, for several machines. uni: one "
        "process. Empty: vLLM's choice.",
        json_schema_extra=facts("Engine"),
    )
    rayAddress: RayAddress | None = Field(
        default=None,
        title="Ray cluster",
        description="Address of the Ray cluster: 10.0.0.5:6379. Empty: the one of this machine.",
        json_schema_extra=facts("Engine"),
    )
    maxNumSeqs: int | None = Field(
        default=None,
        ge=1,
        le=65_536,
        title="Requests at once",
        description="Requests computed at once; others wait. Empty: vLLM's choice.",
        json_schema_extra=facts("Engine", unit="requests"),
    )
    maxNumBatchedTokens: int | None = Field(
        default=None,
        ge=1,
        le=100_000_000,
        title="Tokens per step",
        description="Tokens of all requests computed in one step. Empty: vLLM's choice.",
        json_schema_extra=facts("Engine", unit="tokens"),
    )
    dtype: Dtype = Field(
        default="auto",
        title="Number format",
        description="How weights and activations are computed. auto: as the model was saved.",
        json_schema_extra=facts("Engine"),
    )
    quantization: Quantization | None = Field(
        default=None,
        title="Quantization",
        description="How weights are packed. Empty: as the model's own configuration says.",
        json_schema_extra=facts("Engine"),
    )
    enforceEager: bool = Field(
        default=False,
        title="No compilation",
        description="Start sooner and answer more slowly. Always on without a GPU.",
        json_schema_extra=facts("Engine"),
    )
    seed: int | None = Field(
        default=None,
        ge=0,
        le=2**32 - 1,
        title="Seed",
        description="Start of the random numbers. Empty: vLLM's own.",
        json_schema_extra=facts("Engine"),
    )

    extraArguments: ExtraArguments = Field(
        default={},
        title="Further arguments",
        description="Arguments of vLLM's own that have no option here, by name. Only those that change "
        "neither files, code nor the network; the message that refuses another lists them.",
        json_schema_extra=facts("Engine"),
    )

    enableLora: bool = Field(
        default=False,
        title="LoRA",
        description="Be ready for LoRA adapters. Implied by LoRA modules.",
        json_schema_extra=facts("LoRA"),
    )
    loraModules: tuple[LoraModule, ...] = Field(
        default=(),
        max_length=64,
        title="LoRA modules",
        description="Adapters served beside the model, each with a name and the path of its folder.",
        json_schema_extra=facts("LoRA"),
    )
    maxLoraRank: LoraRank | None = Field(
        default=None,
        title="Largest rank",
        description="Largest rank of an adapter. Empty: the smallest that all of the LoRA modules fit "
        "into, and at least 16.",
        json_schema_extra=facts("LoRA"),
    )
    maxLoras: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        title="Adapters at once",
        description="Adapters whose requests are computed in the same step; each takes GPU memory. Empty: 1.",
        json_schema_extra=facts("LoRA"),
    )
    maxCpuLoras: int | None = Field(
        default=None,
        ge=1,
        le=4096,
        title="Adapters in main memory",
        description="Adapters kept in main memory. At least those at once. Empty: as many as at once.",
        json_schema_extra=facts("LoRA"),
    )

    sleepMode: bool = Field(
        default=False,
        title="Sleep mode",
        description="Let the engine give its GPU memory back and stay alive, to be awake again within "
        "seconds. Needs an NVIDIA GPU, and main memory for the weights.",
        json_schema_extra=facts("Sleep"),
    )
    sleepLevel: Literal[1, 2] = Field(
        default=1,
        title="Depth of sleep",
        description="1: weights wait in main memory. 2: weights are dropped, and read from disk again: "
        "slower to wake, and takes no main memory.",
        json_schema_extra=facts("Sleep", restart=False),
    )

    reasoningParser: Text | None = Field(
        default=None,
        title="Reasoning parser",
        description="How thinking is told from the answer, as vLLM names it: deepseek_r1, qwen3 …",
        json_schema_extra=facts("Chat"),
    )
    toolCallParser: Text | None = Field(
        default=None,
        title="Tool call parser",
        description="How tool calls are read from the answer, as vLLM names it: hermes, llama3_json …",
        json_schema_extra=facts("Chat"),
    )
    autoToolChoice: bool = Field(
        default=False,
        title="Automatic tool choice",
        description="Let the model decide when to call a tool. Needs a tool call parser.",
        json_schema_extra=facts("Chat"),
    )

    standby: bool = Field(
        default=False,
        title="Keep a launcher warm",
        description="Keep a process waiting that has vLLM imported already, for a start in a third of the "
        "time. It holds no GPU memory, and 0.6 to 1 GiB of the machine's own.",
        json_schema_extra=facts("GPU and switching", restart=False),
    )

    startTimeoutSeconds: int = common.start_timeout_field(
        600,
        10,
        "Time allowed from start to ready. Under 180 is too short for a busy machine; big models "
        "need more.",
    )
    stopTimeoutSeconds: int = common.stop_timeout_field("the engine")

    @property
    def served_name(self) -> str:
        """Name the engine answers to."""
        return self.servedModelName or self.model
