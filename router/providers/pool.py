"""One pooled HTTP client per endpoint and event loop."""

from collections.abc import AsyncGenerator
from typing import Final

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

from accounts.loops import PerLoop

#: Seconds to wait for a connection. Reading has no limit: a long answer is not a fault.
CONNECT_TIMEOUT = 5.0
#: Seconds an idle connection is kept: less than an engine keeps it (vLLM: 5), so that it is never
#: closed by the engine at the moment we send.
KEEP_IDLE = 2.0

_TIMEOUT = httpx.Timeout(None, connect=CONNECT_TIMEOUT)


class _Clients:
    """The clients of one event loop, closed with it."""

    def __init__(self) -> None:
        self._by_endpoint: dict[str, httpx.AsyncClient] = {}
        self._closer: AsyncGenerator[None, None] | None = None

    async def get(self, endpoint: str) -> httpx.AsyncClient:
        if self._closer is None:
            # ``asyncio.run`` closes open async generators at its end, and these clients with them.
            self._closer = self._close_at_end()
            await anext(self._closer)
        client = self._by_endpoint.get(endpoint)
        if client is None:
            client = self._by_endpoint[endpoint] = _client(endpoint)
        return client

    async def _close_at_end(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            for client in self._by_endpoint.values():
                await client.aclose()
            self._by_endpoint.clear()


_clients: Final = PerLoop(_Clients)


async def client_for(endpoint: str) -> httpx.AsyncClient:
    """Return the client for ``endpoint`` (a base URL) on the running event loop."""
    return await _clients.get().get(endpoint)


def _client(endpoint: str) -> httpx.AsyncClient:
    # ``limits`` of the transport cannot say "none" (httpx-aiohttp 0.2 then takes aiohttp's 100), so the
    # session is ours. No cookies: answers for one user must not mark requests of another.
    def session() -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_IDLE),
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    return httpx.AsyncClient(
        transport=AiohttpTransport(
            verify=endpoint.startswith("https:"), trust_env=False, client=session
        ),
        timeout=_TIMEOUT,
        trust_env=False,
    )
