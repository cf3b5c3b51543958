"""Shapes of the REST answers of models, roles and providers, for the OpenAPI document."""

from typing import Any, Final

from pydantic import BaseModel
from rest_framework import serializers

AVAILABILITY: Final = ["available", "not installed", "backend off", "needs credentials"]


WHOSE: Final = (
    "Whose. Reading: without it what counts for you, yours before the site's. Writing: the site's for an owner, "
    "your own for everybody else."
)


def reference(model: type[BaseModel]) -> dict[str, str]:
    """Return where the OpenAPI document has ``model`` (``mhsite.openapi`` puts it there)."""
    return {"$ref": f"#/components/schemas/{model.__name__}"}


class AvailabilityResponse(serializers.Serializer[Any]):
    """Whether a model can answer."""

    state = serializers.ChoiceField(choices=AVAILABILITY)
    message = serializers.CharField(help_text="why not, and what to do; empty when it can")


class EntryResponse(serializers.Serializer[Any]):
    """A model of the registry."""

    id = serializers.CharField()
    scope = serializers.ChoiceField(choices=["site", "mine"])
    provider = serializers.CharField()
    model = serializers.CharField(help_text="empty: what the provider serves at the moment")
    options = serializers.DictField()
    when_off = serializers.ChoiceField(choices=["next", "wait", "substitute", "error"])
    capabilities = serializers.ListField(child=serializers.CharField())
    description = serializers.CharField()
    roles = serializers.ListField(child=serializers.CharField())
    availability = AvailabilityResponse()


class EntriesQuery(serializers.Serializer[Any]):
    """Which models."""

    scope = serializers.ChoiceField(choices=["site", "mine"], required=False, help_text=WHOSE)
    provider = serializers.CharField(required=False, help_text="only models of this one")
    state = serializers.ChoiceField(choices=AVAILABILITY, required=False)
    search = serializers.CharField(required=False, help_text="part of an id or a model")


class LinkResponse(serializers.Serializer[Any]):
    """One model of a chain."""

    id = serializers.CharField()
    availability = AvailabilityResponse()


class RoleResponse(serializers.Serializer[Any]):
    """A role."""

    name = serializers.CharField()
    scope = serializers.ChoiceField(choices=["site", "mine"])
    chain = serializers.ListField(child=serializers.CharField())
    options = serializers.DictField()
    context = serializers.ChoiceField(choices=["error", "trim"])  # type: ignore[assignment]  # DRF moves it
    shipped = serializers.BooleanField(help_text="can be asked for although nobody has set it")
    links = LinkResponse(many=True)
    available = serializers.BooleanField(help_text="one of the chain is available")


class RolesQuery(serializers.Serializer[Any]):
    """Which roles."""

    scope = serializers.ChoiceField(choices=["site", "mine"], required=False, help_text=WHOSE)
    search = serializers.CharField(required=False, help_text="part of a name")
    available = serializers.BooleanField(required=False, help_text="one of the chain is")


class CheckResponse(serializers.Serializer[Any]):
    """What was found when the credentials were tried last."""

    good = serializers.BooleanField(allow_null=True, help_text="null: never tried")
    message = serializers.CharField()
    at = serializers.DateTimeField(allow_null=True)


class ProviderResponse(serializers.Serializer[Any]):
    """An account at a provider. What follows ``models`` is for owners."""

    name = serializers.CharField(help_text="what models name as their provider")
    kind = serializers.CharField(help_text="the provider plug-in")
    title = serializers.CharField()
    ready = serializers.BooleanField()
    models = serializers.ListField(child=serializers.CharField())
    why_not = serializers.CharField(required=False)
    settings = serializers.DictField(required=False, help_text="without the secrets")
    secrets = serializers.DictField(
        child=serializers.BooleanField(), required=False, help_text="which are set"
    )
    references = serializers.DictField(
        required=False, help_text="settings read from the environment: ${HF_TOKEN}"
    )
    check = CheckResponse(required=False)
    schema = serializers.DictField(
        required=False, help_text="JSON Schema of the settings; not in the list"
    )


class ProvidersQuery(serializers.Serializer[Any]):
    """Which accounts."""

    kind = serializers.CharField(required=False, help_text="the provider plug-in")
