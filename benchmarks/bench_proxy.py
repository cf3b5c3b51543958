"""What does a proxy cost? CPU per token, time added to the first token, requests per second: ours and others.

64-token SSE chat streams, 1, 50 and 200 at once, with the same engine behind each proxy, which costs next to
nothing. CPU is that of the proxy's processes alone, everything counted: the requests too, divided by all
tokens. Two things are taken of each load:

- *flat out*: the engine writes its tokens, one write each, as fast as it can. CPU per token, and requests per
  second on the processors that the engine and the clients use too. The numbers in circulation are of this kind.
- *paced*: at every step, 20 ms apart (5 ms for one stream alone), the engine writes one token to each stream,
  as one that batches does. Each token is read and written by itself: CPU per token is mostly the kernel's, and
  higher for everybody. The time added to the first token is what the same load measures of the engine directly.

Each is taken three times; the lowest CPU counts, because what else runs on a machine only ever adds to it.

Ours is measured as people run it: signed in by token, with usage and audit.

    mh bench proxy --only nginx --only uvicorn --requests 200
"""

import argparse
import contextlib
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
#: Streams at once, their number in all, and the seconds between two tokens.
LOADS: Final = ((1, 40, 0.005), (50, 600, 0.02), (200, 1200, 0.02))
#: Seconds after which no more streams of a load begin: slow proxies are measured on fewer.
SECONDS_MAX: Final = 30.0
#: How often each is taken.
ROUNDS: Final = 3
TARGETS: Final = {"/v1": 45.0, "/ws/chat/": 80.0}
#: The load that the targets are for.
TARGET_LOAD: Final = 50


@dataclass
class Proxy:
    """One that is up."""

    url: str
    version: str
    cpu_seconds: Callable[[], float]
    token: str = ""
    client: type[HttpClient] | type[SocketClient] = HttpClient


