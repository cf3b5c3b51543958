"""Sizes and caches of known models, worked out by hand, and files that are broken on purpose."""

import json
import os
import struct
import time
from pathlib import Path
from typing import Any

import pytest

from backends.engines.estimates import Cache
from backends.engines.gguf_files import gguf_read
from backends.engines.model_files import Unreadable, cache_of, config_read, weights_read
from backends.engines.models_on_disk import Config
from tests.backends.engines.weights import config, write_gguf, write_model, write_safetensors

LLAMA = {
    "block_count": 32,
    "embedding_length": 4096,
    "context_length": 8192,
    "attention.head_count": 32,
    "attention.head_count_kv": 8,
}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # 48 layers, 8 heads of 5120 / 40 = 128: 2 · 8 · 128 · 48. Its window is switched off.
        ("Qwen2.5-14B-Instruct", Cache(per_token=98_304, layers=48, heads=8)),
        # 32 layers, 8 heads of 128: 2 · 8 · 128 · 32.
        ("Llama-3.1-8B-Instruct", Cache(per_token=65_536, layers=32, heads=8)),
        # Experts keep nothing: as Llama.
        ("Mixtral-8x7B-Instruct-v0.1", Cache(per_token=65_536, layers=32, heads=8)),
        # 12 layers keep all, 12 the last 128 tokens: 2 · 8 · 64 · 12 each.
        (
            "gpt-oss-20b",
            Cache(per_token=12_288, windows=((12_288, 128),), layers=24, heads=8),
        ),
        # One vector of 512 and one of 64 for all heads: 27 · 576, on every GPU.
        ("DeepSeek-V2-Lite", Cache(per_token=15_552, layers=27, heads=None)),
        # Every sixth of 48 layers keeps all: 2 · 8 · 256 · 8, and · 40 of 1024 tokens. The 256, and the
        # sixth, are not in the file.
        (
            "gemma-3-12b-it",
            Cache(per_token=32_768, windows=((163_840, 1024),), layers=48, heads=8),
        ),
    ],
)
def test_what_published_models_keep_per_token(name: str, expected: Cache) -> None:
    assert cache_of(Config(config(name))) == expected


def test_bytes_of_a_conversation_by_hand() -> None:
    """Qwen2.5-14B: 192 KiB per token, 1.5 GiB for 8192 tokens; half of that in fp8."""
    cache = cache_of(Config(config("Qwen2.5-14B-Instruct")))
    assert cache is not None
    assert cache.numbers(1) * 2 == 192 * 2**10
    assert cache.numbers(8192) * 2 == 1.5 * 2**30


def test_a_window_keeps_no_more_than_itself_and_one_step() -> None:
    cache = Cache(per_token=10, windows=((100, 1024),))
    assert cache.numbers(1000) == 10 * 1000 + 100 * 1000
    assert cache.numbers(5000) == 10 * 5000 + 100 * 1024
    assert cache.numbers(5000, in_flight=2048) == 10 * 5000 + 100 * 3072


@pytest.mark.parametrize(("gpus", "part"), [(1, 1.0), (2, 0.5), (4, 0.25), (8, 1 / 8), (16, 1 / 8)])
def test_heads_are_divided_among_gpus_and_repeated_when_there_are_too_few(
    gpus: int, part: float
) -> None:
    assert Cache(per_token=1, heads=8).part(gpus) == part
    assert Cache(per_token=1, heads=None).part(gpus) == 1.0


@pytest.mark.parametrize(
    "raw",
    [
        {},
        {"num_hidden_layers": 0},
        {"num_hidden_layers": "12", "num_attention_heads": 4, "hidden_size": 64},
        {"num_hidden_layers": 2, "num_attention_heads": True, "hidden_size": 64},
        {"num_hidden_layers": 10**30, "num_attention_heads": 4, "hidden_size": 64},
        {"num_hidden_layers": 24, "model_type": "mamba", "hidden_size": 768},
        {"text_config": [], "layer_types": "all"},
    ],
)
def test_a_configuration_that_does_not_say_gives_none(raw: dict[str, Any]) -> None:
    assert cache_of(Config(raw)) is None


def test_recurrent_layers_keep_nothing_per_token() -> None:
    base = {"num_attention_heads": 16, "num_key_value_heads": 2, "head_dim": 256}
    kinds = (["linear_attention"] * 3 + ["full_attention"]) * 12
    mixed = cache_of(Config({**base, "num_hidden_layers": 48, "layer_types": kinds}))
    assert mixed == Cache(per_token=12 * 2 * 2 * 256, layers=12, heads=2)
    every = {**base, "num_hidden_layers": 48, "full_attention_interval": 4}
    assert cache_of(Config(every)) == mixed
    nemotron = {**base, "num_hidden_layers": 6, "hybrid_override_pattern": "M-M*-M"}
    assert cache_of(Config(nemotron)) == Cache(per_token=2 * 2 * 256, layers=1, heads=2)


