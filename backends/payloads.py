"""What leaves the app, as CONTRACT.md's JSON: shapes of status and operations."""

from typing import Any, Literal, TypedDict


class ActivePayload(TypedDict):
    """The backend that answers, or would answer if it ran."""

    backend: str | None
    engine: str | None
    node: str
    state: str
    running: bool
    health: str
    model: str | None
    version: str
    endpoint: str
    attached: bool
    in_flight: int
    since: str | None


class AvailablePayload(TypedDict):
    """One backend of the site."""

    title: str
    installed: bool
    installing: float | None
    running: bool
    state: str
    health: str
    version: str
    model: str | None
    endpoint: str
    attached: bool
    in_flight: int
    since: str | None
    memory: int | None
    #: A launcher kept warm: ``{"state": "warming" | "ready", "memory": bytes}``.
    standby: dict[str, Any] | None
    metrics: dict[str, float | None]
    #: Generated, in the last whole 5 seconds; null where nothing is known of them.
    tokens_per_second: float | None
    #: As the engine says; else what this site has sent it.
    requests_running: int
    #: In the engine's own queue.
    requests_waiting: int
    reason: str
    failure: str
    #: Of its options: it moves when somebody changes them.
    revision: int


class DetectedPayload(TypedDict):
    """What was found of one engine on this machine."""

    title: str
    installed: bool
    installing: float | None
    running: bool
    state: str
    attached: bool
    version: str
    model: str | None
    endpoint: str
    #: Program or folder; for operators, as are the next three.
    path: str
    #: The systemd service it runs as, where that is not ours.
    unit: str
    #: Who listens, where that is not ours.
    pid: int | None
    user: str
    reason: str


class StartupPayload(TypedDict):
    """What happens when the site comes up."""

    behavior: str
    active: str | None
    auto_start: dict[str, bool]


class RevisionPayload(TypedDict):
    """The options of a backend as somebody left them."""

    number: int
    #: Those that differed from the defaults; secrets are not among them.
    options: dict[str, Any]
    changes: list[dict[str, Any]]
    #: Number of the revision it restored.
    restored: int | None
    created_at: str
    created_by: str
    request_id: str


class StepPayload(TypedDict):
    """One step of an operation."""

    name: str
    state: str
    started_at: str
    finished_at: str | None
    message: str


class OperationErrorPayload(TypedDict):
    """Why an operation did not succeed."""

    message: str
    code: str
    detail: str


class OperationPayload(TypedDict):
    """One operation."""

    id: str
    kind: str
    backend: str
    from_backend: str | None
    #: The model asked for, where one was named.
    model: str | None
    state: str
    step: str | None
    steps: list[StepPayload]
    progress: float
    eta_seconds: float | None
    requested_by: str
    request_id: str
    error: OperationErrorPayload | None
    created_at: str
    finished_at: str | None


class StatusPayload(TypedDict):
    """The answer of ``GET /api/llm-backend/status``."""

    active: ActivePayload
    available: dict[str, AvailablePayload]
    operation: OperationPayload | None
    downloads: list[OperationPayload]
    gpus: list[dict[str, Any]]
    deployment_mode: str
    worker: bool
    observed_at: str | None


class StatusFrame(StatusPayload):
    """The same as a ``/ws/status/`` frame."""

    type: Literal["status"]


class SampleSeries(TypedDict):
    """One GPU or backend over time."""

    node: str
    #: ``gpu``, ``backend`` or ``site``.
    kind: str
    id: str
    title: str
    #: By measure, a value for each of the times; null where nothing was seen.
    measures: dict[str, list[float | None]]


class SamplesPayload(TypedDict):
    """The answer of ``GET /api/llm-backend/samples``; times in seconds since 1970."""

    now: int
    since: int
    until: int
    #: Seconds from one point to the next, and of what they were put together.
    step: int
    resolution: int
    statistic: str
    times: list[int]
    series: list[SampleSeries]
