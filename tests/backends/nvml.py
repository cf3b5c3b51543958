"""The fake NVML inside the test process: see ``tests/fakes/nvml/pynvml.py`` for what its file says."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backends import gpu
from backends.engines import nvidia

PROGRAM = Path(__file__).resolve().parent.parent / "fakes" / "nvml" / "pynvml.py"
GIB = 1 << 30


class Nvml:
    """The GPUs of a test. Change them at any time; what reads them next sees it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.said: dict[str, Any] = {"gpus": [], "uses": []}

    def say(self, **changes: Any) -> None:
        """Put ``changes`` into the file: ``gpus=``, ``uses=``, ``release_seconds=``, ``errors=``."""
        self.said |= changes
        half = self.path.with_suffix(".half")
        half.write_text(json.dumps(self.said))
        half.replace(self.path)

    def cards(self, count: int, **facts: Any) -> None:
        """Have ``count`` GPUs of 24 GiB, ``GPU-fake-0`` and on."""
        self.say(gpus=[{"total": 24 * GIB, **facts} for _ in range(count)])

    def use(self, backend: str, *, gpu: int | list[int] = 0, memory: int | None = 8 * GIB) -> None:
        """Let every process of ``backend`` hold ``memory`` bytes, once it lives."""
        self.say(uses=[*self.said["uses"], {"backend": backend, "gpu": gpu, "memory": memory}])

    def hold(self, pid: int, memory: int, *, gpu: int = 0) -> None:
        """Let one process hold so much."""
        folder = self.path.with_name(f"{self.path.name}.held")
        folder.mkdir(exist_ok=True)
        (folder / f"{pid}-{gpu}").write_text(str(memory))


@pytest.fixture
def nvml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Nvml]:
    """Make the machine have ``count`` GPUs (two), until the end of the test."""

    def make(count: int = 2, **facts: Any) -> Nvml:
        made = Nvml(tmp_path / "gpus.json")
        made.cards(count, **facts)
        monkeypatch.setenv("FAKE_NVML", str(made.path))
        spec = importlib.util.spec_from_file_location("fake_pynvml", PROGRAM)
        assert spec
        assert spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        monkeypatch.setattr(gpu, "pynvml", module)
        monkeypatch.setattr(nvidia, "pynvml", module)
        monkeypatch.setattr(gpu, "_READER", gpu.Reader())
        return made

    return make
