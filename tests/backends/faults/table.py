"""Which test shows which fault: tests say so with ``@fault(1)``, the table in docs is made from that.

``python -m tests.backends.faults.table`` writes the tests' names into docs/explanation/faults.md.
"""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

import pytest

FOLDER: Final = Path(__file__).parents[2]
PAGE: Final = FOLDER.parent / "docs" / "explanation" / "faults.md"
#: Those that must have a test: all that people report.
REQUIRED: Final = tuple(range(1, 51))
_ROW = re.compile(r"\| (\d+) \|([^|\n]+)\|([^|\n]+)\|([^|\n]*)\|")


def fault(*numbers: int) -> pytest.MarkDecorator:
    """Mark a test as showing that these faults do not happen here."""
    return pytest.mark.fault(*numbers)


@cache
def tests_by_fault() -> dict[int, list[tuple[str, str]]]:
    """Return file (below ``tests``) and name of every marked test, by number."""
    found: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for path in sorted(FOLDER.rglob("test_*.py")):
        for name, number in _marked(ast.parse(path.read_text())):
            found[number].append((path.relative_to(FOLDER).as_posix(), name))
    return dict(found)


def _marked(module: ast.Module) -> Iterator[tuple[str, int]]:
    for node in ast.walk(module):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for mark in node.decorator_list:
            if isinstance(mark, ast.Call) and _name(mark.func) == "fault":
                yield from ((node.name, ast.literal_eval(number)) for number in mark.args)


def _name(function: ast.expr) -> str:
    """Return ``fault`` for ``fault`` and for ``pytest.mark.fault``."""
    return str(getattr(function, "id", "") or getattr(function, "attr", ""))


def rows() -> dict[int, str]:
    """Return the last column of the page's table, by number."""
    return {int(row[1]): row[4].strip() for row in _ROW.finditer(PAGE.read_text())}


def cell(tests: list[tuple[str, str]]) -> str:
    """Return the tests of one fault as they stand in the table."""
    return "<br>".join(
        f"[{name.removeprefix('test_').replace('_', ' ')}](../../tests/{file})"
        for file, name in tests
    )


def with_tests(page: str) -> str:
    """Return the page with the tests as they are marked now."""
    tests = tests_by_fault()

    def row(found: "re.Match[str]") -> str:
        number = int(found[1])
        last = cell(tests[number]) if number in tests else found[4].strip()
        return f"| {number} |{found[2]}|{found[3]}| {last} |"

    return _ROW.sub(row, page)


if __name__ == "__main__":
    PAGE.write_text(with_tests(PAGE.read_text()))
