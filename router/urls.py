"""Paths of router."""

from django.urls import URLPattern, path, re_path

from router import api, deployment_api, ollama_api, registry_api, usage_api, v1

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
    path("api/deployment", deployment_api.DeploymentView.as_view(), name="deployment"),
    path("v1/models", v1.models, name="v1-models"),
    path("v1/models/<path:model_id>", v1.model, name="v1-model"),
    path("v1/chat/completions", v1.chat_completions, name="v1-chat"),
    path("v1/completions", v1.completions, name="v1-completions"),
    path("v1/embeddings", v1.embeddings, name="v1-embeddings"),
    path("v1/responses", v1.responses, name="v1-responses"),
    path("ollama/", ollama_api.root, name="ollama"),
    path("ollama/api/version", ollama_api.version, name="ollama-version"),
    path("ollama/api/tags", ollama_api.tags, name="ollama-tags"),
    path("ollama/api/ps", ollama_api.ps, name="ollama-ps"),
    path("ollama/api/show", ollama_api.show, name="ollama-show"),
    path("ollama/api/chat", ollama_api.chat, name="ollama-chat"),
    path("ollama/api/generate", ollama_api.generate, name="ollama-generate"),
    path("ollama/api/embed", ollama_api.embed, name="ollama-embed"),
    path("ollama/api/embeddings", ollama_api.embeddings, name="ollama-embeddings"),
    re_path(
        r"^ollama/api/(?P<what>pull|push|delete|create|copy|blobs)(?P<rest>/.*)?$",
        ollama_api.elsewhere,
        name="ollama-elsewhere",
    ),
    re_path(r"^ollama/(?P<rest>.+)$", ollama_api.unknown, name="ollama-unknown"),
    path("api/usage", usage_api.UsageView.as_view(), name="usage"),
    path("api/usage/quotas", usage_api.QuotasView.as_view(), name="usage-quotas"),
    path("api/usage/quotas/<str:username>", usage_api.QuotaView.as_view(), name="usage-quota"),
    path("metrics", usage_api.metrics, name="metrics"),
    re_path(r"^v1/(?P<rest>.*)$", v1.unknown, name="v1-unknown"),
]
