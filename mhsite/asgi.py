"""The ASGI application: HTTP by Django, websockets by Channels."""

import os
from typing import Any

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


def _with_send(app: Any) -> Any:
    """Give consumers the server's own ``send``: what the session middleware does to each frame costs as much as it."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "mh.send": send}, receive, send)

    return application


application = ProtocolTypeRouter(
    {
        "http": body_limit(direct_first(Handler())),
        "websocket": _with_send(
            AuthMiddlewareStack(URLRouter([*backends_sockets, *router_sockets]))
        ),
    }
)
