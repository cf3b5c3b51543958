"""A fake vLLM package that makes its processes as the real one does: for the warm launcher.

Slow to import (``FAKE_IMPORT_SECONDS``), and its API server spawns an engine core, which spawns a worker.
The worker writes what it found to ``worker.json`` of the instance's folder. ``FAKE_WARM`` may hold words
that say what goes wrong: ``import-fails`` (here, unless it is a plain start), ``cuda`` (importing
initialises it), ``worker-crashes`` (when it was forked), ``refuses`` (a start that no launcher can help).
"""

import os
import sys
import time
from pathlib import Path

WORDS = os.environ.get("FAKE_WARM", "").split()
IS_PLAIN = any("warm_launcher" in word for word in sys.orig_argv) is False

with (Path(os.environ["MH_INSTANCE_FOLDER"]) / "imports").open("a") as _file:
    _file.write(f"{os.getpid()}\n")
time.sleep(float(os.environ.get("FAKE_IMPORT_SECONDS", "0")))
if "import-fails" in WORDS and not IS_PLAIN:
    raise RuntimeError("this fake cannot be imported ahead")
if "cuda" in WORDS:
    import torch

    torch.initialised = True
