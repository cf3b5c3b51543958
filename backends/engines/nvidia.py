"""How many NVIDIA GPUs engines can use, asked without keeping anything open."""

from pathlib import Path

import pynvml


def gpu_count(dev: Path = Path("/dev")) -> int:
    """Return the number of NVIDIA GPUs: by the driver, else by its device files; 0 without either."""
    if not (dev / "nvidiactl").exists():
        return 0
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return len(list(dev.glob("nvidia[0-9]*")))
    try:
        return int(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError:
        return len(list(dev.glob("nvidia[0-9]*")))
    finally:
        pynvml.nvmlShutdown()
