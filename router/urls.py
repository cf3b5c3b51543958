"""Paths of router."""

from django.urls import URLPattern, path, re_path

from router import api, usage_api, v1

urlpatterns: list[URLPattern] = [
    path("api/chat", api.chat, name="chat"),
    path("v1/models", v1.models, name="v1-models"),
    path("v1/models/<path:model_id>", v1.model, name="v1-model"),
    path("v1/chat/completions", v1.chat_completions, name="v1-chat"),
    path("v1/completions", v1.completions, name="v1-completions"),
    path("api/usage", usage_api.UsageView.as_view(), name="usage"),
    path("api/usage/quotas", usage_api.QuotasView.as_view(), name="usage-quotas"),
    path("api/usage/quotas/<str:username>", usage_api.QuotaView.as_view(), name="usage-quota"),
    path("metrics", usage_api.metrics, name="metrics"),
    re_path(r"^v1/(?P<rest>.*)$", v1.unknown, name="v1-unknown"),
]
