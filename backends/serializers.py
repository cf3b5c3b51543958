"""Shapes of the REST requests and answers of backends, for validation and the OpenAPI document."""

from typing import Any

from drf_spectacular.extensions import OpenApiSerializerExtension
from rest_framework import serializers

from accounts.strict import StrictSerializer

_REVISION = (
    "the newest you know of: 409 when there is a newer one; the header If-Match says the same"
)


class StartRequest(StrictSerializer):
    """What to start; both parts are optional."""

    model = serializers.CharField(required=False, max_length=512)
    options = serializers.DictField(required=False)


class SwitchRequest(StrictSerializer):
    """Where to move the GPU."""

    backend = serializers.CharField(max_length=80)
    model = serializers.CharField(required=False, max_length=512)


class ModelRequest(StrictSerializer):
    """The model to serve."""

    model = serializers.CharField(max_length=512)


class PullRequest(StrictSerializer):
    """What to download."""

    model = serializers.CharField(max_length=512)


class ConfigRequest(StrictSerializer):
    """Options to change; null puts one back to its default. Without any, what is configured is applied."""

    options = serializers.DictField(required=False, default=dict)
    apply = serializers.BooleanField(required=False, default=False)
    revision = serializers.IntegerField(
        required=False, min_value=0, max_value=2**31 - 1, help_text=_REVISION
    )


class RestoreRequest(StrictSerializer):
    """How to go back to a revision."""

    apply = serializers.BooleanField(required=False, default=False)
    revision = serializers.IntegerField(
        required=False, min_value=0, max_value=2**31 - 1, help_text=_REVISION
    )


class ConfigResponse(serializers.Serializer[Any]):
    """The options of a backend; secrets only as whether they are set."""

    backend = serializers.CharField()
    options = serializers.DictField()
    secrets = serializers.DictField(child=serializers.BooleanField())
    auto_start = serializers.BooleanField()
    revision = serializers.IntegerField(help_text="moves with each change; also the ETag")
    schema = serializers.DictField(help_text="JSON Schema of the options")
    operation = serializers.DictField(required=False, help_text="with apply, where it runs")


class RevisionChangeResponse(serializers.Serializer[Any]):
    """One option of a revision; of a secret only whether it was set."""

    option = serializers.CharField()
    secret = serializers.BooleanField(required=False)
    before = serializers.JSONField(allow_null=True)
    after = serializers.JSONField(allow_null=True)


class RevisionResponse(serializers.Serializer[Any]):
    """The options of a backend as somebody left them."""

    number = serializers.IntegerField(help_text="0: what was configured before the first change")
    options = serializers.DictField(help_text="those that differed from the defaults; no secrets")
    changes = RevisionChangeResponse(many=True)
    restored = serializers.IntegerField(allow_null=True, help_text="the revision it restored")
    created_at = serializers.DateTimeField()
    created_by = serializers.CharField()
    request_id = serializers.CharField()


class StepResponse(serializers.Serializer[Any]):
    """One step of an operation."""

    name = serializers.CharField()
    state = serializers.CharField()
    started_at = serializers.DateTimeField()
    finished_at = serializers.DateTimeField(allow_null=True)
    message = serializers.CharField()


class OperationErrorResponse(serializers.Serializer[Any]):
    """Why an operation did not succeed."""

    message = serializers.CharField()
    code = serializers.CharField()
    detail = serializers.CharField(help_text="the engine's own line; for operators")


class OperationResponse(serializers.Serializer[Any]):
    """One operation."""

    id = serializers.UUIDField()
    kind = serializers.CharField()
    backend = serializers.CharField()
    from_backend = serializers.CharField(allow_null=True)
    model = serializers.CharField(allow_null=True, help_text="the model asked for")
    state = serializers.ChoiceField(
        ["queued", "running", "succeeded", "failed", "rolled_back", "cancelled"]
    )
    step = serializers.CharField(allow_null=True)
    steps = StepResponse(many=True)
    progress = serializers.FloatField()
    eta_seconds = serializers.FloatField(allow_null=True)
    requested_by = serializers.CharField()
    request_id = serializers.CharField()
    error = OperationErrorResponse(allow_null=True)
    created_at = serializers.DateTimeField()
    finished_at = serializers.DateTimeField(allow_null=True)


class ActiveResponse(serializers.Serializer[Any]):
    """The backend that answers, or would if it ran."""

    backend = serializers.CharField(allow_null=True)
    engine = serializers.CharField(allow_null=True)
    node = serializers.CharField()
    state = serializers.CharField()
    running = serializers.BooleanField()
    health = serializers.ChoiceField(["healthy", "starting", "degraded", "offline"])
    model = serializers.CharField(allow_null=True)
    version = serializers.CharField()
    endpoint = serializers.CharField()
    attached = serializers.BooleanField()
    in_flight = serializers.IntegerField()
    since = serializers.DateTimeField(allow_null=True)


