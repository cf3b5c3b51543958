"""What does a proxy cost? CPU per token, time added to the first token, requests per second: ours and others.

64-token SSE chat streams, 1, 50 and 200 at once, with the same engine behind each proxy, which costs next to
nothing. CPU is that of the proxy's processes alone, everything counted: the requests too, divided by all
tokens. Each load is taken at three paces of the engine, which at each step writes one token to each stream, as
one that batches does:

- *flat*: the next step begins at once. Tokens arrive together: it is requests that cost. Requests per second
  are taken here, on the processors that the engine and the clients use too.
- *busy*: steps are 5 ms apart. Each token is read and written by itself, and the proxy has work all the time.
- *paced*: 20 ms apart. The proxy sleeps between the steps, and each costs most, for everybody.

The time added to the first token is what the busy load measures less what the engine alone does.
Each is taken three times at 50 at once, twice at the others; the lowest CPU counts, because what else runs on a machine only ever adds to it.
LiteLLM, which is far away from all others, is taken once.

Ours is measured as people run it: signed in by token, with usage and audit. Each request must have left its
record of usage. ``floor`` is the least an ASGI application can do, which does none of that (``floor.py``).

    mh bench proxy --only nginx --only uvicorn --requests 200
"""

import argparse
import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil
import uvloop

from benchmarks import machine, peers
from benchmarks.flow import TOKENS, HttpClient, SocketClient, Taken, flow
from benchmarks.load import table
from benchmarks.peers import NotHereError
from benchmarks.site import engine_process, running

PROGRAM: Final = Path(__file__).parent / "engine.py"
#: Seconds between two tokens of a stream.
PACES: Final = {"flat": 0.0, "busy": 0.005, "paced": 0.02}
#: Streams at once, and how many are taken in each round at each pace.
LOADS: Final[dict[int, dict[str, int]]] = {
    1: {"flat": 20, "busy": 8, "paced": 1},
    50: {"flat": 200, "busy": 200, "paced": 100},
    200: {"flat": 400, "busy": 400, "paced": 200},
}
#: Seconds after which no more streams of a round begin: slow proxies are measured on fewer.
SECONDS_MAX: Final = 8.0
#: How often each is taken at the load that the targets are for, and how often at most at the others.
ROUNDS: Final = 3
ROUNDS_ELSEWHERE: Final = 2
#: Those that are not taken as often.
ROUNDS_OF: Final = {"litellm": 1}
TARGETS: Final = {"/v1": 45.0, "/ws/chat/": 80.0}
#: The load that the targets are for.
TARGET_LOAD: Final = 50
#: Seconds in which the last request's usage must be in the database.
RECORDS_SECONDS: Final = 20.0


@dataclass
class Proxy:
    """One that is up."""

    url: str
    version: str
    cpu_seconds: Callable[[], float]
    token: str = ""
    client: type[HttpClient] | type[SocketClient] = HttpClient
    #: Records of usage it has written so far; None where it writes none.
    records: Callable[[], int] | None = None
    #: Requests it has answered so far.
    requests: int = 0


def tree_cpu(root: psutil.Process) -> float:
    """Return the CPU seconds, user and system, of a process and those below it."""
    total = 0.0
    for process in [root, *root.children(recursive=True)]:
        with contextlib.suppress(OSError):
            total += time.clock_gettime(_cpu_clock(process.pid))
    return total


def _cpu_clock(pid: int) -> int:
    """Return the clock of a process's CPU time, in nanoseconds where ``/proc`` has hundredths of a second.

    Source: Linux, ``clock_getcpuclockid(3)``, and ``CPUCLOCK_SCHED`` of ``posix-timers_types.h``.
    """
    return (~pid << 3) | 2


@contextmanager
def _direct() -> Iterator[Proxy]:
    with engine_process(PROGRAM) as engine:
        yield Proxy(engine, "", lambda: 0.0)


@contextmanager
def _peer(start: Callable[[str], AbstractContextManager[peers.Peer]]) -> Iterator[Proxy]:
    with engine_process(PROGRAM) as engine, start(engine) as peer:
        token = peers.LITELLM_KEY if start is peers.litellm else ""
        yield Proxy(peer.url, peer.version, lambda: tree_cpu(peer.process), token)


@contextmanager
def _ours(server: str, client: type[HttpClient] | type[SocketClient]) -> Iterator[Proxy]:
    with running(server, "", PROGRAM) as site:
        yield Proxy(
            site.url, "", lambda: tree_cpu(site.web), site.token, client, records=site.usage_records
        )


SERVERS: Final = ("uvicorn", "granian", "daphne")
PROXIES: Final[dict[str, Callable[[], AbstractContextManager[Proxy]]]] = {
    "direct": _direct,
    "nginx": lambda: _peer(peers.nginx),
    "vllm-router": lambda: _peer(peers.vllm_router),
    "litellm": lambda: _peer(peers.litellm),
    "floor": lambda: _peer(peers.floor),
    **{name: lambda name=name: _ours(name, HttpClient) for name in SERVERS},  # type: ignore[misc]
    **{f"{name}-ws": lambda name=name: _ours(name, SocketClient) for name in SERVERS},  # type: ignore[misc]
}


