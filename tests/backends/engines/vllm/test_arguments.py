"""Further arguments: those on the list, and nothing else in any disguise."""

import subprocess
from typing import Any

import pytest
from pydantic import ValidationError

from backends.engines.vllm import VllmOptions
from backends.engines.vllm.arguments import ALLOWED, OWN, _switch, checked
from mhsite import home

#: What must never be on the list: it reads or writes files, loads code, listens, or sets a key.
NEVER = [
    "additional-config",
    "allowed-local-media-path",
    "api-key",
    "chat-template",
    "code-revision",
    "compilation-config",
    "config",
    "download-dir",
    "ec-transfer-config",
    "enable-log-requests",
    "enable-prompt-embeds",
    "generation-config-path",
    "grpc-port",
    "headless",
    "hf-config-path",
    "hf-overrides",
    "hf-token",
    "host",
    "io-processor-plugin",
    "kv-transfer-config",
    "log-config-file",
    "logging-config",
    "logits-processors",
    "lora-modules",
    "master-addr",
    "middleware",
    "model",
    "model-class-overrides",
    "model-loader-extra-config",
    "otlp-traces-endpoint",
    "port",
    "profiler-config",
    "reasoning-parser-plugin",
    "root-path",
    "scheduler-cls",
    "served-model-name",
    "speculative-config",
    "spec-model",
    "ssl-certfile",
    "ssl-keyfile",
    "tokenizer",
    "tool-parser-plugin",
    "tool-server",
    "trust-remote-code",
    "trust-request-chat-template",
    "uds",
    "worker-cls",
    "worker-extension-cls",
]


def refused(given: Any) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 — the message is looked at
        checked(given)
    return str(caught.value)


def test_a_mapping_and_a_list_say_the_same() -> None:
    wanted = {"async-scheduling": True, "enable-chunked-prefill": False, "stream-interval": 4}
    assert checked(wanted) == wanted
    assert checked(
        ["--async-scheduling", "--no-enable-chunked-prefill", "--stream-interval=4"]
    ) == (wanted)
    spelled = {"--async_scheduling": True, "enable_chunked_prefill": False, "stream_interval": "4"}
    assert checked(spelled) == wanted


def test_the_order_they_are_given_in_changes_nothing() -> None:
    one, other = (
        checked({"watermark": 0.1, "runner": "auto"}),
        checked({"runner": "auto", "watermark": 0.1}),
    )
    assert list(one) == list(other)


@pytest.mark.parametrize("name", NEVER)
def test_what_reaches_files_code_the_network_or_keys_is_refused_by_name(name: str) -> None:
    assert name not in ALLOWED
    assert f"--{name}" in refused({name: "x"})
    assert f"--{name}" in refused([f"--{name}=x"])


@pytest.mark.parametrize("name", sorted(OWN))
def test_what_has_an_option_of_its_own_names_it(name: str) -> None:
    assert name not in ALLOWED
    assert OWN[name] in VllmOptions.model_fields
    assert refused({name: 1}) == f"--{name} is an option of its own: set {OWN[name]}"


@pytest.mark.parametrize(
    "given",
    [
        {"": 1},
        {"stream-interval=1 --port": 9},
        {"stream-interval\n--port": 9},
        {"stream-interval\x00": 9},
        {"-O": 3},
        {"O3": True},
        {"compilation-config.cache_dir": "/tmp"},
        ["--stream-interval", "4"],
        ["-x"],
        [4],
        "--stream-interval=4",
        4,
    ],
)
def test_no_disguise_passes(given: Any) -> None:
    assert refused(given)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("async-scheduling", "true"),
        ("async-scheduling", 1),
        ("stream-interval", 0),
        ("stream-interval", True),
        ("stream-interval", "4 --port=1"),
        ("stream-interval", 1.5),
        ("stream-interval", None),
        ("watermark", 1.5),
        ("watermark", float("nan")),
        ("watermark", "0.1\n"),
        ("attention-backend", "--port=1"),
        ("attention-backend", "my.module:Backend"),
        ("attention-backend", "FLASH_ATTN\n"),
        ("generation-config", "/etc"),
        ("load-format", "pt"),
        ("spec-method", "custom_class"),
        ("limit-mm-per-prompt", {"file": 1}),
        ("limit-mm-per-prompt", {"image": "/etc"}),
        ("limit-mm-per-prompt", {}),
        ("limit-mm-per-prompt", '{"image": 1}'),
        ("default-chat-template-kwargs", {"chat_template": "{{ x }}"}),
        ("default-chat-template-kwargs", {"enable_thinking": ["x"]}),
        ("default-chat-template-kwargs", {"enable_thinking": "a\nb"}),
        ("override-generation-config", {"temperature": float("inf")}),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_what_can(name: str, value: Any) -> None:
    assert refused({name: value}).startswith(f"--{name} must be ")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("attention-backend", "FLASH_ATTN"),
        ("limit-mm-per-prompt", {"image": 2, "video": 0}),
        ("default-chat-template-kwargs", {"enable_thinking": False}),
        ("override-generation-config", {"temperature": 0.6, "top_k": 20}),
        ("optimization-level", 0),
        ("spec-method", "ngram"),
    ],
)
def test_a_value_that_can_be_is_kept(name: str, value: Any) -> None:
    assert checked({name: value}) == {name: value}


def test_the_same_one_twice_and_too_many_are_refused() -> None:
    assert "twice" in refused(["--stream-interval=1", "--stream_interval=2"])
    assert "at most" in refused(["--async-scheduling"] * 51)


def test_the_options_say_it_in_one_clear_sentence() -> None:
    with pytest.raises(ValidationError) as caught:
        VllmOptions(extraArguments={"port": 1})  # type: ignore[dict-item]
    (error,) = caught.value.errors()
    assert (error["loc"], error["msg"]) == (
        ("extraArguments",),
        "--port is an option of its own: set port",
    )


@pytest.mark.parametrize("name", ALLOWED)
def test_every_argument_on_the_list_is_documented(name: str) -> None:
    assert f"`{name}`" in (home.REPOSITORY / "docs" / "reference" / "files.md").read_text()


@pytest.mark.engine
def test_every_argument_is_one_of_the_real_vllm_and_switches_can_be_switched_off() -> None:
    from backends.engines.vllm import installation

    python = installation.find().python
    command = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--help=all"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for name, check in ALLOWED.items():
        wanted = f"--{name}, --no-{name}" if check is _switch else f"  --{name} "
        assert wanted in text, name
    assert all(f"  --{name}" in text for name in OWN)
