"""The engine core and the worker: processes that live as long as their parent."""

import json
import multiprocessing
import os
import signal
import sys
from multiprocessing.connection import wait
from pathlib import Path

import torch

import vllm


def folder() -> Path:
    return Path(os.environ["MH_INSTANCE_FOLDER"])


def run_engine_core(alive, ready) -> None:
    context = multiprocessing.get_context("spawn")
    reader, writer = context.Pipe(duplex=False)
    os.environ["OMP_NUM_THREADS"] = "3"
    worker = context.Process(target=run_worker, args=(reader, ready), daemon=True)
    worker.start()
    reader.close()
    ready.close()
    wait([alive, worker.sentinel])  # until the API server or the worker is gone
    writer.close()


def run_worker(alive, ready) -> None:
    if "worker-crashes" in vllm.WORDS and "warm_launcher" in " ".join(sys.orig_argv):
        os.kill(os.getpid(), signal.SIGSEGV)
    found = {
        "pid": os.getpid(),
        "imports": len((folder() / "imports").read_text().split()),
        "threads": torch.threads,
        "environ": {
            name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "FAKE_LATE", "VLLM_API_KEY")
        },
        "descriptors": _open_files(),
    }
    (folder() / "worker.json").write_text(json.dumps(found))
    ready.send("ready")
    alive.poll(None)


def _open_files() -> list[str]:
    links = Path("/proc/self/fd").iterdir()
    return [str(link.readlink()) for link in links if link.is_symlink()]
