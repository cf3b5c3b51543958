"""1,000 chats at once over websockets, one socket each, in one web process: is every token there, in order, in time?

The engine numbers each token and says in it when it was written; the clients, in another process, look at the
same clock when it arrives. Each chat lasts as long as the measurement: no chat ends early, so the web process
has all of them all the time. Its memory is taken every two seconds once all run; the slope is that of a
straight line through these points.

    mh bench streams --minutes 10 --streams 1000
"""

import argparse
import asyncio
import json
import math
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import linear_regression, quantiles
from typing import Any, Final
from urllib.parse import urlsplit

import uvloop

from benchmarks import machine
from benchmarks.bench_proxy import PROGRAM
from benchmarks.engine import MODEL
from benchmarks.flow import SocketClient, text_frame
from benchmarks.load import table
from benchmarks.site import Site, running

#: Seconds between two tokens of one chat.
DELAY: Final = 0.1
DELAY_TARGET_MS: Final = 100.0
#: An engine's batch gets its tokens in one moment; the chats are in so many, one after the other.
BATCHES: Final = 10
#: Growth of the web process's memory, in MiB per minute, that is still flat: below what can be told apart.
SLOPE_TARGET: Final = 1.0
SAMPLE_SECONDS: Final = 2.0
#: Seconds after which what was found so far is kept, again and again: a run that is cut off is not lost.
KEEP_SECONDS: Final = 30.0
#: Of about so many tokens the delays are looked at meanwhile.
SOME: Final = 20_000
#: Seconds over which the chats begin, as a rate: so many per second.
BEGIN_RATE: Final = 100.0
MIB: Final = 2**20


@dataclass
class Seen:
    """What all chats together saw."""

    tokens: int = 0
    wrong: list[str] = field(default_factory=list)
    #: Seconds from the engine's write to the client's read, of every token.
    delays: "array[float]" = field(default_factory=lambda: array("f"))
    chats: list[Any] = field(default_factory=list)
    running: int = 0
    done: int = 0
    steady: bool = False


class Chat(SocketClient):
    """One socket with one chat, whose frames are read one by one."""

    def __init__(self, host: str, token: str, length: int, seen: Seen) -> None:
        super().__init__(host, token, f"stamp delay={DELAY} batch={len(seen.chats) % BATCHES}")
        seen.chats.append(self)
        self._length = length
        self._seen = seen
        self._expected = 1
        self.ended = asyncio.get_running_loop().create_future()

    def begin(self) -> None:
        frame = {
            "type": "chat",
            "id": "c",
            "model": MODEL,
            "messages": [{"role": "user", "content": self._prompt}],
            "options": {"maxTokens": self._length},
        }
        self._transport.write(text_frame(json.dumps(frame)))

    def data_received(self, data: bytes) -> None:
        if self._opening:
            super().data_received(data)
            return
        now = time.monotonic_ns()
        buffer = self._buffer + data
        at = 0
        while (frame := _frame_at(buffer, at)) is not None:
            kind, text, at = frame
            self._frame(kind, text, now)
        self._buffer = buffer[at:]

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self._end(f"the socket was lost: {exc}")

    def _frame(self, kind: int, text: bytes, now: int) -> None:
        if kind == 9:  # ping
            self._transport.write(bytes((0x8A, 0x80 | len(text))) + b"\0\0\0\0" + text)
            return
        if kind != 1:
            self._end(f"a frame of kind {kind}: {text[:100]!r}")
            return
        frame = json.loads(text)
        if frame["type"] == "token":
            self._checked(frame["content"], now)
        elif frame["type"] == "done":
            short = self._expected != self._length + 1
            self._end(f"ended after {self._expected - 1} tokens" if short else "")
        elif frame["type"] == "error":
            self._end(f"an error: {frame['error']}")

    def _checked(self, content: str, now: int) -> None:
        seen = self._seen
        number, written, _ = content.split(" ")
        if int(number) != self._expected:
            seen.wrong.append(f"token {number} came, not {self._expected}")
        if self._expected == 1:
            seen.running += 1
        self._expected = int(number) + 1
        seen.tokens += 1
        if seen.steady:
            seen.delays.append((now - int(written)) / 1e9)

    def _end(self, wrong: str) -> None:
        if wrong:
            self._seen.wrong.append(wrong)
        if not self.ended.done():
            self._seen.done += 1
            self.ended.set_result(None)


