"""What every request's body and query have in common: an unknown name is an error that says so."""

from typing import Any

from drf_spectacular.extensions import OpenApiSerializerExtension
from rest_framework import serializers


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
        return super().to_internal_value(data)


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
