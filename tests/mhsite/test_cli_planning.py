"""``mh vllm plan``: a table and a sentence, JSON, and the exit status."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from django.conf import settings

from backends.models import Backend
from backends.planning import Gpu, Machine
from mhsite import cli
from mhsite.processes import boot
from tests.backends.engines.weights import write_model

GIB = 2**30


@pytest.fixture
def qwen(
    transactional_db: None,
    clean_broker: Any,
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[float], None]:
    """Qwen2.5-14B on this disk, on a machine with one GPU of so many GiB."""
    monkeypatch.setattr(boot, "SETTINGS_FILES", ())
    monkeypatch.setenv("MH_OWNER_PASSWORD", "pw-of-the-owner")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("MH_VLLM_PYTHON", raising=False)
    monkeypatch.setattr(settings, "MH_CACHE", tmp_path / "cache")
    monkeypatch.setattr("backends.engines.nvidia.gpu_count", lambda: 1)
    write_model(tmp_path / "cache" / "models" / "qwen", "Qwen2.5-14B-Instruct", 14_770_033_664)
    boot.database_prepare()
    Backend.objects.filter(name="vllm").update(node=settings.MH_NODE, options={"model": "qwen"})

    def of_size(gib: float) -> None:
        card = Gpu(index=0, name="GPU", total=round(gib * GIB), used=0)
        machine = Machine(gpus=(card,), total=64 * GIB, available=60 * GIB)
        monkeypatch.setattr("backends.selectors.plans.machine_now", lambda _node: machine)

    return of_size


def test_what_fits_ends_with_0_and_says_why(
    qwen: Callable[[float], None], capfd: pytest.CaptureFixture[str]
) -> None:
    qwen(80)
    assert cli.run(["vllm", "plan"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert "weights\t27.5GB" in lines
    assert "cache (8192 tokens)\t1.5GB" in lines
    assert "GPU 0: takes 72GB\t80GB free of 80GB" in lines
    assert any(line.startswith("It fits. qwen needs 3") for line in lines)
    assert "Longest conversation that fits: 32768 tokens." in lines


def test_what_does_not_fit_ends_with_1_and_what_would_help(
    qwen: Callable[[float], None], capfd: pytest.CaptureFixture[str]
) -> None:
    qwen(24)
    assert cli.run(["vllm", "plan", "qwen", "-o", "maxModelLen=4096"]) == 1
    out = capfd.readouterr().out
    assert "It does not fit. qwen needs" in out
    assert "(90% of 24.0 GiB)" in out
    assert "What would help:\n- " in out
    assert cli.run(["vllm", "plan", "--json"]) == 1
    plan = json.loads(capfd.readouterr().out)
    assert (plan["verdict"], plan["certain"], plan["weights"]) == (
        "does_not_fit",
        True,
        29_540_067_328,
    )


def test_an_unknown_model_is_told_with_those_that_are_here(
    qwen: Callable[[float], None], capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["vllm", "plan", "nosuch"]) == 1
    assert "Models here: qwen." in capfd.readouterr().err
