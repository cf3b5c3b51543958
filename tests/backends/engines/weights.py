"""Models as big as the real ones whose weights are holes: only their headers take space on the disk."""

import json
import os
import struct
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter

CONFIGS = Path(__file__).parent / "configs"
BYTES = {"F32": 4, "BF16": 2, "F16": 2, "I32": 4, "U8": 1, "F8_E4M3": 1}


def config(name: str) -> dict[str, object]:
    """A published model's ``config.json``."""
    found: dict[str, object] = json.loads((CONFIGS / f"{name}.json").read_text())
    return found


def write_safetensors(file: Path, tensors: dict[str, tuple[str, int]]) -> int:
    """Write a file with tensors of a type and so many numbers; returns the bytes of their data."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (kind, numbers) in tensors.items():
        begin, end = end, end + numbers * BYTES[kind]
        header[name] = {"dtype": kind, "shape": [numbers], "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text)
    os.truncate(file, 8 + len(text) + end)
    return end


def write_model(
    folder: Path, name: str, numbers: int, *, kind: str = "BF16", shards: int = 2
) -> Path:
    """Write a model with a published configuration and so many weights, in shards with an index."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config(name)))
    names: dict[str, str] = {}
    for number in range(shards):
        file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        part = numbers // shards + (numbers % shards if number == 0 else 0)
        write_safetensors(folder / file, {f"layer.{number}.weight": (kind, part)})
        names[f"layer.{number}.weight"] = file
    index = {"metadata": {}, "weight_map": names}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def write_gguf(
    file: Path,
    architecture: str,
    facts: dict[str, int | list[int] | list[bool]],
    *,
    rows: int = 1024,
    words: int = 4,
) -> int:
    """Write a GGUF file with one Q4_0 tensor of 4096 columns; returns the bytes of its data."""
    writer = GGUFWriter(file, architecture)
    for name, value in facts.items():
        if isinstance(value, list):
            writer.add_array(f"{architecture}.{name}", value)
        else:
            writer.add_uint32(f"{architecture}.{name}", value)
    writer.add_array("tokenizer.ggml.tokens", [f"word {number}" for number in range(words)])
    writer.add_array("tokenizer.ggml.scores", [0.5] * words)
    # 18 bytes for each 32 numbers.
    size = rows * 4096 // 32 * 18
    writer.add_tensor_info(
        "token_embd.weight",
        [rows, 4096],
        np.dtype(np.float16),
        size,
        raw_dtype=GGMLQuantizationType.Q4_0,
    )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    start = file.stat().st_size
    os.truncate(file, start + (-start % 32) + size)
    return size
