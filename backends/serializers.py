"""Shapes of the REST requests and answers of backends, for validation and the OpenAPI document."""

from typing import Any

from rest_framework import serializers


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


class ConfigRequest(StrictSerializer):
    """Options to change; null puts one back to its default."""

    options = serializers.DictField()
    apply = serializers.BooleanField(required=False, default=False)


class ConfigResponse(serializers.Serializer[Any]):
    """The options of a backend; secrets only as whether they are set."""

    backend = serializers.CharField()
    options = serializers.DictField()
    secrets = serializers.DictField(child=serializers.BooleanField())
    auto_start = serializers.BooleanField()
    schema = serializers.DictField(help_text="JSON Schema of the options")
    operation = serializers.DictField(required=False, help_text="with apply, where it runs")


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
    metrics = serializers.DictField(child=serializers.FloatField(allow_null=True))
    reason = serializers.CharField()
    failure = serializers.CharField()


class StatusResponse(serializers.Serializer[Any]):
    """The whole switchboard."""

    active = ActiveResponse()
    available = serializers.DictField(child=AvailableResponse())
    operation = OperationResponse(allow_null=True)
    gpus = serializers.ListField(child=serializers.DictField())
    deployment_mode = serializers.CharField()
    worker = serializers.BooleanField(help_text="whether a worker of this GPU machine is running")
    observed_at = serializers.DateTimeField(allow_null=True)


class ModelResponse(serializers.Serializer[Any]):
    """A model on this machine."""

    id = serializers.CharField()
    path = serializers.CharField()
    size_bytes = serializers.IntegerField()
    problem = serializers.CharField()


class ModelListResponse(serializers.Serializer[Any]):
    """Models a backend can serve."""

    results = ModelResponse(many=True)


class LogResponse(serializers.Serializer[Any]):
    """The last lines of a backend's log."""

    backend = serializers.CharField()
    lines = serializers.ListField(child=serializers.CharField())


class DetectionResponse(serializers.Serializer[Any]):
    """What was found of one engine."""

    title = serializers.CharField()
    installed = serializers.BooleanField()
    installing = serializers.FloatField(allow_null=True)
    running = serializers.BooleanField()
    version = serializers.CharField()
    model = serializers.CharField(allow_null=True)
    reason = serializers.CharField()
