"""What every request's body and query have in common: an unknown name is an error that says so."""

from typing import Any

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
