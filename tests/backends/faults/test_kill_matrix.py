"""SIGKILL at every step of every operation, of everything there is, one at a time, on a whole site.

Made from ``backends.operations.plans.PLANS``: a new step, or a new kind of operation, is covered, or
fails a test here. Afterwards what the site says is true, nothing is left over, the next operation
works and the audit is complete.
"""

import os
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from backends.operations import plans
from tests.backends.faults import killing
from tests.backends.faults.killing import ENGINES, Case
from tests.backends.faults.whole_site import WholeSite, until

#: Seconds from a kill until what the site says is true again, on a machine that is not overloaded.
TRUE_WITHIN = 15.0
ENDED = {"succeeded", "failed", "rolled_back", "cancelled"}


@pytest.fixture(scope="module")
def site(running_site: WholeSite) -> Iterator[WholeSite]:
    """The site, as the case before left it."""
    running_site.calm()
    yield running_site
    running_site.calm()


def test_every_kind_of_operation_is_killed() -> None:
    missing = plans.PLANS.keys() - killing.KINDS.keys()
    assert not missing, f"say in killing.KINDS how these are brought about: {sorted(missing)}"
    steps = {
        (kind, plans.step_name(step))
        for kind, plan in plans.PLANS.items()
        for step in plan
        if plans.step_name(step) not in killing.ELSEWHERE
    }
    for victim in ("web", "worker", "broker"):
        killed = {(case.kind, case.step) for case in killing.cases() if case.victim == victim}
        assert killed >= steps
    for victim in ("keeper", *ENGINES):
        assert any(case.victim == victim for case in killing.cases())


def _parameters() -> list[Any]:
    usual = killing.sample()
    return [
        pytest.param(case, id=case.id, marks=[] if case in usual else [pytest.mark.thorough])
        for case in killing.cases()
    ]


def test_a_usual_run_kills_at_every_step_and_of_everything() -> None:
    usual = killing.sample()
    assert {(case.kind, case.step) for case in usual} == {
        (case.kind, case.step) for case in killing.cases()
    }
    assert {case.victim for case in usual} == set(killing.VICTIMS)


@pytest.mark.parametrize("case", _parameters())
def test_after_a_kill(site: WholeSite, case: Case, record_property: Any) -> None:
    serving = bring_about(site, serving=case.how.serving)
    site.hold(case.point)
    try:
        asked = case.how.ask(site, serving)
        until(site.is_held, 30, f"the operation comes to {case.point}: {asked}")
        victim = killing.victim_of(site, case)
        victim.kill()
        victim.wait(10)
        began = time.monotonic()
    finally:
        site.hold(None)

    operation = becomes_true(site, asked["id"])
    record_property("seconds", round(time.monotonic() - began, 2))
    may_fail = case.victim in ENGINES or case.step == "rollback"
    assert operation["state"] == "succeeded" or may_fail, operation
    assert operation["state"] == "succeeded" or operation["error"]["message"]
    nothing_is_missing_in_the_audit(site, operation, resumed=case.victim == "worker")
    case.how.tidy(site)
    the_next_operation_works(site, serving=case.how.serving)


def bring_about(site: WholeSite, *, serving: bool) -> str:
    """Have one backend serve, or none; return the one that does, or did."""
    now = site.serving()
    if serving and now is None:
        done(site.ask("start", "left", wait=30))
    if not serving and now is not None:
        done(site.ask("stop", now, wait=30))
    return now or "left"


def done(operation: dict[str, Any]) -> None:
    assert operation["state"] == "succeeded", operation


def becomes_true(site: WholeSite, operation_id: str) -> dict[str, Any]:
    """Wait until the operation has ended and nothing that is said is a lie; return the operation."""
    found = ["nothing was looked at"]

    def true() -> bool:
        found[:] = ["the site does not answer"]
        open_yet = site.operation(operation_id)["state"] not in ENDED
        found[:] = ["the operation has not ended"] if open_yet else site.lies()
        return not found

    seconds = TRUE_WITHIN * overload()
    try:
        until(true, seconds, "true", every=0.25)
    except AssertionError as exc:
        raise AssertionError(f"after {seconds:.0f} s: {'; '.join(found)}") from exc
    return site.operation(operation_id)


def overload() -> float:
    """Return how much longer everything takes here and now: 1 to 4."""
    return min(4.0, max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)))


def nothing_is_missing_in_the_audit(
    site: WholeSite, operation: dict[str, Any], *, resumed: bool
) -> None:
    names = [event["event"] for event in site.events(target=operation["id"])]
    counted = Counter(names)
    assert (names[0], counted["operation.requested"]) == ("operation.requested", 1)
    assert counted["operation.started"] == 1
    assert bool(counted["operation.resumed"]) == resumed, names
    assert (names[-1], counted[names[-1]]) == (f"operation.{operation['state']}", 1)
    ended = {"done": "step_done", "failed": "step_failed"}
    for state, event in ended.items():
        steps = sum(step["state"] == state for step in operation["steps"])
        assert counted[f"operation.{event}"] >= steps, names
    assert counted["operation.step_started"] >= len(operation["steps"])
    assert all(step["state"] in ended for step in operation["steps"]), operation
    for name, said in site.status()["available"].items():
        moves = [e for e in site.events(target=name, event="backend") if e["after"]]
        moves = [e["after"]["state"] for e in moves if "state" in e["after"]]
        assert not moves or moves[-1] == said["state"], (name, moves)
    chain = site.client.get("/api/audit/verify").json()
    assert chain["ok"], chain


def the_next_operation_works(site: WholeSite, *, serving: bool) -> None:
    """Ask for what also prepares the next case; a chat is answered by whatever then serves."""
    now = site.serving()
    if now is None:
        done(site.ask("start", "left", wait=60))
    elif serving:
        done(site.ask("switch", killing.other(now), wait=60))
    else:
        done(site.ask("stop", now, wait=60))
    if site.serving():
        answer = site.chat()
        assert answer.status_code == 200, answer.text
    assert site.lies() == []
