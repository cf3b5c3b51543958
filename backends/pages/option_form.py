"""The form of a backend's options, made from its engine's ``Options``: works with and without JavaScript."""

from collections.abc import Mapping
from typing import Any, Final

from django import forms
from django.http import QueryDict
from pydantic import ValidationError

from backends.engines.base import Options
from backends.pages.option_fields import OptionField, lines_read, option_fields, text_of

PREFIX: Final = "option"
CLEAR: Final = "clear-"
_AUTOMATIC: Final = {True: "On", False: "Off"}


class OptionsForm(forms.Form):
    """Every option of one backend.

    Args:
        options: the engine's ``Options``.
        values: the options now, by name, as JSON has them; of secrets nothing.
        secrets_set: whether each secret is set.
        gpus: numbers of the GPUs that are seen.
        data: what was sent; None for a form to be filled in.
    """

    def __init__(
        self,
        options: type[Options],
        *,
        values: Mapping[str, Any],
        secrets_set: Mapping[str, bool],
        gpus: tuple[int, ...] = (),
        data: QueryDict | None = None,
    ) -> None:
        super().__init__(data, prefix=PREFIX)
        self.options, self.values, self.secrets_set, self.gpus = options, values, secrets_set, gpus
        self.described = option_fields(options)
        for field in self.described:
            self.fields[field.name] = self._made(field)
            if field.secret and secrets_set.get(field.name):
                self.fields[CLEAR + field.name] = forms.BooleanField(required=False)

    # --- fields -------------------------------------------------------------------------------------

    def _made(self, field: OptionField) -> forms.Field:
        common: dict[str, Any] = {"required": False, "label": field.title, "help_text": field.help}
        if field.kind == "switch":
            return forms.BooleanField(**common, initial=bool(self.values.get(field.name)))
        if field.kind == "gpus" and self.gpus_offered:
            choices = [(str(number), f"GPU {number}") for number in self.gpus_offered]
            chosen = [str(number) for number in self.values.get(field.name) or ()]
            return forms.MultipleChoiceField(**common, choices=choices, initial=chosen)
        common["initial"] = text_of(field, self.values.get(field.name))
        if field.kind == "choice":
            return forms.ChoiceField(**common, choices=choices_of(field))
        if field.kind == "number":
            most = self.most(field)
            bounds: dict[str, Any] = {"min_value": field.minimum, "max_value": most}
            return (forms.IntegerField if field.whole else forms.FloatField)(**common, **bounds)
        if field.secret:
            return forms.CharField(**{**common, "initial": ""}, strip=True)
        return forms.CharField(**common, strip=True)

    @property
    def gpus_offered(self) -> tuple[int, ...]:
        """The GPUs that are seen, and those that are configured and are not."""
        configured = self.values.get("gpus") or ()
        return tuple(sorted({*self.gpus, *configured}))

    def most(self, field: OptionField) -> float | None:
        """Return the largest value of a number: of what is bounded by the GPUs no more than are seen."""
        if field.bound != "gpus":
            return field.maximum
        now = self.values.get(field.name)
        seen = max(1, len(self.gpus))
        return max(seen, now) if isinstance(now, int) else seen

    # --- what was sent ------------------------------------------------------------------------------

    def clean(self) -> dict[str, Any]:
        """Check the whole as the engine does; what is wrong stands at its field."""
        cleaned = super().clean() or self.cleaned_data
        self.changes: dict[str, Any] = {}
        for field in self.described:
            if field.name not in self.errors:
                self._take(field, cleaned)
        self._check()
        return cleaned

    def _take(self, field: OptionField, cleaned: Mapping[str, Any]) -> None:
        """Note a value that differs from the one there is; None puts the default back."""
        value = cleaned.get(field.name)
        if field.secret:
            if value:
                self.changes[field.name] = value
            elif cleaned.get(CLEAR + field.name):
                self.changes[field.name] = None
            return
        try:
            value = self._typed(field, value)
        except ValueError as exc:
            self.add_error(field.name, str(exc))
            return
        meant = field.default if value is None else value
        if meant != self.values.get(field.name):
            self.changes[field.name] = None if meant == field.default else value

    def _typed(self, field: OptionField, value: Any) -> Any:
        if field.kind == "switch":
            return bool(value)
        if value in (None, "", []):
            return None
        if field.kind == "choice":
            return next(each for each in field.choices if text_of(field, each) == value)
        if field.kind in {"gpus", "lines"}:
            return _numbers(value) if field.kind == "gpus" else lines_read(field, value)
        if field.words and str(value).isascii() and str(value).isdecimal():
            return int(value)
        return value

    def _check(self) -> None:
        hidden = self.options.fields_with("secret")
        kept = {name: value for name, value in self.values.items() if name not in hidden}
        wanted = {**kept, **self.changes}
        try:
            self.options.model_validate(
                {name: value for name, value in wanted.items() if value is not None}
            )
        except ValidationError as exc:
            for error in exc.errors(include_url=False, include_input=False):
                name = str(error["loc"][0]) if error["loc"] else None
                where = name if name in self.fields else None
                if where not in self.errors:
                    self.add_error(where, f"{error['msg']}.")


def choices_of(field: OptionField) -> list[tuple[str, str]]:
    """Return the choices with their words; the first is none of them where that is a value."""
    found = [(text_of(field, each), _AUTOMATIC.get(each, text_of(field, each)))
             if isinstance(each, bool) else (text_of(field, each), text_of(field, each))
             for each in field.choices]  # fmt: skip
    return [("", "Automatic"), *found] if field.nullable else found


def _numbers(value: Any) -> list[int]:
    parts = value if isinstance(value, list) else str(value).replace(",", " ").split()
    if not all(part.isascii() and part.isdecimal() for part in parts):
        msg = "Numbers of GPUs with commas between them: 0, 1."
        raise ValueError(msg)
    return sorted(int(part[:9]) for part in parts)
