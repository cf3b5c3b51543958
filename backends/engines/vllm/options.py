"""vLLM's options. Add a field here and it appears in the form, the API, the command line and the schema."""
# ruff: noqa: N815 — the names are the keys of etc/llm-backend.json

from typing import Annotated, Final, Literal

from pydantic import Field, StringConstraints

from backends.engines.base import Options, facts

#: One line of text: no control characters, which no command line and no environment can carry.
Text = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]+$", max_length=4096)]
#: A host name or an IP address, without brackets or a port.
Host = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._:-]+$", max_length=253)]
#: A key as it can stand in an HTTP header.
Key = Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]+$", min_length=8, max_length=512)]

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

#: Longest prompt and answer when nobody says, in tokens, where the model can do more.
DEFAULT_MAX_MODEL_LEN: Final = 8192


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

    host: Host = Field(
        default="127.0.0.1",
        title="Host",
        description="Address the engine listens on. Anything but this machine itself needs an API key.",
        json_schema_extra=facts("Network"),
    )
    port: int = Field(
        default=8000,
        ge=1,
        le=65535,
        title="Port",
        description="Port the engine listens on.",
        json_schema_extra=facts("Network"),
    )
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
        json_schema_extra=facts("Memory"),
    )
    maxModelLen: int | None = Field(
        default=None,
        ge=16,
        le=100_000_000,
        title="Longest conversation",
        description="Longest prompt and answer together. Empty: what the model can do, at most "
        f"{DEFAULT_MAX_MODEL_LEN}.",
        json_schema_extra=facts("Memory", unit="tokens"),
    )
    kvCacheDtype: KvCacheDtype = Field(
        default="auto",
        title="Cache number format",
        description="How keys and values are kept. fp8 halves the cache and needs a GPU that has it.",
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
        json_schema_extra=facts("Engine"),
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

    startTimeoutSeconds: int = Field(
        default=600,
        ge=10,
        le=86_400,
        title="Start limit",
        description="Time allowed from start to ready. Under 180 is too short for a busy machine; big "
        "models need more.",
        json_schema_extra=facts("Time limits", unit="s", restart=False),
    )
    stopTimeoutSeconds: int = Field(
        default=10,
        ge=1,
        le=600,
        title="Stop limit",
        description="Time between asking the engine to stop and killing it.",
        json_schema_extra=facts("Time limits", unit="s", restart=False),
    )

    @property
    def served_name(self) -> str:
        """Name the engine answers to."""
        return self.servedModelName or self.model
