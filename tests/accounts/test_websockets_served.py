"""Close codes as a client sees them, over every server the site can run on."""

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import websockets

pytestmark = pytest.mark.process
ROOT = Path(__file__).parents[2]
SERVERS = {
    "uvicorn": ["-m", "uvicorn", "mhsite.asgi:application", "--host", "127.0.0.1", "--port"],
    "daphne": ["-m", "daphne", "mhsite.asgi:application", "-b", "127.0.0.1", "-p"],
    "granian": [
        "-m",
        "granian",
        "mhsite.asgi:application",
        "--interface",
        "asgi",
        "--host",
        "127.0.0.1",
        "--port",
    ],
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("h")


@pytest.fixture(scope="module", params=SERVERS)
def port(request: pytest.FixtureRequest, home: Path, broker: str) -> Iterator[int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number: int = free.getsockname()[1]
    environment = {**os.environ, "MH_HOME": str(home), "REDIS_URL": broker}
    subprocess.run(
        [sys.executable, "manage.py", "migrate", "-v0"], cwd=ROOT, env=environment, check=True
    )
    process = subprocess.Popen(
        [sys.executable, *SERVERS[request.param], str(number)],
        cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", number)) == 0:
                break
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    yield number
    process.terminate()
    process.wait(20)


async def code_of(url: str, *, first: str | None = None, **headers: str) -> int | None:
    async with websockets.connect(url, additional_headers=headers) as connection:
        if first is not None:
            await connection.send(first)
        await asyncio.wait_for(connection.wait_closed(), 15)
        return connection.close_code


async def test_every_server_passes_the_close_codes_on(port: int) -> None:
    url = f"ws://127.0.0.1:{port}/ws/status/"
    codes = await asyncio.gather(
        code_of(url, first='{"type": "ping"}'),
        code_of(url, Authorization="Bearer mh_unknown"),
        code_of(url),
    )
    assert codes == [4401, 4401, 4408]