async def measure(
    proxy: Proxy, requests: int | None, at_once: Sequence[int] = (), rounds: int = ROUNDS
) -> list[dict[str, Any]]:
    """Take every load, or some; the first streams, while everything grows warm, do not count.

    Args:
        proxy: that is up.
        requests: of a round, instead of as many as usual.
        at_once: the loads to take; all of them where there are none.
        rounds: how often each is taken.
    """
    await _take(proxy, 10, 40, PACES["busy"])
    return [
        await _row(
            proxy,
            number,
            dict.fromkeys(counts, requests) if requests else counts,
            rounds if number == TARGET_LOAD else min(rounds, ROUNDS_ELSEWHERE),
        )
        for number, counts in LOADS.items()
        if not at_once or number in at_once
    ]


async def _row(proxy: Proxy, at_once: int, counts: dict[str, int], rounds: int) -> dict[str, Any]:
    before = machine.load()
    row: dict[str, Any] = {"streams": at_once, "requests": 0, "cpu_us_per_token_all": {}}
    for pace, delay in PACES.items():
        count = max(counts[pace], at_once)
        found = [await _measured(proxy, at_once, count, delay) for _ in range(rounds)]
        row["requests"] += sum(taken.requests for _, taken in found)
        row["cpu_us_per_token_all"][pace] = [cpu for cpu, _ in found]
        row[f"cpu_us_per_token_{pace}"] = min(cpu for cpu, _ in found)
        if pace == "flat":
            fastest = max(taken.requests / taken.seconds for _, taken in found)
            row["requests_per_second"] = round(fastest, 1)
        if pace == "busy":
            row |= _firsts([taken for _, taken in found])
    return {**row, "load": [before, machine.load()]}


def _firsts(found: Sequence[Taken]) -> dict[str, float]:
    both = Taken(
        first_token_seconds=[each for taken in found for each in taken.first_token_seconds]
    )
    return {f"first_token_ms_p{percent}": round(both.first_ms(percent), 2) for percent in (50, 99)}


async def _measured(proxy: Proxy, at_once: int, requests: int, delay: float) -> tuple[float, Taken]:
    cpu = proxy.cpu_seconds()
    taken = await _take(proxy, at_once, requests, delay)
    return per_token(proxy.cpu_seconds() - cpu, taken), taken


async def _take(proxy: Proxy, at_once: int, requests: int, delay: float) -> Taken:
    taken = await flow(
        proxy.url,
        at_once=at_once,
        requests=requests,
        kind=proxy.client,
        token=proxy.token,
        delay=delay,
        seconds=SECONDS_MAX,
    )
    proxy.requests += taken.requests
    return taken


def per_token(cpu: float, taken: Taken) -> float:
    return round(cpu / taken.tokens * 1e6, 1)


