"""The ASGI application: HTTP by Django, websockets by Channels."""

import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mhsite.settings")
django.setup(set_prefix=False)

# Consumers import models, so they come after Django is set up.
from channels.auth import AuthMiddlewareStack  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402

from backends.routing import websocket_urlpatterns as backends_sockets  # noqa: E402
from mhsite.direct import direct_first  # noqa: E402
from mhsite.handler import Handler  # noqa: E402
from mhsite.limits import body_limit  # noqa: E402
from router.routing import websocket_urlpatterns as router_sockets  # noqa: E402

application = ProtocolTypeRouter(
    {
        "http": body_limit(direct_first(Handler())),
        "websocket": AuthMiddlewareStack(URLRouter([*backends_sockets, *router_sockets])),
    }
)