# --- weights ----------------------------------------------------------------------------------------


def test_only_headers_are_read_of_a_model_of_thirty_gigabytes(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", "Qwen2.5-14B-Instruct", 14_770_033_664, shards=8)
    began = time.monotonic()
    assert weights_read(folder).total == 29_540_067_328
    assert time.monotonic() - began < 2


def test_types_and_tables_of_words_are_told_apart(tmp_path: Path) -> None:
    write_safetensors(
        tmp_path / "model.safetensors",
        {
            "model.embed_tokens.weight": ("BF16", 1000),
            "lm_head.weight": ("BF16", 1000),
            "model.layers.0.qweight": ("I32", 500),
            "model.norm.weight": ("F32", 10),
        },
    )
    found = weights_read(tmp_path)
    assert found.by_type == {"BF16": 4000, "I32": 2000, "F32": 40}
    assert (found.table, found.last_table, found.total) == (2000, 2000, 6040)


def test_files_outside_of_the_index_and_mistrals_second_copy_do_not_count(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", "Llama-3.1-8B-Instruct", 100)
    write_safetensors(folder / "extra.safetensors", {"x": ("BF16", 7)})
    assert weights_read(folder).total == 200
    (folder / "model.safetensors.index.json").unlink()
    (folder / "extra.safetensors").rename(folder / "consolidated.safetensors")
    assert weights_read(folder).total == 200


def test_pickled_weights_are_as_big_as_their_files(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(bytes(1234))
    assert weights_read(tmp_path).by_type == {"?": 1234}


def damaged(kind: str) -> bytes:
    header = json.dumps({"t": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    outside = header.replace(b"[0, 8]", b"[0, 99999]")
    return {
        "empty": b"",
        "short": b"\x00\x01",
        "header longer than the file": struct.pack("<Q", 2**63) + b"{}",
        "not JSON": struct.pack("<Q", 2) + b"{{",
        "a list": struct.pack("<Q", 2) + b"[]",
        "nested for ever": struct.pack("<Q", 200_000) + b"[" * 200_000,
        "no offsets": struct.pack("<Q", 9) + b'{"t": {}}',
        "offsets of text": struct.pack("<Q", 47)
        + b'{"t": {"dtype": "F32", "data_offsets": "abcd"}}',
        "outside": struct.pack("<Q", len(outside)) + outside,
        "null": struct.pack("<Q", 11) + b'{"t": null}',
    }[kind]


@pytest.mark.parametrize(
    "kind",
    ["empty", "short", "header longer than the file", "not JSON", "a list", "nested for ever",
     "no offsets", "offsets of text", "outside", "null"],
)  # fmt: skip
def test_damaged_weights_are_unreadable_and_nothing_worse(tmp_path: Path, kind: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(damaged(kind))
    with pytest.raises(Unreadable, match=r"model\.safetensors .*\.$"):
        weights_read(tmp_path)


@pytest.mark.parametrize(
    "index", ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}', "[" * 100_000]
)
def test_a_damaged_index_is_unreadable(tmp_path: Path, index: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(Unreadable):
        weights_read(tmp_path)


def test_an_index_that_leads_elsewhere_is_not_followed(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "secret.safetensors", {"x": ("BF16", 7)})
    folder = tmp_path / "m"
    folder.mkdir()
    index = {"weight_map": {"a": "../secret.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(Unreadable, match="is missing"):
        weights_read(folder)


def test_a_pipe_or_a_folder_in_place_of_weights_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.safetensors")
    (tmp_path / "model-2.safetensors").mkdir()
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(Unreadable, match="no weights"):
        weights_read(tmp_path)
    assert config_read(tmp_path).raw == {}


def test_reading_gives_up_in_time(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", "Llama-3.1-8B-Instruct", 100)
    with pytest.raises(Unreadable, match="takes too long"):
        weights_read(folder, seconds=-1)


# --- GGUF -------------------------------------------------------------------------------------------


def test_a_gguf_header_says_size_context_and_cache(tmp_path: Path) -> None:
    size = write_gguf(tmp_path / "m.gguf", "llama", LLAMA, rows=4096)
    found = gguf_read(tmp_path / "m.gguf")
    assert found.weights == size
    assert found.bits == 4.5
    assert found.context_max == 8192
    assert found.cache == Cache(per_token=65_536, layers=32, heads=8)
    assert (found.heads, found.embedding, found.words) == (32, 4096, 4)


def test_a_big_vocabulary_is_stepped_over_in_no_time(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", "llama", LLAMA, words=150_000)
    gguf_read(tmp_path / "m.gguf", seconds=2)
    assert gguf_read(tmp_path / "m.gguf", seconds=2).words == 150_000


def test_windows_latent_attention_and_layers_without_any(tmp_path: Path) -> None:
    gemma = {**LLAMA, "block_count": 48, "attention.sliding_window": 1024}
    gemma |= {"attention.key_length": 256, "attention.value_length": 256}
    write_gguf(tmp_path / "gemma.gguf", "gemma3", gemma)
    assert gguf_read(tmp_path / "gemma.gguf").cache == Cache(
        per_token=32_768, windows=((163_840, 1024),), layers=48, heads=8
    )
    latent = {**LLAMA, "block_count": 27, "attention.head_count_kv": 1}
    latent |= {"attention.key_length": 576, "attention.value_length": 512}
    latent |= {"attention.key_length_mla": 192, "attention.value_length_mla": 128}
    write_gguf(tmp_path / "latent.gguf", "deepseek2", latent)
    assert gguf_read(tmp_path / "latent.gguf").cache == Cache(per_token=15_552, layers=27, heads=1)
    facts: dict[str, Any] = {**LLAMA, "block_count": 4, "attention.head_count_kv": [0, 8, 0, 8]}
    write_gguf(tmp_path / "mixed.gguf", "jamba", facts)
    assert gguf_read(tmp_path / "mixed.gguf").cache == Cache(per_token=4096, layers=2, heads=8)
    marked: dict[str, Any] = {**LLAMA, "block_count": 4, "attention.sliding_window": 128}
    marked["attention.sliding_window_pattern"] = [True, True, True, False]
    write_gguf(tmp_path / "marked.gguf", "other", marked)
    assert gguf_read(tmp_path / "marked.gguf").cache == Cache(
        per_token=2048, windows=((6144, 128),), layers=4, heads=8
    )


def test_a_gguf_without_attention_has_an_unknown_cache(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", "mamba", {"block_count": 24, "embedding_length": 768})
    assert gguf_read(tmp_path / "m.gguf").cache is None


def hostile(kind: str) -> bytes:
    start = b"GGUF" + struct.pack("<I", 3)
    name = struct.pack("<Q", 1) + b"a"
    return {
        "empty": b"",
        "another file": b"PK\x03\x04" + bytes(100),
        "version 99": b"GGUF" + struct.pack("<IQQ", 99, 0, 0),
        "cut off": start + struct.pack("<Q", 1),
        "more facts than bytes": start + struct.pack("<QQ", 0, 2**60) + bytes(4096),
        "more tensors than bytes": start + struct.pack("<QQ", 2**60, 0) + bytes(4096),
        "a text for ever": start + struct.pack("<QQQ", 0, 1, 2**62) + bytes(64),
        "texts for ever": start
        + struct.pack("<QQ", 0, 1)
        + name
        + struct.pack("<IIQ", 9, 8, 2**60)
        + bytes(4096),
        "numbers for ever": start
        + struct.pack("<QQ", 0, 1)
        + name
        + struct.pack("<IIQ", 9, 4, 2**60)
        + bytes(64),
        "arrays of arrays": start
        + struct.pack("<QQ", 0, 1)
        + name
        + struct.pack("<IIQ", 9, 9, 2**60)
        + bytes(64),
        "unknown type": start + struct.pack("<QQ", 0, 1) + name + struct.pack("<I", 77) + bytes(64),
        "not text": start + struct.pack("<QQQ", 0, 1, 2) + b"\xff\xfe" + bytes(64),
        "dimensions for ever": start
        + struct.pack("<QQ", 1, 0)
        + name
        + struct.pack("<I", 2**31)
        + bytes(4096),
        "no weights": start + struct.pack("<QQ", 0, 0),
    }[kind]


@pytest.mark.parametrize(
    "kind",
    ["empty", "another file", "version 99", "cut off", "more facts than bytes",
     "more tensors than bytes", "a text for ever", "texts for ever", "numbers for ever",
     "arrays of arrays", "unknown type", "not text", "dimensions for ever", "no weights"],
)  # fmt: skip
def test_hostile_gguf_files_are_unreadable_within_the_time(tmp_path: Path, kind: str) -> None:
    (tmp_path / "m.gguf").write_bytes(hostile(kind))
    began = time.monotonic()
    with pytest.raises(Unreadable):
        gguf_read(tmp_path / "m.gguf")
    assert time.monotonic() - began < 10, "two seconds of reading, and the library's import"


def test_a_gguf_file_cut_off_in_its_weights_is_unreadable(tmp_path: Path) -> None:
    size = write_gguf(tmp_path / "m.gguf", "llama", LLAMA)
    os.truncate(tmp_path / "m.gguf", (tmp_path / "m.gguf").stat().st_size - size // 2)
    with pytest.raises(Unreadable):
        gguf_read(tmp_path / "m.gguf")


def test_a_gguf_that_was_replaced_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    small = write_gguf(file, "llama", LLAMA, rows=32)
    assert gguf_read(file).weights == small
    file.unlink()
    assert write_gguf(file, "llama", LLAMA, rows=64) == gguf_read(file).weights
    file.unlink()
    with pytest.raises(Unreadable, match="is missing"):
        gguf_read(file)
