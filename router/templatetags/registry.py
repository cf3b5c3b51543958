"""Filters of router's settings pages: ``{% load registry %}``."""

from datetime import datetime

from django import template
from django.utils import timezone

from router.usage.words import milliseconds_text, number_text

register = template.Library()
register.filter("count_text", number_text)
register.filter("ms_text", milliseconds_text)

#: What an availability looks like, as ``data-tone``.
_TONES = {
    "available": "good",
    "backend off": "warn",
    "not installed": "bad",
    "needs credentials": "bad",
}
_UNITS = ((86_400, "day"), (3_600, "hour"), (60, "minute"))


@register.filter
def tone(state: str) -> str:
    """Return the tone of an availability's tag."""
    return _TONES.get(state, "")


@register.filter
def distance(when: datetime | None) -> str:
    """Return how far a time is from now, in one unit: ``3 days ago``, ``in 2 hours``."""
    if when is None:
        return ""
    seconds = (timezone.now() - when).total_seconds()
    size, unit = next(((s, u) for s, u in _UNITS if abs(seconds) >= s), (0, ""))
    if not size:
        return "just now" if seconds >= 0 else "in less than a minute"
    many = round(abs(seconds) / size)
    words = f"{many} {unit}{'' if many == 1 else 's'}"
    return f"{words} ago" if seconds > 0 else f"in {words}"
