from collections.abc import Callable
from pathlib import Path

import pytest

from backends.engines.ollama import OllamaEngine, installation
from tests.fakes import fake_ollama

ENGINE = OllamaEngine()
Program = Callable[..., Path]


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MH_OLLAMA_BIN", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(installation, "USUAL_PLACES", (str(tmp_path / "usual" / "ollama"),))


def program(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_nothing_found_says_what_to_do() -> None:
    found = ENGINE.detect()
    assert not found.installed
    assert "ollama.com/download" in found.reason
    assert "MH_OLLAMA_BIN" in found.reason


@pytest.mark.parametrize("version", ["0.32.15", "0.24.0"])
def test_a_program_on_the_path_is_found_with_its_version(tmp_path: Path, version: str) -> None:
    binary = fake_ollama.make_binary(tmp_path / "bin" / "ollama", FAKE_OLLAMA_VERSION=version)
    found = ENGINE.detect()
    assert (found.installed, found.version, found.reason) == (True, version, "")
    assert found.path == str(binary)


def test_one_in_a_usual_place_is_found_without_a_path(tmp_path: Path) -> None:
    program(tmp_path / "usual" / "ollama", "echo ollama version is 0.24.0")
    assert ENGINE.detect().version == "0.24.0"


def test_the_one_named_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "bin" / "ollama", "echo ollama version is 0.1.0")
    mine = program(tmp_path / "mine", "echo ollama version is 0.2.0")
    monkeypatch.setenv("MH_OLLAMA_BIN", str(mine))
    assert ENGINE.detect().version == "0.2.0"


@pytest.mark.parametrize(("mode", "words"), [(None, "does not exist"), (0o644, "cannot be run")])
def test_a_named_one_that_is_none_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int | None, words: str
) -> None:
    mine = tmp_path / "mine"
    if mode is not None:
        program(mine, "true").chmod(mode)
    monkeypatch.setenv("MH_OLLAMA_BIN", str(mine))
    found = ENGINE.detect()
    assert not found.installed
    assert words in found.reason


def test_its_own_version_counts_and_not_a_servers(tmp_path: Path) -> None:
    text = "echo ollama version is 0.24.0; echo Warning: client version is 0.32.15"
    program(tmp_path / "bin" / "ollama", text)
    assert ENGINE.detect().version == "0.32.15"


def test_no_server_is_asked_for_the_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "http://10.1.2.3:11434")
    program(tmp_path / "bin" / "ollama", 'echo "client version is 1.0-$OLLAMA_HOST"')
    assert ENGINE.detect().version == "1.0-127.0.0.1"


@pytest.mark.parametrize("script", ["exit 127", "kill -9 $$"])
def test_a_program_that_does_not_run_is_not_installed(tmp_path: Path, script: str) -> None:
    program(tmp_path / "bin" / "ollama", script)
    found = ENGINE.detect()
    assert not found.installed
    assert "does not run" in found.reason


def test_the_version_is_asked_once_per_program(tmp_path: Path) -> None:
    count = tmp_path / "count"
    binary = program(tmp_path / "bin" / "ollama", f"echo x >>{count}; echo version is 0.24.0")
    assert [ENGINE.detect().version for _ in range(3)] == ["0.24.0"] * 3
    assert count.read_text() == "x\n"
    program(binary, f"echo x >>{count}; echo version is 0.32.15")
    assert ENGINE.detect().version == "0.32.15"


def test_a_program_that_takes_too_long_has_no_version_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installation, "_VERSION_TIMEOUT", 0.05)
    program(tmp_path / "bin" / "ollama", "exec /bin/sleep 5")
    assert (ENGINE.detect().installed, ENGINE.detect().version) == (True, "")
