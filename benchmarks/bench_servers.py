"""Which ASGI server? CPU per streamed token and time added to the first one, of /v1/chat/completions.

Each server runs the whole site, with the fake engine behind it; the engine called directly, in the
same run, is what the times are compared with. One and 50 streams of 64 tokens at once, and the same of
one token, which tells the cost of a request from that of a token. ``MH_ASGI``'s default is the server
with the lowest CPU per token, requests included, at 50 streams.
"""

import asyncio
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

from benchmarks.load import TOKENS, Load, streams, table
from benchmarks.site import Site, running

SERVERS = ("uvicorn", "granian", "daphne")
#: Streams at once, and how often.
LOADS = ((1, 20), (50, 6))
#: Seconds between two tokens of one stream: an engine at 50 tokens a second, so that tokens come singly.
TOKEN_DELAY = 0.02
MODEL = "fake-model"
COLUMNS = {
    "streams": "streams",
    "cpu_us_per_token": "CPU µs/token",
    "cpu_ms_per_request": "CPU ms/request",
    "cpu_us_per_token_in_all": "CPU µs/token in all",
    "first_token_ms_direct": "first token ms, direct",
    "first_token_ms_added": "ms added",
}
RESULT = Path(__file__).parent / "results" / "servers.json"


async def measure(site: Site) -> list[dict[str, Any]]:
    """Run every load, directly and through the site."""
    await streams(site.url, model=MODEL, at_once=10, rounds=1, token=site.token)
    rows = []
    for at_once, rounds in LOADS:
        direct = await streams(site.engine_url, model=MODEL, at_once=at_once, rounds=rounds)
        short, short_cpu = await through(site, at_once, rounds, 1)
        long, long_cpu = await through(site, at_once, rounds, TOKENS)
        requests = long.tokens / TOKENS
        rows.append(
            {
                "streams": at_once,
                "requests": int(requests),
                "cpu_us_per_token": per_token(long_cpu - short_cpu, long.tokens - short.tokens),
                "cpu_ms_per_request": round(short_cpu / requests * 1e3, 2),
                "cpu_us_per_token_in_all": per_token(long_cpu, long.tokens),
                "first_token_ms": long.first_token_ms,
                "first_token_ms_direct": direct.first_token_ms,
                "first_token_ms_added": round(long.first_token_ms - direct.first_token_ms, 2),
            }
        )
    return rows


async def through(site: Site, at_once: int, rounds: int, length: int) -> tuple[Load, float]:
    """Run one load through the site; return it with the web server's CPU seconds."""
    before = site.cpu_seconds()
    load = await streams(
        site.url, model=MODEL, at_once=at_once, rounds=rounds, token=site.token, length=length
    )
    return load, site.cpu_seconds() - before


def per_token(cpu: float, tokens: int) -> float:
    return round(cpu / tokens * 1e6, 1)


def main() -> None:
    results = {}
    for server in SERVERS:
        print(f"{server}…", flush=True)
        with running(server, f"--token-delay {TOKEN_DELAY}") as site:
            results[server] = asyncio.run(measure(site))
    RESULT.parent.mkdir(exist_ok=True)
    found = {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {"cpus": os.cpu_count(), "load": os.getloadavg()[0]},
        "python": platform.python_version(),
        "tokens_per_stream": TOKENS,
        "token_delay_seconds": TOKEN_DELAY,
        "servers": results,
    }
    RESULT.write_text(json.dumps(found, indent=2) + "\n")
    rows = [(name, *(row[key] for key in COLUMNS)) for name in SERVERS for row in results[name]]
    print(table([("server", *COLUMNS.values()), *rows]))


if __name__ == "__main__":
    main()
