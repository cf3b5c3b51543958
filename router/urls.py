"""Paths of router."""

from django.urls import URLPattern, path, re_path

from router import api, registry_api, v1

urlpatterns: list[URLPattern] = [
    path("api/chat", api.chat, name="chat"),
    path("api/models", registry_api.ModelsView.as_view(), name="models"),
    path("api/models/<path:entry_id>", registry_api.ModelView.as_view(), name="model"),
    path("api/roles", registry_api.RolesView.as_view(), name="roles"),
    path("api/roles/<str:name>", registry_api.RoleView.as_view(), name="role"),
    path("api/providers", registry_api.ProvidersView.as_view(), name="providers"),
    path("api/providers/<str:name>", registry_api.ProviderView.as_view(), name="provider"),
    path(
        "api/providers/<str:name>/check",
        registry_api.ProviderCheckView.as_view(),
        name="provider-check",
    ),
    path("v1/models", v1.models, name="v1-models"),
    path("v1/models/<path:model_id>", v1.model, name="v1-model"),
    path("v1/chat/completions", v1.chat_completions, name="v1-chat"),
    path("v1/completions", v1.completions, name="v1-completions"),
    re_path(r"^v1/(?P<rest>.*)$", v1.unknown, name="v1-unknown"),
]
