"""``mh vllm doctor``, ``mh ollama doctor``: what stands against a start, and what to do about it."""

from collections.abc import Iterator
from typing import Any

import typer

from mhsite.cli.context import site_ready
from mhsite.cli.engine import NOT_RUNNING
from mhsite.cli.finding import Finding
from mhsite.cli.output import Json, Output, size


def commands(app: typer.Typer, name: str, title: str) -> None:
    """Add the command to those of engine ``name``."""

    @app.command(
        help=f"Look at what a start of {title} needs, and say what is wrong and what to do. Exit status 1 "
        "when something is wrong, 3 when it is not installed."
    )
    def doctor(*, as_json: Json = False) -> None:
        diagnose(name, Output(as_json=as_json))


def diagnose(name: str, out: Output) -> None:
    """Say what was found."""
    site_ready()
    from backends import selectors

    backend = selectors.backend_get(name)
    found = list(_findings(backend))
    payload = [{"subject": f.subject, "good": f.good, "message": f.message} for f in found]
    rows = [(f.subject, "ok" if f.good else "wrong", f.message) for f in found]
    out.table(
        {"backend": name, "findings": payload}, ("what", "how", "finding"), rows, empty="Nothing."
    )
    if not found[0].good:
        raise typer.Exit(NOT_RUNNING)
    if not all(finding.good for finding in found):
        raise typer.Exit(1)


def _findings(backend: Any) -> Iterator[Finding]:
    from backends import selectors

    engine = selectors.backend_engine(backend)
    detected = engine.detect()
    if not detected.installed:
        yield Finding("installed", False, detected.reason)
    else:
        version = f"{engine.title} {detected.version}".strip()
        yield Finding("installed", True, f"{version} ({detected.path})")
    yield _gpus()
    yield from _start(backend, engine)
    yield _server(backend, engine)
    yield _last(backend)


def _gpus() -> Finding:
    from backends import gpu

    found = gpu.gpus()
    names = ", ".join(
        f"{card.name}, {size(card.memory_used or 0)} of {size(card.memory_total or 0)} used"
        for card in found
    )
    return Finding("gpu", True, names or "no NVIDIA GPU or driver seen: it runs on the CPU")


def _start(backend: Any, engine: Any) -> Iterator[Finding]:
    """Say what the check before a start would: model, options, whether it fits."""
    from accounts.errors import MhError
    from backends import selectors

    try:
        options = selectors.backend_options(backend)
        problems = engine.preflight(options)
    except MhError as exc:
        yield Finding("options", False, exc.message)
        return
    model = str(getattr(options, "model", ""))
    for problem in problems:
        if problem.code != "engine_not_installed":
            yield Finding(problem.option or "start", False, problem.message)
    if not any(problem.option == "model" for problem in problems):
        yield Finding("model", True, f"{model} is here")
    if not problems:
        yield Finding("options", True, "a start would go ahead")
        yield _fits(backend)
    yield _port(backend, options)


def _fits(backend: Any) -> Finding:
    """Say whether there is memory for a start, by the plan."""
    from accounts.errors import MhError
    from backends import selectors
    from backends.planning import Verdict

    if selectors.backend_is_alive(backend):
        return Finding("fits", True, "it is in memory")
    try:
        found = selectors.backend_plan(backend.name, None, {})
    except MhError as exc:
        return Finding("fits", False, exc.message)
    if found.verdict == Verdict.DOES_NOT_FIT:
        return Finding("fits", False, f"{found.because} See: mh {backend.name} plan")
    return Finding("fits", True, found.because)


def _port(backend: Any, options: Any) -> Finding:
    from backends import ports, selectors

    port = options.port
    if selectors.backend_is_alive(backend):
        return Finding("port", True, f"{port} is its own")
    holder = ports.port_holder(port, options.host)
    if holder is None:
        return Finding("port", True, f"{port} is free")
    hint = f"Stop that, or choose another port: mh {backend.name} config port NUMBER"
    return Finding("port", False, f"{port} is in use by {holder}. {hint}")


def _server(backend: Any, engine: Any) -> Finding:
    from backends import selectors

    state = backend.state
    if not selectors.backend_is_alive(backend):
        return Finding("state", True, f"{state}. Start it: mh {backend.name} start")
    if not selectors.backend_is_running(backend):
        return Finding("state", True, state)
    target = selectors.backend_target(backend)
    try:
        healthy = engine.is_healthy(target, timeout=5.0)
    except Exception as exc:  # noqa: BLE001 — the boundary: a doctor survives every plugin
        return Finding("state", False, f"{state}, and {target.endpoint} fails: {exc}")
    if healthy:
        return Finding("state", True, f"{state}, {backend.model} at {target.endpoint}")
    hint = f"Look at its log, and restart it: mh {backend.name} logs; mh {backend.name} restart"
    return Finding("state", False, f"{state}, and {target.endpoint} does not answer. {hint}")


def _last(backend: Any) -> Finding:
    """Say why the last start failed, if it did."""
    if backend.state != "failed":
        return Finding("last start", True, "nothing to complain of")
    why = f"{backend.failure} {backend.failure_detail}".strip()
    return Finding("last start", False, f"{why} Its log: mh {backend.name} logs")
