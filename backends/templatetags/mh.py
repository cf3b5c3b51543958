"""Filters of the settings pages: ``{% load mh %}``."""

from collections.abc import Mapping
from typing import Any

from django import template

from backends import words

register = template.Library()
register.filter("bytes_text", words.bytes_text)


@register.filter
def at(mapping: Mapping[str, Any], key: str) -> Any:
    """Return the value at ``key``, None if there is none."""
    return mapping.get(key)


@register.filter
def plain(number: float | None) -> str:
    """Return a number as HTML's attributes have it: a point, no groups of digits."""
    return "" if number is None else f"{number:.10g}"
