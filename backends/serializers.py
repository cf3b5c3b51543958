"""Shapes of the REST requests and answers of backends, for validation and the OpenAPI document."""

from typing import Any

from rest_framework import serializers

_REVISION = (
    "the newest you know of: 409 when there is a newer one; the header If-Match says the same"
)


class StrictSerializer(serializers.Serializer[Any]):
    """Names an unknown key instead of ignoring it."""

    def to_internal_value(self, data: Any) -> Any:
        """Refuse keys that are not fields."""
        if isinstance(data, dict):
            unknown = sorted(set(data) - set(self.fields))
            if unknown:
                known = ", ".join(self.fields)
                raise serializers.ValidationError(
                    {unknown[0]: [f"Unknown key. Known keys: {known}."]}
                )
        return super().to_internal_value(data)


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
    """Options to change; null puts one back to its default."""

    options = serializers.DictField()
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


class RevisionListResponse(serializers.Serializer[Any]):
    """A page of revisions, newest first."""

    results = RevisionResponse(many=True)
    count = serializers.IntegerField()
    limit = serializers.IntegerField()
    offset = serializers.IntegerField()


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


class OperationListResponse(serializers.Serializer[Any]):
    """A page of operations, newest first."""

    results = OperationResponse(many=True)
    limit = serializers.IntegerField()
    offset = serializers.IntegerField()


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


class ModelListResponse(serializers.Serializer[Any]):
    """Models a backend can serve."""

    results = ModelResponse(many=True)


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
