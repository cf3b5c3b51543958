"""What the header of every page shows: the active backend, its state, and what is done to it."""

from typing import Any

from django.http import HttpRequest
from django.urls import reverse

from accounts.requests import actor_of
from backends import cards, selectors


def header_for(request: HttpRequest) -> dict[str, Any]:
    """Return what the header shows at first, and what its script needs to keep it true."""
    status = selectors.status_for(actor_of(request, "admin"), selectors.status())
    active = status["active"]
    entry = status["available"].get(active["backend"]) or {}
    operation = status["operation"]
    state = cards.card_state(entry) if entry else "stopped"
    return {
        "status": status,
        "title": entry.get("title", ""),
        "state": state,
        "word": cards.STATE_WORDS.get(state, state) if entry else "No engine",
        "model": active["model"] or "",
        "operation": _running(status, operation) if operation else "",
        "url": reverse("admin:llm-backend"),
        "signInUrl": f"{reverse('admin:login')}?next={request.path}",
        "stateWords": cards.STATE_WORDS,
        "operationWords": cards.OPERATION_WORDS,
        "outcomeWords": cards.OUTCOME_WORDS,
        "stepWords": cards.STEP_WORDS,
    }


def _running(status: dict[str, Any], operation: dict[str, Any]) -> str:
    entry = status["available"].get(operation["backend"]) or {}
    present, _ = cards.OPERATION_WORDS.get(operation["kind"], (operation["kind"], ""))
    title = entry.get("title", operation["backend"])
    return f"{present} {title} · {operation['progress']:.0%}"
