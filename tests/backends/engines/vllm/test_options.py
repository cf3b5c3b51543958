from typing import Any

import pytest
from pydantic import ValidationError

from backends.engines.base import Options
from backends.engines.vllm import VllmOptions

#: ``etc/llm-backend.json`` as the site ships it, less the keys that are the backend's own.
SHIPPED = {
    "model": "Qwen/Qwen2.5-14B-Instruct",
    "gpuMemoryUtilization": 0.9,
    "maxModelLen": 8192,
    "tensorParallelSize": 1,
    "dtype": "auto",
    "quantization": None,
}


def test_the_file_format_is_accepted() -> None:
    assert VllmOptions.model_validate(SHIPPED).model == "Qwen/Qwen2.5-14B-Instruct"


def test_defaults_are_safe() -> None:
    options = VllmOptions()
    assert options.host == "127.0.0.1"
    assert options.trustRemoteCode is False
    assert options.startTimeoutSeconds >= 180


@pytest.mark.parametrize("name", VllmOptions.model_fields)
def test_every_option_says_what_a_form_needs(name: str) -> None:
    schema = VllmOptions.model_json_schema()["properties"][name]
    assert schema["title"] != name
    assert schema["description"].endswith((".", "…"))
    assert schema["group"]
    assert isinstance(schema["restart"], bool)


def test_the_key_is_the_only_secret_and_is_not_shown() -> None:
    assert VllmOptions.fields_with("secret") == {"apiKey"}
    assert "hush-hush-hush" not in repr(VllmOptions(apiKey="hush-hush-hush"))


def test_time_limits_need_no_restart() -> None:
    live = set(VllmOptions.model_fields) - VllmOptions.fields_with("restart")
    own = live - set(Options.model_fields)
    assert own == {"startTimeoutSeconds", "stopTimeoutSeconds"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", ""),
        ("model", "a\nb"),
        ("model", "a\x00b"),
        ("host", "127.0.0.1:80"[:9] + " "),
        ("host", "http://localhost"),
        ("port", 0),
        ("port", 65536),
        ("port", "many"),
        ("apiKey", "short"),
        ("apiKey", "with a space in it"),
        ("gpuMemoryUtilization", 0),
        ("gpuMemoryUtilization", 1.5),
        ("gpuMemoryUtilization", float("nan")),
        ("maxModelLen", 0),
        ("tensorParallelSize", 0),
        ("dtype", "float12"),
        ("quantization", "squashed"),
        ("kvCacheDtype", "int3"),
        ("cpuKvCacheGiB", 0),
        ("seed", -1),
        ("startTimeoutSeconds", 1),
        ("stopTimeoutSeconds", 0),
        ("drainSeconds", -1),
        ("maxModelLength", 8192),
    ],
)
def test_what_cannot_be_is_refused_and_named(name: str, value: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        VllmOptions.model_validate({name: value})
    assert caught.value.errors()[0]["loc"] == (name,)


def test_the_served_name_is_the_one_the_user_gave() -> None:
    assert VllmOptions(model="a/b").served_name == "a/b"
    assert VllmOptions(model="a/b", servedModelName="mine").served_name == "mine"
