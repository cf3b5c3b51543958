"""What an event changed, key by key. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

#: Stands where a side has no such key.
ABSENT: Final = "—"


@dataclass(frozen=True, slots=True)
class Change:
    """One key of what was before and what is after."""

    key: str
    before: str
    after: str

    @property
    def is_change(self) -> bool:
        """Whether both sides differ."""
        return self.before != self.after


def changes(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> list[Change]:
    """Return every key of both sides, changed ones first; objects inside are taken apart by dotted keys."""
    old, new = _flat(before or {}), _flat(after or {})
    rows = [
        Change(key, old.get(key, ABSENT), new.get(key, ABSENT))
        for key in dict.fromkeys([*old, *new])
    ]
    return sorted(rows, key=lambda row: not row.is_change)


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, Mapping) and item:
            found |= _flat(item, f"{name}.")
        else:
            found[name] = _text(item)
    return found


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
