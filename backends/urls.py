"""Paths of backends."""

from django.urls import path

from backends import api, config_api, operations_api
from backends.samples_api import SamplesView

_ROOT = "api/llm-backend"

urlpatterns = [
    path(f"{_ROOT}/status", api.StatusView.as_view(), name="backend-status"),
    path(f"{_ROOT}/detect", api.DetectView.as_view(), name="backend-detect"),
    path(f"{_ROOT}/samples", SamplesView.as_view(), name="backend-samples"),
    path(f"{_ROOT}/auto", api.AutoView.as_view(), name="backend-auto"),
    path(f"{_ROOT}/startup", api.StartupView.as_view(), name="backend-startup"),
    path(f"{_ROOT}/switch", api.SwitchView.as_view(), name="backend-switch"),
    path(f"{_ROOT}/operations", operations_api.OperationsView.as_view(), name="operations"),
    path(
        f"{_ROOT}/operations/<str:operation_id>",
        operations_api.OperationView.as_view(),
        name="operation",
    ),
    path(
        f"{_ROOT}/operations/<str:operation_id>/cancel",
        operations_api.OperationCancelView.as_view(),
        name="operation-cancel",
    ),
    path(f"{_ROOT}/<str:name>/start", api.StartView.as_view(), name="backend-start"),
    path(f"{_ROOT}/<str:name>/stop", api.StopView.as_view(), name="backend-stop"),
    path(f"{_ROOT}/<str:name>/restart", api.RestartView.as_view(), name="backend-restart"),
    path(f"{_ROOT}/<str:name>/config", config_api.ConfigView.as_view(), name="backend-config"),
    path(
        f"{_ROOT}/<str:name>/revisions",
        config_api.RevisionsView.as_view(),
        name="backend-revisions",
    ),
    path(
        f"{_ROOT}/<str:name>/revisions/<int:number>/restore",
        config_api.RestoreView.as_view(),
        name="backend-restore",
    ),
    path(f"{_ROOT}/<str:name>/install", config_api.InstallView.as_view(), name="backend-install"),
    path(f"{_ROOT}/<str:name>/model", api.ServedModelView.as_view(), name="backend-model"),
    path(f"{_ROOT}/<str:name>/models", api.ModelsView.as_view(), name="backend-models"),
    path(f"{_ROOT}/<str:name>/plan", api.PlanView.as_view(), name="backend-plan"),
    path(
        f"{_ROOT}/<str:name>/models/<path:model_id>",
        api.ModelView.as_view(),
        name="backend-model",
    ),
    path(f"{_ROOT}/<str:name>/logs", api.LogsView.as_view(), name="backend-logs"),
]