def _frame_at(buffer: bytes, at: int) -> tuple[int, bytes, int] | None:
    """Return kind and text of a server's frame (RFC 6455, 5.2), and where the next begins; None: not all there."""
    if len(buffer) < at + 2:
        return None
    length, start = buffer[at + 1], at + 2
    if length == 126:
        length, start = int.from_bytes(buffer[at + 2 : at + 4], "big"), at + 4
    elif length == 127:
        length, start = int.from_bytes(buffer[at + 2 : at + 10], "big"), at + 10
    end = start + length
    return (buffer[at] & 15, buffer[start:end], end) if len(buffer) >= end else None


def resident(site: Site) -> int:
    """Return the web process's resident memory, with that of its own processes, in bytes."""
    family = [site.web, *site.web.children(recursive=True)]
    return sum(process.memory_info().rss for process in family)


Keep = Callable[[dict[str, Any], Seen], object]


async def measure(
    site: Site, count: int, seconds: float, keep: Keep
) -> tuple[dict[str, Any], Seen]:
    """Run ``count`` chats for ``seconds`` after the last has begun; ``keep`` gets what is known so far."""
    address = urlsplit(site.url)
    seen = Seen()
    lasting = seconds + count / BEGIN_RATE + 2.0
    length = math.ceil(lasting / DELAY)
    # Whatever grows once, when the first chats come, has grown before.
    await _chats(site, seen, min(20, count), 5)
    empty = resident(site)
    seen = Seen()
    chats = await _opened(site, seen, count, length)
    opened = resident(site)
    for chat in chats:
        chat.begin()
        await asyncio.sleep(1 / BEGIN_RATE)
    while seen.running < count and not seen.wrong:  # noqa: ASYNC110 - it is all the same to a benchmark
        await asyncio.sleep(0.05)
    await asyncio.sleep(1.0)
    cpu = site.cpu_seconds()
    began, tokens = time.monotonic(), seen.tokens
    seen.steady = True

    def known(memory: Sequence[tuple[float, int]]) -> dict[str, Any]:
        took, came = time.monotonic() - began, seen.tokens - tokens
        return {
            "url": address.netloc,
            "streams": count,
            "streams_at_the_end": seen.running - seen.done,
            "sockets": len(chats),
            "seconds": round(took, 1),
            "seconds_asked": seconds,
            "tokens": seen.tokens,
            "tokens_per_second": round(came / took),
            "cpu_us_per_token": round((site.cpu_seconds() - cpu) / max(came, 1) * 1e6, 1),
            "rss_empty_mib": round(empty / MIB, 1),
            "rss_sockets_mib": round(opened / MIB, 1),
            "rss_streaming_mib": round(memory[-1][1] / MIB, 1),
            "kib_per_stream": round((memory[0][1] - empty) / count / 1024, 1),
            "rss_slope_mib_per_minute": round(slope(memory), 2),
            "rss_mib": [round(each / MIB, 1) for _, each in memory],
        }

    memory = await _watched(site, seen, seconds, lambda found: keep(known(found), seen))
    result = known(memory)
    seen.steady = False
    async with asyncio.timeout(60 + lasting):
        await asyncio.gather(*(chat.ended for chat in chats))
    for chat in chats:
        chat.close()
    return {**result, "tokens": seen.tokens}, seen


async def _opened(site: Site, seen: Seen, count: int, length: int) -> list[Chat]:
    address = urlsplit(site.url)
    loop = asyncio.get_running_loop()
    chats: list[Chat] = []
    for _ in range(count):
        _, chat = await loop.create_connection(
            lambda: Chat(address.netloc, site.token, length, seen), address.hostname, address.port
        )
        await chat.open()
        chats.append(chat)
    return chats


async def _chats(site: Site, seen: Seen, count: int, length: int) -> None:
    chats = await _opened(site, seen, count, length)
    for chat in chats:
        chat.begin()
    await asyncio.gather(*(chat.ended for chat in chats))
    for chat in chats:
        chat.close()


