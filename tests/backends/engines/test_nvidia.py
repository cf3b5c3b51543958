from pathlib import Path

import pynvml
import pytest

# The function itself: the fixture of this folder replaces the module's attribute.
from backends.engines import nvidia
from backends.engines.nvidia import gpu_count


def fail() -> None:
    raise pynvml.NVMLError_LibraryNotFound


def test_no_driver_and_no_device_files_is_no_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pynvml, "nvmlInit", fail)
    assert gpu_count(tmp_path) == 0


def test_the_driver_counts_also_where_it_has_no_device_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: 2)
    monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: None)
    assert gpu_count(tmp_path) == 2


def test_device_files_are_counted_when_the_driver_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pynvml, "nvmlInit", fail)
    for name in ("nvidiactl", "nvidia0", "nvidia1", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert gpu_count(tmp_path) == 2


@pytest.fixture
def four(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with four GPUs, and no word about which of them are visible."""
    monkeypatch.setattr(nvidia, "gpu_count", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.usefixtures("four")
@pytest.mark.parametrize(
    ("chosen", "needed", "used"),
    [
        (None, None, (0, 1, 2, 3)),
        (None, 2, (0, 1)),
        (None, 8, (0, 1, 2, 3)),
        ((3, 1), 1, (1, 3)),
        ((7,), 1, (7,)),
    ],
)
def test_an_engine_uses_the_gpus_chosen_else_the_first_it_needs(
    chosen: tuple[int, ...] | None, needed: int | None, used: tuple[int, ...]
) -> None:
    assert nvidia.used_gpus(chosen, needed) == used


@pytest.mark.usefixtures("four")
@pytest.mark.parametrize(
    ("said", "left"),
    [
        ("2,1", (2, 1)),
        ("1", (1,)),
        ("", ()),
        ("-1", ()),
        ("1,9,2", (1,)),
        ("GPU-8f3c,1", (0, 1, 2, 3)),
    ],
)
def test_what_the_site_hides_from_its_engines_they_do_not_use(
    monkeypatch: pytest.MonkeyPatch, said: str, left: tuple[int, ...]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", said)
    assert nvidia.used_gpus(None) == left


def test_chosen_gpus_are_counted_as_nvidia_smi_does() -> None:
    assert nvidia.environment((2, 0)) == {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": "0,2",
    }
    assert nvidia.environment(None) == {}


@pytest.mark.usefixtures("four")
@pytest.mark.parametrize(
    ("chosen", "needed", "message"),
    [
        ((4, 5), 1, "There is no GPU 4, 5: this machine has GPUs 0 to 3."),
        ((-1,), 1, "gpus counts from 0"),
        ((1, 1), 1, "gpus names GPU 1 twice"),
        ((0,), 2, "split over 2"),
    ],
)
def test_a_choice_that_cannot_be_is_a_problem(
    chosen: tuple[int, ...], needed: int, message: str
) -> None:
    (problem,) = nvidia.problems(chosen, needed)
    assert message in problem.message
    assert (problem.option, problem.code) == ("gpus", "invalid_gpus")


def test_where_no_gpu_is_seen_nobody_knows_that_one_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(nvidia, "gpu_count", lambda: 0)
    assert list(nvidia.problems((0, 7), 2)) == []
    assert list(nvidia.problems(None, 2)) == []
