"""Django's ASGI handler, which makes a thread for every request, without that where requests are long."""

from typing import Any, Final

from django.core.handlers.asgi import ASGIHandler

from accounts import database

#: Their views are async; others are synchronous, and may hold a thread for long.
_POOLED: Final = ("/v1/", "/api/chat", "/ollama/")


class Handler(ASGIHandler):
    """Makes no thread for a chat."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        if not str(scope.get("path", "")).startswith(_POOLED):
            await super().__call__(scope, receive, send)
            return
        async with database.around_request():
            await self.handle(scope, receive, send)
