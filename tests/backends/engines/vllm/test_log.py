from pathlib import Path

import pytest

from backends.engines.base import Progress
from backends.engines.vllm.log import REASON_MAX, STAGES, failure_reason, progress

LOGS = Path(__file__).parents[1] / "logs"

#: Real logs of vLLM 0.32.0 on CPU, and what a person is shown.
REASONS = {
    "path_missing": "HFValidationError: Repo id must be in the form",
    "not_cached_offline": "LocalEntryNotFoundError: Cannot find an appropriate cached snapshot",
    "no_network": "OSError: We couldn't connect to 'https://huggingface.co'",
    "empty_folder": "Value error, Invalid repository ID or local directory specified: '/models/empty'",
    "unknown_flag": "vllm: error: unrecognized arguments: --no-such-flag",
    "bad_dtype": "vllm: error: argument --dtype: invalid choice: 'float12'",
    "max_model_len_too_big": "Value error, User-specified max_model_len (999999) is greater than the derived",
    "utilization_too_big": "gpu_memory_utilization: Input should be less than or equal to 1",
    "unknown_architecture": "Value error, The checkpoint you are trying to load has model type `foo` but "
    "Transformers does not recognize this architecture",
    "wrong_quantization": "Value error, Cannot find the config file for awq",
    "tensor_parallel_does_not_divide": "Value error, Total number of attention heads (2) must be divisible",
    "port_in_use": "OSError: [Errno 98] Address already in use",
    "kv_too_small": "ValueError: To serve at least one request",
    "kv_too_big": "ValueError: Available memory on node 0",
    "default_memory": "ValueError: Available memory on node 0",
    "corrupt_safetensors": "SafetensorError: Error while deserializing header",
    "killed_worker": "Worker proc VllmWorker-0 died unexpectedly",
    "killed_enginecore": "engine core exited unexpectedly; starting cleanup",
}


def lines_of(case: str) -> list[str]:
    return (LOGS / f"{case}.log").read_text().splitlines()


@pytest.mark.parametrize("case", REASONS)
def test_the_reason_is_found_in_a_real_log(case: str) -> None:
    reason = failure_reason(lines_of(case))
    assert reason.startswith(REASONS[case])
    assert "input_value" not in reason
    assert len(reason) <= REASON_MAX


def test_every_recorded_log_is_used() -> None:
    assert {file.stem for file in LOGS.glob("*.log")} == {*REASONS, "start"}


def test_a_good_start_passes_every_stage_in_order() -> None:
    lines = lines_of("start")
    seen = [progress(lines[: count + 1]) for count in range(len(lines))]
    stages = list(dict.fromkeys(stage for stage in seen if stage))
    assert stages[-1] == Progress(fraction=1.0, message="ready")
    assert [stage.fraction for stage in stages] == [fraction for _, fraction, _ in STAGES]


def test_before_the_first_stage_nothing_is_claimed() -> None:
    assert progress([]) is None
    assert progress(["warnings.warn("]) is None


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [""],
        ["INFO 11-22 15:00:00 [a.py:1] all well"],
        ["1 validation error for X"],
        ["1 validation error for X", "field"],
        ["(Worker pid=1) ERROR 11-22 15:00:00 [a.py:1]"],
        [
            "(Worker pid=1) ERROR 11-22 15:00:00 [a.py:1] RuntimeError: WorkerProc initialization failed"
        ],
        ["(A pid=1) WARNING 11-22 15:00:00 [a.py:1] OSError: [Errno 24] Too many open files"],
        ['    raise ValueError("not this")'],
    ],
)
def test_a_log_without_a_reason_gives_none(lines: list[str]) -> None:
    assert failure_reason(lines) == ""


def test_a_workers_error_goes_before_the_engine_cores_and_that_before_the_last_one() -> None:
    worker = "(Worker_TP1 pid=3) ERROR 11-22 15:00:00 [a.py:1] torch.OutOfMemoryError: CUDA out of memory."
    core = "(EngineCore_DP0 pid=2) ERROR 11-22 15:00:00 [a.py:1] RuntimeError: Worker failed"
    last = "RuntimeError: something at the end"
    assert failure_reason([worker, core, last]) == "OutOfMemoryError: CUDA out of memory."
    assert failure_reason([core, last]) == "RuntimeError: Worker failed"
    assert failure_reason([last]) == last


def test_a_very_long_reason_is_cut() -> None:
    assert len(failure_reason(["ValueError: " + "x" * 5000])) == REASON_MAX
