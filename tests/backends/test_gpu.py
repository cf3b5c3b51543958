"""GPUs through a fake NVML: drivers that are absent, partial, lost and back again."""

import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest
import structlog

from backends import gpu
from backends.gpu import Gpu, GpuProcess, Reader

GIB = 1 << 30


class FakeNvml:
    """A fake of the module ``pynvml``: answers from ``devices``, fails where it is told to."""

    NVMLError = pynvml.NVMLError
    nvmlMemory_v2 = 2  # noqa: N815 - the binding's name

    def __init__(self, *devices: dict[str, Any]) -> None:
        self.devices = devices
        self.failures: dict[str, Exception] = {}
        self.initialised = 0
        self.shut_down = 0

    def fail(self, name: str, code: int = pynvml.NVML_ERROR_UNKNOWN) -> None:
        self.failures[name] = pynvml.NVMLError(code)

    def _check(self, name: str) -> None:
        if name in self.failures:
            raise self.failures[name]

    def nvmlInit(self) -> None:  # noqa: N802
        self._check("nvmlInit")
        self.initialised += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self._check("nvmlShutdown")
        self.shut_down += 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        self._check("nvmlDeviceGetCount")
        return len(self.devices)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> dict[str, Any]:  # noqa: N802
        self._check("nvmlDeviceGetHandleByIndex")
        return self.devices[index]

    def nvmlDeviceGetMemoryInfo(  # noqa: N802
        self, handle: dict[str, Any], version: int | None = None
    ) -> SimpleNamespace:
        self._check(f"memory v{version or 1}")
        used = handle["used"] + (0 if version else handle["reserved"])
        return SimpleNamespace(total=handle["total"], used=used)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if not name.startswith("nvmlDeviceGet"):
            raise AttributeError(name)

        def answer(handle: dict[str, Any], *_: int) -> Any:
            self._check(name)
            return handle[name.removeprefix("nvmlDeviceGet")]

        return answer


def process(pid: int, memory: int | None) -> SimpleNamespace:
    return SimpleNamespace(pid=pid, usedGpuMemory=memory)


def device(number: int, **other: Any) -> dict[str, Any]:
    return {
        "Name": f"NVIDIA H200 {number}",
        "UUID": f"GPU-{number}",
        "total": 140 * GIB,
        "used": 12 * GIB,
        "reserved": GIB,
        "UtilizationRates": SimpleNamespace(gpu=52, memory=10),
        "ComputeRunningProcesses": [process(41, 11 * GIB)],
        "GraphicsRunningProcesses": [],
        "PowerUsage": 310_040,
        "EnforcedPowerLimit": 700_000,
        "TemperatureV": 61,
        "Temperature": 60,
        **other,
    }


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    fake = FakeNvml(device(0), device(1))
    monkeypatch.setattr(gpu, "pynvml", fake)
    return fake


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def reader(clock: Clock) -> Reader:
    return Reader(clock=clock)


def test_every_gpu_is_read_with_its_processes(nvml: FakeNvml, reader: Reader) -> None:
    first, second = reader.read()
    assert first == Gpu(
        index=0,
        name="NVIDIA H200 0",
        uuid="GPU-0",
        memory_total=140 * GIB,
        memory_used=12 * GIB,
        utilization=52,
        processes=(GpuProcess(41, 11 * GIB),),
        power=310.0,
        power_limit=700.0,
        temperature=61,
    )
    assert second.index == 1
    assert second.uuid == "GPU-1"


def test_a_driver_from_before_cuda_13_is_asked_for_the_temperature_its_way(
    nvml: FakeNvml, reader: Reader
) -> None:
    nvml.fail("nvmlDeviceGetTemperatureV", pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)
    assert reader.read()[0].temperature == 60


def test_a_card_that_does_not_measure_its_power_says_so(nvml: FakeNvml, reader: Reader) -> None:
    nvml.fail("nvmlDeviceGetPowerUsage", pynvml.NVML_ERROR_NOT_SUPPORTED)
    (card, _) = reader.read()
    assert (card.power, card.power_limit) == (None, 700.0)


def test_nvml_is_initialised_once(nvml: FakeNvml, reader: Reader) -> None:
    reader.read()
    reader.read()
    assert (nvml.initialised, nvml.shut_down) == (1, 0)


