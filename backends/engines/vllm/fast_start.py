"""Starts of vLLM through the warm launcher (``warm_launcher.py``), where it is known to work."""

import hashlib
import re
from dataclasses import replace
from pathlib import Path
from typing import Final

from backends.engines.base import Launch, Standby
from backends.engines.vllm.installation import Installation

LAUNCHER: Final = Path(__file__).with_name("warm_launcher.py")
#: Releases of vLLM the launcher was tried with; others start plainly until somebody has tried.
KNOWN_RELEASES: Final = ((0, 32),)
#: Variables that vLLM reads when it starts and not when it is imported: a standby can be told them late.
LATE: Final = frozenset(
    {
        "CUDA_DEVICE_ORDER",
        "CUDA_VISIBLE_DEVICES",
        "VLLM_API_KEY",
        "VLLM_CPU_KVCACHE_SPACE",
        "VLLM_SERVER_DEV_MODE",
    }
)
#: Arguments under which vLLM makes its processes in ways of its own.
_OTHER_WAYS: Final = ("--distributed-executor-backend=", "--numa-bind", "--data-parallel")


def is_known(installation: Installation) -> bool:
    """Return whether the launcher was tried with this release."""
    numbers = re.match(r"(\d+)\.(\d+)", installation.version)
    return numbers is not None and (int(numbers[1]), int(numbers[2])) in KNOWN_RELEASES


def fast(launch: Launch, installation: Installation) -> Launch:
    """Return ``launch`` through the launcher, with the plain one as its ``plain``; else ``launch`` itself."""
    python, minus_m, module, *arguments = launch.argv
    if minus_m != "-m" or not is_known(installation) or _has_own_ways(arguments):
        return launch
    return replace(launch, argv=(python, str(LAUNCHER), module, *arguments), plain=launch)


def standby(launch: Launch, installation: Installation) -> Standby | None:
    """Return the launcher that can wait to become ``launch`` or another one with the same key."""
    python, _, module, *arguments = launch.argv
    if fast(launch, installation) is launch:
        return None
    model = [word for word in arguments if word.startswith("--model=")]
    early = {name: value for name, value in launch.env.items() if name not in LATE}
    facts = (python, installation.version, LAUNCHER.read_bytes(), sorted(early.items()))
    return Standby(
        argv=(python, str(LAUNCHER), "--standby", module, *model),
        env=early,
        key=hashlib.sha256(repr(facts).encode()).hexdigest(),
    )


def _has_own_ways(arguments: list[str]) -> bool:
    return any(word.startswith(_OTHER_WAYS) for word in arguments)
