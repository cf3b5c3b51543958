"""The API server: makes an engine core as the real one does, then is ``fake_vllm``."""

import multiprocessing
import os
import sys

from vllm import WORDS
from vllm.v1.engine.core import run_engine_core


def main() -> int:
    if "refuses" in WORDS:
        sys.exit("ValueError: this fake refuses to start")
    import fake_vllm

    os.environ["FAKE_LATE"] = "set while it starts"
    context = multiprocessing.get_context("spawn")
    reader, _writer = context.Pipe(duplex=False)
    said, saying = context.Pipe(duplex=False)
    core = context.Process(target=run_engine_core, args=(reader, saying), name="EngineCore")
    core.start()
    reader.close()
    saying.close()
    try:
        said.recv()
    except EOFError:
        sys.exit("Engine core initialization failed.")
    return fake_vllm.main()


if __name__ == "__main__":
    sys.exit(main())
