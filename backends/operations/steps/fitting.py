"""Part of the preflight: a start that surely cannot fit is refused while nothing has been touched."""

from backends import selectors
from backends.errors import PreflightFailed
from backends.operations.context import Context
from backends.planning import Plan

#: Code of the refusal.
DOES_NOT_FIT = "does_not_fit"


def refuse_what_cannot_fit(ctx: Context) -> None:
    """Raise ``PreflightFailed`` where even the least the engine can need is more than there can be.

    What the operation itself gives back counts as free: the backend a switch leaves, a restart itself.
    What is unknown, or only likely not to fit, is tried. So is an engine that loads no model at its start.
    """
    if not ctx.launch.warm:
        return
    leaving = ctx.leaving
    backend = ctx.backend
    plan = selectors.plan_of(
        backend,
        ctx.options,
        leaving=[backend.name, *([leaving.name] if leaving else [])],
        machine=selectors.machine_now(backend.node),
    )
    ctx.planned_bytes = plan.needed
    if plan.refused:
        raise PreflightFailed(refusal(plan), code=DOES_NOT_FIT, param="model")


def refusal(plan: Plan) -> str:
    """Return why, and what would help."""
    if not plan.suggestions:
        return plan.because
    helps = " ".join(_sentence(each.message) for each in plan.suggestions)
    return f"{plan.because} What would help: {helps}"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
