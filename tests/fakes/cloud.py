"""What the fake clouds have in common: behaviours, a control endpoint, a server. No cloud, and no model."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from aiohttp import web

WORDS = ["The", " capital", " of", " France", " is", " Paris", " 🗼", "."]


class Behaviour:
    """The habits asked for: ``has("cut-after")``, ``number("cut-after")``, ``text("reasoning")``."""

    def __init__(self, words: list[str] | tuple[str, ...] = ()) -> None:
        self._words = dict(word.partition("=")[::2] for word in words)

    def has(self, name: str) -> bool:
        return name in self._words

    def text(self, name: str, default: str = "") -> str:
        return self._words.get(name, "") or default

    def number(self, name: str, default: float = 0) -> float:
        return float(self._words.get(name) or default)

    def take(self, name: str) -> bool:
        """Say whether ``name`` is to happen once more, and count it down: ``lose-poll=2`` happens twice."""
        if not self.has(name):
            return False
        left = self.number(name, 1) - 1
        if left > 0:
            self._words[name] = str(left)
        else:
            del self._words[name]
        return True


class FakeCloud:
    """A fake with ``POST /_fake/behaviour {"behaviour": [...]}`` and ``GET /_fake/state``."""

    def __init__(self, *behaviour: str, key: str = "") -> None:
        self.behaviour = Behaviour(behaviour)
        self.key = key
        #: Every request seen: method, path, JSON body, headers in lower case.
        self.requests: list[dict[str, Any]] = []
        self.running = 0
        self.aborted = 0
        self.changed = asyncio.Event()

    def behave(self, *behaviour: str) -> None:
        self.behaviour = Behaviour(behaviour)

    def asked(self, path: str) -> list[dict[str, Any]]:
        """Return the requests whose path ends with ``path``."""
        return [request for request in self.requests if request["path"].endswith(path)]

    def state(self) -> dict[str, Any]:
        return {"running": self.running, "aborted": self.aborted, "requests": len(self.requests)}

    async def until(self, check: Callable[[], object], *, seconds: float = 5) -> None:
        """Return when ``check`` is true; it is asked again after each change."""
        async with asyncio.timeout(seconds):
            while not check():
                self.changed.clear()
                await self.changed.wait()

    def routes(self, app: web.Application) -> None:
        raise NotImplementedError

    def unauthorized(self) -> web.Response:
        return web.json_response({"error": "Unauthorized"}, status=401)

    def application(self) -> web.Application:
        app = web.Application(client_max_size=64 << 20, middlewares=[self._guard])
        app.router.add_get("/_fake/state", self._state)
        app.router.add_post("/_fake/behaviour", self._behave)
        self.routes(app)
        return app

    async def _state(self, _request: web.Request) -> web.Response:
        return web.json_response(self.state())

    async def _behave(self, request: web.Request) -> web.Response:
        self.behave(*(await request.json()).get("behaviour", []))
        return web.json_response({})

    async def _guard(self, request: web.Request, handler: Any) -> Any:
        if request.path.startswith("/_fake/"):
            return await handler(request)
        body: Any = None
        with contextlib.suppress(ValueError):
            body = json.loads(await request.read() or b"null")
        headers = {name.lower(): value for name, value in request.headers.items()}
        seen = {"method": request.method, "path": request.path, "body": body, "headers": headers}
        self.requests.append(seen)
        if self.key and headers.get("authorization") != f"Bearer {self.key}":
            return self.unauthorized()
        return await handler(request)

    _guard.__middleware_version__ = 1  # type: ignore[attr-defined]  # as ``web.middleware`` does

    @contextlib.contextmanager
    def generating(self) -> Any:
        """Count a generation, and whether its client left."""
        self.running += 1
        self.changed.set()
        try:
            yield
        except (asyncio.CancelledError, ConnectionError):
            self.aborted += 1
            raise
        finally:
            self.running -= 1
            self.changed.set()


async def stream(
    request: web.Request, frames: AsyncIterator[bytes], *, split: bool = False
) -> web.StreamResponse:
    """Send frames as server-sent events; ``split`` cuts them anywhere, inside characters too."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    async for frame in frames:
        size = 5 if split else max(len(frame), 1)
        for start in range(0, len(frame), size):
            await response.write(frame[start : start + size])
            if split:
                await asyncio.sleep(0)
    await response.write_eof()
    return response


def data(frame: object) -> bytes:
    text = frame if isinstance(frame, str) else json.dumps(frame, ensure_ascii=False)
    return f"data: {text}\n\n".encode()


@contextlib.asynccontextmanager
async def serving(fake: FakeCloud, port: int = 0) -> AsyncIterator[str]:
    """Serve ``fake`` on 127.0.0.1; yield its URL."""
    runner = web.AppRunner(
        fake.application(), handler_cancellation=True, access_log=None, shutdown_timeout=0.1
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def main(kind: type[FakeCloud]) -> None:
    """Serve a fake as a process: ``python -m tests.fakes.fake_runpod --port 9000 --behaviour cold=2``."""
    parser = argparse.ArgumentParser(description=f"{kind.__name__}: a fake for tests.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--key", default="")
    parser.add_argument("--behaviour", action="append", default=[])
    arguments = parser.parse_args()

    async def run() -> None:
        fake = kind(*arguments.behaviour, key=arguments.key)
        async with serving(fake, arguments.port) as url:
            print(f"{kind.__name__} listens on {url}", flush=True)
            await asyncio.Event().wait()

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(run())
