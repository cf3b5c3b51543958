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

from backends.ports import free_port

pytestmark = pytest.mark.process
ROOT = Path(__file__).parents[2]
APPLICATION = "mhsite.asgi:application"
SERVERS = {
    "uvicorn": ["uvicorn", APPLICATION, "--host", "127.0.0.1", "--port"],
    "daphne": ["daphne", APPLICATION, "-b", "127.0.0.1", "-p"],
    "granian": ["granian", APPLICATION, "--interface", "asgi", "--host", "127.0.0.1", "--port"],
}


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory, broker: str) -> Iterator[dict[str, int]]:
    """Every server, started at once."""
    home = tmp_path_factory.mktemp("h")
    environment = {**os.environ, "MH_HOME": str(home), "REDIS_URL": broker}
    migrate = [sys.executable, "manage.py", "migrate", "-v0"]
    subprocess.run(migrate, cwd=ROOT, env=environment, check=True)
    free = {name: free_port() for name in SERVERS}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", *command, str(free[name])],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for name, command in SERVERS.items()
    ]
    try:
        for port in free.values():
            wait_for(port)
        yield free
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(20)


def wait_for(port: int) -> None:
    deadline = time.monotonic() + 90
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.05)


async def code_of(port: int, *, first: str | None = None, **headers: str) -> int | None:
    url = f"ws://127.0.0.1:{port}/ws/status/"
    async with websockets.connect(url, additional_headers=headers, open_timeout=30) as connection:
        if first is not None:
            await connection.send(first)
        await asyncio.wait_for(connection.wait_closed(), 20)
        return connection.close_code


async def test_every_server_passes_the_close_codes_on(ports: dict[str, int]) -> None:
    asked = {
        (server, what): code_of(port, **how)  # type: ignore[arg-type]
        for server, port in ports.items()
        for what, how in {
            "another first frame": {"first": '{"type": "ping"}'},
            "a bad token": {"Authorization": "Bearer mh_unknown"},
            "silence": {},
        }.items()
    }
    codes = dict(zip(asked, await asyncio.gather(*asked.values()), strict=True))
    expected = {"another first frame": 4401, "a bad token": 4401, "silence": 4408}
    assert codes == {(server, what): expected[what] for server, what in asked}
