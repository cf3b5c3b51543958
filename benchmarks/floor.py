"""The least that an ASGI application can do as a proxy: aiohttp's client, and nothing of ours. Run by uvicorn on uvloop.

It looks at nothing, knows nobody, and records nothing. ``MH_FLOOR_ENGINE`` says where the engine is.
"""

import os
from typing import Any

import aiohttp

_session: list[aiohttp.ClientSession] = []


def session() -> aiohttp.ClientSession:
    if not _session:
        connector = aiohttp.TCPConnector(limit=0)
        _session.append(aiohttp.ClientSession(os.environ["MH_FLOOR_ENGINE"], connector=connector))
    return _session[0]


async def application(scope: Any, receive: Any, send: Any) -> None:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    headers = {"Content-Type": "application/json"}
    async with session().request(
        scope["method"], scope["path"], data=body, headers=headers
    ) as answer:
        kind = answer.headers["Content-Type"].encode()
        start = {"type": "http.response.start", "status": answer.status}
        await send({**start, "headers": [(b"content-type", kind)]})
        async for piece in answer.content.iter_any():
            await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})
