"""What the settings page shows of a status: words, facts and which buttons make sense. Pure.

The page's scripts get the tables of this module as JSON, so a word or a rule is written once.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlsplit

from backends.lifecycle import State
from backends.words import NOTHING, bytes_text, duration_text

#: What a state is called on the page.
STATE_WORDS: Final[dict[str, str]] = {
    State.STOPPED: "Stopped",
    State.STARTING: "Starting",
    State.READY: "Ready",
    State.DEGRADED: "Degraded",
    State.DRAINING: "Draining",
    State.PARKED: "Parked",
    State.STOPPING: "Stopping",
    State.FAILED: "Failed",
    "missing": "Not installed",
    "installing": "Installing",
}
#: Buttons, and the states of an installed backend in which each makes sense.
ACTIONS: Final[dict[str, tuple[str, ...]]] = {
    "start": (State.STOPPED, State.FAILED, State.PARKED),
    "restart": (State.READY, State.DEGRADED),
    "stop": (State.STARTING, State.READY, State.DEGRADED, State.DRAINING, State.PARKED),
    "switch": (State.STOPPED, State.FAILED, State.PARKED),
}
#: The button that makes sense only while another backend serves.
SWITCH: Final = "switch"
#: What an operation is called while it runs, and after it.
OPERATION_WORDS: Final[dict[str, tuple[str, str]]] = {
    "start": ("Starting", "Start"),
    "stop": ("Stopping", "Stop"),
    "restart": ("Restarting", "Restart"),
    "switch": ("Switching", "Switch"),
    "change_model": ("Changing the model", "Change of model"),
    "apply": ("Applying the configuration", "Change of configuration"),
    "unload": ("Giving the memory back", "Unload"),
    "pull": ("Downloading", "Download"),
    "delete": ("Deleting", "Deletion"),
    "install": ("Installing", "Installation"),
}
OUTCOME_WORDS: Final[dict[str, str]] = {
    "queued": "waiting for the worker",
    "running": "running",
    "succeeded": "succeeded",
    "failed": "failed",
    "rolled_back": "rolled back",
    "cancelled": "cancelled",
}
STEP_WORDS: Final[dict[str, str]] = {
    "preflight": "Check before touching anything",
    "hold": "Hold new requests",
    "drain": "Let running requests finish",
    "settle": "See that nobody uses it",
    "load": "Load the model",
    "unload": "Unload the model before",
    "configure": "Keep it for the next start",
    "release": "Stop the engine, free its memory",
    "stop": "Stop the engine",
    "start": "Start the engine",
    "warm": "Ask for a first token",
    "commit": "Make it the active one",
    "resume": "Let requests in again",
    "rollback": "Clean up",
    "download": "Download the model",
    "delete": "Delete the model",
    "install": "Install the engine",
}
#: States in which the page offers to chat.
CHAT_STATES: Final = (State.READY, State.DEGRADED)
#: States in which "since" is an uptime.
UPTIME_STATES: Final = (State.READY, State.DEGRADED, State.DRAINING)


def tables() -> dict[str, Any]:
    """Return the words and rules of this module for the page's scripts."""
    return {
        "stateWords": STATE_WORDS,
        "actions": ACTIONS,
        "operationWords": OPERATION_WORDS,
        "outcomeWords": OUTCOME_WORDS,
        "stepWords": STEP_WORDS,
        "chatStates": CHAT_STATES,
        "uptimeStates": UPTIME_STATES,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One line of a card."""

    key: str
    label: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What a backend holds of one GPU, in bytes; None for what the driver does not say."""

    index: int
    name: str
    held: int | None
    total: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of an operation, in words."""

    state: str
    word: str
    message: str
    took: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationView:
    """An operation in words."""

    id: str
    open: bool
    #: Whether its steps are shown at once.
    unfolded: bool
    state: str
    title: str
    progress: float
    #: How long it should still take, or how long it took and for whom.
    aside: str
    steps: tuple[Step, ...]
    error: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One backend on the page."""

    name: str
    title: str
    active: bool
    #: A ``lifecycle.State``, ``missing`` or ``installing``.
    state: str
    word: str
    facts: tuple[Fact, ...]
    actions: tuple[str, ...]
    #: Why it is not installed, or failed, for everybody.
    notice: str
    #: The engine's own line, for its owner.
    detail: str
    installing: float | None
    #: Whether ``mh NAME install`` would install the engine.
    installable: bool
    gpus: tuple[Held, ...]
    #: Id of its latest start, for a link to that one's log.
    start: str
    operation: OperationView | None


def cards(
    status: Mapping[str, Any],
    operations: Mapping[str, Mapping[str, Any]],
    details: Mapping[str, str],
    *,
    installable: Collection[str],
    now: datetime,
    starts: Mapping[str, str] | None = None,
) -> list[Card]:
    """Return one card per backend of ``status``.

    Args:
        status: the status payload.
        operations: the latest operation of each backend, by its name; the running one wins.
        details: the engine's own failure line by backend name; empty for those who may not read it.
        installable: names of the backends whose engine ``mh NAME install`` would install.
        now: the present, aware.
        starts: id of the latest start by backend name.
    """
    running = status.get("operation")
    latest = {**operations, **({running["backend"]: running} if running else {})}
    active = status["active"].get("backend")
    serving = {name for name, entry in status["available"].items() if entry["running"]}
    return [
        _card(
            name,
            entry,
            active=name == active,
            others_serve=bool(serving - {name}),
            operation=latest.get(name),
            detail=details.get(name, ""),
            installable=name in installable,
            now=now,
            gpus=tuple(held_by(name, status.get("gpus") or ())),
            start=(starts or {}).get(name, ""),
        )
        for name, entry in status["available"].items()
    ]


def _card(
    name: str,
    entry: Mapping[str, Any],
    *,
    active: bool,
    others_serve: bool,
    operation: Mapping[str, Any] | None,
    detail: str,
    installable: bool,
    now: datetime,
    gpus: tuple[Held, ...],
    start: str,
) -> Card:
    state = card_state(entry)
    title = entry.get("title") or name
    wrong = notice(entry, state)
    return Card(
        name=name,
        title=title,
        active=active,
        state=state,
        word=STATE_WORDS.get(state, state.capitalize()),
        facts=tuple(_facts(entry, state, now)),
        actions=tuple(
            action
            for action, states in ACTIONS.items()
            if state in states and (action != SWITCH or others_serve)
        ),
        notice=wrong,
        detail=detail if state == State.FAILED else "",
        installing=entry.get("installing"),
        installable=installable,
        gpus=gpus,
        start=start,
        operation=operation_view(operation, title, said=wrong) if operation else None,
    )


def card_state(entry: Mapping[str, Any]) -> str:
    """Return the state a card shows: the backend's, unless its engine is not there at all."""
    if entry.get("installing") is not None:
        return "installing"
    if not entry["installed"] and not entry["running"]:
        return "missing"
    return str(entry["state"])


def notice(entry: Mapping[str, Any], state: str) -> str:
    """Return the sentence of a card that says what is wrong; empty when nothing is."""
    if state in {"missing", "installing"}:
        return str(entry.get("reason") or "")
    if state in {State.FAILED, State.DEGRADED}:
        return str(entry.get("failure") or entry.get("reason") or "")
    return ""


def memory_text(memory: int | None, standby: Mapping[str, Any] | None) -> str:
    """Return the memory of a backend, and of the launcher that waits for its next start."""
    parts = [bytes_text(memory)] if memory else []
    parts += [f"{bytes_text(standby['memory'])} on standby"] if standby else []
    return " + ".join(parts) or NOTHING


def port_text(endpoint: str | None) -> str:
    """Return the port an engine answers at."""
    port = urlsplit(endpoint or "").port
    return str(port) if port else NOTHING


def in_flight_text(entry: Mapping[str, Any]) -> str:
    """Return the requests in flight, and those that wait in the engine."""
    count, waiting = entry.get("in_flight") or 0, entry.get("requests_waiting") or 0
    return f"{count} + {waiting:.0f} waiting" if waiting else str(count)


def tokens_text(rate: float | None) -> str:
    """Return tokens a second: ``41.5``."""
    return NOTHING if rate is None else f"{rate:.1f}"


def held_by(name: str, gpus: Iterable[Mapping[str, Any]]) -> Iterable[Held]:
    """Yield the GPUs of which backend ``name`` holds memory."""
    for gpu in gpus:
        mine = [each["memory"] for each in gpu.get("processes", ()) if each["backend"] == name]
        if mine:
            yield Held(
                index=gpu["index"],
                name=gpu.get("name") or "",
                held=None if None in mine else sum(mine),
                total=gpu.get("memory_total"),
            )


def _facts(entry: Mapping[str, Any], state: str, now: datetime) -> Iterable[Fact]:
    since = entry.get("since")
    up = since is not None and state in UPTIME_STATES
    memory = entry.get("memory")
    yield Fact(key="model", label="Model", value=entry.get("model") or NOTHING)
    yield Fact(key="port", label="Port", value=port_text(entry.get("endpoint")))
    yield Fact(key="version", label="Version", value=entry.get("version") or NOTHING)
    yield Fact(key="in_flight", label="Requests in flight", value=in_flight_text(entry))
    yield Fact(key="tokens", label="Tokens/s", value=tokens_text(entry.get("tokens_per_second")))
    yield Fact(key="memory", label="Memory", value=memory_text(memory, entry.get("standby")))
    yield Fact(
        key="uptime",
        label="Uptime",
        value=duration_text((now - datetime.fromisoformat(str(since))).total_seconds())
        if up
        else NOTHING,
    )


def operation_view(operation: Mapping[str, Any], title: str, *, said: str = "") -> OperationView:
    """Return ``operation`` (its payload) in words.

    Args:
        operation: the payload.
        title: the backend's name for people.
        said: what the card says already; an error of the same words is not said twice.
    """
    is_open = operation["state"] in {"queued", "running"}
    present, past = OPERATION_WORDS.get(operation["kind"], (operation["kind"].capitalize(),) * 2)
    outcome = OUTCOME_WORDS.get(operation["state"], operation["state"])
    error = operation.get("error") or {}
    steps = tuple(_step(step, said=error.get("message")) for step in operation["steps"])
    if error.get("message") == said:
        error = {}
    return OperationView(
        id=operation["id"],
        open=is_open,
        unfolded=is_open or bool(operation.get("error")),
        state=operation["state"],
        title=f"{present} {title}" if is_open else f"{past} {outcome}",
        progress=operation["progress"],
        aside=_aside(operation),
        steps=steps,
        error=error.get("message", ""),
        detail=error.get("detail", ""),
    )


def _aside(operation: Mapping[str, Any]) -> str:
    if operation["finished_at"]:
        asked = datetime.fromisoformat(operation["created_at"])
        took = datetime.fromisoformat(operation["finished_at"]) - asked
        return f"{duration_text(took.total_seconds())}, for {operation['requested_by']}"
    left = operation["eta_seconds"]
    return f"about {duration_text(left)} left" if left else ""


def _step(step: Mapping[str, Any], *, said: str | None) -> Step:
    took = ""
    if step["finished_at"]:
        started = datetime.fromisoformat(step["started_at"])
        took = duration_text(
            (datetime.fromisoformat(step["finished_at"]) - started).total_seconds()
        )
    return Step(
        state=step["state"],
        word=STEP_WORDS.get(step["name"], step["name"].capitalize()),
        message="" if step["message"] == said else step["message"],
        took=took,
    )
