"""Websocket paths of router."""

from django.urls import URLPattern, path

from router.consumers import ChatConsumer

websocket_urlpatterns: list[URLPattern] = [
    path("ws/chat/", ChatConsumer.as_asgi()),
]
