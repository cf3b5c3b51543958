"""Writes: state moves, operations asked for and recorded, configuration. Each with its audit event."""

from backends.services.asking import (
    backend_on_demand,
    backend_restart,
    backend_start,
    backend_stop,
    backend_switch,
    operate_check,
    operation_cancel,
)
from backends.services.attaching import (
    backend_adopt,
    backend_attach,
    backend_detach,
    backend_refresh,
)
from backends.services.changing import backend_apply, backend_change_model, backend_unload
from backends.services.choosing import (
    active_set,
    auto_check,
    backend_auto,
    nothing_to_pick,
    startup_check,
    startup_set,
)
from backends.services.configuration import (
    backend_configure,
    backend_configure_as,
    backend_restore,
    config_import,
    deployment_mode_set,
    options_keep,
)
from backends.services.gpu_leases import (
    backend_lost,
    gpu_in_use,
    gpu_lease_check,
    gpu_lease_held,
    gpu_lease_release,
    gpu_lease_take,
)
from backends.services.installing import engine_install, install_check
from backends.services.library import model_delete, model_pull
from backends.services.peaks import peak_record
from backends.services.recording import (
    operation_actor,
    operation_beat,
    operation_claim,
    operation_end,
    operation_failing,
    operation_leave,
    operation_remember,
    operation_report,
    step_begin,
    step_end,
    step_message,
)
from backends.services.repeating import operation_once, operation_repeated
from backends.services.rows import (
    backend_update,
    backends_ensure,
    operation_publish,
    status_publish,
)
from backends.services.samples import samples_record
from backends.services.starts import start_keep
from backends.services.states import backend_failed_to_stop, backend_transition, backend_undrain

__all__ = [
    "active_set",
    "auto_check",
    "backend_adopt",
    "backend_apply",
    "backend_attach",
    "backend_auto",
    "backend_change_model",
    "backend_configure",
    "backend_configure_as",
    "backend_detach",
    "backend_failed_to_stop",
    "backend_lost",
    "backend_on_demand",
    "backend_refresh",
    "backend_restart",
    "backend_restore",
    "backend_start",
    "backend_stop",
    "backend_switch",
    "backend_transition",
    "backend_undrain",
    "backend_unload",
    "backend_update",
    "backends_ensure",
    "config_import",
    "deployment_mode_set",
    "engine_install",
    "gpu_in_use",
    "gpu_lease_check",
    "gpu_lease_held",
    "gpu_lease_release",
    "gpu_lease_take",
    "install_check",
    "model_delete",
    "model_pull",
    "nothing_to_pick",
    "operate_check",
    "operation_actor",
    "operation_beat",
    "operation_cancel",
    "operation_claim",
    "operation_end",
    "operation_failing",
    "operation_leave",
    "operation_once",
    "operation_publish",
    "operation_remember",
    "operation_repeated",
    "operation_report",
    "options_keep",
    "peak_record",
    "samples_record",
    "start_keep",
    "startup_check",
    "startup_set",
    "status_publish",
    "step_begin",
    "step_end",
    "step_message",
]
