"""Addresses that an owner enters for a provider."""

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field


def _is_a_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        msg = "give a URL that begins with http:// or https://"
        raise ValueError(msg)
    if parts.username or parts.password or parts.query or parts.fragment:
        msg = "give a URL without user, password, query or fragment; the key has a field of its own"
        raise ValueError(msg)
    return value.rstrip("/")


def _is_a_url_or_empty(value: str) -> str:
    return _is_a_url(value) if value else ""


#: An http or https URL, without its final slashes.
BaseUrl = Annotated[str, Field(max_length=512), AfterValidator(_is_a_url)]
#: The same, or empty.
MaybeUrl = Annotated[str, Field(max_length=512), AfterValidator(_is_a_url_or_empty)]