def tree_cpu(root: psutil.Process) -> float:
    """Return the CPU seconds of a process, those below it, and those below it that have ended."""
    total = 0.0
    for process in [root, *root.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


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
        yield Proxy(site.url, "", site.cpu_seconds, site.token, client)


SERVERS: Final = ("uvicorn", "granian", "daphne")
PROXIES: Final[dict[str, Callable[[], AbstractContextManager[Proxy]]]] = {
    "direct": _direct,
    "nginx": lambda: _peer(peers.nginx),
    "vllm-router": lambda: _peer(peers.vllm_router),
    "litellm": lambda: _peer(peers.litellm),
    **{name: lambda name=name: _ours(name, HttpClient) for name in SERVERS},  # type: ignore[misc]
    **{f"{name}-ws": lambda name=name: _ours(name, SocketClient) for name in SERVERS},  # type: ignore[misc]
}


async def measure(
    proxy: Proxy, requests: int | None, at_once: Sequence[int] = ()
) -> list[dict[str, Any]]:
    """Take every load, or some; the first streams, while everything grows warm, do not count."""
    await _take(proxy, 10, 40, 0.005)
    loads = [load for load in LOADS if not at_once or load[0] in at_once]
    return [await _row(proxy, *_counted(load, requests)) for load in loads]


def _counted(load: tuple[int, int, float], requests: int | None) -> tuple[int, int, float]:
    at_once, usual, delay = load
    return (at_once, max(requests, at_once) if requests else usual, delay)


async def _row(proxy: Proxy, at_once: int, requests: int, delay: float) -> dict[str, Any]:
    before = machine.load()
    each = max(requests // ROUNDS, at_once)
    flat = [await _measured(proxy, at_once, each, 0) for _ in range(ROUNDS)]
    paced = [await _measured(proxy, at_once, each, delay) for _ in range(ROUNDS)]
    firsts = Taken()
    for _, taken in paced:
        firsts.first_token_seconds += taken.first_token_seconds
    return {
        "streams": at_once,
        "requests": sum(taken.requests for _, taken in flat + paced),
        "cpu_us_per_token": min(cpu for cpu, _ in flat),
        "cpu_us_per_token_paced": min(cpu for cpu, _ in paced),
        "cpu_us_per_token_all": [[cpu for cpu, _ in flat], [cpu for cpu, _ in paced]],
        "requests_per_second": round(max(t.requests / t.seconds for _, t in flat), 1),
        "first_token_ms_p50": round(firsts.first_ms(50), 2),
        "first_token_ms_p99": round(firsts.first_ms(99), 2),
        "load": [before, machine.load()],
    }


async def _measured(proxy: Proxy, at_once: int, requests: int, delay: float) -> tuple[float, Taken]:
    cpu = proxy.cpu_seconds()
    taken = await _take(proxy, at_once, requests, delay)
    return per_token(proxy.cpu_seconds() - cpu, taken), taken


async def _take(proxy: Proxy, at_once: int, requests: int, delay: float) -> Taken:
    return await flow(
        proxy.url,
        at_once=at_once,
        requests=requests,
        kind=proxy.client,
        token=proxy.token,
        delay=delay,
        seconds=SECONDS_MAX,
    )


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
                found[name] = {
                    "version": proxy.version,
                    "loads": uvloop.run(measure(proxy, requests, at_once)),
                }
        except NotHereError as exc:
            print(f"  left out: {exc}", flush=True)
            found[name] = {"left_out": str(exc)}
        keep(found)
    return found


def add_ratios(found: dict[str, Any]) -> None:
    """Add what each row is, measured by the others in the same run."""
    for name, entry in found.items():
        for row in entry.get("loads", ()):
            direct = _same(found, "direct", row)
            if direct and name != "direct":
                for key in ("first_token_ms_p50", "first_token_ms_p99"):
                    row[key.replace("_ms_", "_ms_added_")] = round(row[key] - direct[key], 2)
            for other in ("nginx", "vllm-router", "litellm"):
                theirs = _same(found, other, row)
                if theirs and name not in {other, "direct"}:
                    row[f"of_{other}"] = _ratio(row, theirs, "cpu_us_per_token")
                    row[f"of_{other}_paced"] = _ratio(row, theirs, "cpu_us_per_token_paced")


def _ratio(row: dict[str, Any], theirs: dict[str, Any], key: str) -> float | None:
    return round(row[key] / theirs[key], 3) if theirs[key] else None


def _same(found: dict[str, Any], name: str, row: dict[str, Any]) -> dict[str, Any] | None:
    loads: list[dict[str, Any]] = found.get(name, {}).get("loads", [])
    return next((each for each in loads if each["streams"] == row["streams"]), None)


HEADING: Final = (
    "proxy",
    "at once",
    "µs/token",
    "of nginx",
    "of router",
    "of LiteLLM",
    "req/s",
    "µs paced",
    "of nginx",
    "of router",
    "of LiteLLM",
    "first ms",
    "added p50",
    "added p99",
    "load",
)
_SHOWN: Final = (
    "cpu_us_per_token",
    "of_nginx",
    "of_vllm-router",
    "of_litellm",
    "requests_per_second",
    "cpu_us_per_token_paced",
    "of_nginx_paced",
    "of_vllm-router_paced",
    "of_litellm_paced",
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


def judged(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return each target with what the best of our servers reached."""
    verdicts: list[dict[str, Any]] = []
    for surface, limit, names in (
        ("/v1", TARGETS["/v1"], SERVERS),
        ("/ws/chat/", TARGETS["/ws/chat/"], [f"{name}-ws" for name in SERVERS]),
    ):
        rows = [
            (name, row)
            for name in names
            for row in found.get(name, {}).get("loads", ())
            if row["streams"] == TARGET_LOAD
        ]
        if not rows:
            continue
        name, best = min(rows, key=lambda pair: pair[1]["cpu_us_per_token"])
        wanted = [(f"{surface}: µs per token", best["cpu_us_per_token"], limit)]
        if surface == "/v1":
            wanted += [
                (
                    f"{surface}: of {other}{kind.replace('_', ', ')}",
                    best.get(f"of_{other}{kind}"),
                    most,
                )
                for kind in ("", "_paced")
                for other, most in (("nginx", 3.0), ("vllm-router", 1.7), ("litellm", 1 / 15))
            ]
            wanted += [
                ("/v1: ms added, one alone", row.get("first_token_ms_added_p50"), 3.0)
                for row in found[name]["loads"]
                if row["streams"] == 1
            ]
        verdicts += [
            {
                "what": what,
                "server": name,
                "value": value,
                "target": round(most, 3),
                "met": value <= most,
            }
            for what, value, most in wanted
            if value is not None
        ]
    return verdicts


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
        choices=[n for n, _, _ in LOADS],
        default=[],
        help="Take only this load; may be given again. All of them by default.",
    )
    parser.add_argument(
        "--requests",
        type=int,
        default=None,
        help="Streams of each load (default: "
        + ", ".join(f"{count} with {n} at once" for n, count, _ in LOADS)
        + ").",
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
            (v["what"], v["server"], v["value"], f"≤ {v['target']}", words[v["met"]])
            for v in verdicts
        ]
        print("\n" + table([("target", "server", "measured", "", ""), *rows]))


if __name__ == "__main__":
    main()
