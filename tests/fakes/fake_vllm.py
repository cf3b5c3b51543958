"""A fake vLLM 0.32: a real process with its HTTP, its log, its child process, and its bad habits.

It is no engine: it answers with canned words. Run it as

    python tests/fakes/fake_vllm.py --port 8000 --served-model-name demo [--behaviour cut-after=3]

Arguments of the real server that it does not know are ignored, so it can take the place of
``-m vllm.entrypoints.openai.api_server``. More arguments may come in the environment variable
``FAKE_VLLM_ARGS``. Behaviours can be changed while it runs: ``POST /_fake/behaviour
{"behaviour": ["cut-after=3"], "token_delay": 0.1}``. ``GET /_fake/state`` says what it saw.

Behaviours (``--behaviour`` may be given several times). Of answers:

==================== =========================================================================
``error-after=N``    after N tokens an error frame and then ``[DONE]``, under HTTP 200; it lives on
``core-dies-after=N`` the same because its engine core died: 503, then the process ends with status 0
``cut-after=N``      after N tokens the connection is cut in the middle of the chunked body
``end-after=N``      after N tokens the body ends cleanly, without finish reason or ``[DONE]``
``no-done``          a finish reason, and then no ``[DONE]``
``crash-after=N``    after N tokens the process is gone (status 0, as the real one)
``silent-after=N``   after N tokens nothing more, the connection stays
``silent``           requests are accepted and never answered
``status=CODE``      every request is refused with this status
``retry-after=S``    with this ``Retry-After``
``html``             every request is answered with a page of HTML under 502
``reasoning``        thinks before it answers (``delta.reasoning``)
``reasoning-old``    the same as older engines name it (``delta.reasoning_content``)
``tool``             answers with a tool call
``echo``             answers with the last message's own text, in pieces of a few characters, as tokens are
``think``            reasoning in the text, between tags, as without a reasoning parser
``think-open``       the same without the opening tag, as where the template has opened it
``format-ignored``   answers in words whatever ``response_format`` says; with ``=once`` only until it is told
``embeds``           serves an embedding model; otherwise ``/v1/embeddings`` does not exist, as in the real one
``vision``           takes images; otherwise they are refused
``counts-on``        stops counting one token after its limit, as the real one does with long prompts
``vague``            says of too long a prompt only that it is
``split``            frames are cut at arbitrary bytes, inside characters too
``unhealthy``        ``/health`` answers 503
``other-name=NAME``  serves a model of this name, whatever it was started with
==================== =========================================================================

Of the process:

==================== =========================================================================
``bind-and-hang``    listens on its port, takes connections, and never answers any
``die-after-ready=S`` S seconds after it is ready it is gone (status 0)
``rename=TITLE``     its name and its whole command line read TITLE, as after ``setproctitle``
``grandchild``       a process forked twice, in a session of its own, renamed, deaf to TERM, holds memory
``grandchild=bare``  the same, and without its parent's environment, so without the marker
``hang-on-term``     TERM frees the port, and the process stays while a client is connected
``ignore-term``      TERM does nothing
``child-ignores-term`` the engine core does not hear TERM
``child-own-session`` the engine core runs in a session of its own
``flood=MIB``        writes this much into its log before it is ready, and a line per request after
``exit=CASE``        ends at start with a real vLLM's log: see ``BAD_STARTS``, or the name of one in
                     ``tests/backends/engines/logs``: ``path_missing``, ``corrupt_safetensors`` …
==================== =========================================================================

Of sleep mode (``VLLM_SERVER_DEV_MODE=1`` opens its endpoints, ``--enable-sleep-mode`` makes it real;
without the latter it says that it sleeps, frees nothing, and chats hang, as the real one does):

==================== =========================================================================
``sleep-frees-nothing`` says that it sleeps, in every way, and keeps its memory
``sleep-hangs``      ``/sleep`` is never answered
``sleep-dies``       ``/sleep`` is answered 200, and then the process is gone
``sleep-fails``      ``/sleep`` is answered 500
``sleep-ignored``    ``/sleep`` is answered 200, and it stays awake
``wake-hangs``       ``/wake_up`` is never answered
``wake-dies``        ``/wake_up`` is answered 200, and then the process is gone
``wake-ignored``     ``/wake_up`` is answered 200 "awake", and it sleeps on
``wake-mute``        awake by all signs, and chats hang
``reload-fails``     weights cannot be read again after level 2
``no-metrics``       ``/metrics`` answers 404
``release-slowly=S`` memory goes back in ten parts, within S seconds of falling asleep
==================== =========================================================================

Memory is told to the fake NVML (``tests/fakes/nvml``): where ``FAKE_NVML`` names its file, the process says
in ``<file>.held/<pid>-<gpu>`` how many bytes it holds: ``--gpu-mib`` (0: nothing is said) on each of
``--gpus`` (0), a tenth of it asleep. How long it is still seen after a process's end, NVML's own file says.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import ctypes
import json
import os
import shlex
import signal
import socket
import struct
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aiohttp import web  # noqa: TC004 — at run time by ``import_web``

VERSION = "0.32.0+fake"

LOGS = Path(__file__).parents[1] / "backends" / "engines" / "logs"
#: Recorded logs whose vLLM ended with status 2; the others ended with 1.
WRONG_USAGE = ("unknown_flag", "bad_dtype")
#: Share of its memory that a sleeping engine keeps.
ASLEEP_SHARE = 0.1

#: What the real server writes last, and its exit status, by case.
BAD_STARTS: dict[str, tuple[int, list[str]]] = {
    "error": (
        1,
        [
            "(EngineCore pid={pid}) ERROR 01-01 00:00:02 [core.py:1042] EngineCore failed to start.",
            (
                "(EngineCore pid={pid}) ERROR 01-01 00:00:02 [core.py:1042] ValueError: To serve at least "
                "one request with the models's max seq len (2048), (0.05 GiB KV cache is needed, which is "
                "larger than the available KV cache memory (0.01 GiB)."
            ),
            (
                "(APIServer pid={pid}) RuntimeError: Engine core initialization failed. "
                "See root cause above. Failed core proc(s): {{}}"
            ),
        ],
    ),
    "value": (
        1,
        [
            "(APIServer pid={pid}) pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig",
            (
                "(APIServer pid={pid})   Value error, User-specified max_model_len (99999) is greater than the "
                "derived max_model_len (max_position_embeddings=8192). [type=value_error, input_value=ArgsKwargs(())]"
            ),
            "(APIServer pid={pid})     For further information visit https://errors.pydantic.dev/2.14/v/value_error",
        ],
    ),
    "usage": (2, ["vllm: error: unrecognized arguments: --no-such-flag"]),
    "port": (1, ["(APIServer pid={pid}) OSError: [Errno 98] Address already in use"]),
    "memory": (
        1,
        [
            "(Worker pid={pid}) ERROR 01-01 00:00:02 [multiproc_executor.py:800] WorkerProc failed to start.",
            (
                "(EngineCore pid={pid}) ValueError: Available memory on node 0 (0.5/8.0 GiB) on startup is less "
                "than desired CPU memory utilization (0.92, 7.36 GiB)."
            ),
        ],
    ),
}

PROGRESS = (
    "INFO 01-01 00:00:00 [utils.py:233] non-default args: {{'model': '{model}', 'port': {port}}}",
    "INFO 01-01 00:00:00 [model.py:530] Resolved architecture: LlamaForCausalLM",
    "INFO 01-01 00:00:00 [core.py:96] Initializing a V1 LLM engine (v0.32.0) with config: model='{model}'",
    "INFO 01-01 00:00:00 [cpu_model_runner.py:56] Starting to load model {model}...",
    "INFO 01-01 00:00:00 [default_loader.py:293] Loading weights took 0.05 seconds",
    "INFO 01-01 00:00:00 [core.py:272] init engine (profile, create kv cache, warmup model) took 0.31 seconds",
    "INFO 01-01 00:00:00 [api_server.py:1325] Starting vLLM server on http://{host}:{port}",
)


@dataclass
class Counts:
    """What happened to requests so far. ``running`` is how many are being generated now."""

    started: int = 0
    #: Answered with ``status=…``.
    refused: int = 0
    finished: int = 0
    aborted: int = 0
    failed: int = 0
    running: int = 0
    tokens: int = 0
    prompt_tokens: int = 0
    first_tokens: int = 0
    first_token_seconds: float = 0.0
    #: The last request's body and headers, for tests that look at what was sent.
    last: dict[str, Any] = field(default_factory=dict)
    last_headers: dict[str, str] = field(default_factory=dict)


class Behaviour:
    """The habits asked for: ``has("cut-after")``, ``number("cut-after")``."""

    def __init__(self, words: list[str]) -> None:
        self._words = dict(word.partition("=")[::2] for word in words)

    def has(self, name: str) -> bool:
        return name in self._words

    def text(self, name: str, default: str = "") -> str:
        return self._words.get(name, "") or default

    def number(self, name: str, default: int = 3) -> int:
        return int(self._words.get(name) or default)


class CutError(Exception):
    """Stop writing here and cut the connection."""


class EndError(Exception):
    """Stop writing here and end the body cleanly."""


def log(source: str, line: str) -> None:
    print(f"({source} pid={os.getpid()}) {line}", file=sys.stderr, flush=True)


def error(status: int, message: str, kind: str, param: str | None = None) -> web.Response:
    body = {"error": {"message": message, "type": kind, "param": param, "code": status}}
    return web.json_response(body, status=status)


class FakeVllm:
    """One fake engine."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.behaviour = Behaviour(arguments.behaviour)
        self.names: list[str] = arguments.served_model_name or [arguments.model]
        self.names += [json.loads(module)["name"] for module in arguments.lora_modules]
        if self.behaviour.has("other-name"):
            self.names = [self.behaviour.text("other-name", "other")]
        self.core_died = asyncio.Event()
        self.token_delay: float = arguments.token_delay
        self.counts = Counts()
        self.dead = False
        self.stopping = asyncio.Event()
        self.child: subprocess.Popen[bytes] | None = None
        #: 0 awake, else the level of sleep.
        self.level = 0
        #: Parts of the memory that are gone: ``weights``, ``kv_cache``.
        self.asleep: set[str] = set()
        #: Whether the weights are what they were: not so after level 2, until they are read again.
        self.weights_good = True
        self.awake = asyncio.Event()
        self.awake.set()
        self.memory = Memory(arguments)

    # -- the HTTP face

    def application(self) -> web.Application:
        app = web.Application(client_max_size=64 << 20, middlewares=[self._guard])
        app.router.add_get("/health", self._health)
        app.router.add_get("/version", self._version)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/completions", self._completion)
        app.router.add_post("/v1/embeddings", self._embeddings)
        app.router.add_post("/tokenize", self._tokenize)
        app.router.add_get("/_fake/state", self._state)
        if os.environ.get("VLLM_SERVER_DEV_MODE") == "1":
            app.router.add_post("/sleep", self._sleep)
            app.router.add_post("/wake_up", self._wake_up)
            app.router.add_get("/is_sleeping", self._is_sleeping)
            app.router.add_post("/collective_rpc", self._collective_rpc)
            app.router.add_get("/server_info", self._server_info)
        app.router.add_post("/_fake/behaviour", self._behave)
        return app

    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        key = self.arguments.api_key or os.environ.get("VLLM_API_KEY")
        given = request.headers.get("Authorization", "")
        if key and request.path.startswith("/v1") and given != f"Bearer {key}":
            return web.json_response({"error": "Unauthorized"}, status=401)
        try:
            response: web.StreamResponse = await handler(request)
        except web.HTTPException as exc:
            return web.json_response({"detail": exc.reason}, status=exc.status)
        return response

    _guard.__middleware_version__ = 1  # type: ignore[attr-defined]  # as ``web.middleware`` does

    async def _health(self, _request: web.Request) -> web.Response:
        return web.Response(status=503 if self.dead or self.behaviour.has("unhealthy") else 200)

    async def _version(self, _request: web.Request) -> web.Response:
        return web.json_response({"version": VERSION})

    async def _models(self, _request: web.Request) -> web.Response:
        cards = [
            {
                "id": name,
                "object": "model",
                "created": int(time.time()),
                "owned_by": "vllm",
                "root": self.arguments.model,
                "parent": None,
                "max_model_len": self.arguments.max_model_len,
                "permission": [],
            }
            for name in self.names
        ]
        return web.json_response({"object": "list", "data": cards})

    async def _metrics(self, _request: web.Request) -> web.Response:
        if self.behaviour.has("no-metrics"):
            raise web.HTTPNotFound
        label = f'{{engine="0",model_name="{self.names[0]}"}}'
        gauges = {
            "num_requests_running": self.counts.running,
            "num_requests_waiting": 0,
            "kv_cache_usage_perc": 0.01 * self.counts.running,
        }
        counters = {
            "prompt_tokens_total": self.counts.prompt_tokens,
            "generation_tokens_total": self.counts.tokens,
            "time_to_first_token_seconds_count": self.counts.first_tokens,
            "time_to_first_token_seconds_sum": self.counts.first_token_seconds,
        }
        lines: list[str] = []
        for name, value in {**gauges, **counters}.items():
            kind = "counter" if name in counters else "gauge"
            lines += [f"# TYPE vllm:{name} {kind}", f"vllm:{name}{label} {float(value)}"]
        for level, state in enumerate(("awake", "weights_offloaded", "discard_all")):
            value = int(level == self.level)
            labels = f'engine="0",model_name="{self.names[0]}",sleep_state="{state}"'
            lines.append(f"vllm:engine_sleep_state{{{labels}}} {float(value)}")
        for reason, value in (("stop", self.counts.finished), ("abort", self.counts.aborted)):
            labels = f'engine="0",finished_reason="{reason}",model_name="{self.names[0]}"'
            lines.append(f"vllm:request_success_total{{{labels}}} {float(value)}")
        return web.Response(text="\n".join(lines) + "\n", content_type="text/plain")

    # -- sleep mode

    async def _server_info(self, request: web.Request) -> web.Response:
        enabled = self.arguments.enable_sleep_mode
        config: Any = f"model='{self.arguments.model}'"
        if request.query.get("config_format") == "json":
            config = {"model_config": {"enable_sleep_mode": enabled}}
        return web.json_response({"vllm_config": config, "vllm_env": {}, "system_env": {}})

    async def _is_sleeping(self, _request: web.Request) -> web.Response:
        return web.json_response({"is_sleeping": bool(self.asleep)})

    async def _sleep(self, request: web.Request) -> web.Response:
        level = int(request.query.get("level", "1"))
        if level not in {0, 1, 2}:
            return error(400, "Input should be less than or equal to 2", "Bad Request", "level")
        if self.behaviour.has("sleep-hangs"):
            await asyncio.Event().wait()
        if self.behaviour.has("sleep-fails"):
            return error(500, "Memory usage increased after sleeping.", "InternalServerError")
        if not self.behaviour.has("sleep-ignored"):
            self._fall_asleep(level)
        if self.behaviour.has("sleep-dies"):
            asyncio.get_running_loop().call_later(0.05, os._exit, 0)
        return web.json_response({"status": "sleeping", "level": level})

    def _fall_asleep(self, level: int) -> None:
        self.level = level
        self.asleep = {"weights", "kv_cache"}
        self.awake.clear()
        if self.arguments.enable_sleep_mode:
            self.weights_good = level != 2
            if not self.behaviour.has("sleep-frees-nothing"):
                seconds = float(self.behaviour.text("release-slowly", "0"))
                self.memory.hold(ASLEEP_SHARE, seconds)

    async def _wake_up(self, request: web.Request) -> web.Response:
        tags = request.query.getall("tags", [])
        if self.behaviour.has("wake-hangs"):
            await asyncio.Event().wait()
        if self.behaviour.has("wake-dies"):
            asyncio.get_running_loop().call_later(0.05, os._exit, 0)
        elif not self.behaviour.has("wake-ignored"):
            self.asleep -= set(tags) or {"weights", "kv_cache"}
        if not self.asleep:
            self.level = 0
            self.memory.hold(1.0)
            if not self.behaviour.has("wake-mute"):
                self.awake.set()
        status = "sleeping" if self.asleep and tags else "awake"
        return web.json_response({"status": status, "tags": tags or None})

    async def _collective_rpc(self, request: web.Request) -> web.Response:
        method = (await request.json()).get("method")
        if method != "reload_weights" or self.behaviour.has("reload-fails"):
            message = f"Call to collective_rpc method failed: {method}"
            return error(500, message, "InternalServerError")
        if "weights" not in self.asleep:
            self.weights_good = True
        return web.json_response({"results": [None]})

    async def _state(self, _request: web.Request) -> web.Response:
        facts = {"pid": os.getpid(), "level": self.level, "weights_good": self.weights_good}
        return web.json_response({**self.counts.__dict__, **facts})

    async def _behave(self, request: web.Request) -> web.Response:
        wanted = await request.json()
        self.behaviour = Behaviour(wanted.get("behaviour", []))
        self.token_delay = wanted.get("token_delay", self.token_delay)
        self.arguments.tokens = wanted.get("tokens", self.arguments.tokens)
        return web.json_response({})

    # -- generation

    async def _body(self, request: web.Request) -> dict[str, Any] | web.Response:
        if self.behaviour.has("html"):
            page = "<html><h1>502 Bad Gateway</h1></html>"
            return web.Response(status=502, text=page, content_type="text/html")
        if self.behaviour.has("status"):
            status = self.behaviour.number("status", 500)
            self.counts.refused += 1
            refusal = error(status, f"secret inside /home/somebody {status}", "InternalServerError")
            if self.behaviour.has("retry-after"):
                refusal.headers["Retry-After"] = self.behaviour.text("retry-after", "1")
            return refusal
        try:
            body = json.loads(await request.read())
        except ValueError as exc:
            message = f"[{{'type': 'json_invalid', 'msg': 'JSON decode error: {exc}'}}]"
            return error(400, message, "Bad Request")
        self.counts.last = body
        self.counts.last_headers = dict(request.headers)
        return self._refusal(body) or body

    def _refusal(self, body: dict[str, Any]) -> web.Response | None:
        model = body.get("model")
        if model and model not in self.names:
            message = f"The model `{model}` does not exist. Valid aliases: {', '.join(self.names)}."
            return error(404, message, "NotFoundError", "model")
        if "messages" not in body and "prompt" not in body:
            return error(400, "1 validation error: Field required: messages", "Bad Request")
        if has_image(body) and not self.behaviour.has("vision"):
            return error(400, f"{self.names[0]} is not a multimodal model", "BadRequestError")
        return self._too_long(body)

    def _too_long(self, body: dict[str, Any]) -> web.Response | None:
        count, limit = prompt_tokens(body), self.arguments.max_model_len
        if count > limit and self.behaviour.has("vague"):
            return error(400, "The input is too long.", "BadRequestError", "input_tokens")
        least = ""
        if count > limit and self.behaviour.has("counts-on"):
            least, count = "at least ", limit + 1
        if count > limit:
            message = (
                f"This model's maximum context length is {limit} tokens. However, your prompt contains "
                f"{least}{count} input tokens, which exceeds this limit even without any output tokens. "
                "Please reduce the length of the input prompt."
            )
            return error(400, message, "BadRequestError", "input_tokens")
        wanted = body.get("max_completion_tokens") or body.get("max_tokens") or 0
        if wanted > limit:
            message = f"max_tokens={wanted} cannot be greater than max_model_len={limit}."
            return error(400, message, "BadRequestError", "max_tokens")
        return None

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return await self._generate(request, chat=True)

    async def _completion(self, request: web.Request) -> web.StreamResponse:
        return await self._generate(request, chat=False)

    async def _tokenize(self, request: web.Request) -> web.Response:
        count = prompt_tokens(json.loads(await request.read()))
        limit = self.arguments.max_model_len
        answer = {"count": count, "max_model_len": limit, "tokens": [0] * count, "token_strs": None}
        return web.json_response(answer)

    async def _embeddings(self, request: web.Request) -> web.Response:
        if not self.behaviour.has("embeds"):
            raise web.HTTPNotFound
        body = json.loads(await request.read())
        self.counts.last = body
        given = body["input"]
        many = isinstance(given, list) and not isinstance((given or [0])[0], int)
        texts = given if many else [given]
        rows = [
            {"index": index, "object": "embedding", "embedding": embedding(text, body)}
            for index, text in enumerate(texts)
        ]
        used = sum(len(text) for text in texts)
        usage = {"prompt_tokens": used, "total_tokens": used, "completion_tokens": 0}
        head = {"id": "embd-1", "object": "list", "created": 1, "model": self.names[0]}
        return web.json_response({**head, "data": rows, "usage": usage})

    async def _generate(self, request: web.Request, *, chat: bool) -> web.StreamResponse:
        body = await self._body(request)
        if isinstance(body, web.Response):
            return body
        self.counts.started += 1
        self.counts.running += 1
        self.counts.prompt_tokens += prompt_tokens(body)
        answer = Answer(self, body, request.headers.get("X-Request-Id"), chat=chat)
        try:
            if body.get("stream"):
                response = await self._stream(request, answer)
            else:
                response = await self._whole(answer)
        except (asyncio.CancelledError, ConnectionError):
            self.counts.aborted += 1
            raise
        else:
            self.counts.finished += 1
            return response
        finally:
            self.counts.running -= 1

    async def _whole(self, answer: Answer) -> web.Response:
        with contextlib.suppress(DiedError):
            async for _ in answer.words():
                pass
        if self.behaviour.has("error-after") or self.dead:
            self.counts.failed += 1
            return error(500, "EngineCore encountered an issue.", "InternalServerError")
        return web.json_response(answer.whole())

    async def _stream(self, request: web.Request, answer: Answer) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream; charset=utf-8"},
        )
        await response.prepare(request)
        try:
            async for frame in answer.frames():
                await self._write(response, b"data: " + dump(frame) + b"\n\n")
            if not self.behaviour.has("no-done"):
                await self._write(response, b"data: [DONE]\n\n")
        except CutError:
            self.counts.failed += 1
            assert request.transport is not None
            request.transport.abort()
            return response
        except EndError:
            self.counts.failed += 1
        await response.write_eof()
        return response

    async def _write(self, response: web.StreamResponse, data: bytes) -> None:
        if not self.behaviour.has("split"):
            await response.write(data)
            return
        for start in range(0, len(data), 7):
            await response.write(data[start : start + 7])
            await asyncio.sleep(0)

    # -- the process

    async def run(self) -> int:
        log_header()
        if self.behaviour.has("rename"):
            rename(self.behaviour.text("rename", "VLLM::APIServer"))
        if self.behaviour.has("grandchild"):
            start_grandchild(bare=self.behaviour.text("grandchild") == "bare")
        if self.behaviour.has("ignore-term"):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        else:
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.stopping.set)
        case = self.behaviour.text("exit", "error") if self.behaviour.has("exit") else ""
        steps = PROGRESS[:4] if case else PROGRESS
        if not case:
            import_web()
        for index, line in enumerate(steps):
            source = "EngineCore" if index in {2, 3, 4, 5} else "APIServer"
            text = line.format(
                model=self.arguments.model, host=self.arguments.host, port=self.arguments.port
            )
            log(source, text)
            if index == 1:
                self._start_child()
            with contextlib.suppress(TimeoutError):
                delay = self.arguments.start_delay / len(steps)
                await asyncio.wait_for(self.stopping.wait(), delay)
            if self.stopping.is_set():
                self._end_child()
                return 0
        if case:
            return self._bad_start(case)
        self._flood()
        if self.behaviour.has("bind-and-hang"):
            return await self._bind_and_hang()
        return await self._serve()

    def _bad_start(self, case: str) -> int:
        if case in BAD_STARTS:
            status, lines = BAD_STARTS[case]
            text = "\n".join(lines).format(pid=os.getpid())
        else:
            status, text = 1 + (case in WRONG_USAGE), (LOGS / f"{case}.log").read_text()
        print(text, file=sys.stderr, flush=True)
        self._end_child()
        return status

    def _flood(self) -> None:
        line = "INFO 01-01 00:00:00 [loggers.py:271] " + "of no interest to anybody " * 38 + "\n"
        for _ in range(self.behaviour.number("flood", 0) << 10):
            sys.stderr.write(line)
        sys.stderr.flush()

    async def _bind_and_hang(self) -> int:
        listener = socket.create_server((self.arguments.host, self.arguments.port))
        log("APIServer", f"INFO:     Bound {listener.getsockname()[1]}")
        await self.stopping.wait()
        self._end_child()
        return 0

    async def _serve(self) -> int:
        runner = web.AppRunner(self.application(), handler_cancellation=True, access_log=None)
        await runner.setup()
        site = web.TCPSite(
            runner, self.arguments.host, self.arguments.port, shutdown_timeout=0.1, backlog=512
        )
        try:
            await site.start()
        except OSError as exc:
            log("APIServer", f"OSError: [Errno {exc.errno}] Address already in use")
            self._end_child()
            return 1
        port = runner.addresses[0][1]
        log("APIServer", "INFO:     Started server process")
        log("APIServer", "INFO:     Application startup complete.")
        # As real vLLM: the memory is taken before anybody hears that it is ready.
        self.memory.hold(1.0)
        print(f"fake vLLM listens on {port}", flush=True)
        if self.behaviour.has("die-after-ready"):
            seconds = float(self.behaviour.text("die-after-ready", "0"))
            asyncio.get_running_loop().call_later(seconds, os._exit, 0)
        death = asyncio.create_task(self._watch_child())
        await asyncio.wait(
            {death, asyncio.create_task(self.stopping.wait())}, return_when=asyncio.FIRST_COMPLETED
        )
        self._end_child()
        if self.stopping.is_set() and self.behaviour.has("hang-on-term"):
            await self._linger(site)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(runner.cleanup(), 0.5)
        return 0

    async def _linger(self, site: web.TCPSite) -> None:
        """Do as vLLM does with a stream open: free the port, fall silent, stay until clients leave."""
        self.behaviour = Behaviour(["silent", "silent-after=0"])
        log("APIServer", "INFO:     Waiting for connections to close. (CTRL+C to force quit)")
        server = site._server
        assert server is not None
        server.close()
        while self.counts.running:  # noqa: ASYNC110 - a fake may poll
            await asyncio.sleep(0.05)

    async def _watch_child(self) -> None:
        """Die as the real server does when its engine core is gone: 503 for a second, then exit 0."""
        while self.child is None or self.child.poll() is None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.core_died.wait(), 0.05)
                break
        self.dead = True
        log(
            "APIServer",
            "ERROR 01-01 00:00:09 [core_client.py:610] Engine core proc EngineCore died",
        )
        await asyncio.sleep(1)

    def _start_child(self) -> None:
        if not self.arguments.engine_core:
            return
        ignore = "IGN" if self.behaviour.has("child-ignores-term") else "DFL"
        code = f"import signal,time; signal.signal(15, signal.SIG_{ignore}); time.sleep(86400)"
        self.child = subprocess.Popen(
            ["VLLM::EngineCore", "-I", "-S", "-c", code],
            executable=os.path.realpath(sys.executable),
            start_new_session=self.behaviour.has("child-own-session"),
        )

    def _end_child(self) -> None:
        if self.child is None or self.behaviour.has("child-ignores-term"):
            return
        self.child.terminate()
        self.child.wait()


