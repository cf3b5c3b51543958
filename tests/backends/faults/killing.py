"""The kill matrix: which kills there are, made from the plans of operations, and how each comes about."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

import psutil

from backends.models import OperationKind
from backends.operations import plans, rollback
from tests.backends.faults.whole_site import BACKENDS, WholeSite, until

When = Literal["before", "after"]
OPEN: Final = frozenset({"queued", "running"})
ENGINES: Final = ("engine", "engine child")
VICTIMS: Final = ("web", "worker", "broker", "keeper", *ENGINES)
FAILING: Final = "--engine-core --behaviour exit=error"
WORKING: Final = "--engine-core"
MODEL: Final = "pulled-model"


def other(name: str) -> str:
    return next(each for each in BACKENDS if each != name)


@dataclass(frozen=True)
class Kind:
    """How an operation of one kind is brought about."""

    #: Whether a backend serves before it.
    serving: bool
    #: Asks for it, given the backend that serves (else ``left``), and returns it.
    ask: Callable[[WholeSite, str], dict[str, Any]]
    #: Puts back what ``ask`` changed.
    tidy: Callable[[WholeSite], None] = lambda _: None


def _rolled_back(site: WholeSite, serving: str) -> dict[str, Any]:
    site.configure(other(serving), arguments=FAILING)
    return site.ask("switch", other(serving))


def _delete(site: WholeSite, serving: str) -> dict[str, Any]:
    pulled = site.pull(serving, MODEL, wait=30)
    assert pulled["state"] == "succeeded", pulled
    return site.delete(serving, MODEL)


def _tidy(site: WholeSite) -> None:
    for name in BACKENDS:
        site.configure(name, arguments=WORKING)


def _change_model(site: WholeSite, serving: str) -> dict[str, Any]:
    served = site.status()["available"][serving]["model"]
    model = next(each for each in ("fake-model", "other-model") if each != served)
    return site.ask("model", serving, model=model)


def _apply(site: WholeSite, serving: str) -> dict[str, Any]:
    """Apply options that nothing was started with before."""
    options = {"arguments": f"{WORKING} --max-model-len {time.time_ns() % 10**9}"}
    path = f"/api/llm-backend/{serving}/config"
    answer = site.client.patch(path, json={"options": options, "apply": True})
    assert answer.status_code == 200, answer.text
    return dict(answer.json()["operation"])


def _unload(site: WholeSite, serving: str) -> dict[str, Any]:
    """Let it be idle until the observer asks."""
    site.configure(serving, idleUnloadSeconds=1)

    def asked() -> dict[str, Any] | None:
        rows = site.client.get("/api/llm-backend/operations", params={"limit": "1"}).json()
        row = dict(rows["results"][0])
        return row if row["kind"] == OperationKind.UNLOAD and row["state"] in OPEN else None

    return dict(until(asked, 15, f"{serving} is idle and is unloaded"))


def _tidy_idle(site: WholeSite) -> None:
    for name in BACKENDS:
        site.configure(name, idleUnloadSeconds=None)


#: Every kind of operation there is; one that is missing fails a test.
KINDS: Final[dict[str, Kind]] = {
    OperationKind.START: Kind(False, lambda site, name: site.ask("start", name)),
    OperationKind.STOP: Kind(True, lambda site, name: site.ask("stop", name)),
    OperationKind.RESTART: Kind(True, lambda site, name: site.ask("restart", name)),
    OperationKind.SWITCH: Kind(True, lambda site, name: site.ask("switch", other(name))),
    OperationKind.PULL: Kind(True, lambda site, name: site.pull(name, MODEL)),
    OperationKind.DELETE: Kind(True, _delete),
    OperationKind.INSTALL: Kind(
        True, lambda site, name: site.post(f"/api/llm-backend/{name}/install")
    ),
    OperationKind.CHANGE_MODEL: Kind(True, _change_model),
    OperationKind.APPLY: Kind(True, _apply, _tidy),
    OperationKind.UNLOAD: Kind(True, _unload, _tidy_idle),
}
#: Steps these engines never take, since they serve one model each: ``test_change_model.py`` loses the
#: runner in the middle of both.
ELSEWHERE: Final = frozenset({"load", "unload"})
#: A switch that fails at its start has one step more.
ROLLED_BACK: Final = Kind(True, _rolled_back, _tidy)


@dataclass(frozen=True)
class Case:
    """One kill."""

    kind: str
    step: str
    when: When
    victim: str

    @property
    def id(self) -> str:
        return f"{self.kind}-{self.step}-{self.victim.replace(' ', '_')}"

    @property
    def point(self) -> dict[str, str]:
        return {"kind": self.kind, "step": self.step, "when": self.when}

    @property
    def how(self) -> Kind:
        return ROLLED_BACK if self.step == rollback.NAME else KINDS[self.kind]

    @property
    def needs_engine(self) -> bool:
        return self.victim in {"keeper", *ENGINES}


def cases() -> list[Case]:
    """Return every kill: at every step of every plan, of each victim that lives there."""
    found = [
        Case(kind, step, when, victim)
        for kind, plan in plans.PLANS.items()
        for step, when, has_engine in points(kind, [plans.step_name(step) for step in plan])
        for victim in VICTIMS
        if step not in ELSEWHERE
        if has_engine or victim not in {"keeper", *ENGINES}
    ]
    undoing = [Case(OperationKind.SWITCH, rollback.NAME, "after", victim) for victim in VICTIMS]
    return found + undoing


def sample() -> set[Case]:
    """Return the kills of a usual run: every step of every operation once, the victims taking turns."""
    by_point: dict[tuple[str, str], list[Case]] = {}
    for case in cases():
        by_point.setdefault((case.kind, case.step), []).append(case)
    return {here[turn % len(here)] for turn, here in enumerate(by_point.values())}


def points(kind: str, steps: list[str]) -> Iterator[tuple[str, When, bool]]:
    """Yield for every step when to kill, and whether there is an engine then.

    It is when the step has done its work and nobody knows yet, which is the worst moment; for those
    that end the engine it is before, so that there is one.
    """
    lives = kind not in KINDS or KINDS[kind].serving
    for step in steps:
        if step == "release":
            yield step, "before", lives
            lives = False
            continue
        lives = lives or step == "start"
        yield step, "after", lives


def victim_of(site: WholeSite, case: Case) -> psutil.Process:
    """Return the process that is to be killed."""
    if not case.needs_engine:
        return site.parts()[case.victim]
    seen = site.seen_all().values()
    kept = {"keeper": "keepers", "engine": "engines", "engine child": "children"}[case.victim]
    living: list[psutil.Process] = [process for each in seen for process in getattr(each, kept)]
    assert living, f"no {case.victim} lives at {case.point}; see tests/backends/faults/killing.py"
    return living[0]
