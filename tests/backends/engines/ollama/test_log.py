import pytest

from backends.engines.ollama import OllamaEngine

ENGINE = OllamaEngine()
TIME = "time=2026-11-22T11:10:31.000Z"
CONFIG = f'{TIME} level=INFO source=routes.go:1760 msg="server config" env="map[OLLAMA_DEBUG:INFO]"'
LISTENING = (
    f'{TIME} level=INFO source=routes.go:1813 msg="Listening on 127.0.0.1:11434 (version 0.32.15)"'
)
STARTING = f'{TIME} level=INFO source=server.go:392 msg="starting runner" cmd="ollama runner"'
STARTED = f'{TIME} level=INFO source=server.go:1388 msg="llama runner started in 0.53 seconds"'
GIN = '[GIN] 2026/11/22 - 11:10:31 | 200 |    28.205µs |       127.0.0.1 | GET      "/api/version"'
FAILED = (
    f'{TIME} level=ERROR source=sched.go:518 msg="error loading llama server" '
    r'error="llama runner process has terminated: \"exit status 2\""'
)
NO_MEMORY = (
    "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 8148.38 MiB on device 0: "
    "cudaMalloc failed: out of memory"
)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([CONFIG], "reading its settings"),
        ([CONFIG, LISTENING, GIN], "the server listens"),
        ([CONFIG, LISTENING, STARTING, GIN], "loading the model"),
        ([STARTING, "load_tensors: offloading 32 repeating layers to GPU"], "loading weights"),
        ([STARTING, STARTED, GIN], "the model is loaded"),
        ([STARTED, STARTING, GIN], "loading the model"),
    ],
)
def test_progress_is_the_latest_stage(lines: list[str], message: str) -> None:
    found = ENGINE.progress(lines)
    assert found
    assert found.message == message
    assert 0 < found.fraction <= 1


def test_a_log_without_a_stage_says_nothing() -> None:
    assert ENGINE.progress([]) is None
    assert ENGINE.progress([GIN]) is None


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([], ""),
        ([LISTENING, GIN], ""),
        (
            [CONFIG, "Error: listen tcp 127.0.0.1:11434: bind: address already in use"],
            "listen tcp 127.0.0.1:11434: bind: address already in use",
        ),
        (
            ["Error: mkdir /data/ollama: permission denied: ensure path elements are traversable"],
            "mkdir /data/ollama: permission denied: ensure path elements are traversable",
        ),
        (
            [STARTING, FAILED, GIN],
            'error loading llama server: llama runner process has terminated: "exit status 2"',
        ),
        ([STARTING, NO_MEMORY, FAILED], "cudaMalloc failed: out of memory"),
        (
            ["error loading model: unknown model architecture: 'foo'", FAILED],
            "error loading model: unknown model architecture: 'foo'",
        ),
        (
            ["panic: runtime error: index out of range", "goroutine 1"],
            "runtime error: index out of range",
        ),
        ([f"{TIME} level=ERROR source=x.go:1 msg=bad err=worse"], "bad: worse"),
        ([f"{TIME} level=WARN source=x.go:1 msg=bad error=worse"], ""),
    ],
)
def test_the_reason_of_a_failure(lines: list[str], reason: str) -> None:
    assert ENGINE.failure_reason(lines) == reason


def test_a_long_reason_is_cut() -> None:
    assert len(ENGINE.failure_reason([f"Error: {'x' * 5000}\n"])) == 600
