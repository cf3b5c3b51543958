"""Where mh puts its own vLLM, and which build this machine needs."""

import functools
import hashlib
from pathlib import Path
from typing import Final, Literal

from django.conf import settings

from backends.engines import nvidia

Build = Literal["cpu", "cuda"]

VERSION: Final = "0.32.0"
#: Raise it when the steps of ``install`` change in a way that existing installations lack.
RECIPE: Final = 1
CPU_LOCK: Final = Path(__file__).with_name("cpu.lock")
DEMO_MODEL: Final = "SmolLM2-135M-Instruct"
#: Written last: an engine folder without it is not used.
MARKER: Final = "complete.json"


def build_for_this_machine() -> Build:
    """Return ``cuda`` where an NVIDIA GPU is seen, else ``cpu``."""
    return "cuda" if nvidia.gpu_count() else "cpu"


@functools.cache
def key(build: Build) -> str:
    """Return the name of an engine folder: it changes with the lock and with the recipe."""
    pins = CPU_LOCK.read_bytes() if build == "cpu" else f"vllm=={VERSION}".encode()
    digest = hashlib.sha256(pins + f"\nrecipe {RECIPE}".encode()).hexdigest()
    return f"vllm-{build}-{digest[:12]}"


def engines_folder() -> Path:
    """Return the folder of all engine installations, shared by the clones of one user."""
    return Path(settings.MH_CACHE) / "engines"


def engine_folder(build: Build) -> Path:
    """Return the folder of one build: a virtual environment, complete when it has its marker."""
    return engines_folder() / key(build)


def models_folder() -> Path:
    """Return the folder of models that mh itself brought."""
    return Path(settings.MH_CACHE) / "models"


def is_complete(folder: Path) -> bool:
    """Say whether an installation in ``folder`` was finished."""
    return (folder / MARKER).is_file()
