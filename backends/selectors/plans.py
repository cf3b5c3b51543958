"""Does it fit? The planner with the facts of this site."""

import logging
from dataclasses import replace
from typing import Any

from django.conf import settings

from backends import (
    bus,
    lifecycle,
    plan_reading,
    planning,
    supervisor,
)
from backends.engines.base import Engine, Problem
from backends.engines.estimates import Estimate, unknown
from backends.errors import InvalidOptions, UnknownModel
from backends.lifecycle import State
from backends.models import (
    Backend,
    OperationKind,
)
from backends.selectors.expecting import start_seconds_expected
from backends.selectors.options import backend_options, backend_to_leave
from backends.selectors.rows import backend_engine, backend_get, backend_instance, backend_list

logger = logging.getLogger(__name__)


def backend_plan(
    name: str, model: str | None = None, options: dict[str, Any] | None = None
) -> planning.Plan:
    """Return whether backend ``name`` would fit, with ``model`` and ``options`` in place of its own.

    What a switch to it would stop, and what it holds itself, counts as given back. Changes nothing. The
    model's files are read here; memory is what the observer of its machine last saw.

    Raises:
        UnknownBackend, InvalidOptions.
        UnknownModel: it is not on this machine; the message names those that are.
    """
    backend = backend_get(name)
    changes = {**(options or {}), **({} if model is None else {"model": model})}
    wanted = backend_options(backend, changes)
    problems = [] if backend.attached else backend_engine(backend).preflight(wanted)
    for problem in problems:
        if problem.code == UnknownModel.code:
            raise UnknownModel(problem.message, param="model")
    leaving = backend_to_leave(backend, changes)
    kind = OperationKind.SWITCH if leaving and leaving.pk != backend.pk else OperationKind.START
    snapshot = bus.snapshot_read(backend.node) or {}
    machine = plan_reading.machine_seen(snapshot, _alive_on(backend.node))
    found = plan_of(
        backend,
        wanted,
        leaving=[backend.name, *([leaving.name] if leaving else [])],
        machine=machine or machine_now(backend.node),
        expected_seconds=start_seconds_expected(backend, kind),
    )
    return replace(found, problems=tuple(map(_obstacle, problems)))


def backend_plan_or_problems(
    name: str, model: str | None = None, options: dict[str, Any] | None = None
) -> planning.Plan:
    """Return the same; where nothing can be worked out of what was given, a plan that says why not.

    Raises:
        UnknownBackend.
    """
    backend = backend_get(name)
    try:
        return backend_plan(name, model, options)
    except (UnknownModel, InvalidOptions) as exc:
        option = (exc.param or "").removeprefix("options.") or None
        obstacle = planning.Obstacle(message=exc.message, option=option, code=exc.code)
        wanted = model or (options or {}).get("model") or ""
        return planning.Plan(
            backend=backend.name,
            model=str(wanted),
            verdict=planning.Verdict.UNKNOWN,
            because="",
            problems=(obstacle,),
        )


def _obstacle(problem: Problem) -> planning.Obstacle:
    return planning.Obstacle(message=problem.message, option=problem.option, code=problem.code)


def plan_of(
    backend: Backend,
    options: Any,
    *,
    leaving: list[str],
    machine: planning.Machine,
    expected_seconds: float | None = None,
) -> planning.Plan:
    """Return whether ``backend`` fits into ``machine`` with validated ``options`` once ``leaving`` are gone."""
    engine = backend_engine(backend)
    estimate = _estimate(engine, options)
    past = plan_reading.past_start(backend, estimate, options) if estimate else None
    return planning.plan(
        backend=backend.name,
        title=engine.title,
        estimate=estimate,
        machine=machine,
        leaving=leaving,
        past=past,
        expected_seconds=expected_seconds,
    )


def _estimate(engine: Engine, options: Any) -> Estimate | None:
    """Return what ``engine`` says; a bug in its plugin is no reason to refuse a start."""
    try:
        return engine.estimate(options)
    except Exception:
        logger.exception("%s cannot estimate", engine.name)
        model = str(getattr(options, "model", ""))
        return unknown(model, "Estimating it failed; the log of the site says how.")


def machine_now(node: str) -> planning.Machine:
    """Return the memory of the GPU machine ``node`` as it is now; of another machine nothing is known."""
    if node != settings.MH_NODE:
        return planning.Machine()
    starts = [
        (row.name, inst)
        for row in backend_list()
        for inst in [backend_instance(row)]
        if row.node == node and inst is not None
    ]
    return plan_reading.machine_now(
        {name: supervisor.tree(inst) for name, inst in starts},
        {name: supervisor.rss_bytes(inst) for name, inst in starts},
        _alive_on(node),
    )


def _alive_on(node: str) -> list[str]:
    """Return the backends of ``node`` that hold memory, whoever started them."""
    return [
        row.name
        for row in backend_list()
        if row.node == node and lifecycle.is_alive(State(row.state))
    ]
