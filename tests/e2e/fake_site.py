"""A site whose vLLM, Ollama and GPUs are the fakes: for pages, in seconds instead of minutes."""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from backends.ports import free_port
from tests.backends.engines.conftest import CONFIG, safetensors
from tests.backends.faults.whole_site import NVML, WholeSite, whole_site
from tests.fakes import fake_ollama

VLLM_MODEL, OTHER_VLLM_MODEL = "tiny-llama", "tiny-qwen"
OLLAMA_MODEL, OTHER_OLLAMA_MODEL = "qwen3:14b", "smollm2:135m"
#: Two GPUs of 24 GiB.
GPUS: dict[str, Any] = {
    "gpus": [
        {"name": "Fake RTX 4090", "total": 24 << 30, "utilization": 37},
        {"name": "Fake RTX 4090", "total": 24 << 30},
    ],
    "uses": [
        {"backend": "vllm", "gpu": 0, "memory": 9 << 30},
        {"backend": "ollama", "command": "runner", "gpu": 0, "memory": 5 << 30},
    ],
    "release_seconds": 0.1,
}
FAKE_VLLM = Path(__file__).parents[1] / "fakes" / "fake_vllm.py"


def make_vllm(folder: Path) -> Path:
    """Make what looks like a virtual environment with vLLM in it, whose Python runs the fake; return that."""
    python = folder / "bin" / "python"
    python.parent.mkdir(parents=True)
    script = f'#!/bin/sh\nexec {sys.executable} -s {FAKE_VLLM} --token-delay 0.03 "$@"\n'
    python.write_text(script)
    python.chmod(0o755)
    packages = folder / "lib" / "python3.11" / "site-packages"
    (packages / "vllm-0.32.0.dist-info").mkdir(parents=True)
    return python


def make_model(folder: Path, **config: Any) -> None:
    """Make a folder that vLLM's model check takes for a model."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    (folder / "model.safetensors").write_bytes(safetensors())


@contextmanager
def fake_site(**settings: str) -> Iterator[WholeSite]:
    """Run a site in which both engines are installed, have models, and start within a second."""
    folder = Path(tempfile.mkdtemp(prefix="mhp-"))
    try:
        ollama = fake_ollama.make_binary(
            folder / "bin" / "ollama", FAKE_OLLAMA_HABITS="token=0.03,pull=8,pull-bytes=40000000"
        )
        store = folder / "ollama-models"
        fake_ollama.add_model(store, OLLAMA_MODEL, capabilities=("completion", "tools", "thinking"))
        fake_ollama.add_model(store, OTHER_OLLAMA_MODEL)
        for name in (VLLM_MODEL, OTHER_VLLM_MODEL):
            make_model(folder / "models" / name)
        (folder / "gpus.json").write_text(json.dumps(GPUS))
        environment = {
            "PYTHONPATH": str(NVML),
            "FAKE_NVML": str(folder / "gpus.json"),
            "MH_VLLM_PYTHON": str(make_vllm(folder / "venv")),
            "MH_OLLAMA_BIN": str(ollama),
            "MH_MODELS_DIRS": str(folder / "models"),
            "MH_CACHE": str(folder / "cache"),
            "HF_HOME": str(folder / "hf"),
            "PATH": os.defpath,
            **settings,
        }
        with whole_site(**environment) as site:
            site.configure("vllm", port=free_port(), model=VLLM_MODEL)
            site.configure("ollama", port=free_port(), model=OLLAMA_MODEL, modelsDir=str(store))
            yield site
    finally:
        shutil.rmtree(folder, ignore_errors=True)
