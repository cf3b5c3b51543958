"""Two fake engines for a whole site, and a way to hold its worker at a step.

Found as ``mh_fake_engine`` is (its folder has to be on the path, too). While ``MH_HOME/hold`` names
the step that an operation has come to (``{"kind", "step", "when": "before" | "after"}``), the runner
waits there and says so in ``MH_HOME/held``: whatever a test does then happens at that step.
"""

import contextlib
import json
import os
import time
from pathlib import Path

from mh_fake_engine import FakeEngine, FakeOptions
from pydantic import Field

from backends import services
from backends.engines.base import Capabilities, ModelInfo, Transfer
from backends.errors import UnknownModel

ENGINE_CORE = "--engine-core"


class LeftOptions(FakeOptions):
    port: int = Field(int(os.environ.get("MH_LEFT_PORT", "8001")), ge=1, le=65535)
    arguments: str = ENGINE_CORE


class RightOptions(FakeOptions):
    port: int = Field(int(os.environ.get("MH_RIGHT_PORT", "8002")), ge=1, le=65535)
    arguments: str = ENGINE_CORE


class _Library(FakeEngine):
    """Keeps what it was told to pull as files of MH_HOME."""

    capabilities = Capabilities(pull=True, delete=True, library_on_disk=True)

    def _pulled(self, model):
        folder = Path(os.environ["MH_HOME"]) / "pulled" / self.name
        folder.mkdir(parents=True, exist_ok=True)
        return folder / model

    def models(self, options):
        pulled = sorted(path.name for path in self._pulled("").iterdir())
        return super().models(options) + [
            ModelInfo(id=name, path=name, size_bytes=1) for name in pulled
        ]

    def pull(self, target, model, *, report, cancelled=lambda: False, options=None):
        for part in range(4):
            report(Transfer(message="pulling", completed_bytes=part, total_bytes=4))
            cancelled()
            time.sleep(0.02)
        self._pulled(model).touch()

    def install(self, report):
        for part in range(4):
            report(part / 4, "installing")
            time.sleep(0.02)

    def delete(self, target, model, *, timeout, options=None):
        try:
            self._pulled(model).unlink()
        except FileNotFoundError:
            raise UnknownModel(f"There is no model {model}.") from None


class LeftEngine(_Library):
    name = "left"
    title = "Left"
    Options = LeftOptions


class RightEngine(_Library):
    name = "right"
    title = "Right"
    Options = RightOptions


def _wished():
    with contextlib.suppress(OSError, ValueError, KeyError):
        return json.loads((Path(os.environ["MH_HOME"]) / "hold").read_text())
    return None


def _hold(row, name, when):
    here = {"kind": str(row.kind), "step": name, "when": when}
    if _wished() != here:
        return
    (Path(os.environ["MH_HOME"]) / "held").write_text(json.dumps(here))
    while _wished() == here:
        time.sleep(0.01)


def _install():
    begin, end = services.step_begin, services.step_end

    def step_begin(row, name, **more):
        begin(row, name, **more)
        _hold(row, name, "before")

    def step_end(row, name, state, *more, **others):
        if state == "done":
            _hold(row, name, "after")
        end(row, name, state, *more, **others)

    services.step_begin, services.step_end = step_begin, step_end


_install()
