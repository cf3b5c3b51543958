"""Settings of provider accounts: read by their plug-in's ``Settings``, with the secrets kept apart."""

from collections.abc import Mapping
from typing import Any, get_args

from pydantic import SecretStr, ValidationError

from router.errors import InvalidProvider
from router.providers.base import ProviderSettings
from router.providers.registry import provider, providers


def settings_class(kind: str) -> type[ProviderSettings]:
    """Return what the provider plug-in ``kind`` asks of an account.

    Raises:
        InvalidProvider: there is no such plug-in, or it takes no account.
    """
    known = provider(kind).Settings
    if known is None:
        kinds = ", ".join(account_kinds()) or "none"
        msg = f"{kind} runs on this machine and needs no account. Kinds of accounts: {kinds}."
        raise InvalidProvider(msg, param="kind")
    return known


def account_kinds() -> list[str]:
    """Return the names of the provider plug-ins that take accounts."""
    return sorted(name for name, plugin in providers().items() if plugin.Settings is not None)


def settings_parsed(kind: str, values: Mapping[str, Any]) -> ProviderSettings:
    """Return ``values`` as the ``Settings`` of the provider plug-in ``kind``.

    Raises:
        InvalidProvider: there is no such plug-in, it takes no account, or a value is wrong. Values are
            not repeated: they may be secret.
    """
    known = settings_class(kind)
    try:
        return known.model_validate(values)
    except ValidationError as exc:
        details = exc.errors(include_url=False, include_context=False, include_input=False)
    first = details[0]
    where = ".".join(str(part)[:80] for part in first["loc"])
    reason = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        reason = f"no such setting of {kind}; there are {', '.join(setting_names(known))}"
    message = f"{where}: {reason}." if where else f"{reason}."
    raise InvalidProvider(message, param=f"settings.{where}" if where else "settings")


def setting_names(known: type[ProviderSettings]) -> list[str]:
    """Return the settings by the names people write."""
    return [info.alias or name for name, info in known.model_fields.items()]


def as_written(kind: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``values`` by the names people write, where they were given by those of the fields.

    Raises:
        InvalidProvider: there is no such plug-in, or it takes no account.
    """
    known = settings_class(kind)
    names = {name: info.alias or name for name, info in known.model_fields.items()}
    return {names.get(name, name): value for name, value in values.items()}


def secret_names(known: type[ProviderSettings]) -> frozenset[str]:
    """Return which of them are secrets."""
    return frozenset(
        info.alias or name
        for name, info in known.model_fields.items()
        if info.annotation is SecretStr or SecretStr in get_args(info.annotation)
    )


def settings_split(settings: ProviderSettings) -> tuple[dict[str, Any], dict[str, str]]:
    """Return what was set of ``settings``, by the names people write: what may be shown, and the secrets."""
    known = type(settings)
    hidden = secret_names(known)
    secret: dict[str, str] = {}
    for name, info in known.model_fields.items():
        value = getattr(settings, name)
        if isinstance(value, SecretStr) and value.get_secret_value():
            secret[info.alias or name] = value.get_secret_value()
    dumped = settings.model_dump(mode="json", by_alias=True, exclude_unset=True)
    return {name: value for name, value in dumped.items() if name not in hidden}, secret


def settings_shown(settings: ProviderSettings) -> dict[str, Any]:
    """Return every setting that is no secret, those left at their default included."""
    hidden = secret_names(type(settings))
    dumped = settings.model_dump(mode="json", by_alias=True)
    return {name: value for name, value in dumped.items() if name not in hidden}
