"""Writes: state moves, operations asked for and recorded, configuration. Each with its audit event."""

from backends.services.asking import (
    backend_restart,
    backend_start,
    backend_stop,
    backend_switch,
    operate_check,
    operation_cancel,
)
from backends.services.changing import backend_apply, backend_change_model, backend_unload
from backends.services.configuration import (
    backend_configure,
    backend_configure_as,
    config_import,
    options_keep,
)
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
from backends.services.rows import (
    backend_update,
    backends_ensure,
    operation_publish,
    status_publish,
)
from backends.services.starts import start_keep
from backends.services.states import backend_failed_to_stop, backend_transition, backend_undrain

__all__ = [
    "backend_apply",
    "backend_change_model",
    "backend_configure",
    "backend_configure_as",
    "backend_failed_to_stop",
    "backend_restart",
    "backend_start",
    "backend_stop",
    "backend_switch",
    "backend_transition",
    "backend_undrain",
    "backend_unload",
    "backend_update",
    "backends_ensure",
    "config_import",
    "operate_check",
    "operation_actor",
    "operation_beat",
    "operation_cancel",
    "operation_claim",
    "operation_end",
    "operation_failing",
    "operation_leave",
    "operation_publish",
    "operation_remember",
    "operation_report",
    "options_keep",
    "start_keep",
    "status_publish",
    "step_begin",
    "step_end",
    "step_message",
]
