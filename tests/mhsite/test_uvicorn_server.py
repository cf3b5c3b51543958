"""uvicorn's server that sleeps: it ends when told to, and its answers say what time it is."""

import asyncio
import signal
import time
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import uvicorn

from mhsite.processes.uvicorn_server import Server


async def application(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def test_it_ends_at_once_and_its_date_goes_on() -> None:
    server = Server(uvicorn.Config(application, port=0, lifespan="off", log_config=None))
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - it has no event for that
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    async with httpx.AsyncClient(trust_env=False, base_url=f"http://127.0.0.1:{port}") as client:
        first, second = await client.get("/"), None
        while second is None or second.headers["date"] == first.headers["date"]:
            await asyncio.sleep(0.05)
            second = await client.get("/")
    assert abs(parsedate_to_datetime(second.headers["date"]).timestamp() - time.time()) < 5
    told = time.monotonic()
    server.handle_exit(signal.SIGTERM, None)
    # It gives itself the signal again when it has ended; that is for the process, not for a test.
    server._captured_signals.clear()
    await asyncio.wait_for(serving, 5)
    assert time.monotonic() - told < 0.9
