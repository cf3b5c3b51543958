"""Halves of surrogate pairs are found, and whole pairs pass."""

import json
from typing import Any

import pytest

from accounts.errors import InvalidRequest
from accounts.texts import halves_check


@pytest.mark.parametrize("value", ["🙂", {"🙂": ["\\ud800"]}, ["é", 1, None], "ud800"])
def test_what_is_text_passes(value: Any) -> None:
    for written in (json.dumps(value), json.dumps(value).encode(), json.dumps(value).upper()):
        halves_check(written, value)


@pytest.mark.parametrize("value", ["\ud800", {"\udfff": 1}, [{"a": ["b\udc00"]}]])
def test_half_of_a_pair_is_refused(value: Any) -> None:
    for written in (json.dumps(value), json.dumps(value).encode()):
        with pytest.raises(InvalidRequest, match="surrogate"):
            halves_check(written, value)
