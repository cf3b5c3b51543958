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


def test_time_limits_the_depth_of_sleep_and_a_standby_need_no_restart() -> None:
    live = set(VllmOptions.model_fields) - VllmOptions.fields_with("restart")
    own = live - set(Options.model_fields)
    assert own == {"startTimeoutSeconds", "stopTimeoutSeconds", "sleepLevel", "standby"}


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
        ("maxModelLen", "most"),
        ("maxModelLen", True),
        ("maxModelLen", 1e9),
        ("kvCacheMemoryGiB", 0),
        ("kvCacheMemoryGiB", float("inf")),
        ("kvOffloadGiB", 0),
        ("cpuOffloadGiB", -1),
        ("maxNumSeqs", 0),
        ("maxNumBatchedTokens", 0),
        ("pipelineParallelSize", 0),
        ("distributedExecutorBackend", "external_launcher"),
        ("distributedExecutorBackend", "my.module.Executor"),
        ("rayAddress", "--address"),
        ("rayAddress", "head:6379\n"),
        ("rayAddress", "head:6379 --x"),
        ("maxLoraRank", 12),
        ("maxLoras", 0),
        ("maxCpuLoras", 0),
        ("sleepLevel", 0),
        ("sleepLevel", 3),
        ("extraArguments", {"port": 1}),
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


@pytest.mark.parametrize("length", [16, 8192, "auto", None])
def test_the_longest_conversation_is_a_number_or_what_fits(length: Any) -> None:
    assert VllmOptions(maxModelLen=length).maxModelLen == length
    assert VllmOptions.model_validate({"maxModelLen": "4096"}).maxModelLen == 4096


@pytest.mark.parametrize("address", ["auto", "10.0.0.5:6379", "ray://head:10001", "[::1]:6379"])
def test_ray_addresses(address: str) -> None:
    assert VllmOptions(rayAddress=address).rayAddress == address


@pytest.mark.parametrize(
    "module",
    [
        {"name": "a"},
        {"name": "", "path": "/x"},
        {"name": "a\nb", "path": "/x"},
        {"name": "a", "path": "/x\x00"},
        {"name": "a", "path": "/x", "base_model_name": "b"},
        "a=/x",
    ],
)
def test_a_lora_module_is_a_name_and_a_path(module: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        VllmOptions.model_validate({"loraModules": [module]})
    assert caught.value.errors()[0]["loc"][:2] == ("loraModules", 0)


def test_options_are_read_back_from_what_is_stored() -> None:
    options = VllmOptions(
        loraModules=({"name": "a", "path": "/x"},), extraArguments={"stream-interval": 4}
    )
    assert VllmOptions.model_validate(options.model_dump(mode="json")) == options
