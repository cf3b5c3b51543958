"""``mh vllm plan``, ``mh ollama plan``: does it fit?"""

from typing import TYPE_CHECKING, Any

import typer

from mhsite.cli.context import site_ready
from mhsite.cli.output import Output, size

if TYPE_CHECKING:
    from backends.planning import Plan

_WORDS = {
    "fits": "It fits.",
    "fits_after_release": "It fits once {releases} has given its memory back.",
    "does_not_fit": "It does not fit.",
    "unknown": "It cannot be said whether it fits.",
}


def plan(name: str, model: str | None, options: dict[str, Any], out: Output) -> None:
    """Say whether a start would fit; exit status 1 when it does not."""
    site_ready()
    from backends import selectors
    from backends.planning import Verdict

    found = selectors.backend_plan(name, model, options)
    if not out.as_json:
        _table(found, out)
    out.result(found.payload(), *_sentences(found))
    if found.verdict == Verdict.DOES_NOT_FIT:
        raise typer.Exit(1)


def _table(found: "Plan", out: Output) -> None:
    rows = [(what, _amount(count)) for what, count in _amounts(found) if count is not None]
    for gpu in found.gpus:
        free = f"{_amount(gpu.free)} free of {_amount(gpu.total)}"
        after = f", {_amount(gpu.freed)} given back" if gpu.freed else ""
        rows.append((f"GPU {gpu.index}: takes {_amount(gpu.takes)}", free + after))
    if rows:
        out.table(None, ("what", "memory"), rows, empty="")


def _amounts(found: "Plan") -> list[tuple[str, int | None]]:
    each = " per GPU" if len(found.gpus) > 1 else ""
    context = f" ({found.context_length} tokens)" if found.context_length else ""
    amounts = [
        (f"weights{each}", found.weights),
        (f"cache{each}{context}", found.kv_cache),
        (f"other{each}", found.other),
        ("needed" + (" by past starts" if found.measured else ""), found.needed),
    ]
    if found.memory == "host":
        amounts += [("available", found.free), ("given back", found.freed or None)]
    return amounts


def _amount(count: int | None) -> str:
    return "unknown" if count is None else size(count)


def _sentences(found: "Plan") -> list[str]:
    verdict = _WORDS[found.verdict].format(releases=" and ".join(found.releases) or "it")
    lines = [f"{verdict} {found.because}"]
    if found.context_fits:
        lines.append(f"Longest conversation that fits: {found.context_fits} tokens.")
    if found.suggestions:
        lines += ["What would help:", *(f"- {each.message}" for each in found.suggestions)]
    if found.expected_seconds is not None:
        lines.append(f"A start takes about {found.expected_seconds:.0f} s, by the last ones.")
    return lines
