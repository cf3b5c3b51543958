"""Which NVIDIA GPUs engines can use and are told to, asked without keeping anything open."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import pynvml

from backends.engines.base import Problem

VISIBLE: Final = "CUDA_VISIBLE_DEVICES"
#: CUDA's own order is by speed; nvidia-smi's is by bus.
ORDER: Final = "CUDA_DEVICE_ORDER"


def gpu_count(dev: Path = Path("/dev")) -> int:
    """Return the number of NVIDIA GPUs: by the driver, else by its device files; 0 without either.

    The driver is asked first: under WSL 2 it has GPUs and no device files.
    """
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


def used_gpus(chosen: Sequence[int] | None, needed: int | None = None) -> tuple[int, ...]:
    """Return the numbers of the GPUs an engine will use, for ``Launch.gpus``.

    Args:
        chosen: what the option ``gpus`` says.
        needed: how many it takes, from the first on; None for all of them.

    Returns:
        ``chosen``, else the first ``needed`` of those that the site's own ``CUDA_VISIBLE_DEVICES`` leaves;
        empty where no GPU is seen.
    """
    if chosen is not None:
        return tuple(sorted(set(chosen)))
    return left_visible(gpu_count())[:needed]


def left_visible(count: int) -> tuple[int, ...]:
    """Return the numbers of those of ``count`` GPUs that engines inherit, in their order.

    A UUID in ``CUDA_VISIBLE_DEVICES`` counts for all of them: which it is, only CUDA knows for sure.
    """
    said = os.environ.get(VISIBLE)
    if said is None:
        return tuple(range(count))
    names = [name.strip() for name in said.split(",") if name.strip()]
    if not all(name.lstrip("-").isdigit() for name in names):
        return tuple(range(count))
    numbers: list[int] = []
    for name in names:  # CUDA stops at the first that is not there
        if not 0 <= int(name) < count:
            break
        numbers.append(int(name))
    return tuple(dict.fromkeys(numbers))


def environment(chosen: Sequence[int] | None) -> dict[str, str]:
    """Return the variables that keep an engine to the GPUs of the option ``gpus``; none without it."""
    if chosen is None:
        return {}
    return {ORDER: "PCI_BUS_ID", VISIBLE: ",".join(map(str, used_gpus(chosen)))}


def problems(chosen: Sequence[int] | None, needed: int = 1) -> Iterator[Problem]:
    """Say what is wrong with the option ``gpus`` of an engine that takes ``needed`` of them.

    Where no GPU can be seen nobody knows what there is, and nothing is said about it.
    """
    if chosen is None:
        return
    if twice := sorted({number for number in chosen if chosen.count(number) > 1}):
        yield _problem(f"gpus names GPU {_listed(twice)} twice. Name each GPU once.")
    if wrong := sorted({number for number in chosen if number < 0}):
        yield _problem(f"gpus counts from 0, and {_listed(wrong)} is below that.")
    seen = gpu_count()
    if seen and (missing := sorted({number for number in chosen if number >= seen})):
        yield _problem(f"There is no GPU {_listed(missing)}: this machine has {_range(seen)}.")
    if len(set(chosen)) < needed:
        yield _problem(
            f"gpus names {len(set(chosen))} GPU(s), and the model is to be split over {needed}. Name "
            f"{needed}, or split it over fewer."
        )


def _problem(message: str) -> Problem:
    return Problem(message=message, option="gpus", code="invalid_gpus")


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _range(count: int) -> str:
    return "only GPU 0" if count == 1 else f"GPUs 0 to {count - 1}"
