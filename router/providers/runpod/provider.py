"""RunPod serverless as a provider."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from http import HTTPStatus
from typing import ClassVar

from accounts.errors import MhError
from backends.engines.base import Target
from router.errors import InvalidProvider, ProviderRefused
from router.providers.base import Capabilities, ChatCall, Delta, EmbeddingCall, Embeddings
from router.providers.exchange import ask
from router.providers.openai_compatible import OPENAI_PATHS, OpenAICompatible
from router.providers.runpod import errors
from router.providers.runpod.endpoint import Endpoint
from router.providers.runpod.job import job_running
from router.providers.runpod.output import OutputReader
from router.providers.runpod.payload import asked_tokens, has_format, job_payload, not_in_messages
from router.providers.runpod.settings import DEFAULT, RunPodSettings
from router.providers.runpod.waiting import summary


class RunPod(OpenAICompatible):
    """Serverless endpoints of RunPod: by jobs, or by the OpenAI-compatible route."""

    name: ClassVar[str] = "runpod"
    title: ClassVar[str] = "RunPod serverless"
    capabilities: ClassVar[Capabilities] = Capabilities(
        openai_paths=OPENAI_PATHS, tools=True, images=True, embeddings=True, schemas=True
    )
    Settings = RunPodSettings

    def target(self, settings: RunPodSettings) -> Target:
        """Return where RunPod is; which endpoint answers depends on a request's model."""
        if not settings.api_key.get_secret_value():
            raise InvalidProvider("Give an API key of RunPod's.", param="apiKey")
        if not settings.endpoint_id and not any(settings.endpoints.values()):
            raise InvalidProvider("Give the id of a serverless endpoint.", param="endpointId")
        key = settings.api_key.get_secret_value()
        return Target(endpoint=settings.api_url, api_key=key, options=settings)

    def capabilities_of(self, target: Target) -> Capabilities:
        """Return less where only jobs are sent."""
        settings = _settings(target)
        if settings.mode != "queue":
            return self.capabilities
        whole = settings.job_input == "request"
        return Capabilities(tools=whole, images=whole, schemas=whole)

    async def check(self, target: Target) -> str:
        """Ask every endpoint set how it is; wakes no worker."""
        settings = _settings(target)
        found = [await self._check(target, settings, name) for name in _endpoint_ids(settings)]
        return "The key works. " + " ".join(found)

    async def models(self, target: Target) -> Sequence[str]:
        """Return the models that have an endpoint of their own; asking a worker would wake it."""
        return [model for model in _settings(target).endpoints if model != DEFAULT]

    def refused(self, status: int, body: bytes, headers: Mapping[str, str]) -> MhError:
        """Return the error for a refusal of the OpenAI-compatible route."""
        return errors.refused(status, body, headers)

    @asynccontextmanager
    async def chat(self, target: Target, call: ChatCall) -> AsyncIterator[AsyncIterator[Delta]]:
        """Send a chat: as a job, or where that cannot carry it and the mode allows, by the other route."""
        settings = _settings(target)
        if not self._as_job(settings, call):
            async with super().chat(_routed(target, call.model), call) as deltas:
                yield deltas
            return
        reader = OutputReader(asked_tokens(call, settings))
        endpoint = self._endpoint(target, _endpoint_id(settings, call.model), call.request_id)
        payload = job_payload(call, settings)
        async with job_running(endpoint, payload, reader, settings) as deltas:
            yield deltas

    @asynccontextmanager
    async def relay(
        self, target: Target, path: str, body: bytes, request_id: str
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Pass a streamed request on to the OpenAI-compatible route."""
        self._needs_route(target, path)
        async with super().relay(_routed(target, _model(body)), path, body, request_id) as frames:
            yield frames

    async def ask(self, target: Target, path: str, body: bytes, request_id: str) -> bytes:
        """Pass a request on to the OpenAI-compatible route."""
        self._needs_route(target, path)
        return await super().ask(_routed(target, _model(body)), path, body, request_id)

    async def embed(self, target: Target, call: EmbeddingCall) -> Embeddings:
        """Ask the OpenAI-compatible route."""
        self._needs_route(target, "embeddings")
        return await super().embed(_routed(target, call.model), call)

    def _needs_route(self, target: Target, path: str) -> None:
        if _settings(target).mode == "queue":
            raise self.unsupported(path)

    def _as_job(self, settings: RunPodSettings, call: ChatCall) -> bool:
        if settings.mode not in {"queue", "auto"}:
            return False
        if settings.job_input == "request":
            return True
        missing = not_in_messages(call)
        if settings.mode == "auto":
            return not missing and not has_format(call)
        if missing:
            raise self.unsupported(f"{missing} in jobs of the kind set (jobInput)")
        return True

    def _endpoint(self, target: Target, endpoint_id: str, request_id: str) -> Endpoint:
        return Endpoint(
            url=f"{target.endpoint}/{endpoint_id}",
            pool=target.endpoint,
            headers=self.headers(target, request_id),
        )

    async def _check(self, target: Target, settings: RunPodSettings, endpoint_id: str) -> str:
        if settings.mode == "loadBalancing":
            return await self._ping(target, settings, endpoint_id)
        health = await self._endpoint(target, endpoint_id, "check").health()
        return f"Endpoint {endpoint_id}: {summary(health)}."

    async def _ping(self, target: Target, settings: RunPodSettings, endpoint_id: str) -> str:
        base = settings.load_balancing_url.replace("{endpoint}", endpoint_id)
        answer = await ask(f"{base}/ping", endpoint=base, headers=self.headers(target, "check"))
        if answer.status == HTTPStatus.OK:
            return f"Endpoint {endpoint_id}: ready."
        error = self.refused(answer.status, answer.body, answer.headers)
        if answer.status == HTTPStatus.NO_CONTENT or error.retryable:
            return f"Endpoint {endpoint_id}: no worker is ready, the first chat starts one."
        raise error


def _settings(target: Target) -> RunPodSettings:
    settings = target.options
    if not isinstance(settings, RunPodSettings):
        msg = "a target of RunPod's is made by RunPod.target"
        raise TypeError(msg)
    return settings


def _endpoint_ids(settings: RunPodSettings) -> list[str]:
    found = [settings.endpoint_id, *settings.endpoints.values()]
    return [name for name in dict.fromkeys(found) if name]


def _endpoint_id(settings: RunPodSettings, model: str) -> str:
    found = settings.endpoint_of(model)
    if not found:
        msg = f"The account at RunPod has no endpoint for {model[:80]!r}. Its owner can add one, or one called {DEFAULT}."
        raise ProviderRefused(msg, code="endpoint_not_found")
    return found


def _routed(target: Target, model: str) -> Target:
    """Return ``target`` at the base of the OpenAI-compatible route: what comes before ``/v1``."""
    settings = _settings(target)
    endpoint_id = _endpoint_id(settings, model)
    if settings.mode == "loadBalancing":
        base = settings.load_balancing_url.rstrip("/").replace("{endpoint}", endpoint_id)
    else:
        base = f"{target.endpoint}/{endpoint_id}/openai"
    return replace(target, endpoint=base)


def _model(body: bytes) -> str:
    """Return the model a request names, which has been read as JSON before."""
    try:
        model = json.loads(body).get("model")
    except (ValueError, AttributeError, RecursionError):
        return ""
    return model if isinstance(model, str) else ""
