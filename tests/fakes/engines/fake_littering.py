"""A fake engine that leaves sockets, files and shared memory behind, as vLLM does when it is killed."""

import os
import socket
import tempfile
from multiprocessing import resource_tracker, shared_memory
from pathlib import Path

from reporting import report, wait_for_ever

rpc = socket.socket(socket.AF_UNIX)
rpc.bind(os.environ["VLLM_RPC_BASE_PATH"] + "/0f8fad5b-d9cb-469f-a165-70867728950e")
(Path(tempfile.mkdtemp()) / "vllm_dist_0").write_text("rendezvous")
memory = shared_memory.SharedMemory(create=True, size=4096)
resource_tracker.unregister("/" + memory.name, "shared_memory")  # or it would clean up after us
report("engine", tmp=tempfile.gettempdir(), shm="/dev/shm/" + memory.name)
wait_for_ever()
