"""What an engine plugin is.

A plugin says *what* to run and how to read it; its caller owns time-outs, retries, clean-up and the
database. Methods are synchronous, called from worker and observer threads, never on the event
loop. A method may raise ``httpx.HTTPError`` or ``OSError`` for an engine that does not answer, and
the errors of ``backends.errors`` for what a person should read; anything else is a bug in the plugin
and is logged as one.
"""
# ruff: noqa: N815 — option names are the keys of etc/llm-backend.json

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

from backends.engines.estimates import Estimate
from backends.errors import UnknownModel

#: Headings that options stand under in forms, in their order; others follow.
GROUPS: Final = (
    "Model",
    "Memory",
    "Engine",
    "GPU and switching",
    "Chat",
    "LoRA",
    "Sleep",
    "Network",
    "Time limits",
)


def facts(
    group: str,
    *,
    unit: str = "",
    secret: bool = False,
    restart: bool = True,
    step: float | None = None,
    bound: Literal["gpus"] | None = None,
) -> Any:
    """Return a field's ``json_schema_extra``; most options of an engine are read once, at its start.

    Args:
        group: heading it stands under in forms, one of ``GROUPS`` or its own.
        unit: of a number, for people.
        secret: never shown again once set.
        restart: what runs has to be started anew for it to count.
        step: of a number with bounds whose neighbours hardly differ: forms give it a slider.
        bound: what there is of it on this machine is the most that makes sense: its ``gpus``.
    """
    said: dict[str, Any] = {"group": group, "restart": restart}
    more = {"unit": unit, "secret": secret, "step": step, "bound": bound}
    return said | {name: value for name, value in more.items() if value}