class Memory:
    """What the fake NVML is told of our GPU memory."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._bytes = int(arguments.gpu_mib * 2**20)
        self._share = 0.0
        path = os.environ.get("FAKE_NVML")
        gpus = arguments.gpus.split(",") if path and self._bytes else []
        folder = Path(f"{path}.held")
        self._files = [folder / f"{os.getpid()}-{gpu}" for gpu in gpus]
        self._falling: asyncio.Task[None] | None = None

    def hold(self, share: float, seconds: float = 0.0) -> None:
        """Hold this share of the memory: at once, or in ``seconds`` from now."""
        if self._falling is not None:
            self._falling.cancel()
        if seconds:
            self._falling = asyncio.get_running_loop().create_task(self._fall(share, seconds))
        else:
            self._say(share)

    async def _fall(self, share: float, seconds: float) -> None:
        parts, began = 10, self._share
        for part in range(1, parts + 1):
            await asyncio.sleep(seconds / parts)
            self._say(began + (share - began) * part / parts)

    def _say(self, share: float) -> None:
        self._share = share
        for file in self._files:
            file.parent.mkdir(parents=True, exist_ok=True)
            draft = file.with_name(f"half.{file.name}.tmp")
            draft.write_text(str(round(self._bytes * share)))
            draft.replace(file)


def rename(title: str) -> None:
    """Be called ``title`` in ``ps`` and ``/proc``: the name, and the memory of the command line."""
    libc = ctypes.CDLL(None)
    libc.prctl(15, title.encode()[:15], 0, 0, 0)
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = int(fields[45]), int(fields[46])  # arg_start, arg_end: proc(5)
    ctypes.memset(start, 0, end - start)
    ctypes.memmove(start, title.encode(), min(len(title.encode()), end - start - 1))


def start_grandchild(*, bare: bool) -> None:
    """Start a process that does everything to get away."""
    code = (
        "import ctypes,os,signal,time\n"
        "os.fork() and os._exit(0)\n"
        "os.setsid()\n"
        "os.fork() and os._exit(0)\n"
        "signal.signal(15, signal.SIG_IGN)\n"
        "ctypes.CDLL(None).prctl(15, b'VLLM::Worker', 0, 0, 0)\n"
        "time.sleep(86400)\n"
    )
    program = os.path.realpath(sys.executable)
    environment = {} if bare else dict(os.environ)
    argv = ["VLLM::Worker", "-I", "-S", "-c", code]
    subprocess.run(argv, executable=program, env=environment, check=True)


class Answer:
    """One generation: its words, its frames, its whole."""

    def __init__(
        self, fake: FakeVllm, body: dict[str, Any], request_id: str | None, *, chat: bool
    ) -> None:
        self.fake = fake
        self.body = body
        self.chat = chat
        name = request_id or os.urandom(8).hex()
        self.id = f"chatcmpl-{name}" if chat else f"cmpl-{name}"
        self.created = int(time.time())
        self.model = body.get("model") or fake.names[0]
        self.limit = body.get("max_completion_tokens") or body.get("max_tokens") or 10_000
        self.text = self._words(fake.arguments.tokens)
        if not fake.weights_good:
            self.text = ["\ufffd" for _ in self.text]
        self.cut = self.text[: self.limit]
        self.reason = "stop" if len(self.text) <= self.limit else "length"
        self.calls_tool = fake.behaviour.has("tool") and chat

    def _words(self, count: int) -> list[str]:
        behaviour = self.fake.behaviour
        words = echoed(self.body) if behaviour.has("echo") else words_for(self.body, count)
        ignored = (
            behaviour.text("format-ignored", "always") if behaviour.has("format-ignored") else ""
        )
        told = "does not have the format" in prompt_text(self.body)
        if self.body.get("response_format") and ignored != "always" and (told or not ignored):
            words = ['{"city":', ' "Paris"', "}"]
        if behaviour.has("think") or behaviour.has("think-open"):
            tag = ["<thi", "nk>\n"] if behaviour.has("think") else []
            words = [*tag, "Let ", "me ", "think.", "</thi", "nk>", "\n\n", *words]
        return words

    async def words(self) -> Any:
        """Yield the answer's words, at the fake's speed and with its habits."""
        behaviour = self.fake.behaviour
        if behaviour.has("silent"):
            await asyncio.Event().wait()
        began = time.monotonic()
        await self.fake.awake.wait()
        for index, word in enumerate(self.cut):
            await self._habit(self.fake.behaviour, index)
            if self.fake.token_delay:
                await asyncio.sleep(self.fake.token_delay)
            if self.fake.dead:
                raise_died()
            self.fake.counts.tokens += 1
            if index == 0:
                self.fake.counts.first_tokens += 1
                self.fake.counts.first_token_seconds += time.monotonic() - began
            yield word
        await self._habit(self.fake.behaviour, len(self.cut), at_end=True)

    async def _habit(self, behaviour: Behaviour, index: int, *, at_end: bool = False) -> None:
        def due(name: str) -> bool:
            if not behaviour.has(name):
                return False
            number = behaviour.number(name)
            return index >= number or at_end

        if due("silent-after"):
            await asyncio.Event().wait()
        if due("cut-after"):
            raise CutError
        if due("end-after"):
            raise EndError
        if due("crash-after"):
            os._exit(0)
        if due("error-after") and self.body.get("stream"):
            raise_died()
        if due("core-dies-after"):
            self.fake.dead = True
            self.fake.core_died.set()
            raise_died()

    async def frames(self) -> Any:
        """Yield the stream's frames as vLLM 0.32 sends them; the last is ``[DONE]``'s caller's."""
        usage_wanted = bool((self.body.get("stream_options") or {}).get("include_usage"))
        several = range(self.body.get("n") or 1)
        if self.chat:
            for index in several:
                yield self._chunk({"role": "assistant", "content": ""}, index=index)
        try:
            async for delta in self._deltas():
                for index in several:
                    yield self._chunk(delta, index=index)
        except DiedError:
            self.fake.counts.failed += 1
            yield {
                "error": {
                    "message": "EngineCore encountered an issue. See stack trace (above) for the root cause.",
                    "type": "InternalServerError",
                    "param": None,
                    "code": 500,
                }
            }
            return
        reason = "tool_calls" if self.calls_tool else self.reason
        for index in several:
            yield self._chunk({"content": ""} if self.chat else "", reason, index=index)
        if usage_wanted:
            yield {**self._head(".chunk"), "choices": [], "usage": self.usage()}

    async def _deltas(self) -> Any:
        if not self.chat:
            async for word in self.words():
                yield word
            return
        for key in ("reasoning", "reasoning-old"):
            if self.fake.behaviour.has(key):
                name = "reasoning" if key == "reasoning" else "reasoning_content"
                for word in ("Let ", "me ", "think."):
                    if self.fake.token_delay:
                        await asyncio.sleep(self.fake.token_delay)
                    yield {name: word}
        if self.calls_tool:
            for call in TOOL_CALL_DELTAS:
                yield {"tool_calls": [call]}
            return
        async for word in self.words():
            yield {"content": word}

    def _head(self, suffix: str = "") -> dict[str, Any]:
        kind = f"chat.completion{suffix}" if self.chat else "text_completion"
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _chunk(self, delta: Any, reason: str | None = None, *, index: int = 0) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": index}
        choice["delta" if self.chat else "text"] = delta
        text = delta.get("content") if self.chat else ""
        logprobs = self._logprobs([text]) if text else None
        choice |= {"logprobs": logprobs, "finish_reason": reason}
        if reason or not (self.chat and "role" in delta):
            choice |= {"stop_reason": None, "token_ids": None}
        return {**self._head(".chunk"), "choices": [choice]}

    def _logprobs(self, words: list[str]) -> dict[str, Any] | None:
        if not self.chat or not self.body.get("logprobs"):
            return None
        entries = [{"token": word, "logprob": -0.1, "bytes": list(word.encode())} for word in words]
        top = self.body.get("top_logprobs") or 0
        return {"content": [{**entry, "top_logprobs": [entry] * top} for entry in entries]}

    def usage(self) -> dict[str, Any]:
        prompt, made = prompt_tokens(self.body), len(self.cut)
        return {"prompt_tokens": prompt, "total_tokens": prompt + made, "completion_tokens": made}

    def whole(self) -> dict[str, Any]:
        text = "".join(self.cut)
        choice: dict[str, Any] = {
            "logprobs": self._logprobs(self.cut),
            "finish_reason": self.reason,
        }
        if not self.chat:
            choice["text"] = text
        elif self.calls_tool:
            choice["message"] = {"role": "assistant", "content": None, "tool_calls": [TOOL_CALL]}
            choice["finish_reason"] = "tool_calls"
        else:
            choice["message"] = {"role": "assistant", "content": text, "tool_calls": []}
            if self.fake.behaviour.has("reasoning"):
                choice["message"]["reasoning"] = "Let me think."
        return {
            **self._head(),
            "choices": [
                {"index": index, **choice, "stop_reason": None}
                for index in range(self.body.get("n") or 1)
            ],
            "system_fingerprint": None,
            "usage": self.usage(),
            "prompt_logprobs": None,
        }


