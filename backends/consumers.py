"""Websockets of backends: live status, live logs."""

import asyncio
import contextlib
from typing import Any

from channels.db import database_sync_to_async

from accounts.permissions import Permission
from accounts.websockets import SocketConsumer
from backends import bus, selectors
from backends.errors import UnknownBackend
from backends.payloads import StatusPayload

#: Seconds between two looks for new log lines.
_LOG_SECONDS = 0.25
_LOG_LINES = 200


class StatusConsumer(SocketConsumer):
    """``/ws/status/``: the status on connect, then every change."""

    permission = Permission.STATUS_READ

    async def opened(self) -> None:
        """Join those who watch, then say how things are (in that order, so that nothing is missed)."""
        if self.channel_layer is not None:
            await self.channel_layer.group_add(bus.STATUS_GROUP, self.channel_name)
        status: StatusPayload = await database_sync_to_async(selectors.status)()
        await self.send_json({"type": "status", **selectors.status_for(self.actor, status)})

    async def received(self, frame: dict[str, Any]) -> None:
        """Clients have nothing to say here; a ping is answered, so that they can see a dead line."""
        if frame.get("type") == "ping":
            await self.send_json({"type": "pong"})

    async def closed(self) -> None:
        """Leave."""
        if self.channel_layer is not None:
            await self.channel_layer.group_discard(bus.STATUS_GROUP, self.channel_name)

    async def status_frame(self, event: dict[str, Any]) -> None:
        """Pass a published frame on, without what this person may not see."""
        await self.send_json(selectors.frame_for(self.actor, event["frame"]))


class LogConsumer(SocketConsumer):
    """``/ws/logs/{name}/``: the last lines, then lines as they are written."""

    permission = Permission.LOGS_READ
    _following: "asyncio.Task[None] | None" = None

    async def opened(self) -> None:
        """Send what there is and follow the file."""
        name = self.scope["url_route"]["kwargs"]["name"]
        try:
            lines = await database_sync_to_async(selectors.backend_log)(name, _LOG_LINES)
        except UnknownBackend as exc:
            await self.send_json({"type": "error", "error": exc.body(self.actor.request_id)})
            await self.close(code=4404)
            return
        await self.send_json({"type": "log", "backend": name, "lines": lines, "reset": True})
        self._following = asyncio.create_task(self._follow(name))

    async def received(self, frame: dict[str, Any]) -> None:
        """Clients have nothing to say here."""

    async def closed(self) -> None:
        """Stop following."""
        if self._following is not None:
            self._following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._following

    async def _follow(self, name: str) -> None:
        follower = await database_sync_to_async(selectors.LogFollower)(name)
        while True:
            await asyncio.sleep(_LOG_SECONDS)
            lines, fresh = await database_sync_to_async(follower.read)()
            if lines or fresh:
                await self.send_json(
                    {"type": "log", "backend": name, "lines": lines, "reset": fresh}
                )
