"""A fake Hugging Face: the Hub, the router of Inference Providers, and one Inference Endpoint. Canned words, no model.

``/hub`` stands for huggingface.co, ``/router/v1`` for router.huggingface.co/v1, ``/endpoint`` for an endpoint's own host.

Source: Hugging Face documentation, Inference Endpoints "Autoscaling", Inference Providers, "Hub Rate limits";
text-generation-inference.

==================== =========================================================================
``container=KIND``   ``tgi`` (the default), ``classic`` (TGI without a chat route), ``no-template``, ``vllm``
``loading=N``        N requests to the endpoint are answered 503 while a replica starts; for ever without a number
``bad-gateway``      … with 502, as it was once
``holds``            a request with ``X-Scale-Up-Timeout`` is held instead, and answered
``paused``           400 ``Bad Request: Invalid state``
``unserved``         the router: no provider enabled serves the model
``credits``          the router: 402
``rate-limited``     429 with ``RateLimit``
``error=TYPE``       refused with TGI's error of this type
``frame-error=TYPE`` after three tokens a frame with this error, under HTTP 200
``end-after=N``      after N tokens the body ends
``length``           the answer ends because it is long enough
``unstreamed``       answers a streamed request with one JSON list
``silent``           accepts and never answers
``split``            frames are cut at arbitrary bytes
``tight``            ``data:`` without a space
==================== =========================================================================
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web

from tests.fakes.cloud import WORDS, FakeCloud, data, main, stream

STATUS_OF = {
    "validation": 422,
    "template_error": 422,
    "generation": 424,
    "overloaded": 429,
    "incomplete_generation": 500,
    "healthcheck": 503,
}
TOO_LONG = (
    "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. "
    "Given: 5000 `inputs` tokens and 100 `max_new_tokens`"
)
MESSAGES = {"validation": TOO_LONG, "overloaded": "Model is overloaded"}


class FakeHuggingFace(FakeCloud):
    """One fake account with one endpoint."""

    def __init__(self, *behaviour: str, key: str = "") -> None:
        super().__init__(*behaviour, key=key)
        self.generated = 0

    def state(self) -> dict[str, Any]:
        return {**super().state(), "generated": self.generated}

    def routes(self, app: web.Application) -> None:
        app.router.add_get("/hub/api/whoami-v2", self._whoami)
        app.router.add_get("/router/v1/models", self._models)
        app.router.add_post("/router/v1/chat/completions", self._routed)
        app.router.add_get("/endpoint/health", self._health)
        app.router.add_post("/endpoint/v1/chat/completions", self._chat)
        app.router.add_post("/endpoint/", self._generate)

    def unauthorized(self) -> web.Response:
        return web.json_response({"error": "Invalid username or password."}, status=401)

    async def _whoami(self, _request: web.Request) -> web.Response:
        return web.json_response({"type": "user", "name": "ada"})

    async def _models(self, _request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "org/one"}, {"id": "org/two"}]})

    # -- Inference Providers

    async def _routed(self, request: web.Request) -> web.StreamResponse:
        if self.behaviour.has("unserved"):
            message = (
                "The requested model 'org/x' is not supported by any provider you have enabled."
            )
            error = {
                "message": message,
                "type": "invalid_request_error",
                "code": "model_not_supported",
            }
            return web.json_response({"error": error}, status=400)
        if self.behaviour.has("credits"):
            error_text = "You have exceeded your monthly included credits for Inference Providers."
            return web.json_response({"error": error_text}, status=402)
        if self.behaviour.has("rate-limited"):
            headers = {
                "RateLimit": '"api";r=0;t=55',
                "RateLimit-Policy": '"fixed window";"api";q=500;w=300',
            }
            return web.json_response({"error": "Too many requests"}, status=429, headers=headers)
        return await self._answered(request)

    # -- an Inference Endpoint

    def _proxy_refusal(self, request: web.Request) -> web.Response | None:
        if self.behaviour.has("paused"):
            return web.Response(status=400, text="Bad Request: Invalid state")
        held = self.behaviour.has("holds") and "X-Scale-Up-Timeout" in request.headers
        if self.behaviour.has("loading") and not held:
            if self.behaviour.text("loading"):
                self.behaviour.take("loading")
            status = 502 if self.behaviour.has("bad-gateway") else 503
            return web.Response(status=status, text="Service Unavailable")
        return None

    async def _health(self, request: web.Request) -> web.Response:
        return self._proxy_refusal(request) or web.Response()

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        if refused := self._proxy_refusal(request):
            return refused
        kind = self.behaviour.text("container", "tgi")
        if kind == "classic":
            raise web.HTTPNotFound(text="")
        if kind == "no-template":
            return tgi_refusal("template_error")
        body = await request.json()
        if kind == "vllm" and body["model"] != "org/served":
            message = f"The model `{body['model']}` does not exist."
            error = {"message": message, "type": "NotFoundError", "param": "model", "code": 404}
            return web.json_response({"error": error}, status=404)
        if self.behaviour.has("error"):
            return tgi_refusal(self.behaviour.text("error"))
        return await self._answered(request)

    async def _answered(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        with self.generating():
            self.generated += 1
            if self.behaviour.has("silent"):
                await asyncio.Event().wait()
            if body.get("stream"):
                split = self.behaviour.has("split")
                return await stream(request, self._chat_frames(), split=split)
            choice = {"index": 0, "message": {"content": "".join(WORDS)}, "finish_reason": "stop"}
            return web.json_response({"choices": [choice], "usage": USAGE})

    async def _chat_frames(self) -> AsyncIterator[bytes]:
        for index, word in enumerate(WORDS):
            if self.behaviour.has("frame-error") and index == 3:
                message = MESSAGES.get(self.behaviour.text("frame-error"), "no")
                yield data({"error": {"message": message, "http_status_code": 422}})
                yield data("[DONE]")
                return
            yield data({"choices": [{"index": 0, "delta": {"content": word}}]})
        yield data({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        yield data({"choices": [], "usage": USAGE})
        yield data("[DONE]")

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        if refused := self._proxy_refusal(request):
            return refused
        if self.behaviour.has("error"):
            return tgi_refusal(self.behaviour.text("error"))
        body = await request.json()
        parameters = body.get("parameters", {})
        if parameters.get("temperature", 1) <= 0 or not 0 < parameters.get("top_p", 0.5) < 1:
            return tgi_refusal("validation", "`temperature` must be strictly positive")
        with self.generating():
            self.generated += 1
            if self.behaviour.has("silent"):
                await asyncio.Event().wait()
            if self.behaviour.has("unstreamed") or not body.get("stream"):
                answer = {"generated_text": "".join(WORDS), "details": self._details()}
                return web.json_response([answer])
            split = self.behaviour.has("split")
            return await stream(request, self._frames(parameters), split=split)

    async def _frames(self, parameters: dict[str, Any]) -> AsyncIterator[bytes]:
        yield b":keep-alive\n\n"
        for index, word in enumerate(WORDS):
            if self.behaviour.has("end-after") and index >= self.behaviour.number("end-after"):
                return
            if self.behaviour.has("frame-error") and index == 3:
                kind = self.behaviour.text("frame-error")
                yield self._frame({"error": MESSAGES.get(kind, "no"), "error_type": kind})
                return
            yield self._token(index, word, special=False)
        details = self._details() if parameters.get("details") else None
        text = "".join(WORDS)
        yield self._token(len(WORDS), "</s>", special=True, generated_text=text, details=details)

    def _token(self, index: int, text: str, *, special: bool, **last: Any) -> bytes:
        token = {"id": index, "text": text, "logprob": -0.1, "special": special}
        return self._frame(
            {"index": index + 1, "token": token, "generated_text": None, "details": None, **last}
        )

    def _frame(self, frame: dict[str, Any]) -> bytes:
        text = data(frame)
        return text.replace(b"data: ", b"data:", 1) if self.behaviour.has("tight") else text

    def _details(self) -> dict[str, Any]:
        reason = "length" if self.behaviour.has("length") else "eos_token"
        made = len(WORDS)
        return {"finish_reason": reason, "generated_tokens": made, "seed": 1, "input_length": 9}


def tgi_refusal(kind: str, message: str = "") -> web.Response:
    body = {"error": message or MESSAGES.get(kind, f"said {kind}"), "error_type": kind}
    return web.json_response(body, status=STATUS_OF[kind])


USAGE = {"prompt_tokens": 9, "completion_tokens": len(WORDS), "total_tokens": 9 + len(WORDS)}

if __name__ == "__main__":
    main(FakeHuggingFace)
