"""Streams of an OpenAI-compatible server, taken many at once, with the times of their tokens."""

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

import aiohttp

TOKENS = 64


@dataclass(frozen=True)
class Load:
    """What a load measured."""

    tokens: int
    seconds: float
    first_token_seconds: list[float]

    @property
    def first_token_ms(self) -> float:
        """Median time from request to first token, in milliseconds."""
        return round(median(self.first_token_seconds) * 1000, 2)


async def streams(
    url: str, *, model: str, at_once: int, rounds: int, token: str = "", length: int = TOKENS
) -> Load:
    """Take ``rounds`` times ``at_once`` streams of ``length`` tokens at the same time."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    connector = aiohttp.TCPConnector(limit=0)
    firsts: list[float] = []
    tokens = 0
    begin = time.perf_counter()
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
        for _ in range(rounds):
            taken = await asyncio.gather(
                *(_one(session, url, model, length) for _ in range(at_once))
            )
            firsts += [first for first, _ in taken]
            tokens += sum(count for _, count in taken)
    return Load(tokens, time.perf_counter() - begin, firsts)


async def _one(
    session: aiohttp.ClientSession, url: str, model: str, length: int
) -> tuple[float, int]:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "Count."}],
        "stream": True,
        "max_tokens": length,
        "ignore_eos": True,
    }
    begin = time.perf_counter()
    first, count = 0.0, 0
    async with session.post(f"{url}/v1/chat/completions", json=body) as answer:
        if answer.status != 200:
            raise SystemExit(f"{url}: {answer.status} {await answer.text()}")
        async for line in answer.content:
            if (
                line.startswith(b"data: {")
                and b'"content":"' in line
                and b'"content":""' not in line
            ):
                first = first or time.perf_counter() - begin
                count += 1
    if count != length:
        raise SystemExit(f"{url}: {count} tokens came, not {length}")
    return first, count


def table(rows: Iterable[tuple[object, ...]]) -> str:
    """Return rows as aligned text, the first one being the heading."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    )