class DiedError(Exception):
    """The engine core is gone."""


def raise_died() -> None:
    raise DiedError


TOOL_CALL = {
    "id": "chatcmpl-tool-1",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city": "Paris"}'},
}
TOOL_CALL_DELTAS: list[dict[str, Any]] = [
    {
        "id": "chatcmpl-tool-1",
        "type": "function",
        "index": 0,
        "function": {"name": "weather", "arguments": ""},
    },
    {"index": 0, "function": {"arguments": '{"city": '}},
    {"index": 0, "function": {"arguments": '"Paris"}'}},
]


def dump(frame: dict[str, Any]) -> bytes:
    return json.dumps(frame, ensure_ascii=False, separators=(",", ":")).encode()


def embedding(text: Any, body: dict[str, Any]) -> list[float] | str:
    """Return a vector that begins with the text's length; base64 of little-endian floats where asked."""
    vector = [float(len(text)), *(0.5 for _ in range((body.get("dimensions") or 4) - 1))]
    if body.get("encoding_format") == "base64":
        return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
    return vector


def has_image(body: dict[str, Any]) -> bool:
    return any(
        isinstance(message.get("content"), list)
        and any(part.get("type") == "image_url" for part in message["content"])
        for message in body.get("messages", [])
    )


def prompt_text(body: dict[str, Any]) -> str:
    if "prompt" in body:
        return str(body["prompt"])
    parts: list[str] = []
    for message in body.get("messages", []):
        content = message.get("content") or ""
        if isinstance(content, list):
            content = " ".join(str(part.get("text", "")) for part in content)
        parts.append(str(content))
    return " ".join(parts)


