"""What the buttons of a chain do."""

import pytest

from accounts.errors import InvalidRequest
from router.pages.chains import chain_changed


@pytest.mark.parametrize(
    ("do", "which", "then"),
    [
        ("save", "", ["a", "b", "c"]),
        ("up", "b", ["b", "a", "c"]),
        ("down", "b", ["a", "c", "b"]),
        ("up", "a", ["a", "b", "c"]),
        ("down", "c", ["a", "b", "c"]),
        ("remove", "b", ["a", "c"]),
        ("add", "d", ["a", "b", "c", "d"]),
        ("add", "", ["a", "b", "c"]),
    ],
)
def test_a_button_moves_adds_or_removes_one(do: str, which: str, then: list[str]) -> None:
    assert chain_changed(["a", "b", "c"], do, which) == then


@pytest.mark.parametrize(("do", "which"), [("explode", "a"), ("up", "z"), ("remove", "")])
def test_a_button_that_is_not_there_is_an_error(do: str, which: str) -> None:
    with pytest.raises(InvalidRequest, match="Press a button"):
        chain_changed(["a"], do, which)