def test_a_fork_initialises_nvml_for_itself(
    nvml: FakeNvml, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader.read()
    monkeypatch.setattr(os, "getpid", lambda: 1)
    reader.read()
    assert nvml.initialised == 2


@pytest.mark.parametrize(
    "code",
    [
        pynvml.NVML_ERROR_LIBRARY_NOT_FOUND,
        pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
        pynvml.NVML_ERROR_NO_PERMISSION,
        pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
    ],
)
def test_without_a_driver_there_are_no_gpus_and_one_line_of_log(
    nvml: FakeNvml, reader: Reader, clock: Clock, code: int
) -> None:
    nvml.fail("nvmlInit", code)
    with structlog.testing.capture_logs() as logs:
        for _ in range(100):
            assert reader.read() == []
            clock.now += 1
    assert [entry["event"] for entry in logs] == ["gpu.unreadable"]


def test_a_machine_without_gpus_has_an_empty_list(nvml: FakeNvml, reader: Reader) -> None:
    nvml.devices = ()
    assert reader.read() == []
    assert nvml.shut_down == 0


@pytest.mark.parametrize(
    ("question", "field"),
    [
        ("nvmlDeviceGetName", "name"),
        ("nvmlDeviceGetUUID", "uuid"),
        ("nvmlDeviceGetUtilizationRates", "utilization"),
    ],
)
def test_what_one_gpu_does_not_support_is_none_and_the_rest_is_read(
    nvml: FakeNvml, reader: Reader, question: str, field: str
) -> None:
    nvml.fail(question, pynvml.NVML_ERROR_NOT_SUPPORTED)
    found = reader.read()[0]
    assert getattr(found, field) is None
    assert found.memory_total == 140 * GIB
    assert found.processes


def test_memory_counts_the_drivers_reserve_only_where_it_cannot_be_told_apart(
    nvml: FakeNvml, reader: Reader
) -> None:
    nvml.fail("memory v2", pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH)
    assert reader.read()[0].memory_used == 13 * GIB
    nvml.fail("memory v1", pynvml.NVML_ERROR_NOT_SUPPORTED)
    found = reader.read()[0]
    assert (found.memory_total, found.memory_used) == (None, None)
    assert found.utilization == 52


def test_processes_without_a_known_amount_are_listed_once(nvml: FakeNvml, reader: Reader) -> None:
    nvml.devices = (
        device(
            0,
            ComputeRunningProcesses=[process(7, None), process(8, (1 << 64) - 1), process(9, 5)],
            GraphicsRunningProcesses=[process(9, 6), process(6, 1)],
        ),
    )
    assert reader.read()[0].processes == (
        GpuProcess(6, 1),
        GpuProcess(7, None),
        GpuProcess(8, None),
        GpuProcess(9, 6),
    )


def test_processes_that_cannot_be_read_are_unknown_and_not_none(
    nvml: FakeNvml, reader: Reader
) -> None:
    nvml.fail("nvmlDeviceGetComputeRunningProcesses", pynvml.NVML_ERROR_INSUFFICIENT_SIZE)
    found = reader.read()
    assert (found[0].processes, found[0].processes_known) == ((), False)
    assert gpu.memory_held(found, {41}) is None


def test_a_gpu_without_graphics_says_who_computes_on_it(nvml: FakeNvml, reader: Reader) -> None:
    nvml.fail("nvmlDeviceGetGraphicsRunningProcesses", pynvml.NVML_ERROR_NOT_SUPPORTED)
    found = reader.read()[0]
    assert (found.processes, found.processes_known) == ((GpuProcess(41, 11 * GIB),), True)


def test_a_process_on_several_instances_of_a_partitioned_gpu_holds_their_sum(
    nvml: FakeNvml, reader: Reader
) -> None:
    parts = [process(7, 5), process(7, 6), process(8, 5), process(8, None)]
    nvml.devices = (device(0, ComputeRunningProcesses=parts),)
    assert reader.read()[0].processes == (GpuProcess(7, 11), GpuProcess(8, None))


def test_a_partitioned_gpu_that_tells_no_memory_and_no_load_keeps_its_name(
    nvml: FakeNvml, reader: Reader
) -> None:
    nvml.fail("nvmlDeviceGetUtilizationRates", pynvml.NVML_ERROR_NOT_SUPPORTED)
    for version in (1, 2):
        nvml.fail(f"memory v{version}", pynvml.NVML_ERROR_NO_PERMISSION)
    found = reader.read()[0]
    assert (found.uuid, found.memory_total, found.memory_used, found.utilization) == (
        "GPU-0", None, None, None,
    )  # fmt: skip


CALLS = (
    "nvmlInit", "nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex", "nvmlDeviceGetName",
    "nvmlDeviceGetUUID", "memory v1", "memory v2", "nvmlDeviceGetUtilizationRates",
    "nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetGraphicsRunningProcesses", "nvmlShutdown",
    "nvmlDeviceGetPowerUsage", "nvmlDeviceGetEnforcedPowerLimit", "nvmlDeviceGetTemperatureV",
)  # fmt: skip


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    "error",
    [
        pynvml.NVMLError(pynvml.NVML_ERROR_UNKNOWN),
        pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST),
        pynvml.NVMLError(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND),
        AttributeError("not in this binding"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "what a name is made of"),
        OSError("libnvidia-ml.so.1: cannot open shared object file"),
    ],
    ids=lambda error: f"{type(error).__name__}",
)
def test_no_call_that_fails_ends_a_read(
    nvml: FakeNvml, reader: Reader, call: str, error: Exception
) -> None:
    reader.read()
    nvml.failures[call] = error
    found = Reader().read() if call == "nvmlInit" else reader.read()
    assert all(isinstance(item, Gpu) for item in found)
    nvml.failures.clear()


