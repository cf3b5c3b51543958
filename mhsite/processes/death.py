"""Tie a process's life to its parent's."""

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent(signum: signal.Signals = signal.SIGKILL, *, parent: int | None = None) -> None:
    """Get ``signum`` from the kernel when the parent dies (prctl(2), ``PR_SET_PDEATHSIG``).

    Args:
        signum: what to get.
        parent: the parent's pid where the caller knows it; a parent that is gone by now is noticed.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(signum), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), signum)