class Options(BaseModel):
    """Base of every plugin's ``Options``: types, bounds, defaults and help in one place.

    Field names are ``camelCase`` (they are the keys of ``etc/llm-backend.json``). Per-field facts go
    into ``json_schema_extra``: see ``facts``. The fields here are the site's own, and every engine has
    them: how it shares the machine with others.
    """

    model_config = ConfigDict(extra="forbid", validate_default=True, frozen=True)

    gpus: tuple[int, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=64,
        title="GPUs",
        description="Numbers of the GPUs it may use, as nvidia-smi counts them. Empty: as many as it "
        "needs, from the first on.",
        json_schema_extra=facts("GPU and switching"),
    )
    shareGpu: bool = Field(
        default=False,
        title="Share its GPUs",
        description="Let another backend that also says so run on the same GPUs at the same time, where "
        "the plan says that both fit.",
        json_schema_extra=facts("GPU and switching", restart=False),
    )
    parking: Literal["auto", "park", "stop"] = Field(
        default="auto",
        title="When it must give way",
        description="park: give all GPU memory back and stay alive, for a quick return. stop: end. auto: "
        "park where the engine surely can, else stop.",
        json_schema_extra=facts("GPU and switching", restart=False),
    )
    drainSeconds: float = Field(
        default=10,
        ge=0,
        le=3600,
        title="Drain limit",
        description="Time that requests in flight get to finish before the engine is stopped or gives way.",
        json_schema_extra=facts("GPU and switching", unit="s", restart=False, step=5),
    )
    idleUnloadSeconds: float | None = Field(
        default=None,
        ge=1,
        le=31_536_000,
        title="Give back when idle",
        description="Time without a request after which it gives its memory back as it does when it must "
        "give way. Empty: never.",
        json_schema_extra=facts("GPU and switching", unit="s", restart=False),
    )
    onDemandStart: bool = Field(
        default=False,
        title="Start on demand",
        description="A chat that needs it while it is off starts it, or switches to it.",
        json_schema_extra=facts("GPU and switching", restart=False),
    )
    minimumStaySeconds: float = Field(
        default=10,
        ge=0,
        le=86_400,
        title="Shortest stay",
        description="Time it keeps the GPU before a chat for another backend may take it away.",
        json_schema_extra=facts("GPU and switching", unit="s", restart=False),
    )

    #: Options that ``etc/llm-backend.json`` calls by another name: field to name in the file.
    file_names: ClassVar[Mapping[str, str]] = {}

    @classmethod
    def own_names(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``values`` by the names of our fields, where a file or a person used the file's.

        Of two names for one option, the one said last counts.
        """
        fields = {name: field for field, name in cls.file_names.items()}
        found: dict[str, Any] = {}
        for name, value in values.items():
            found[fields.get(name, name)] = value
        return found

    @classmethod
    def fields_with(cls, fact: str) -> frozenset[str]:
        """Return the names of the fields whose ``json_schema_extra`` has a true ``fact``."""
        return frozenset(name for name, info in cls.model_fields.items() if _fact(info, fact))


def _fact(info: FieldInfo, fact: str) -> bool:
    extra = info.json_schema_extra
    return bool(extra.get(fact)) if isinstance(extra, dict) else False


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What an engine can do, beyond starting and stopping."""

    #: Gives GPU memory back without dying (unload, sleep).
    park: bool = False
    #: Downloads models by itself on request.
    pull: bool = False
    #: Deletes models.
    delete: bool = False
    #: Downloads and deletes models by itself, with no server of the engine running.
    library_on_disk: bool = False
    #: Serves several models from one process.
    many_models: bool = False
    #: Speaks the OpenAI API under ``/v1``.
    openai_api: bool = True
    #: Constrains decoding to a JSON Schema.
    structured_output: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """What was found on this machine."""

    installed: bool
    version: str = ""
    #: Folder or binary that was found.
    path: str = ""
    #: Why it is not installed, or not usable, and what to do; empty when all is well.
    reason: str = ""
    #: 0 to 1 while an installation is running, else None.
    installing: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """A model on this machine that the engine can serve."""

    id: str
    path: str
    size_bytes: int
    #: Why it cannot be served although it is there; empty when it can.
    problem: str = ""
    #: Kind of place: the Hugging Face cache, a folder of models, the engine's own store.
    place: Literal["", "hub", "folder", "store"] = ""
    #: As the model's files name it: ``Qwen2ForCausalLM``, ``llama``.
    architecture: str = ""
    #: How the weights are packed: ``awq``, ``Q4_K_M``; empty where they are not, or nothing says.
    quantization: str = ""
    #: Longest prompt and answer it was made for, in tokens.
    context_length: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A reason why the engine cannot be started as asked."""

    message: str
    #: Option at fault, if one is.
    option: str | None = None
    code: str = "preflight_failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """Everything needed to start the engine's process. Built from options, compared to see what changed."""

    argv: tuple[str, ...]
    #: Added to a clean environment; ``TMPDIR`` is the caller's.
    env: dict[str, str] = field(default_factory=dict)
    #: The same, for values that must not be written to disk or logs.
    secret_env: dict[str, str] = field(default_factory=dict, repr=False)
    host: str
    port: int
    #: Name the engine will answer to, as ``model`` in requests and in ``/v1/models``.
    served_model: str
    #: Seconds allowed from spawn to ready.
    start_timeout: float = 600.0
    #: Seconds between TERM and KILL.
    stop_timeout: float = 10.0
    #: Numbers of the GPUs it uses, as nvidia-smi counts them: these it has to itself, or shares by
    #: ``shareGpu``. Empty: none, only the machine's memory. Which they are is known by the environment.
    gpus: tuple[int, ...] = field(default=(), compare=False)
    #: Whether a start ends with ``Engine.warm_up``; False leaves loading to the first request.
    warm: bool = field(default=True, compare=False)
    #: The same without what makes it fast, tried once when that has failed; None: this is plain already.
    plain: "Launch | None" = field(default=None, compare=False, repr=False)

    @property
    def endpoint(self) -> str:
        """Base URL of the engine, without a trailing slash."""
        host = "127.0.0.1" if self.host in {"0.0.0.0", "::"} else self.host  # noqa: S104
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Standby:
    """A process that does ahead of a start what needs no GPU memory, no weights and no port.

    Its caller tells it what to become by one line on the FIFO ``go`` of its folder: a JSON object with
    ``argv`` and ``env`` of a ``Launch``, and ``unset``, the names of variables to remove. Until then it is
    no engine. It says in ``launcher.json`` of its folder how far it is: ``phase`` is ``importing``,
    ``waiting``, ``running``, or one of the ways it can fail (``backends.standby.Phase``).
    """

    argv: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict)
    secret_env: dict[str, str] = field(default_factory=dict, repr=False)
    #: What it can become depends on this alone: engine, version, environment. Equal keys are as good.
    key: str
    stop_timeout: float = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A running engine to talk to."""

    endpoint: str
    served_model: str = ""
    api_key: str = field(default="", repr=False)
    #: The options it runs with, where the caller knows them: how deep to sleep, which names to expect.
    options: Any = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a start is, read from the engine's log."""

    #: 0 to 1.
    fraction: float
    #: A phrase for a person: "loading weights".
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """Gauges read from a running engine; None where the engine does not say."""

    running: int | None = None
    waiting: int | None = None
    kv_cache_usage: float | None = None
    prompt_tokens_total: float | None = None
    generation_tokens_total: float | None = None
    #: Whether the engine gave its memory back and answers nothing, though its health is good.
    asleep: bool | None = None
    #: Size of the cache, in tokens.
    kv_cache_tokens: int | None = None
    #: Requests ended, by the engine's own reason: ``stop``, ``length``, ``abort``.
    finished: dict[str, int] = field(default_factory=dict)
    #: Means since the start, in seconds.
    ttft_seconds: float | None = None
    inter_token_seconds: float | None = None
    #: First tokens since the start, and the seconds they took together.
    first_tokens_total: float | None = None
    first_token_seconds_total: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model in the memory of a running engine."""

    id: str
    #: As the engine says; None where it does not.
    size_bytes: int | None = None
    #: The part of it in GPU memory.
    vram_bytes: int | None = None
    #: Longest prompt and answer it was loaded for, in tokens.
    context_length: int | None = None
    #: When it leaves by itself; None: never, or not said.
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDetails:
    """What an engine knows of one of its models; empty or None where it does not say."""

    id: str
    family: str = ""
    #: For a person: ``14.8B``.
    parameters: str = ""
    quantization: str = ""
    context_length: int | None = None
    #: ``completion``, ``tools``, ``thinking``, ``vision``, ``embedding`` …
    capabilities: tuple[str, ...] = ()
    #: Options the model brings along, as the engine prints them.
    defaults: str = ""
    template: str = ""
    license: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """How far a download is."""

    #: What is being done, for a person.
    message: str
    completed_bytes: int = 0
    #: Of the parts known so far: it can grow. 0 while nothing is known.
    total_bytes: int = 0

    @property
    def fraction(self) -> float:
        """0 to 1 of the parts known so far."""
        return min(1.0, self.completed_bytes / self.total_bytes) if self.total_bytes else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningServer:
    """An engine that answers where the options say, whoever started it."""

    endpoint: str
    version: str
    #: Model in memory, or None.
    model: str | None = None
    #: Who listens there; None where that is not ours to see.
    pid: int | None = None
    #: The systemd unit it belongs to, ``ollama.service``; empty when none is known.
    unit: str = ""


#: Asked every 0.1 s or so during long work: true to give it up. It may also raise, which ends the work too.
Cancelled = Callable[[], bool]


def never() -> bool:
    """Be a ``Cancelled`` that lets the work go on."""
    return False


class Engine(ABC):
    """One kind of engine. Instances hold no state; one is made per registry."""

    #: Name in URLs, files and the database: ``vllm``.
    name: ClassVar[str]
    #: Name for people: ``vLLM``.
    title: ClassVar[str]
    Options: ClassVar[type[Options]]
    capabilities: ClassVar[Capabilities] = Capabilities()
    #: Systemd units its packages install: ``ollama.service``.
    units: ClassVar[tuple[str, ...]] = ()
    #: A command that people install it with, where mh does not (``install``); empty: none is known.
    install_command: ClassVar[str] = ""

    @abstractmethod
    def detect(self) -> Detection:
        """Say whether the engine is installed here. Called at any time; takes under 100 ms; no network."""

    def looked_for(self) -> tuple[str, ...]:
        """Return where ``detect`` looks, in its order, each in words for a person. Engines may keep silent."""
        return ()

    @property
    def installs_itself(self) -> bool:
        """Whether ``install`` would install it."""
        return type(self).install is not Engine.install

    @abstractmethod
    def models(self, options: Any) -> list[ModelInfo]:
        """List the complete models on this machine. Called at any time; no network."""

    @abstractmethod
    def preflight(self, options: Any) -> list[Problem]:
        """Say why a start with ``options`` cannot work; an empty list means go.

        Called before anything is touched, so it must not change anything. The port is checked by the
        caller. Takes under 2 s.
        """

    def estimate(self, options: Any) -> Estimate | None:  # noqa: ARG002
        """Say what memory a start with ``options`` would need, from the model's own files.

        Called at any time, also where the engine is not installed; takes under 2 s, no network. A model
        that cannot be read is an estimate with a ``reason``. None: this engine cannot say.
        """
        return None

    @abstractmethod
    def launch(self, options: Any) -> Launch:
        """Build the command. Pure: same options on the same machine, same answer."""

    def standby(self, options: Any) -> Standby | None:  # noqa: ARG002
        """Return what can wait for a start with ``options``; None where nothing can. Pure, as ``launch``.

        Whether one is kept waiting all the time is said by the option ``standby``, where there is one.
        """
        return None

    @abstractmethod
    def is_ready(self, target: Target, *, timeout: float) -> bool:
        """Say whether the engine answers *and* serves ``target.served_model``.

        Called every 50 ms from spawn on, so refused connections are the normal case: return False.
        Whether the answer came from our own process is the caller's to check.
        """

    @abstractmethod
    def is_healthy(self, target: Target, *, timeout: float) -> bool:
        """Say whether a running engine still answers. Called about once a second."""

    @abstractmethod
    def loaded_model(self, target: Target, *, timeout: float) -> str | None:
        """Return the model in memory now, or None."""

    @abstractmethod
    def version(self, target: Target, *, timeout: float) -> str:
        """Return the running engine's version."""

    @abstractmethod
    def warm_up(self, target: Target, *, timeout: float, cancelled: Cancelled = never) -> None:
        """Generate one token and check that there is an answer. Raises on a wrong or missing one.

        ``timeout`` is in seconds. An engine that loads its model only now asks ``cancelled`` while it
        does; one that answers at once need not.
        """

    def also_serves(self, options: Mapping[str, Any]) -> tuple[str, ...]:  # noqa: ARG002
        """Return the names an engine started with ``options`` answers to beside its model.

        ``options`` as they are stored: not validated, and only those that differ from the defaults.
        Called for every chat, so it looks at nothing else.
        """
        return ()

    def metrics(self, target: Target, *, timeout: float) -> Metrics:  # noqa: ARG002
        """Return the running engine's gauges. Engines without any keep this default."""
        return Metrics()

    @abstractmethod
    def progress(self, log_tail: Sequence[str]) -> Progress | None:
        """Read how far a start is from the last lines of its log; None when they do not say."""

    @abstractmethod
    def failure_reason(self, log_tail: Sequence[str]) -> str:
        """Return the line of the log that says why it failed, cleaned for a person; empty if none does."""

    def running(self, options: Any, *, timeout: float) -> RunningServer | None:  # noqa: ARG002
        """Return the engine that answers at the endpoint of ``options``, ours or somebody else's.

        None when nothing answers there, or another program does. Whether it is one of ours is the
        caller's to check. Engines that cannot be attached keep this default.
        """
        return None

    def models_of(self, target: Target, *, timeout: float) -> list[ModelInfo]:
        """List the models a running engine offers: of one whose folders we may not read."""
        raise NotImplementedError(self._cannot("list the models of a running server"))

    def loaded(self, target: Target, *, timeout: float) -> list[LoadedModel]:
        """Return every model in memory now."""
        model = self.loaded_model(target, timeout=timeout)
        return [] if model is None else [LoadedModel(id=model)]

    def load(
        self,
        target: Target,
        model: str,
        *,
        timeout: float,
        cancelled: Cancelled = never,
    ) -> None:
        """Put ``model`` into memory; return when the engine says that it is there.

        Raises:
            UnknownModel: the engine does not have it.
            StartFailed: it could not be loaded; ``detail`` says why.
            OperationCancelled: ``cancelled`` said so; the engine was told to give up.
        """
        raise NotImplementedError(self._cannot(f"load {model}"))

    def unload(self, target: Target, model: str, *, timeout: float) -> None:
        """Take ``model`` out of memory; return when the engine says that it is gone.

        Requests in flight finish first. A model that is not in memory is no error.

        Raises:
            StopFailed: it is still there after ``timeout`` seconds.
        """
        raise NotImplementedError(self._cannot(f"unload {model}"))

    def can_park(self, options: Any) -> bool:  # noqa: ARG002
        """Say whether an engine started with ``options`` could be parked.

        ``capabilities.park`` says that this kind of engine can; one that needs an option or a certain
        build for it looks here. Called at any time; takes under 100 ms; no network.
        """
        return self.capabilities.park

    def park(self, target: Target, *, timeout: float) -> None:
        """Give all memory back and stay alive, verified (``can_park``).

        Whether the memory is really back is the caller's to check. A parked engine may still look
        healthy; it must not be asked anything but ``unpark``.

        Raises:
            StopFailed: it cannot, or did not within ``timeout`` seconds; stop it instead.
        """
        raise NotImplementedError(self._cannot("be parked"))

    def unpark(
        self,
        target: Target,
        *,
        timeout: float,
        cancelled: Cancelled = never,
    ) -> None:
        """Undo ``park``: ``target.served_model`` answers again. Raises as ``load`` does."""
        raise NotImplementedError(self._cannot("be parked"))

    def show(self, target: Target, model: str, *, timeout: float) -> ModelDetails:
        """Return what the running engine knows of ``model``; raises ``UnknownModel``."""
        raise NotImplementedError(self._cannot(f"describe {model}"))

    def pull(
        self,
        target: Target,
        model: str,
        *,
        report: Callable[[Transfer], None],
        cancelled: Cancelled = never,
        options: Any = None,
    ) -> None:
        """Download ``model`` (``capabilities.pull``); what was downloaded before is kept.

        ``target`` is a running server, whose ``served_model`` says nothing; of an engine whose
        ``library_on_disk`` is true it is nowhere. ``options`` are the configured ones.

        Raises:
            UnknownModel: the registry has no such model.
            UpstreamFailed: the download failed; the message says why.
            OperationCancelled: ``cancelled`` said so; the engine was told to stop.
        """
        raise NotImplementedError(self._cannot(f"download {model}"))

    def delete(self, target: Target, model: str, *, timeout: float, options: Any = None) -> None:
        """Delete ``model`` from this machine (``capabilities.delete``); ``target`` is as for ``pull``.

        Raises:
            UnknownModel: it is not here.
            ModelNotOurs: it lies where this site only reads.
            UpstreamFailed: it could not be deleted.
        """
        raise NotImplementedError(self._cannot(f"delete {model}"))

    def check_pull(self, options: Any, model: str) -> None:  # noqa: B027
        """Raise for a name that nobody could download, before an operation is made of it. No network."""

    def check_delete(self, options: Any, model: str) -> None:
        """Raise what ``delete`` would, before an operation is made of it. No network.

        Raises:
            UnknownModel, ModelNotOurs.
        """
        found = self.models(options)
        if not any(self.is_same_model(known.id, model) for known in found):
            raise UnknownModel(
                f"{self.title} has no model “{model}” on this machine.", param="model"
            )

    def is_same_model(self, one: str, other: str) -> bool:
        """Say whether two names mean the same model of this engine."""
        return one == other

    def library_launch(self, options: Any, port: int) -> Launch:
        """Build the command of a server on ``port`` that pulls, describes and deletes, while none serves.

        It loads no model and touches no GPU. Engines that work on disk need none.
        """
        raise NotImplementedError(self._cannot(f"work without a server on port {port}"))

    def _cannot(self, what: str) -> str:
        return f"{self.title} cannot {what}."

    def install(self, report: "InstallReport") -> None:
        """Install the engine on this machine, resumable. Engines installed otherwise keep this default."""
        msg = f"{self.title} is not installed by mh; see docs/how-to."
        raise NotImplementedError(msg)


class InstallReport(ABC):
    """Where an installation says how far it is."""

    @abstractmethod
    def __call__(self, fraction: float, message: str) -> None:
        """Report 0 to 1 of the whole, and what is being done."""


def engine_folder(home: Path, backend: str) -> Path:
    """Return the folder that holds a backend's starts: one subfolder per start."""
    return home / "engines" / backend
