"""Environment variables as settings. One that cannot be understood is named, with what it may be."""

import os
import warnings
from typing import Any, Final

import environ
from django.core.exceptions import ImproperlyConfigured

_WORDS: Final[dict[Any, str]] = {int: "a whole number", float: "a number"}
_DATABASES: Final = ("django.db.backends.postgresql", "django.db.backends.sqlite3")


class Environment(environ.Env):  # type: ignore[misc]
    """``environ.Env``, whose errors say which variable is meant.

    Raises, from every reading:
        ImproperlyConfigured: the variable cannot be understood.
    """

    def get_value(self, var: str, cast: Any = None, **more: Any) -> Any:
        """Return a variable's value."""
        try:
            return super().get_value(var, cast=cast, **more)
        except ValueError as exc:
            msg = f"{var} is {os.environ.get(var)!r}; it must be {_WORDS.get(cast, 'something else')}."
            raise ImproperlyConfigured(msg) from exc

    def database(self, var: str, default: str) -> dict[str, Any]:
        """Return Django's description of the database that a URL names."""
        with warnings.catch_warnings(action="ignore"):
            try:
                found = dict(self.db_url_config(os.environ.get(var) or default))
            except (ValueError, ImproperlyConfigured):
                found = {}
        if found.get("ENGINE") not in _DATABASES:
            # A URL has a password in it: it is not repeated.
            msg = f"{var} cannot be understood; it must be like postgres://user:password@host/name."
            raise ImproperlyConfigured(msg)
        return found

    def redis(self, var: str, default: str) -> str:
        """Return the URL of a Redis or Valkey server."""
        url = str(self.str(var, "") or "")
        if not url:
            return default
        from redis.connection import parse_url

        try:
            parse_url(url)  # type: ignore[no-untyped-call]
        except ValueError as exc:
            msg = f"{var} cannot be understood; it must be like redis://host:6379/0."
            raise ImproperlyConfigured(msg) from exc
        return url
