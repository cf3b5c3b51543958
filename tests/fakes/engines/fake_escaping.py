"""A fake engine whose grandchild does everything to get away.

It is forked twice (its parent dies at once), leads a session of its own, has another name, an empty
environment (so no marker), and ignores TERM. ``fake_escaping.py marked`` keeps the environment.
"""

import ctypes
import os
import signal
import sys

from reporting import ADDRESS, report, wait_for_ever

if "grandchild" in sys.argv:
    ctypes.CDLL(None).prctl(15, b"VLLM::EngineCor", 0, 0, 0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    report("grandchild", session=os.getsid(0))
    wait_for_ever()

if not os.fork():
    os.setsid()
    if os.fork():
        os._exit(0)
    os.setsid()
    env = {"FAKE_REPORT": ADDRESS}
    if "marked" in sys.argv:
        env |= os.environ
    os.execve(sys.executable, ["VLLM::EngineCore", *sys.orig_argv[1:4], "grandchild"], env)
os.wait()
report("engine")
wait_for_ever()