class AvailableResponse(serializers.Serializer[Any]):
    """One backend."""

    title = serializers.CharField()
    installed = serializers.BooleanField()
    installing = serializers.FloatField(allow_null=True)
    running = serializers.BooleanField()
    state = serializers.CharField()
    health = serializers.ChoiceField(["healthy", "starting", "degraded", "offline"])
    version = serializers.CharField()
    model = serializers.CharField(allow_null=True)
    endpoint = serializers.CharField()
    attached = serializers.BooleanField()
    in_flight = serializers.IntegerField()
    since = serializers.DateTimeField(allow_null=True)
    memory = serializers.IntegerField(allow_null=True, help_text="bytes resident")
    standby = serializers.DictField(
        allow_null=True,
        required=False,
        help_text='a launcher kept warm: {"state": "warming" or "ready", "memory": bytes}',
    )
    metrics = serializers.DictField(child=serializers.FloatField(allow_null=True))
    tokens_per_second = serializers.FloatField(
        allow_null=True, help_text="generated, in the last whole 5 seconds"
    )
    requests_running = serializers.IntegerField()
    requests_waiting = serializers.IntegerField(help_text="in the engine's own queue")
    reason = serializers.CharField()
    failure = serializers.CharField()
    revision = serializers.IntegerField(help_text="of its options")


class StatusResponse(serializers.Serializer[Any]):
    """The whole switchboard."""

    active = ActiveResponse()
    available = serializers.DictField(child=AvailableResponse())
    operation = OperationResponse(allow_null=True)
    downloads = OperationResponse(many=True)
    gpus = serializers.ListField(child=serializers.DictField())
    deployment_mode = serializers.CharField()
    worker = serializers.BooleanField(help_text="whether a worker of this GPU machine is running")
    observed_at = serializers.DateTimeField(allow_null=True)


class SamplesQuery(serializers.Serializer[Any]):
    """Which samples."""

    since = serializers.DateTimeField(required=False, help_text="one hour ago, if it is not said")
    until = serializers.DateTimeField(required=False, help_text="now, if it is not said")
    step = serializers.IntegerField(
        required=False,
        min_value=1,
        max_value=86_400,
        help_text="least seconds between two points; else as few as make at most 500 points",
    )
    statistic = serializers.ChoiceField(
        choices=["mean", "max"], default="mean", help_text="of the time of each point"
    )


class SampleSeriesResponse(serializers.Serializer[Any]):
    """One GPU or backend over time."""

    node = serializers.CharField()
    kind = serializers.ChoiceField(["gpu", "backend", "site"])
    id = serializers.CharField(help_text="UUID of a GPU, name of a backend")
    title = serializers.CharField()
    measures = serializers.DictField(
        child=serializers.ListField(child=serializers.FloatField(allow_null=True)),
        help_text="a value for each of the times; null where nothing was seen",
    )


class SamplesResponse(serializers.Serializer[Any]):
    """How GPUs and engines did; times in seconds since 1970."""

    now = serializers.IntegerField()
    since = serializers.IntegerField()
    until = serializers.IntegerField()
    step = serializers.IntegerField(help_text="seconds from one point to the next")
    resolution = serializers.IntegerField(help_text="seconds of what a point was put together of")
    statistic = serializers.ChoiceField(["mean", "max"])
    times = serializers.ListField(child=serializers.IntegerField(), help_text="begin of each point")
    series = SampleSeriesResponse(many=True)


class ModelResponse(serializers.Serializer[Any]):
    """A model on this machine."""

    id = serializers.CharField()
    path = serializers.CharField()
    size_bytes = serializers.IntegerField()
    problem = serializers.CharField(help_text="why it cannot be served; empty when it can")
    place = serializers.CharField(help_text="hub, folder or store")
    architecture = serializers.CharField()
    quantization = serializers.CharField()
    context_length = serializers.IntegerField(allow_null=True, help_text="tokens")
    loaded = serializers.BooleanField(help_text="in the memory of the running engine")
    configured = serializers.BooleanField(help_text="what the next start serves")


class ModelsQuery(serializers.Serializer[Any]):
    """Which of them."""

    search = serializers.CharField(required=False, max_length=512, help_text="part of a name")
    loaded = serializers.BooleanField(required=False, help_text="in memory")
    configured = serializers.BooleanField(required=False, help_text="what the next start serves")


class StartLogResponse(serializers.Serializer[Any]):
    """One start whose log is kept."""

    id = serializers.CharField()
    started_at = serializers.CharField(allow_null=True)
    running = serializers.BooleanField()
    ended = serializers.CharField(help_text="how it ended; empty while it runs")
    size_bytes = serializers.IntegerField()


