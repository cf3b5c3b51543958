"""Paths of router."""

from django.urls import URLPattern, path, re_path

from router import api, v1

urlpatterns: list[URLPattern] = [
    path("api/chat", api.chat, name="chat"),
    path("v1/models", v1.models, name="v1-models"),
    path("v1/models/<path:model_id>", v1.model, name="v1-model"),
    path("v1/chat/completions", v1.chat_completions, name="v1-chat"),
    path("v1/completions", v1.completions, name="v1-completions"),
    path("v1/embeddings", v1.embeddings, name="v1-embeddings"),
    path("v1/responses", v1.responses, name="v1-responses"),
    re_path(r"^v1/(?P<rest>.*)$", v1.unknown, name="v1-unknown"),
]
