"""Memory is back before *stopped* is said: on GPUs of the fake NVML, and of the machine, with real processes."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from accounts.actors import Actor
from backends import gpu_holders, keeper, memory, selectors, services, supervisor
from backends.errors import OperationLost, StopFailed
from backends.lifecycle import State
from backends.memory import memory_before, verify_released
from backends.memory_peaks import WRITE_SECONDS, Peaks
from backends.models import Operation, OperationState, StartRecord
from backends.observer import Observer
from tests.backends.conftest import FakeBackend
from tests.backends.nvml import GIB, Nvml
from tests.fakes.engines.harness import Yard, yard

pytestmark = pytest.mark.process
Make = Callable[..., FakeBackend]
MakeNvml = Callable[..., Nvml]


@pytest.fixture
def engines() -> Iterator[Yard]:
    with yard() as made:
        yield made


@pytest.fixture
def engine(engines: Yard) -> supervisor.Instance:
    """A real engine, obedient, of the backend ``fake``."""
    inst = engines.spawn("fake_obedient.py")
    engines.report()
    return inst


def main_pid(inst: supervisor.Instance) -> int:
    pid = supervisor.inspect(inst).engine_pid
    assert pid
    return pid


# Stopped.


def test_what_is_held_is_noted_by_process_and_gpu(
    engine: supervisor.Instance, nvml: MakeNvml
) -> None:
    cards = nvml(2)
    pid = main_pid(engine)
    cards.hold(pid, 5 * GIB, gpu=1)
    cards.hold(1, GIB)
    held = memory_before(engine)
    assert held.parts == (memory.Part(1, pid, 5 * GIB),)
    assert (held.gpu_bytes, held.known) == (5 * GIB, True)
    assert pid in held.living
    assert held.host_bytes > 1 << 20


def test_memory_that_comes_back_late_is_waited_for(
    engine: supervisor.Instance, nvml: MakeNvml
) -> None:
    cards = nvml()
    cards.say(release_seconds=0.7)
    cards.hold(main_pid(engine), 5 * GIB)
    before = memory_before(engine)
    supervisor.stop(engine, grace=2)
    said: list[str] = []
    looked: list[int] = []
    after = verify_released(before, checkpoint=lambda: looked.append(1), say=said.append)
    assert (after.gpu_bytes, after.living, after.host_bytes) == (0, (), 0)
    assert looked
    assert said[0] == (f"waiting for memory to come back: {main_pid_of(before)} (5.0 GiB on GPU 0)")


def main_pid_of(held: memory.Held) -> int:
    (part,) = held.parts
    return part.pid


def test_memory_that_never_comes_back_is_an_error_with_pids_and_amounts(
    engine: supervisor.Instance, nvml: MakeNvml
) -> None:
    cards = nvml()
    cards.say(release_seconds=None)
    pid = main_pid(engine)
    cards.hold(pid, 5 * GIB)
    cards.hold(pid, 7 * GIB, gpu=1)
    before = memory_before(engine)
    supervisor.stop(engine, grace=2)
    with pytest.raises(StopFailed) as caught:
        verify_released(before, timeout=0.3)
    message = caught.value.message
    assert f"{pid} (5.0 GiB on GPU 0), {pid} (7.0 GiB on GPU 1)" in message
    assert "12.0 GiB still held" in message
    assert "nvidia-smi" in message


def test_a_runner_that_died_in_between_leaves_the_pids_to_the_next_one(
    engine: supervisor.Instance, nvml: MakeNvml
) -> None:
    cards = nvml()
    cards.say(release_seconds=None)
    cards.hold(main_pid(engine), 5 * GIB)
    supervisor.stop(engine, grace=2)
    late = memory_before(engine)
    assert late.living == ()
    assert late.gpu_bytes == 5 * GIB
    with pytest.raises(StopFailed, match=r"5\.0 GiB"):
        verify_released(late, timeout=0.2)


def test_a_pid_that_somebody_else_has_by_now_is_not_ours(
    engine: supervisor.Instance, nvml: MakeNvml
) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        nvml().hold(stranger.pid, GIB)
        process = keeper.identify(stranger.pid)
        assert process
        past = keeper.Process(process.pid, process.start - 1)
        before = memory.Held("fake", (engine,), frozenset({past}))
        assert verify_released(before, timeout=0.0).parts == ()


def test_the_wait_ends_when_the_operation_is_lost(
    engine: supervisor.Instance, nvml: MakeNvml
) -> None:
    nvml().hold(main_pid(engine), GIB)
    before = memory_before(engine)

    def lost() -> None:
        raise OperationLost("another runner")

    with pytest.raises(OperationLost):
        verify_released(before, checkpoint=lost)


def test_processes_that_live_are_named_where_there_is_no_gpu(engine: supervisor.Instance) -> None:
    before = memory_before(engine)
    with pytest.raises(StopFailed, match=str(main_pid(engine))):
        verify_released(before, timeout=0.0)
    supervisor.stop(engine, grace=2)
    after = verify_released(before, timeout=0.0)
    assert (after.host_bytes, after.gpu_bytes) == (0, 0)


def test_nothing_to_verify_is_verified_at_once() -> None:
    assert verify_released(memory_before(), timeout=0.0).processes == frozenset()


@pytest.mark.parametrize(
    "trouble",
    [
        {"errors": {"nvmlDeviceGetComputeRunningProcesses": 3}},
        {"errors": {"nvmlDeviceGetCount": 999}},
        {"gpus": [{"lost": True}, {}]},
    ],
    ids=["no processes told", "driver away", "one GPU lost"],
)
def test_what_the_driver_does_not_tell_holds_up_nobody_and_is_said_to_be_unknown(
    engine: supervisor.Instance,
    nvml: MakeNvml,
    trouble: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    cards = nvml()
    cards.hold(main_pid(engine), GIB)
    before = memory_before(engine)
    supervisor.stop(engine, grace=2)
    cards.say(**trouble)
    after = verify_released(before, timeout=5)
    assert after.living == ()
    if "nvmlDeviceGetCount" not in trouble.get("errors", {}):
        assert after.gpu_bytes is None
        assert "NVML does not say" in caplog.text


def test_pids_of_another_world_are_unknown_and_the_memory_is_waited_for_all_the_same(
    engine: supervisor.Instance, nvml: MakeNvml
) -> None:
    cards = nvml(1, driver=9 * GIB)
    cards.say(release_seconds=None)
    cards.hold(2**22 - 1, GIB)
    before = memory_before(engine)
    assert (before.known, before.gpu_bytes) == (False, None)
    supervisor.stop(engine, grace=2)
    levels = iter([6 * GIB, 3 * GIB])

    def falls() -> None:
        if (level := next(levels, None)) is not None:
            cards.cards(1, driver=level)

    assert verify_released(before, checkpoint=falls).used == 4 * GIB


# Parked.


def test_a_parked_engine_may_keep_a_small_rest_on_the_gpu(
    engine: supervisor.Instance, nvml: MakeNvml
) -> None:
    cards = nvml()
    pid = main_pid(engine)
    cards.hold(pid, 20 * GIB)
    before = memory_before(engine)
    with pytest.raises(StopFailed) as caught:
        verify_released(before, parked=True, timeout=0.2)
    assert f"{pid} (20.0 GiB on GPU 0)" in caught.value.message
    assert "did not give its memory back" in caught.value.message
    cards.hold(pid, int(1.2 * GIB))
    after = verify_released(before, parked=True, timeout=1)
    assert after.gpu_bytes == int(1.2 * GIB)


HOG = "import sys; b = bytearray(int(sys.argv[1])); print('ready', flush=True)\nfor line in sys.stdin:\n b = None; print('freed', flush=True)"


def test_without_a_gpu_the_resident_memory_of_a_parked_engine_has_fallen(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(memory, "PARKED_HOST_REST", 20 << 20)
    size = 150 << 20
    with subprocess.Popen(
        [sys.executable, "-c", HOG, str(size)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as hog:
        assert hog.stdin
        assert hog.stdout
        hog.stdout.readline()
        process = keeper.identify(hog.pid)
        assert process
        before = memory.Held(
            "fake",
            processes=frozenset({process}),
            host_bytes=supervisor.rss_of(hog.pid),
        )
        assert before.host_bytes >= size
        with pytest.raises(StopFailed, match="machine's memory"):
            verify_released(before, parked=True, timeout=0.2)
        hog.stdin.write(b"park\n")
        hog.stdin.flush()
        hog.stdout.readline()
        after = verify_released(before, parked=True, timeout=5)
        assert after.living == (hog.pid,)
        assert after.host_bytes < size / 2
        hog.stdin.close()


# In operations.


def run(backend: FakeBackend, actor: Actor, what: str, **more: Any) -> Operation:
    row = getattr(services, f"backend_{what}")(
        actor=actor, name=backend.name, foreground=True, **more
    )
    backend.run()
    return selectors.operation_get(str(row.pk))


def test_stopped_is_said_when_the_memory_is_back_and_not_before(
    fake: Make, owner_actor: Actor, nvml: MakeNvml
) -> None:
    cards = nvml()
    cards.say(release_seconds=1.0)
    cards.use("fake", gpu=[0, 1])
    backend = fake(gpus=(0, 1), arguments="--engine-core")
    assert run(backend, owner_actor, "start").state == OperationState.SUCCEEDED
    Observer().look()  # NVML has seen them
    pids = backend.pids()
    began = time.monotonic()
    row = run(backend, owner_actor, "stop")
    assert row.state == OperationState.SUCCEEDED, row.error
    assert time.monotonic() - began > 1.0
    assert backend.row.state == State.STOPPED
    assert not any(keeper.identify(pid) for pid in pids)
    assert memory.gpu.memory_held(memory.gpu.gpus(), pids) == 0


def test_a_stop_whose_memory_never_comes_back_fails_and_says_who_holds_it(
    fake: Make, owner_actor: Actor, nvml: MakeNvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "RELEASE_SECONDS", 0.5)
    cards = nvml()
    cards.say(release_seconds=None)
    cards.use("fake", memory=8 * GIB)
    backend = fake(gpus=(0,))
    run(backend, owner_actor, "start")
    (pid,) = backend.pids()
    row = run(backend, owner_actor, "stop")
    assert row.state == OperationState.FAILED
    assert row.error
    assert row.error["code"] == "stop_failed"
    assert f"{pid} (8.0 GiB on GPU 0)" in row.error["message"]
    assert backend.row.state == State.FAILED
    assert str(pid) in backend.row.failure
    assert backend.pids() == ()


def test_a_switch_waits_for_the_memory_before_the_new_one_starts(
    fake: Make, owner_actor: Actor, nvml: MakeNvml
) -> None:
    cards = nvml(1)
    cards.say(release_seconds=1.0)
    cards.use("fake", memory=20 * GIB)
    old, new = fake(gpus=(0,)), fake("fake2", gpus=(0,))
    run(old, owner_actor, "start")
    pids = old.pids()
    row = run(new, owner_actor, "switch")
    assert row.state == OperationState.SUCCEEDED, row.error
    steps = {step.name: step for step in row.steps.all()}
    release = steps["release"]
    assert (release.finished_at - release.started_at).total_seconds() >= 1.0
    assert memory.gpu.memory_held(memory.gpu.gpus(), pids) == 0
    assert gpu_holders.gpu_holders(old.row.node) == {"GPU-fake-0": ["fake2"]}


def test_a_start_that_fails_waits_for_its_memory_too(
    fake: Make, owner_actor: Actor, nvml: MakeNvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "RELEASE_SECONDS", 0.3)
    cards = nvml(1)
    cards.say(release_seconds=None)
    cards.use("fake")
    backend = fake(gpus=(0,), startTimeoutSeconds=1.5, arguments="--start-delay 60")
    stopper = memory.memory_before

    def note(*instances: supervisor.Instance) -> memory.Held:
        memory.gpu.gpus()  # the driver lists what was there a moment ago
        return stopper(*instances)

    monkeypatch.setattr(memory, "memory_before", note)
    row = run(backend, owner_actor, "start")
    assert row.state == OperationState.FAILED
    assert backend.row.state == State.FAILED
    assert "8.0 GiB" in backend.row.failure
    assert backend.pids() == ()


# Peaks.


def record(backend: str, model: str = "fake-model", **facts: Any) -> StartRecord:
    return StartRecord.objects.create(
        backend_id=backend, model=model, seconds=1.0, created_at=selectors.now(), **facts
    )


def test_the_most_memory_seen_is_kept_with_the_newest_start_and_only_when_it_grew(
    fake: Make,
) -> None:
    backend = fake()
    backend.row.__class__.objects.filter(name="fake").update(model="fake-model")
    older = record("fake")
    newest = record("fake")
    record("fake", "other-model")

    def peak(gpu: int | None, host: int | None) -> bool:
        return services.peak_record(backend="fake", gpu_bytes=gpu, host_bytes=host)

    assert peak(100, None)
    assert not peak(104, None)
    assert peak(106, 50)
    assert not peak(1, 1)
    newest.refresh_from_db()
    older.refresh_from_db()
    assert (newest.peak_gpu_bytes, newest.peak_host_bytes) == (106, 50)
    assert older.peak_gpu_bytes is None


def test_without_a_record_of_the_start_nothing_is_kept(fake: Make) -> None:
    fake()
    assert not services.peak_record(backend="fake", gpu_bytes=1, host_bytes=1)


def test_peaks_are_seen_often_and_written_seldom(fake: Make) -> None:
    row = fake().row
    row.state, row.instance_id, row.model = State.READY, "i1", "fake-model"
    row.save()
    kept = record("fake")
    now = [0.0]
    peaks = Peaks(clock=lambda: now[0])

    def see(memory: int | None, *, known: bool = True) -> tuple[int | None, int | None]:
        process = {"pid": 1, "backend": "fake", "memory": memory}
        peaks.see(row, [{"processes_known": known, "processes": [process]}], 7)
        kept.refresh_from_db()
        return kept.peak_gpu_bytes, kept.peak_host_bytes

    assert see(100) == (100, 7)
    assert see(500) == (100, 7)
    now[0] += WRITE_SECONDS
    assert see(200) == (500, 7)
    row.instance_id = "i2"
    kept = record("fake")
    assert see(None) == (None, 7)
    now[0] += WRITE_SECONDS
    assert see(300, known=False) == (None, 7)


def test_the_observer_records_the_peak_of_what_runs(
    fake: Make, owner_actor: Actor, nvml: MakeNvml
) -> None:
    nvml(2).use("fake", gpu=[0, 1], memory=3 * GIB)
    backend = fake(gpus=(0, 1))
    run(backend, owner_actor, "start")
    record("fake")
    Observer().look()
    kept = StartRecord.objects.filter(backend_id="fake").first()
    assert kept
    assert kept.peak_gpu_bytes == 6 * GIB
    assert (kept.peak_host_bytes or 0) > 1 << 20
    cards = selectors.status()["gpus"]
    assert [card["processes"][0]["backend"] for card in cards] == ["fake", "fake"]
