"""Rows about backends and the operations on them. All writes are in ``backends.services``."""

import uuid

from django.conf import settings
from django.db import models
from django.db.models import Q

from backends.lifecycle import State


class Backend(models.Model):
    """One engine this site operates: ``vllm``, ``ollama``."""

    name = models.SlugField(primary_key=True)
    engine = models.CharField(max_length=64, help_text="name of the engine plugin")
    node = models.CharField(max_length=255, help_text="GPU machine it runs on")
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    #: Values that differ from the engine's defaults, by option name; secrets are not among them.
    options = models.JSONField(default=dict, blank=True)
    #: Fernet token over a JSON object of the secret options.
    secrets = models.TextField(default="", blank=True)
    #: Number of the newest ``ConfigRevision``; 0 before the first change.
    revision = models.PositiveIntegerField(default=0)
    auto_start = models.BooleanField(default=False)
    #: The options that the last start was made with: what it takes to have the same again.
    started_options = models.JSONField(null=True, blank=True)

    state = models.CharField(
        max_length=16, choices=[(s.value, s.value) for s in State], default=State.STOPPED
    )
    state_since = models.DateTimeField(null=True, blank=True)
    #: Which start this is: names its folder under ``MH_HOME/engines/<backend>/``. Empty when stopped.
    instance_id = models.CharField(max_length=64, default="", blank=True)
    #: The start before: its log is shown after a failure.
    last_instance_id = models.CharField(max_length=64, default="", blank=True)
    endpoint = models.CharField(max_length=255, default="", blank=True)
    model = models.CharField(max_length=512, default="", blank=True)
    version = models.CharField(max_length=64, default="", blank=True)
    attached = models.BooleanField(default=False)
    #: Why the state is ``failed`` or ``degraded``, for everybody, and the engine's own line, for its owner.
    failure = models.TextField(default="", blank=True)
    failure_detail = models.TextField(default="", blank=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class ConfigRevision(models.Model):
    """The options of a backend as somebody left them. Of secrets only that they changed."""

    backend = models.ForeignKey(Backend, on_delete=models.CASCADE, related_name="revisions")
    #: Counts up per backend; 0 is what was configured before the first change.
    number = models.PositiveIntegerField()
    #: ``Backend.options`` from then on.
    options = models.JSONField(default=dict, blank=True)
    #: ``[{"option", "before", "after"}]``, defaults said aloud; of a secret ``{"option", "secret": true,
    #: "before": bool, "after": bool}``: whether it was set.
    changes = models.JSONField(default=list, blank=True)
    #: Number of the revision that was restored by this one.
    restored = models.PositiveIntegerField(null=True, blank=True)
    created_at = models.DateTimeField()
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    created_by_name = models.CharField(max_length=150, default="", blank=True)
    request_id = models.CharField(max_length=128, default="", blank=True)

    class Meta:
        ordering = ["-number"]
        constraints = [
            models.UniqueConstraint(fields=["backend", "number"], name="one_revision_per_number")
        ]

    def __str__(self) -> str:
        return f"{self.backend_id} options {self.number}"


class Switchboard(models.Model):
    """The one row of site-wide choices."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1, editable=False)
    active_backend = models.ForeignKey(
        Backend, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    startup_behavior = models.CharField(max_length=16, default="auto")
    deployment_mode = models.CharField(max_length=16, default="local")

    class Meta:
        constraints = [models.CheckConstraint(condition=Q(id=1), name="one_switchboard")]

    def __str__(self) -> str:
        return "switchboard"


class OperationState(models.TextChoices):
    """How far an operation is."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    ROLLED_BACK = "rolled_back"
    CANCELLED = "cancelled"


#: States of an operation that has not ended.
OPEN_OPERATION_STATES = (OperationState.QUEUED, OperationState.RUNNING)


class OperationKind(models.TextChoices):
    """What an operation does."""

    START = "start"
    STOP = "stop"
    RESTART = "restart"
    SWITCH = "switch"
    #: Serve another model, without a restart where the engine can.
    CHANGE_MODEL = "change_model"
    #: Run with the options as they are configured now; only what changed restarts.
    APPLY = "apply"
    #: Give the memory back because nobody asks for anything.
    UNLOAD = "unload"
    PULL = "pull"
    DELETE = "delete"
    #: Bring the engine itself onto this machine.
    INSTALL = "install"


class Lane(models.TextChoices):
    """What operations stand in each other's way: one of each lane runs per GPU machine."""

    GPU = "gpu"
    #: Downloads and deletions of models, and installations: nobody waits hours for them to move the GPU.
    MODELS = "models"


#: Kinds of operations after which their backend serves.
SERVING_KINDS = (
    OperationKind.START,
    OperationKind.RESTART,
    OperationKind.SWITCH,
    OperationKind.CHANGE_MODEL,
    OperationKind.APPLY,
)
#: Kinds of operations that leave the GPU alone.
MODELS_KINDS = (OperationKind.PULL, OperationKind.DELETE, OperationKind.INSTALL)


class Operation(models.Model):
    """One requested change, run by the worker of its GPU machine."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    kind = models.CharField(max_length=16, choices=OperationKind.choices)
    backend = models.ForeignKey(Backend, on_delete=models.CASCADE, related_name="operations")
    from_backend = models.CharField(max_length=64, default="", blank=True)
    #: What ``from_backend`` was started with, to start it again when the switch fails.
    from_options = models.JSONField(null=True, blank=True)
    node = models.CharField(max_length=255)
    lane = models.CharField(max_length=16, choices=Lane.choices, default=Lane.GPU)
    state = models.CharField(
        max_length=16, choices=OperationState.choices, default=OperationState.QUEUED
    )
    #: What was asked: ``{"model"?, "options"?}``, validated; no secrets.
    request = models.JSONField(default=dict, blank=True)
    progress = models.FloatField(default=0.0, help_text="0 to 1")
    eta_seconds = models.FloatField(null=True, blank=True)
    requested_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    requested_by_name = models.CharField(max_length=150)
    request_id = models.CharField(max_length=128, default="", blank=True)
    source_address = models.CharField(max_length=64, default="", blank=True)
    error = models.JSONField(null=True, blank=True, help_text='{"message", "code", "detail"}')
    cancel_requested = models.BooleanField(default=False)
    #: Which runner holds it, and when that runner was last heard of.
    runner = models.CharField(max_length=64, default="", blank=True)
    heartbeat_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(db_index=True)
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["node", "lane"],
                condition=Q(state=OperationState.RUNNING),
                name="one_running_operation_per_lane",
            )
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.backend_id} ({self.state})"


class StepState(models.TextChoices):
    """How far a step is."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"


class OperationStep(models.Model):
    """One step of an operation, recorded before and after it is taken."""

    operation = models.ForeignKey(Operation, on_delete=models.CASCADE, related_name="steps")
    name = models.CharField(max_length=32)
    state = models.CharField(max_length=16, choices=StepState.choices, default=StepState.RUNNING)
    message = models.TextField(default="", blank=True)
    started_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["id"]
        constraints = [
            models.UniqueConstraint(fields=["operation", "name"], name="one_row_per_step")
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.state})"


