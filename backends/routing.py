"""Websocket paths of backends."""

from django.urls import path

from backends import consumers

websocket_urlpatterns = [
    path("ws/status/", consumers.StatusConsumer.as_asgi()),
    path("ws/logs/<str:name>/", consumers.LogConsumer.as_asgi()),
]