def prompt_tokens(body: dict[str, Any]) -> int:
    return len(prompt_text(body).split()) + 8


def echoed(body: dict[str, Any]) -> list[str]:
    """Return what the last message says, cut where tokens might be."""
    last = body.get("messages", [{}])[-1:]
    text = prompt_text({"messages": last} if "messages" in body else body)
    return [text[at : at + 5] for at in range(0, len(text), 5)]


def words_for(body: dict[str, Any], count: int) -> list[str]:
    """Return the answer's tokens: one right answer, then as many words as are asked for."""
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    if body.get("ignore_eos") and limit:
        count = limit
    elif "capital of France" in prompt_text(body) and not count:
        return ["The", " capital", " of", " France", " is", " Paris", "."]
    count = count or 12
    return [f"{'' if index == 0 else ' '}wörd{index}" for index in range(count)]


def log_header() -> None:
    print("#" * 72, file=sys.stderr)
    print(
        "# FAKE vLLM of mh's tests: canned answers, no model. Never use it for real.",
        file=sys.stderr,
    )
    print("#" * 72, file=sys.stderr, flush=True)


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A fake vLLM for tests.")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--model", default="fake-model")
    parser.add_argument("--served-model-name", nargs="*", default=[])
    parser.add_argument("--max-model-len", type=int, default=2048)
    parser.add_argument("--api-key", default="")
    parser.add_argument("--behaviour", action="append", default=[])
    parser.add_argument("--token-delay", type=float, default=0.0, help="seconds before each token")
    parser.add_argument("--tokens", type=int, default=0, help="length of every answer, in tokens")
    parser.add_argument(
        "--start-delay", type=float, default=0.0, help="seconds until the port is bound"
    )
    parser.add_argument("--enable-sleep-mode", action="store_true")
    parser.add_argument("--lora-modules", nargs="*", default=[])
    parser.add_argument("--gpu-mib", type=float, default=0.0, help="GPU memory held, MiB")
    parser.add_argument("--gpus", default="0", help="numbers of the GPUs it is held on")
    parser.add_argument("--engine-core", action="store_true", help="run a child VLLM::EngineCore")
    return parser.parse_known_args(argv)[0]


def import_web() -> None:
    """Import what serves, which takes longer than a bad start does."""
    import aiohttp.web

    globals()["web"] = aiohttp.web


def main() -> int:
    argv = [*sys.argv[1:], *shlex.split(os.environ.get("FAKE_VLLM_ARGS", ""))]
    try:
        return asyncio.run(FakeVllm(parse(argv)).run())
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
