"""A fake OpenAI-compatible cloud: OpenAI, DeepSeek or OpenRouter by their habits. Canned words, no model.

Source: OpenAI developer docs "Error codes", "Rate limits", "Streaming"; DeepSeek API docs; OpenRouter docs "Streaming".

==================== =========================================================================
``status=CODE``      every request is refused with this status, in OpenAI's shape
``insufficient-quota`` 429 that waiting does not help
``rate-limited``     429 with ``retry-after`` and ``x-ratelimit-*`` headers
``reset-only``       429 with ``x-ratelimit-*`` headers alone
``overloaded``       503 ``server_is_overloaded``
``no-max-tokens``    refuses ``max_tokens``, as o-series models do
``error-under-200``  an error as JSON, under HTTP 200, streamed or not
``error-after=N``    after N tokens a frame with ``error``, under HTTP 200, as OpenRouter sends
``error-code=CODE``  the ``code`` of that frame
``end-after=N``      after N tokens the body ends, without finish reason or ``[DONE]``
``no-done``          a finish reason, and then no ``[DONE]``
``reasoning=KIND``   ``deepseek`` (``reasoning_content``), ``openrouter`` (``reasoning`` and ``reasoning_details``)
``comments``         comments between frames: ``: OPENROUTER PROCESSING``, ``: keep-alive``
``empty-lines``      empty lines before an answer that is not streamed, as DeepSeek sends
``tool``             answers with a tool call
``silent``           accepts and never answers
``split``            frames are cut at arbitrary bytes
``no-models``        has no list of models
==================== =========================================================================
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web

from tests.fakes.cloud import WORDS, FakeCloud, data, main, stream

ERRORS = {
    400: ("invalid_request_error", None),
    401: ("invalid_request_error", "invalid_api_key"),
    403: ("invalid_request_error", "unsupported_country_region_territory"),
    404: ("invalid_request_error", "model_not_found"),
    429: ("requests", "rate_limit_exceeded"),
    500: ("server_error", None),
    503: ("server_error", "server_is_overloaded"),
}


def refusal(
    status: int, message: str = "", code: str | None = None, **headers: str
) -> web.Response:
    kind, usual = ERRORS.get(status, ("error", None))
    error = {"message": message or f"said {status}", "type": kind, "param": None}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return web.json_response(
        {"error": {**error, "code": code or usual}},
        status=status,
        headers={"x-request-id": "req_fake", **named},
    )


class FakeOpenAI(FakeCloud):
    """One fake account at one fake cloud."""

    def routes(self, app: web.Application) -> None:
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/chat/completions", self._chat)

    def unauthorized(self) -> web.Response:
        return refusal(401, "Incorrect API key provided: sk-secret.")

    async def _models(self, _request: web.Request) -> web.Response:
        if self.behaviour.has("no-models"):
            raise web.HTTPNotFound
        cards = [{"id": name, "object": "model"} for name in ("gpt-fake", "o-fake")]
        return web.json_response({"object": "list", "data": cards})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if refused := self._refused(body):
            return refused
        with self.generating():
            if self.behaviour.has("silent"):
                await asyncio.Event().wait()
            if body.get("stream"):
                split = self.behaviour.has("split")
                return await stream(request, self._frames(body), split=split)
            lead = "\n\n\n" if self.behaviour.has("empty-lines") else ""
            text = lead + data(self._whole(body)).decode().removeprefix("data: ")
            return web.Response(text=text, content_type="application/json")

    def _refused(self, body: dict[str, Any]) -> web.Response | None:
        behaviour = self.behaviour
        if behaviour.has("status"):
            return refusal(int(behaviour.number("status", 500)))
        if behaviour.has("no-max-tokens") and "max_tokens" in body:
            return refusal(400, NO_MAX_TOKENS, "unsupported_parameter")
        if behaviour.has("error-under-200"):
            return web.json_response({"error": {"message": "no", "code": 429}})
        habits = [habit for habit in REFUSALS if behaviour.has(habit)]
        return refusal(**REFUSALS[habits[0]]) if habits else None

    async def _frames(self, body: dict[str, Any]) -> AsyncIterator[bytes]:
        comments = self.behaviour.has("comments")
        yield b": OPENROUTER PROCESSING\n\n" if comments else b""
        yield self._chunk({"role": "assistant", "content": ""})
        for delta in self._thoughts():
            yield self._chunk(delta)
        if self.behaviour.has("tool"):
            for call in TOOL_CALL_DELTAS:
                yield self._chunk({"tool_calls": [call]})
        for index, word in enumerate([] if self.behaviour.has("tool") else WORDS):
            if self._due("end-after", index):
                return
            if self._due("error-after", index):
                code: object = self.behaviour.text("error-code", "server_error")
                code = int(str(code)) if str(code).isdigit() else code
                error = {"code": code, "message": "Provider disconnected unexpectedly"}
                yield data({"id": "gen-fake", "error": error, "choices": []})
                return
            yield b": keep-alive\n\n" if comments else b""
            yield self._chunk({"content": word})
        yield self._chunk({}, "tool_calls" if self.behaviour.has("tool") else "stop")
        if (body.get("stream_options") or {}).get("include_usage"):
            yield data({"id": "chatcmpl-fake", "choices": [], "usage": USAGE})
        if not self.behaviour.has("no-done"):
            yield data("[DONE]")

    def _thoughts(self) -> list[dict[str, Any]]:
        kind = self.behaviour.text("reasoning")
        if kind == "deepseek":
            return [{"reasoning_content": text, "content": None} for text in ("Hm", "m.")]
        details = [{"type": "reasoning.text", "text": "Hmm.", "index": 0}]
        thought = {"reasoning": "Hmm.", "reasoning_details": details, "content": ""}
        return [thought] if kind == "openrouter" else []

    def _due(self, name: str, index: int) -> bool:
        return self.behaviour.has(name) and index >= self.behaviour.number(name)

    def _chunk(self, delta: dict[str, Any], reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        head = {"id": "chatcmpl-fake", "object": "chat.completion.chunk", "model": "gpt-fake"}
        return data({**head, "choices": [choice], "usage": None})

    def _whole(self, body: dict[str, Any]) -> dict[str, Any]:
        message = {"role": "assistant", "content": "".join(WORDS), "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
        return {"id": "chatcmpl-fake", "model": body["model"], "choices": [choice], "usage": USAGE}


NO_MAX_TOKENS = (
    "Unsupported parameter: 'max_tokens' is not supported with this model. "
    "Use 'max_completion_tokens' instead."
)
#: The arguments of ``refusal`` for habits that refuse everything.
REFUSALS: dict[str, dict[str, Any]] = {
    "insufficient-quota": {
        "status": 429,
        "message": "You exceeded your current quota, please check your plan and billing details.",
        "code": "insufficient_quota",
        "retry_after": "7",
    },
    "rate-limited": {"status": 429, "retry_after": "7", "x_ratelimit_remaining_requests": "0"},
    "reset-only": {
        "status": 429,
        "x_ratelimit_remaining_tokens": "0",
        "x_ratelimit_reset_tokens": "1m1s",
    },
    "overloaded": {"status": 503, "message": "The server is overloaded."},
}
USAGE = {"prompt_tokens": 9, "completion_tokens": len(WORDS), "total_tokens": 9 + len(WORDS)}
TOOL_CALL_DELTAS: list[dict[str, Any]] = [
    {
        "index": 0,
        "id": "call_1",
        "type": "function",
        "function": {"name": "weather", "arguments": ""},
    },
    {"index": 0, "function": {"arguments": '{"city": '}},
    {"index": 0, "function": {"arguments": '"Paris"}'}},
]

if __name__ == "__main__":
    main(FakeOpenAI)
