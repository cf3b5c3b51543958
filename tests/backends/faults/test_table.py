"""Every fault has its test, and the table in docs/explanation/faults.md names them."""

import re

import pytest

from tests.backends.faults import table
from tests.backends.faults.table import fault


@pytest.mark.parametrize("number", table.REQUIRED)
def test_every_fault_has_a_test(number: int) -> None:
    assert table.tests_by_fault().get(number), f"mark a test with @fault({number})"


def test_the_table_names_the_tests_as_they_are() -> None:
    page = table.PAGE.read_text()
    assert set(table.REQUIRED) <= table.rows().keys()
    assert page == table.with_tests(page), "run: python -m tests.backends.faults.table"
    assert not [number for number, cell in table.rows().items() if not cell]


def test_what_the_table_says_is_shown_is_a_test_that_runs() -> None:
    for tests in table.tests_by_fault().values():
        for file, name in tests:
            assert name.startswith("test_")
            assert re.search(
                rf"^(?:async )?def {name}\(", (table.FOLDER / file).read_text(), re.MULTILINE
            )


def test_a_mark_is_found_whatever_stands_around_it() -> None:
    assert fault(1, 2).args == (1, 2)
