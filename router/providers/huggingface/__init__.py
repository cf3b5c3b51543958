"""Hugging Face: Inference Endpoints of one's own, and Inference Providers behind one router.

Sources: Hugging Face documentation, Inference Endpoints "Autoscaling", Inference Providers, "Hub Rate limits";
huggingface/text-generation-inference.
"""

from router.providers.huggingface.provider import HuggingFace

__all__ = ["HuggingFace"]