class IdempotencyKey(models.Model):
    """What a client called the request that made an operation: sent again, it makes no other one."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    key = models.CharField(max_length=255)
    #: SHA-256 of what was asked.
    digest = models.CharField(max_length=64)
    operation = models.ForeignKey(Operation, on_delete=models.CASCADE, related_name="+")
    created_at = models.DateTimeField(db_index=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["user", "key"], name="one_operation_per_key")
        ]

    def __str__(self) -> str:
        return f"{self.key} of {self.user_id}"


class GpuLease(models.Model):
    """Who owns the memory of one GPU, or of the machine where it has none.

    Every take counts ``fencing`` up; whoever acts under a lease gives its number, and one that is not
    the newest is refused (Kleppmann, How to do distributed locking, 2016).
    """

    node = models.CharField(max_length=255)
    #: UUID of the GPU as NVML gives it; ``host`` for the memory of a machine without GPUs.
    gpu = models.CharField(max_length=64)
    #: Names of the backends that hold it; more than one only where all of them share.
    holders = models.JSONField(default=list)
    fencing = models.PositiveBigIntegerField(default=0)
    operation = models.ForeignKey(
        Operation, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    taken_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["node", "gpu"]
        constraints = [models.UniqueConstraint(fields=["node", "gpu"], name="one_lease_per_gpu")]

    def __str__(self) -> str:
        return f"{self.node} {self.gpu}: {', '.join(self.holders) or 'free'}"


class StartKind(models.TextChoices):
    """How a backend came to be ready."""

    COLD = "cold"
    #: From a launcher that was already warm.
    STANDBY = "standby"
    UNPARK = "unpark"
    #: A model loaded into an engine that ran.
    LOAD = "load"


class StartRecord(models.Model):
    """What one successful start took: for estimates of time and memory."""

    backend = models.ForeignKey(Backend, on_delete=models.CASCADE, related_name="starts")
    kind = models.CharField(max_length=16, choices=StartKind.choices, default=StartKind.COLD)
    model = models.CharField(max_length=512)
    #: Options that differed from the defaults; no secrets.
    options = models.JSONField(default=dict, blank=True)
    version = models.CharField(max_length=64, default="", blank=True)
    seconds = models.FloatField(help_text="from the first step to ready")
    #: Most memory seen while it ran, in bytes; None where it could not be measured.
    peak_gpu_bytes = models.BigIntegerField(null=True, blank=True)
    peak_host_bytes = models.BigIntegerField(null=True, blank=True)
    #: What the plan had said, in bytes.
    planned_bytes = models.BigIntegerField(null=True, blank=True)
    created_at = models.DateTimeField(db_index=True)

    class Meta:
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return f"{self.backend_id} {self.model}: {self.seconds:.1f} s ({self.kind})"


class SampleBucket(models.Model):
    """What GPUs and engines of one machine did in a minute, or in a quarter of an hour; old ones are deleted."""

    node = models.CharField(max_length=255)
    step = models.PositiveIntegerField(help_text="seconds")
    #: Its begin, in seconds since 1970; a multiple of ``step``.
    at = models.BigIntegerField()
    #: ``sampling.stats.to_json``.
    series = models.JSONField(default=dict)

    class Meta:
        ordering = ["at"]
        constraints = [
            models.UniqueConstraint(fields=["node", "step", "at"], name="one_row_per_bucket")
        ]

    def __str__(self) -> str:
        return f"{self.node} {self.at} ({self.step} s)"
