"""The fake engine, started as vLLM is: through the warm launcher, or from a standby."""

import os
import shlex
import sys
from dataclasses import replace
from pathlib import Path

from mh_fake_engine import FakeEngine, FakeOptions

from backends.engines.vllm import fast_start
from backends.engines.vllm.installation import Installation

FAKES = Path(__file__).resolve().parent.parent
MODULE = "vllm.entrypoints.openai.api_server"


class WarmOptions(FakeOptions):
    standby: bool = False
    #: Words for ``FAKE_WARM``.
    wrong: str = ""
    importSeconds: float = 0.3  # noqa: N815
    version: str = "0.32.0"


class WarmEngine(FakeEngine):
    name = "warm"
    title = "Warm fake"
    Options = WarmOptions

    def _installation(self, options):
        return Installation(python=Path(sys.executable), version=options.version, build="cpu")

    def _plain(self, options):
        env = {
            "PYTHONPATH": os.pathsep.join(str(path) for path in (FAKES / "warm", FAKES)),
            "FAKE_IMPORT_SECONDS": str(options.importSeconds),
            "FAKE_WARM": options.wrong,
        }
        flags = [f"--port={options.port}", f"--served-model-name={options.model}"]
        argv = (sys.executable, "-m", MODULE, *flags, *shlex.split(options.arguments))
        return replace(super().launch(options), argv=argv, env=env)

    def launch(self, options):
        return fast_start.fast(self._plain(options), self._installation(options))

    def standby(self, options):
        return fast_start.standby(self._plain(options), self._installation(options))
