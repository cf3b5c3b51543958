"""What a queued job waits for, in words, from an endpoint's ``/health``."""

from collections.abc import Mapping
from typing import Any

from router.providers.base import Waits


def waits_from(health: Mapping[str, Any]) -> Waits:
    """Return what a job that is ``IN_QUEUE`` waits for.

    RunPod does not say which place a job has: the position is how many are queued, ours among them.
    ``initializing``, ``ready``, ``throttled`` and ``unhealthy`` are not documented, and may be missing.
    """
    jobs, workers = _numbers(health.get("jobs")), _numbers(health.get("workers"))
    position = jobs.get("inQueue", 0)
    if workers.get("initializing"):
        return Waits("a RunPod worker is starting", position)
    if workers.get("idle") or workers.get("running") or workers.get("ready"):
        return Waits("queued at RunPod", position)
    if workers.get("throttled"):
        return Waits("RunPod has no GPU free for this endpoint", position)
    if workers.get("unhealthy"):
        return Waits("the endpoint's RunPod workers fail to start", position)
    return Waits("a RunPod worker has to be started", position)


def summary(health: Mapping[str, Any]) -> str:
    """Return workers and jobs as a person wants them after a check: ``1 idle, 2 running; 3 jobs queued``."""
    jobs, workers = _numbers(health.get("jobs")), _numbers(health.get("workers"))
    up = ", ".join(f"{count} {name}" for name, count in sorted(workers.items()) if count)
    return f"workers: {up or 'none up, the first chat starts one'}; {jobs.get('inQueue', 0)} jobs queued"


def _numbers(value: object) -> dict[str, int]:
    if not isinstance(value, dict):
        return {}
    return {name: count for name, count in value.items() if isinstance(count, int)}
