"""What every request's body and query have in common: an unknown name is an error that says so."""

from typing import Any, Final

from drf_spectacular.extensions import OpenApiSerializerExtension
from rest_framework import serializers

_KINDS: Final[tuple[tuple[type[Any], tuple[type[Any], ...], str], ...]] = (
    (serializers.BooleanField, (bool,), "true or false"),
    (serializers.IntegerField, (int, float), "a whole number"),
    (serializers.CharField, (str,), "text"),
    (serializers.ChoiceField, (str,), "text"),
)


class StrictSerializer(serializers.Serializer[Any]):
    """Names an unknown key instead of ignoring it."""

    def to_internal_value(self, data: Any) -> Any:
        """Refuse keys that are not fields."""
        if isinstance(data, dict):
            unknown = sorted(set(map(str, data)) - set(self.fields))
            if unknown:
                known = ", ".join(self.fields)
                raise serializers.ValidationError(
                    {unknown[0][:80]: [f"Unknown key. Known keys: {known}."]}
                )
            for name in data:
                if wanted := _mismatch(self.fields[name], data[name]):
                    raise serializers.ValidationError({name: [f"This must be {wanted}."]})
        return super().to_internal_value(data)


def _mismatch(field: serializers.Field[Any, Any, Any, Any], value: Any) -> str:
    """Return what ``value`` must be and is not; empty where it is, or the field itself will say.

    A field would make text of a number, and a truth of ``0``.
    """
    if value is None:
        return ""
    if isinstance(field, serializers.DictField) and isinstance(value, dict):
        return next(filter(None, (_mismatch(field.child, item) for item in value.values())), "")
    if isinstance(field, serializers.ListField) and isinstance(value, list):
        return next(filter(None, (_mismatch(field.child, item) for item in value)), "")
    for kind, types, words in _KINDS:
        if isinstance(field, kind):
            good = isinstance(value, types) and (bool in types or not isinstance(value, bool))
            return "" if good else words
    return ""


class StrictSchema(OpenApiSerializerExtension):  # type: ignore[no-untyped-call]
    """Says the same in the API's description."""

    target_class = StrictSerializer
    match_subclasses = True

    def map_serializer(self, auto_schema: Any, direction: Any) -> dict[str, Any]:
        """Return the schema."""
        schema: dict[str, Any] = auto_schema._map_serializer(  # noqa: SLF001 - as its documentation says
            self.target, direction, bypass_extensions=True
        )
        for name, field in self.target.fields.items():
            if isinstance(field, serializers.CharField) and not field.allow_blank:
                schema["properties"][name] |= {"minLength": 1}
                if field.trim_whitespace:
                    schema["properties"][name] |= {"pattern": r"\S"}
        return {**schema, "additionalProperties": False}