def run(
    names: Sequence[str],
    requests: int | None,
    at_once: Sequence[int] = (),
    *,
    keep: Callable[[dict[str, Any]], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure the proxies of these names, one after the other; say why one is left out.

    ``keep`` gets what was found so far, after each: a run that is interrupted is not lost.
    """
    found: dict[str, Any] = {}
    for name in names:
        print(f"{name}… (load {machine.load()})", flush=True)
        try:
            with PROXIES[name]() as proxy:
                rounds = ROUNDS_OF.get(name, ROUNDS)
                loads = uvloop.run(measure(proxy, requests, at_once, rounds))
                found[name] = {"version": proxy.version, "loads": loads, **_recorded(proxy)}
        except NotHereError as exc:
            print(f"  left out: {exc}", flush=True)
            found[name] = {"left_out": str(exc)}
        keep(found)
    return found


def _recorded(proxy: Proxy) -> dict[str, int]:
    """Return how many records of usage were written, once all are; end where some are missing."""
    if proxy.records is None:
        return {}
    deadline = time.monotonic() + RECORDS_SECONDS
    while (records := proxy.records()) < proxy.requests and time.monotonic() < deadline:
        time.sleep(0.2)
    if records != proxy.requests:
        raise SystemExit(f"{proxy.url}: {proxy.requests} requests left {records} records of usage")
    return {"usage_records": records}


def add_ratios(found: dict[str, Any]) -> None:
    """Add what each row is, measured by the others in the same run."""
    for name, entry in found.items():
        for row in entry.get("loads", ()):
            direct = _same(found, "direct", row)
            if direct and name != "direct":
                for key in ("first_token_ms_p50", "first_token_ms_p99"):
                    row[key.replace("_ms_", "_ms_added_")] = round(row[key] - direct[key], 2)
            for other in ("nginx", "vllm-router", "litellm", "floor"):
                theirs = _same(found, other, row)
                if theirs and name not in {other, "direct"}:
                    for pace in PACES:
                        row[f"of_{other}_{pace}"] = _ratio(row, theirs, f"cpu_us_per_token_{pace}")


def _ratio(row: dict[str, Any], theirs: dict[str, Any], key: str) -> float | None:
    return round(row[key] / theirs[key], 3) if theirs[key] else None


def _same(found: dict[str, Any], name: str, row: dict[str, Any]) -> dict[str, Any] | None:
    loads: list[dict[str, Any]] = found.get(name, {}).get("loads", [])
    return next((each for each in loads if each["streams"] == row["streams"]), None)


HEADING: Final = (
    "proxy",
    "at once",
    "flat µs",
    "busy µs",
    "paced µs",
    "req/s",
    "first ms",
    "added p50",
    "added p99",
    "load",
)
_SHOWN: Final = (
    *(f"cpu_us_per_token_{pace}" for pace in PACES),
    "requests_per_second",
    "first_token_ms_p50",
    "first_token_ms_added_p50",
    "first_token_ms_added_p99",
)


def lines(found: dict[str, Any]) -> Iterator[tuple[object, ...]]:
    for name, entry in found.items():
        for row in entry.get("loads", ()):
            shown = [row.get(key) for key in _SHOWN]
            cells = ["" if value is None else value for value in shown]
            yield (name, row["streams"], *cells, row["load"][1])


@dataclass(frozen=True)
class Verdict:
    """A target, and what the best of our servers reached."""

    what: str
    server: str
    value: float
    target: float
    #: What the least that an ASGI application can do reached.
    floor: float | None = None

    def fields(self) -> dict[str, Any]:
        return {**vars(self), "target": round(self.target, 3), "met": self.value <= self.target}


def judged(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return each target at each pace with what the best of our servers reached."""
    sockets = [f"{name}-ws" for name in SERVERS]
    verdicts = [
        verdict
        for pace in PACES
        for verdict in (*_of_v1(found, pace), *_cpu(found, "/ws/chat/", sockets, pace))
    ]
    alone = [(name, row) for name in SERVERS for row in _rows(found, name, 1)]
    added = [
        (row["first_token_ms_added_p50"], name)
        for name, row in alone
        if "first_token_ms_added_p50" in row
    ]
    if added:
        value, name = min(added)
        verdicts.append(Verdict("/v1: ms added to the first token, one alone", name, value, 3.0))
    return [verdict.fields() for verdict in verdicts]


def _of_v1(found: dict[str, Any], pace: str) -> Iterator[Verdict]:
    yield from _cpu(found, "/v1", SERVERS, pace)
    for other, most in (("nginx", 3.0), ("vllm-router", 1.7), ("litellm", 1 / 15)):
        best = _best(found, SERVERS, f"of_{other}_{pace}")
        if best is not None:
            floor = _floor(found, f"of_{other}_{pace}")
            yield Verdict(f"/v1, {pace}: of {other}", best[1], best[0], most, floor)


def _cpu(found: dict[str, Any], surface: str, names: Sequence[str], pace: str) -> Iterator[Verdict]:
    key = f"cpu_us_per_token_{pace}"
    best = _best(found, names, key)
    if best is not None:
        target, floor = TARGETS[surface], _floor(found, key) if surface == "/v1" else None
        yield Verdict(f"{surface}, {pace}: µs per token", best[1], best[0], target, floor)


def _floor(found: dict[str, Any], key: str) -> float | None:
    best = _best(found, ["floor"], key)
    return best[0] if best else None


def _best(found: dict[str, Any], names: Sequence[str], key: str) -> tuple[float, str] | None:
    values = [
        (row[key], name)
        for name in names
        for row in _rows(found, name, TARGET_LOAD)
        if row.get(key) is not None
    ]
    return min(values, default=None)


def _rows(found: dict[str, Any], name: str, at_once: int) -> list[dict[str, Any]]:
    return [row for row in found.get(name, {}).get("loads", ()) if row["streams"] == at_once]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="mh bench proxy", description=(__doc__ or "").strip())
    parser.add_argument(
        "--only",
        action="append",
        choices=list(PROXIES),
        default=[],
        help="Measure this one; may be given again. All of them by default.",
    )
    parser.add_argument(
        "--at-once",
        action="append",
        type=int,
        choices=list(LOADS),
        default=[],
        help="Take only this load; may be given again. All of them by default.",
    )
    parser.add_argument(
        "--requests",
        type=int,
        default=None,
        help="Streams of each round, at least as many as at once (each pace has its own by default).",
    )
    return parser.parse_args()


def main() -> None:
    asked = arguments()
    begin = machine.load()

    def keep(found: dict[str, Any]) -> None:
        add_ratios(found)
        machine.save(
            "proxy",
            {
                "machine": {**machine.facts(), "load": [begin, machine.load()]},
                "tokens_per_stream": TOKENS,
                "targets": judged(found),
                "proxies": found,
            },
        )

    found = run(asked.only or list(PROXIES), asked.requests, asked.at_once, keep=keep)
    verdicts = judged(found)
    print(table([HEADING, *lines(found)]))
    if verdicts:
        words = {True: "met", False: "MISSED"}
        rows = [
            (
                *(v["what"], v["server"], v["value"], f"≤ {v['target']}", words[v["met"]]),
                "" if v["floor"] is None else v["floor"],
            )
            for v in verdicts
        ]
        print("\n" + table([("target", "server", "measured", "", "", "floor"), *rows]))


if __name__ == "__main__":
    main()