def test_a_gpu_lost_in_the_middle_is_unknown_and_the_others_are_read_on(
    nvml: FakeNvml, reader: Reader
) -> None:
    assert len(reader.read()) == 2
    nvml.devices = (nvml.devices[0], {**nvml.devices[1], "lost": True})
    real = nvml.nvmlDeviceGetHandleByIndex

    def handle(index: int) -> dict[str, Any]:
        if nvml.devices[index].get("lost"):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        return real(index)

    nvml.nvmlDeviceGetHandleByIndex = handle  # type: ignore[method-assign]
    first, second = reader.read()
    assert first.memory_used == 12 * GIB
    assert second == Gpu(1, None, None, None, None, None, processes_known=False)
    assert gpu.memory_held([first, second], {41}) is None, "what is on a lost GPU is not known"


def test_a_gpu_that_fell_off_the_bus_keeps_its_place(nvml: FakeNvml, reader: Reader) -> None:
    real = nvml.nvmlDeviceGetHandleByIndex

    def lost(index: int) -> dict[str, Any]:
        if index == 0:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        return real(index)

    nvml.nvmlDeviceGetHandleByIndex = lost  # type: ignore[method-assign]
    found = reader.read()
    assert [item.index for item in found] == [0, 1]
    assert found[0] == Gpu(0, None, None, None, None, None, processes_known=False)
    assert found[1].uuid == "GPU-1"


@pytest.mark.parametrize("failing", ["nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex"])
def test_a_driver_that_goes_away_is_found_again_when_it_is_back(
    nvml: FakeNvml, reader: Reader, clock: Clock, failing: str
) -> None:
    with structlog.testing.capture_logs() as logs:
        assert len(reader.read()) == 2
        nvml.fail(failing, pynvml.NVML_ERROR_UNINITIALIZED)
        nvml.fail("nvmlShutdown", pynvml.NVML_ERROR_UNINITIALIZED)
        reader.read()
        nvml.failures.clear()
        assert reader.read() == []  # not asked again at once
        clock.now += gpu.RETRY_INTERVAL
        assert len(reader.read()) == 2
    assert nvml.initialised == 2
    assert [entry["event"] for entry in logs] == ["gpu.unreadable", "gpu.readable_again"]


def test_names_in_bytes_are_text(nvml: FakeNvml, reader: Reader) -> None:
    nvml.devices = (device(0, Name=b"Tesla T4"),)
    assert reader.read()[0].name == "Tesla T4"


def test_memory_held_is_summed_over_gpus_and_unknown_when_a_part_is() -> None:
    def one(*processes: GpuProcess) -> Gpu:
        return Gpu(0, None, None, None, None, None, processes)

    two = [one(GpuProcess(1, 5), GpuProcess(2, 100)), one(GpuProcess(1, 7))]
    assert gpu.memory_held(two, {1}) == 12
    assert gpu.memory_held(two, {3}) == 0
    assert gpu.memory_held([*two, one(GpuProcess(1, None))], {1}) is None


def test_the_real_binding_on_this_machine_never_raises() -> None:
    assert isinstance(gpu.gpus(), list)
