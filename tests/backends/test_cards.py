"""What the settings page says of a status."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.template.loader import render_to_string

from backends import cards as page
from backends.lifecycle import State

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def entry(**changes: Any) -> dict[str, Any]:
    return {
        "title": "vLLM",
        "installed": True,
        "installing": None,
        "running": False,
        "state": "stopped",
        "version": "0.32.0",
        "model": None,
        "endpoint": "http://127.0.0.1:8000",
        "in_flight": 0,
        "since": None,
        "memory": None,
        "reason": "",
        "failure": "",
    } | changes


def operation(**changes: Any) -> dict[str, Any]:
    return {
        "id": "0b5b0c3e-77a4-4c88-9a37-0d6e7f1b2c3d",
        "kind": "start",
        "backend": "vllm",
        "state": "running",
        "steps": [],
        "progress": 0.4,
        "eta_seconds": 21,
        "requested_by": "olga",
        "error": None,
        "created_at": NOW.isoformat(),
        "finished_at": None,
    } | changes


def card(shown: dict[str, Any], latest: dict[str, Any] | None = None, **changes: Any) -> page.Card:
    status = {"active": {"backend": "vllm"}, "available": {"vllm": shown}, "operation": None}
    operations = {"vllm": latest} if latest else {}
    given: dict[str, Any] = {"installable": ["vllm"], "details": {}} | changes
    details = given.pop("details")
    [made] = page.cards(status | given.pop("status", {}), operations, details, now=NOW, **given)
    return made


def test_every_state_has_a_word() -> None:
    assert {state.value for state in State} <= set(page.STATE_WORDS)


@pytest.mark.parametrize(
    ("state", "actions"),
    [
        ("stopped", ("start",)),
        ("starting", ("stop",)),
        ("ready", ("restart", "stop")),
        ("degraded", ("restart", "stop")),
        ("draining", ("stop",)),
        ("stopping", ()),
        ("failed", ("start",)),
    ],
)
def test_only_the_buttons_that_make_sense_are_offered(state: str, actions: tuple[str, ...]) -> None:
    assert card(entry(state=state)).actions == actions


@pytest.mark.parametrize(
    ("other", "offered"), [("ready", True), ("draining", True), ("stopped", False)]
)
def test_a_switch_is_offered_while_another_backend_serves(other: str, offered: bool) -> None:
    running = other != "stopped"
    status = {
        "active": {"backend": "vllm"},
        "available": {"ollama": entry(), "vllm": entry(state=other, running=running)},
        "operation": None,
    }
    shown = {made.name: made for made in page.cards(status, {}, {}, installable=[], now=NOW)}
    assert ("switch" in shown["ollama"].actions) is offered
    assert "switch" not in shown["vllm"].actions


def test_what_is_not_installed_says_why_and_offers_no_button() -> None:
    shown = card(entry(installed=False, reason="vLLM is not installed on this machine."))
    assert (shown.state, shown.word, shown.actions) == ("missing", "Not installed", ())
    assert shown.notice == "vLLM is not installed on this machine."
    assert shown.installable


def test_an_installation_shows_how_far_it_is() -> None:
    shown = card(entry(installed=False, installing=0.34, reason="downloading torch, 34%."))
    assert (shown.state, shown.installing, shown.notice) == (
        "installing",
        0.34,
        "downloading torch, 34%.",
    )


def test_an_attached_engine_that_runs_is_shown_although_nothing_is_installed() -> None:
    assert card(entry(installed=False, running=True, state="ready")).state == "ready"


def test_a_running_backend_shows_model_memory_and_uptime() -> None:
    since = (NOW - timedelta(minutes=3, seconds=5)).isoformat()
    shown = card(
        entry(state="ready", running=True, model="tiny", memory=3 * 2**30, since=since, in_flight=2)
    )
    facts = {fact.key: fact.value for fact in shown.facts}
    assert facts["model"] == "tiny"
    assert facts["memory"] == "3.0 GB"
    assert facts["uptime"] == "3 min 5 s"
    assert facts["in_flight"] == "2"


def test_a_stopped_backend_has_no_uptime() -> None:
    facts = {fact.key: fact.value for fact in card(entry(since=NOW.isoformat())).facts}
    assert facts["uptime"] == facts["memory"] == facts["model"] == page.NOTHING


def test_a_failure_shows_its_reason_and_the_engines_line_to_those_who_may_read_it() -> None:
    failed = entry(state="failed", failure="vLLM ended unexpectedly.")
    assert card(failed).notice == "vLLM ended unexpectedly."
    assert card(failed).detail == ""
    assert card(failed, details={"vllm": "ValueError: no"}).detail == "ValueError: no"


def test_a_running_operation_is_open_and_says_how_long() -> None:
    view = card(entry(state="starting"), status={"operation": operation()}).operation
    assert view is not None
    assert (view.title, view.aside, view.open, view.unfolded) == (
        "Starting vLLM",
        "about 21 s left",
        True,
        True,
    )


def test_the_running_operation_wins_over_the_last_one() -> None:
    old = operation(kind="stop", state="succeeded", finished_at=NOW.isoformat())
    view = card(entry(), old, status={"operation": operation()}).operation
    assert view is not None
    assert view.title == "Starting vLLM"


def test_an_ended_operation_is_folded_and_says_how_long_it_took_and_for_whom() -> None:
    ended = operation(state="succeeded", finished_at=(NOW + timedelta(seconds=32)).isoformat())
    view = card(entry(), ended).operation
    assert view is not None
    assert (view.title, view.aside, view.unfolded) == ("Start succeeded", "32 s, for olga", False)


def test_a_failed_operation_does_not_repeat_what_the_card_says() -> None:
    error = {"message": "vLLM ended.", "detail": "ValueError: no"}
    ended = operation(state="failed", error=error, finished_at=NOW.isoformat())
    said = card(entry(state="failed", failure="vLLM ended."), ended).operation
    other = card(entry(), ended).operation
    assert said is not None
    assert other is not None
    assert (said.error, said.detail, said.unfolded) == ("", "", True)
    assert (other.error, other.detail) == ("vLLM ended.", "ValueError: no")


def test_steps_have_words_and_durations() -> None:
    step = {
        "name": "warm",
        "state": "done",
        "message": "generating a first token",
        "started_at": NOW.isoformat(),
        "finished_at": (NOW + timedelta(seconds=2)).isoformat(),
    }
    view = page.operation_view(operation(steps=[step]), "vLLM")
    assert view.steps == (
        page.Step(
            state="done",
            word="Ask for a first token",
            message="generating a first token",
            took="2 s",
        ),
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0 s"),
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (185, "3 min 5 s"),
        (3600, "1 h"),
        (7500, "2 h 5 min"),
        (86400 * 3 + 3600 * 4, "3 d 4 h"),
    ],
)
def test_durations_in_their_two_largest_units(seconds: float, text: str) -> None:
    assert page.duration_text(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 MB"), (178 * 2**20, "178 MB"), (2**30, "1.0 GB"), (150e9, "139.7 GB")],
)
def test_bytes_as_gpus_are_sold(count: float, text: str) -> None:
    assert page.bytes_text(count) == text


def test_a_gpu_that_does_not_answer_is_shown_without_numbers() -> None:
    unknown = dict.fromkeys(("name", "memory_total", "memory_used", "utilization"))
    shown = render_to_string("backends/_gpus.html", {"status": {"gpus": [{"index": 1, **unknown}]}})
    assert "1 · does not answer" in shown
    assert "— / —" in shown
    assert "<progress" in shown
    assert "None" not in shown