async def _watched(
    site: Site, seen: Seen, seconds: float, keep: Callable[[Sequence[tuple[float, int]]], None]
) -> list[tuple[float, int]]:
    """Return the memory over the time of the measurement; ``keep`` gets it now and then."""
    memory: list[tuple[float, int]] = []
    began, kept = time.monotonic(), 0.0
    while (now := time.monotonic() - began) < seconds and not seen.wrong:
        memory.append((now, resident(site)))
        if now - kept >= KEEP_SECONDS:
            kept = now
            keep(memory)
        await asyncio.sleep(min(SAMPLE_SECONDS, max(seconds - now, 0.01)))
    memory.append((time.monotonic() - began, resident(site)))
    return memory


def slope(memory: Sequence[tuple[float, int]]) -> float:
    """Return how the memory grows, in MiB per minute."""
    if len(memory) < 3:
        return 0.0
    line = linear_regression([at for at, _ in memory], [each / MIB for _, each in memory])
    return line.slope * 60


def judged(result: dict[str, Any]) -> list[dict[str, Any]]:
    wanted = [
        ("tokens lost, out of order, or broken off", result["wrong"], 0),
        ("added delay, p99, ms", result["delay_ms_p99"], DELAY_TARGET_MS),
        ("growth of memory, MiB per minute", result["rss_slope_mib_per_minute"], SLOPE_TARGET),
    ]
    return [
        {"what": what, "value": value, "target": most, "met": value <= most}
        for what, value, most in wanted
    ]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="mh bench streams", description=(__doc__ or "").strip())
    parser.add_argument("--minutes", type=float, default=1.0, help="How long all run together (1).")
    parser.add_argument("--streams", type=int, default=1000, help="Chats at once (1000).")
    parser.add_argument("--server", default="uvicorn", choices=("uvicorn", "granian", "daphne"))
    return parser.parse_args()


def main() -> None:
    asked = arguments()
    begin = machine.load()
    raise_file_limit(asked.streams * 2 + 200)

    def keep(result: dict[str, Any], seen: Seen, delays: "array[float]") -> dict[str, Any]:
        facts = {**machine.facts(), "load": [begin, machine.load()]}
        found = {"server": asked.server, **result, **_delays(seen, delays)}
        kept = {"machine": facts, "targets": judged(found), "result": found}
        machine.save("streams", kept)
        return kept

    with running(asked.server, "", Path(PROGRAM)) as site:
        result, seen = uvloop.run(
            measure(
                site,
                asked.streams,
                asked.minutes * 60,
                # While tokens come there is no time to sort all of them.
                lambda found, seen: keep(found, seen, seen.delays[:: len(seen.delays) // SOME + 1]),
            )
        )
    _show(keep(result, seen, seen.delays))


def _delays(seen: Seen, delays: "array[float]") -> dict[str, Any]:
    parts = quantiles(delays, n=100, method="inclusive") if len(delays) > 1 else [0.0] * 99
    return {
        "wrong": len(seen.wrong),
        "wrong_examples": seen.wrong[:5],
        "delay_ms_p50": round(parts[49] * 1e3, 2),
        "delay_ms_p99": round(parts[98] * 1e3, 2),
        "delay_ms_max": round(max(delays, default=0.0) * 1e3, 2),
    }


def _show(kept: dict[str, Any]) -> None:
    result, load = kept["result"], kept["machine"]["load"]
    print(
        f"{result['streams']} chats at once, one socket each, {result['seconds']} s, "
        f"{result['tokens_per_second']} tokens/s, load {load[0]} to {load[1]}\n"
        f"memory: {result['rss_empty_mib']} MiB empty, {result['rss_sockets_mib']} with the sockets open, "
        f"{result['rss_streaming_mib']} at the end; {result['kib_per_stream']} KiB per stream; "
        f"slope {result['rss_slope_mib_per_minute']} MiB per minute\n"
        f"added delay: p50 {result['delay_ms_p50']} ms, p99 {result['delay_ms_p99']} ms, "
        f"max {result['delay_ms_max']} ms; CPU {result['cpu_us_per_token']} µs per token"
    )
    words = {True: "met", False: "MISSED"}
    rows = [(v["what"], v["value"], f"≤ {v['target']}", words[v["met"]]) for v in kept["targets"]]
    print("\n" + table([("target", "measured", "", ""), *rows]))
    if result["wrong_examples"]:
        print("\n".join(result["wrong_examples"]))


def raise_file_limit(wanted: int) -> None:
    """Allow as many open files as the sockets need, as far as this process may."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


if __name__ == "__main__":
    main()