class LogResponse(serializers.Serializer[Any]):
    """The last lines of a backend's log."""

    backend = serializers.CharField()
    lines = serializers.ListField(child=serializers.CharField())
    starts = StartLogResponse(many=True, help_text="newest first")


class DetectionResponse(serializers.Serializer[Any]):
    """What was found of one engine."""

    title = serializers.CharField()
    installed = serializers.BooleanField()
    installing = serializers.FloatField(allow_null=True)
    running = serializers.BooleanField()
    state = serializers.CharField()
    attached = serializers.BooleanField(help_text="whether somebody else started it")
    version = serializers.CharField()
    model = serializers.CharField(allow_null=True)
    endpoint = serializers.CharField()
    path = serializers.CharField(help_text="program or folder; for operators")
    unit = serializers.CharField(help_text="systemd service it runs as; for operators")
    pid = serializers.IntegerField(allow_null=True, help_text="for operators")
    user = serializers.CharField(help_text="for operators")
    reason = serializers.CharField(help_text="why it does not run, and what to do")


class DetectionsResponse(serializers.Serializer[Any]):
    """What was found, by the name of a backend."""


class DetectionsSchema(OpenApiSerializerExtension):  # type: ignore[no-untyped-call]
    """Says so in the API's description."""

    target_class = DetectionsResponse

    def map_serializer(self, auto_schema: Any, direction: Any) -> dict[str, Any]:
        """Return the schema."""
        found = auto_schema.resolve_serializer(DetectionResponse, direction)
        return {"type": "object", "additionalProperties": found.ref}


class PlanGpuResponse(serializers.Serializer[Any]):
    """One GPU in a plan. Bytes."""

    index = serializers.IntegerField()
    name = serializers.CharField()
    total = serializers.IntegerField(allow_null=True)
    free = serializers.IntegerField(allow_null=True)
    freed = serializers.IntegerField(allow_null=True, help_text="given back by what leaves")
    takes = serializers.IntegerField(help_text="what the engine takes of it")
    needs = serializers.IntegerField(help_text="what of that it needs")


class SuggestionResponse(serializers.Serializer[Any]):
    """A change that would make it fit."""

    message = serializers.CharField()
    options = serializers.DictField()


class ProblemResponse(serializers.Serializer[Any]):
    """What else stands against a start."""

    message = serializers.CharField()
    option = serializers.CharField(allow_null=True, help_text="the option at fault, if one is")
    code = serializers.CharField()


class PlanResponse(serializers.Serializer[Any]):
    """Does it fit? Bytes; null for what is not known."""

    backend = serializers.CharField()
    model = serializers.CharField()
    verdict = serializers.ChoiceField(["fits", "fits_after_release", "does_not_fit", "unknown"])
    certain = serializers.BooleanField(help_text="a start would be refused")
    because = serializers.CharField()
    releases = serializers.ListField(child=serializers.CharField())
    memory = serializers.CharField(help_text="gpu or host; empty when unknown")
    weights = serializers.IntegerField(allow_null=True, help_text="per GPU, as the next two")
    kv_cache = serializers.IntegerField(allow_null=True)
    other = serializers.IntegerField(allow_null=True)
    needed = serializers.IntegerField(allow_null=True, help_text="on all GPUs, or on the machine")
    free = serializers.IntegerField(allow_null=True, help_text="of the machine's memory")
    freed = serializers.IntegerField(allow_null=True)
    kv_bytes_per_token = serializers.IntegerField(allow_null=True)
    kv_format = serializers.CharField()
    context_length = serializers.IntegerField(allow_null=True)
    context_fits = serializers.IntegerField(allow_null=True, help_text="longest that would fit")
    spilled = serializers.IntegerField(help_text="kept on the machine because GPUs are too small")
    measured = serializers.BooleanField(help_text="known from a past start")
    gpus = PlanGpuResponse(many=True)
    suggestions = SuggestionResponse(many=True)
    problems = ProblemResponse(many=True)
    expected_seconds = serializers.FloatField(allow_null=True)


class StartupRequest(StrictSerializer):
    """What is to happen when the site comes up; what is left out stays as it is."""

    behavior = serializers.CharField(required=False, max_length=16)
    auto_start = serializers.DictField(child=serializers.BooleanField(), required=False)


class StartupResponse(serializers.Serializer[Any]):
    """What happens when the site comes up."""

    behavior = serializers.CharField(help_text="auto, fallback, or the name of a backend")
    active = serializers.CharField(allow_null=True)
    auto_start = serializers.DictField(child=serializers.BooleanField())
