"""RunPod serverless: jobs in a queue, and the OpenAI-compatible route beside it.

Sources: Runpod documentation, "Send API requests", "Operation reference", "Job states and metrics", "Load
balancing"; runpod-workers/worker-vllm.
"""

from router.providers.runpod.provider import RunPod

__all__ = ["RunPod"]
