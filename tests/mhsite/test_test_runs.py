"""What `mh test` runs, and what it says of it."""

from pathlib import Path
from typing import Any

import pytest

from mhsite.cli import tests
from mhsite.cli.tests import NOTHING_COLLECTED, PARTS, Part, run_tests
from mhsite.home import REPOSITORY


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What pytest is called with, by part, instead of running it; ``status`` says how it ends."""
    told: dict[str, Any] = {"status": 0, "calls": []}

    def called(arguments: Any, **_: Any) -> int:
        told["calls"].append(tuple(arguments))
        return int(told["status"])

    monkeypatch.setattr(tests, "_pytest", called)
    monkeypatch.setattr(tests, "_install", lambda **_: 0)
    return told


def test_a_part_reads_only_the_files_that_spell_its_marker_out() -> None:
    for part in PARTS:
        files = [word for word in part.arguments() if word.endswith(".py")]
        assert bool(files) == bool(part.spelt and part.arguments())
        assert all(f"mark.{part.spelt}" in (REPOSITORY / file).read_text() for file in files)


def test_a_part_that_no_file_is_marked_for_is_not_run(
    told: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tests, "TESTS", tmp_path)
    monkeypatch.setattr(tests, "PARTS", (Part("none", "browser", spelt="browser"),))
    assert run_tests([], quiet=False) == {"install": 0, "none": 0}
    assert told["calls"] == []


def test_it_says_how_long_each_part_took_and_which_failed(
    told: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    told["status"] = 1
    results = run_tests([], quiet=False)
    assert set(results.values()) == {0, 1}
    said = capsys.readouterr().out
    for part in PARTS:
        failed = " (failed)" if results[part.name] else ""
        assert f"  {part.name}{failed}\n" in said


def test_that_nothing_was_found_is_no_failure_but_for_one_run_that_was_asked_for(
    told: dict[str, Any],
) -> None:
    told["status"] = NOTHING_COLLECTED
    assert set(run_tests([], quiet=False).values()) == {0}
    assert run_tests(["-k", "nothing"], quiet=False) == {"pytest": NOTHING_COLLECTED}


def test_all_faults_run_side_by_side(told: dict[str, Any]) -> None:
    run_tests(["-m", "faults"], quiet=False)
    assert told["calls"] == [tests.ALL_FAULTS]
