"""A fake Ollama: a real process with the HTTP, the processes and the bad habits of 0.32.15 and 0.24.0.

It is no engine: it answers with canned words. Written from ``tests/fakes/recordings/ollama``, and
compared with them by ``tests/backends/engines/ollama/test_fake_ollama.py``. Run it as the real one:

    FAKE_OLLAMA_VERSION=0.24.0 OLLAMA_HOST=127.0.0.1:11434 OLLAMA_MODELS=DIR python fake_ollama.py serve

``OLLAMA_HOST``, ``_MODELS``, ``_KEEP_ALIVE``, ``_NUM_PARALLEL``, ``_MAX_QUEUE``, ``_MAX_LOADED_MODELS``,
``_CONTEXT_LENGTH`` and ``_ORIGINS`` are obeyed. The models folder has the real layout with sparse blobs:
``add_model(folder, "smollm2:135m")`` puts one in; ``make_binary(path)`` writes an ``ollama`` that runs
this. Any plain name can be pulled, but those that begin with ``missing``.

Habits (``FAKE_OLLAMA_HABITS``, comma-separated; while it runs ``POST /_fake/habits {"habits": […]}``,
``GET /_fake/state`` says what it saw, ``POST /_fake/reset`` makes it forget):

=================== ==========================================================================
``load=S``          a load takes S seconds (0.02)
``token=S``         seconds before each token (0)
``tokens=N``        length of an answer (12)
``unload=S``        seconds from an unload to an empty ``/api/ps`` (0; 0.24 takes 0.2)
``unload-never``    unloads are answered and not done
``hang-load``       the runner never becomes ready
``crash-load``      the runner ends while it loads
``hang-after=N``    after N tokens the runner is stopped (SIGSTOP), the server is fine
``crash-after=N``   after N tokens the runner is killed
``die-after=N``     after N tokens the server is killed, its runner lives on
``ignore-term``     TERM does nothing
``start-delay=S``   S seconds until the port is bound
``fail-start``      ends at once with status 1, as with a models folder it may not write
``pull-bytes=N``    size of a pulled model (400000), in two layers
``pull=S``          seconds a download takes (0.1)
``pull-fail``       the download breaks half way
``pull-cut``        the connection breaks half way
``pull-hang``       the download stops half way
``runner-mb=N``     memory a runner takes, MiB (0)
``tool``            a chat that offers tools is answered by a call of the first one
``old-tool``        the same without id and index, as older versions have it
=================== ==========================================================================
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator, Awaitable, Callable

    from aiohttp import web

RUNNER = Path(__file__).with_name("fake_ollama_runner.py")
JSON = "application/json; charset=utf-8"
PLAIN_JSON = "application/json"
NDJSON = "application/x-ndjson"
FOREVER = (2**63 - 1) / 1e9
MAIN_LAYER = "application/vnd.ollama.image.model"
BUSY = "server busy, please try again.  maximum pending requests exceeded"
NO_EMBEDDINGS = "This server does not support embeddings. Start it with `--embeddings`"

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_DIGEST = re.compile(r"sha256[:-][0-9a-f]{64}")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_INTEGERS = {"num_predict", "num_ctx", "seed", "top_k", "num_batch", "num_gpu", "num_keep"}
_FLOATS = {"temperature", "top_p", "min_p", "repeat_penalty"}


# Names and the store.


@dataclass(frozen=True)
class Name:
    """``[host/][namespace/]model[:tag]``."""

    host: str
    namespace: str
    model: str
    tag: str

    @classmethod
    def parse(cls, text: str) -> Name | None:
        head, colon, tag = text.rpartition(":")
        if not colon or "/" in tag:
            head, tag = text, "latest"
        parts = head.split("/")
        if len(parts) > 3:
            return None
        defaults = ["registry.ollama.ai", "library"]
        host, namespace, model = defaults[: 3 - len(parts)] + parts
        valid = all(_PART.fullmatch(part) for part in (namespace, model, tag))
        return cls(host, namespace, model, tag) if valid else None

    @property
    def short(self) -> str:
        parts = [self.host, self.namespace, self.model]
        for default in ("registry.ollama.ai", "library"):
            if parts[0] != default:
                break
            parts.pop(0)
        return f"{'/'.join(parts)}:{self.tag}"

    @property
    def without_tag(self) -> str:
        return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"

    def path(self, store: Path) -> Path:
        return store / "manifests" / self.host / self.namespace / self.model / self.tag


def blob_path(store: Path, digest: str) -> Path:
    return store / "blobs" / digest.replace(":", "-")


def digest_of(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def add_model(
    store: Path,
    name: str,
    *,
    size: int = 98_361_600,
    capabilities: tuple[str, ...] = ("completion",),
    context_length: int = 8192,
) -> Path:
    """Put a model into ``store``, as a pull would; return its manifest."""
    parsed = Name.parse(name)
    assert parsed, name
    facts = {
        "model_format": "gguf",
        "model_family": "llama",
        "model_families": ["llama"],
        "model_type": "134.52M",
        "file_type": "Q4_1",
        "architecture": "amd64",
        "os": "linux",
        "fake": {
            "capabilities": capabilities,
            "context_length": context_length,
            "embedding_length": 576,
        },
    }
    config = json.dumps(facts)
    texts = {
        "application/vnd.ollama.image.template": "{{ .Prompt }}",
        "application/vnd.ollama.image.params": '{"stop":["<|im_start|>"]}',
    }
    layers = [{"mediaType": MAIN_LAYER, "digest": digest_of(f"{name} {size}"), "size": size}]
    (store / "blobs").mkdir(parents=True, exist_ok=True)
    main = blob_path(store, str(layers[0]["digest"]))
    main.write_bytes(b"GGUF")
    os.truncate(main, size)
    for media, text in texts.items():
        layers.append({"mediaType": media, "digest": digest_of(text), "size": len(text)})
        blob_path(store, digest_of(text)).write_text(text)
    blob_path(store, digest_of(config)).write_text(config)
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": {
            "mediaType": "application/vnd.docker.container.image.v1+json",
            "digest": digest_of(config),
            "size": len(config),
        },
        "layers": layers,
    }
    path = parsed.path(store)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(manifest))
    return path


def make_binary(path: Path, **environment: str) -> Path:
    """Write an executable ``ollama`` that runs this fake, with ``FAKE_OLLAMA_…`` set in it."""
    variables = "".join(
        f"export {name}={shlex.quote(value)}\n" for name, value in environment.items()
    )
    command = f"{shlex.quote(sys.executable)} -s {shlex.quote(str(Path(__file__).resolve()))}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\n{variables}exec {command} "$@"\n')
    path.chmod(0o755)
    return path


@dataclass(frozen=True)
class Model:
    """A model of the store."""

    name: Name
    path: Path
    manifest: dict[str, Any]
    config: dict[str, Any]
    store: Path

    @classmethod
    def read(cls, store: Path, name: Name) -> Model | None:
        path = name.path(store)
        try:
            manifest = json.loads(path.read_text())
            config = json.loads(blob_path(store, manifest["config"]["digest"]).read_text())
        except (OSError, ValueError, KeyError):
            return None
        return cls(name, path, manifest, config, store)

    @property
    def size(self) -> int:
        return sum(part["size"] for part in [*self.manifest["layers"], self.manifest["config"]])

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    @property
    def capabilities(self) -> list[str]:
        return list(self.config["fake"]["capabilities"])

    @property
    def blob(self) -> Path:
        main = next(part for part in self.manifest["layers"] if part["mediaType"] == MAIN_LAYER)
        return blob_path(self.store, main["digest"])

    def details(self, *, long: bool = False) -> dict[str, Any]:
        facts: dict[str, Any] = {
            "parent_model": "",
            "format": self.config["model_format"],
            "family": self.config["model_family"],
            "families": self.config["model_families"],
            "parameter_size": self.config["model_type"],
            "quantization_level": self.config["file_type"],
        }
        keys = ("context_length", "embedding_length") if long else ()
        return facts | {key: self.config["fake"][key] for key in keys}


def models_in(store: Path) -> list[Model]:
    paths = sorted((store / "manifests").glob("*/*/*/*"), key=lambda path: -path.stat().st_mtime)
    names = [Name(*path.parts[-4:]) for path in paths]
    return [found for name in names if (found := Model.read(store, name))]


# Small things of Go.


class HttpError(Exception):
    def __init__(self, status: int, message: str, content_type: str = JSON) -> None:
        super().__init__(message)
        self.status, self.message, self.content_type = status, message, content_type


def stamp(seconds: float | None = None) -> str:
    """The time as Go writes it: nine digits, for ever is the year 2319."""
    from datetime import UTC, datetime, timedelta

    now = time.time_ns()
    moment = datetime.fromtimestamp(now // 10**9, UTC) + timedelta(seconds=seconds or 0)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{now % 10**9:09d}Z"


def duration(value: Any) -> float:
    """Seconds of a ``keep_alive``: a number, or Go's ``1h30m``; below zero is for ever."""
    if isinstance(value, int | float):
        return FOREVER if value < 0 else float(value)
    text = str(value)
    if re.fullmatch(r"-?\d+", text):
        return duration(int(text))
    found = _DURATION.findall(text.removeprefix("-"))
    if not found or "".join(map("".join, found)) != text.removeprefix("-"):
        raise HttpError(400, f'time: invalid duration "{text}"')
    seconds = sum(float(number) * _UNITS[unit] for number, unit in found)
    return FOREVER if text.startswith("-") else seconds


def go_kind(value: Any) -> str:
    kinds = {bool: "bool", int: "number", float: "number", str: "string", list: "array"}
    return kinds.get(type(value), "object")


def parse_body(data: bytes, kind: str) -> dict[str, Any]:
    if not data:
        raise HttpError(400, "missing request body")
    try:
        body = json.loads(data)
    except ValueError as error:
        text = data.decode(errors="replace").strip()
        if re.match(r"\{\s*[^\"}\s]", text):
            wrong, where = text[1:].strip()[0], "beginning of object key string"
        elif text[0] in "{[":
            raise HttpError(400, "unexpected EOF") from error
        else:
            wrong, where = text[0], "beginning of value"
        raise HttpError(400, f"invalid character '{wrong}' looking for {where}") from error
    if not isinstance(body, dict):
        message = f"json: cannot unmarshal {go_kind(body)} into Go value of type api.{kind}"
        raise HttpError(400, message)
    wanted = {"model": "string", "prompt": "string", "messages": "array", "stream": "bool"}
    for key, type_ in wanted.items():
        if body.get(key) is not None and go_kind(body[key]) != type_:
            field_ = f"{kind}.{key} of type {'[]api.Message' if type_ == 'array' else type_}"
            message = f"json: cannot unmarshal {go_kind(body[key])} into Go struct field {field_}"
            raise HttpError(400, message)
    return body


def check_options(options: dict[str, Any]) -> None:
    for name, value in options.items():
        if name in _INTEGERS and (isinstance(value, bool) or not isinstance(value, int)):
            raise HttpError(500, f'option "{name}" must be of type integer')
        if name in _FLOATS and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise HttpError(500, f'option "{name}" must be of type float32')


class Habits:
    """``has("load")``, ``number("load", 0.02)``."""

    def __init__(self, words: list[str]) -> None:
        self._words = dict(word.strip().partition("=")[::2] for word in words if word.strip())

    def has(self, name: str) -> bool:
        return name in self._words

    def number(self, name: str, default: float) -> float:
        return float(self._words.get(name) or default)


def log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def log_info(source: str, text: str, *, level: str = "INFO") -> None:
    log(f"time={stamp()} level={level} source={source} {text}")


# Runners.


@dataclass(eq=False)
class Runner:
    """A loaded model: its process, and who uses it."""

    model: Model
    num_ctx: int
    process: subprocess.Popen[bytes]
    port: int
    slots: asyncio.Semaphore
    ready: asyncio.Task[None] | None = None
    refs: int = 0
    keep_alive: float = 300.0
    expires: float = 0.0
    timer: asyncio.TimerHandle | None = None

    @property
    def loaded(self) -> bool:
        task = self.ready
        return bool(task and task.done() and not task.cancelled() and not task.exception())


class Scheduler:
    """Which models are in memory. All methods run on the event loop."""

    def __init__(self, fake: FakeOllama) -> None:
        import asyncio

        self.fake = fake
        self.runners: dict[str, Runner] = {}
        self.changed = asyncio.Condition()
        self.pending = 0

    async def acquire(self, model: Model, body: dict[str, Any]) -> Runner:
        """Return a ready runner, with one more reference; load, reload or wait for it."""
        num_ctx = (body.get("options") or {}).get("num_ctx") or self.fake.context_length
        runner = self._usable(model, num_ctx)
        if runner is None:
            if self.pending >= self.fake.max_queue:
                raise HttpError(503, BUSY)
            self.pending += 1
            try:
                runner = await self._make_room(model, num_ctx)
            finally:
                self.pending -= 1
        runner.refs += 1
        default = self.fake.keep_alive
        asked = body.get("keep_alive")
        runner.keep_alive = default if asked is None else duration(asked)
        self._expire_at(runner, runner.keep_alive)
        import asyncio

        assert runner.ready
        try:
            await asyncio.shield(runner.ready)
        except asyncio.CancelledError:
            self.release(runner)
            if not runner.refs and not runner.loaded:
                await self.drop(runner)
            raise
        except HttpError:
            self.release(runner)
            await self.drop(runner)
            raise
        return runner

    def _usable(self, model: Model, num_ctx: int) -> Runner | None:
        runner = self.runners.get(model.name.short)
        if runner is None or runner.num_ctx != num_ctx:
            return None
        if runner.process.poll() is not None and runner.loaded:
            self.runners.pop(model.name.short)  # killed while idle: loaded again
            return None
        return runner

    async def _make_room(self, model: Model, num_ctx: int) -> Runner:
        while True:
            runner = self._usable(model, num_ctx)
            if runner:
                return runner
            old = self.runners.get(model.name.short)
            full = len(self.runners) >= self.fake.max_loaded
            if old is None and not full:
                return self._spawn(model, num_ctx)
            idle = [old] if old else sorted(self.runners.values(), key=lambda item: item.expires)
            victim = next((item for item in idle if not item.refs), None)
            if victim:
                await self.drop(victim)
                continue
            async with self.changed:
                await self.changed.wait()

    def _spawn(self, model: Model, num_ctx: int) -> Runner:
        import asyncio

        check_blob(model, self.fake.old)
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        habits = self.fake.habits
        new = ["/usr/lib/ollama/llama-server", "-S", str(RUNNER)]
        old = ["/opt/ollama", "-S", str(RUNNER), "runner"]
        arguments = [*(old if self.fake.old else new), "--model", str(model.blob)]
        arguments += ["--port", str(port)]
        if not self.fake.old:
            arguments += ["--host", "127.0.0.1", "--no-webui", "--offline", "-c", str(num_ctx)]
        environment = {
            **os.environ,
            "PYTHONHOME": sys.base_prefix,
            "FAKE_OLLAMA_FD": str(listener.fileno()),
            "FAKE_OLLAMA_COMM": "ollama" if self.fake.old else "llama-server",
            "FAKE_OLLAMA_LOAD": str(habits.number("load", 0.02)),
            "FAKE_OLLAMA_RUNNER_MB": str(int(habits.number("runner-mb", 0))),
            "FAKE_OLLAMA_CRASH_LOAD": "1" if habits.has("crash-load") else "",
        }
        log_info("server.go:392", f'msg="starting runner" cmd="{" ".join(arguments)}"')
        process = subprocess.Popen(
            arguments,
            executable=os.path.realpath(sys.executable),
            env=environment,
            pass_fds=[listener.fileno()],
        )
        listener.close()
        slots = asyncio.Semaphore(self.fake.num_parallel)
        runner = Runner(model, num_ctx, process, port, slots)
        self.runners[model.name.short] = runner
        self.fake.loads += 1
        runner.ready = asyncio.create_task(self._become_ready(runner))
        return runner

    async def _become_ready(self, runner: Runner) -> None:
        if self.fake.habits.has("hang-load"):
            os.kill(runner.process.pid, signal.SIGSTOP)
        try:
            async for _ in self.fake.ask(runner, [], 0):
                pass
        except (OSError, EOFError) as error:
            status = runner.process.wait()
            who = "llama runner" if self.fake.old else "llama-server"
            reason = f"{who} process has terminated: exit status {status}"
            log_info(
                "sched.go:518", f'msg="Load failed" model={runner.model.blob} error="{reason}"',
                level="ERROR",
            )  # fmt: skip
            raise HttpError(500, reason) from error
        log_info("server.go:1388", 'msg="llama runner started in 0.02 seconds"')

    def release(self, runner: Runner) -> None:
        runner.refs -= 1
        if not runner.refs:
            self._expire_at(runner, runner.keep_alive)
        self._notify()

    def unload(self, name: Name) -> None:
        """Ask for an unload: at once when idle, when the last stream has ended else."""
        runner = self.runners.get(name.short)
        if runner and not self.fake.habits.has("unload-never"):
            runner.keep_alive = 0
            self._expire_at(runner, 0)

    def _expire_at(self, runner: Runner, seconds: float) -> None:
        import asyncio

        runner.expires = time.time() + seconds
        if runner.timer:
            runner.timer.cancel()
        if seconds >= 10**8:
            return
        if not seconds:
            seconds = self.fake.habits.number("unload", 0.2 if self.fake.old else 0)
        runner.timer = asyncio.get_running_loop().call_later(seconds, self._expired, runner)

    def _expired(self, runner: Runner) -> None:
        if not runner.refs and runner.loaded:
            self._forget(runner)

    def _forget(self, runner: Runner) -> None:
        runner.process.kill()
        runner.process.wait()
        if self.runners.get(runner.model.name.short) is runner:
            del self.runners[runner.model.name.short]
        self._notify()

    async def drop(self, runner: Runner) -> None:
        if runner.ready and not runner.ready.done():
            runner.ready.cancel()
        self._forget(runner)

    def _notify(self) -> None:
        import asyncio

        async def tell() -> None:
            async with self.changed:
                self.changed.notify_all()

        self.fake.tasks.add(task := asyncio.ensure_future(tell()))
        task.add_done_callback(self.fake.tasks.discard)


def check_blob(model: Model, old: bool) -> None:
    wanted = next(part for part in model.manifest["layers"] if part["mediaType"] == MAIN_LAYER)
    size = model.blob.stat().st_size
    with model.blob.open("rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        failed = f"error loading model: llama_model_loader: failed to load model from {model.blob}"
        new = f"llama-server process has terminated: exit status 1: {failed}"
        raise HttpError(500, f"unable to load model: {model.blob}" if old else new)
    if size < wanted["size"]:
        tensor = 'tensor "blk.7.ffn_up.weight" offset+size'
        raise HttpError(500, f"{tensor} ({wanted['size']}) exceeds file size ({size})")


# The server.


@dataclass
class FakeOllama:
    """One fake server."""

    version: str
    host: str
    port: int
    store: Path
    habits: Habits
    keep_alive: float = 300.0
    num_parallel: int = 1
    max_queue: int = 512
    max_loaded: int = 3
    context_length: int = 4096
    origins: tuple[str, ...] = ()
    loads: int = 0
    started: int = 0
    aborted: int = 0
    last: dict[str, Any] = field(default_factory=dict)
    tasks: set[Any] = field(default_factory=set)

    @classmethod
    def from_environment(cls) -> FakeOllama:
        host, _, port = os.environ.get("OLLAMA_HOST", "127.0.0.1:11434").rpartition(":")
        home = Path.home() / ".ollama" / "models"
        return cls(
            version=os.environ.get("FAKE_OLLAMA_VERSION", "0.32.15"),
            host=host.strip("[]"),
            port=int(port),
            store=Path(os.environ.get("OLLAMA_MODELS") or home),
            habits=Habits(os.environ.get("FAKE_OLLAMA_HABITS", "").split(",")),
            keep_alive=duration(os.environ.get("OLLAMA_KEEP_ALIVE") or "5m"),
            num_parallel=int(os.environ.get("OLLAMA_NUM_PARALLEL") or 1),
            max_queue=int(os.environ.get("OLLAMA_MAX_QUEUE") or 512),
            max_loaded=int(os.environ.get("OLLAMA_MAX_LOADED_MODELS") or 3),
            context_length=int(os.environ.get("OLLAMA_CONTEXT_LENGTH") or 4096),
            origins=tuple(filter(None, os.environ.get("OLLAMA_ORIGINS", "").split(","))),
        )

    @property
    def old(self) -> bool:
        """Whether this is the generation before ``llama-server``."""
        return tuple(map(int, self.version.split(".")[:2])) < (0, 30)

    def routes(self) -> dict[str, dict[str, Callable[[Any], Awaitable[Any]]]]:
        return {
            "/": {"GET": self._root, "HEAD": self._root},
            "/api/version": {"GET": self._version, "HEAD": self._version},
            "/api/tags": {"GET": self._tags, "HEAD": self._tags},
            "/api/ps": {"GET": self._ps},
            "/api/show": {"POST": self._show},
            "/api/chat": {"POST": self._chat},
            "/api/generate": {"POST": self._generate},
            "/api/embed": {"POST": self._embed},
            "/api/embeddings": {"POST": self._embeddings},
            "/api/pull": {"POST": self._pull},
            "/api/delete": {"DELETE": self._delete},
            "/api/copy": {"POST": self._copy},
            "/api/create": {"POST": self._create},
            "/v1/models": {"GET": self._v1_models},
            "/v1/chat/completions": {"POST": self._v1_chat},
            "/_fake/state": {"GET": self._state},
            "/_fake/habits": {"POST": self._set_habits},
            "/_fake/reset": {"POST": self._reset},
        }

    async def run(self) -> int:
        import asyncio

        from aiohttp import web

        self.scheduler = Scheduler(self)
        self._routes = self.routes()
        loop = asyncio.get_running_loop()
        if not self.habits.has("ignore-term"):
            loop.add_signal_handler(signal.SIGTERM, self._end)
        loop.add_signal_handler(signal.SIGINT, self._end)
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", self._dispatch)
        app.on_response_prepare.append(_plain_headers)
        runner = web.AppRunner(app, handler_cancellation=True, access_log=None)
        await runner.setup()
        await asyncio.sleep(self.habits.number("start-delay", 0))
        try:
            await web.TCPSite(runner, self.host, self.port, backlog=512).start()
        except OSError:
            log(f"Error: listen tcp {self.host}:{self.port}: bind: address already in use")
            return 1
        self.port = runner.addresses[0][1]
        log_info(
            "routes.go:1813", f'msg="Listening on {self.host}:{self.port} (version {self.version})"'
        )
        await asyncio.Event().wait()
        return 0

    def _end(self) -> None:
        """End as the real one: children first, sockets closed by the kernel, no last chunk."""
        for runner in self.scheduler.runners.values():
            runner.process.kill()
            runner.process.wait()
        os._exit(0)

    # -- HTTP

    async def _dispatch(self, request: web.Request) -> web.StreamResponse:
        from aiohttp import web

        started = time.monotonic()
        try:
            response = await self._answer(request)
        except HttpError as error:
            body = {"error": error.message}
            response = reply(body, status=error.status, content_type=error.content_type)
        took = time.monotonic() - started
        if not request.path.startswith("/_fake"):
            now = time.strftime("%Y/%m/%d - %H:%M:%S")
            facts = f"{response.status} | {took * 1000:10.3f}ms | {request.remote:>15}"
            log(f'[GIN] {now} | {facts} | {request.method:8} "{request.path}"')
        assert isinstance(response, web.StreamResponse)
        return response

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        from aiohttp import web

        if not self._is_allowed(request):
            return web.Response(status=403)
        methods = self._routes.get(request.path) or self._by_pattern(request.path)
        if methods is None:
            return web.Response(status=404, body=b"404 page not found", content_type="text/plain")
        handler = methods.get(request.method)
        if handler is None:
            body = b"405 method not allowed"
            return web.Response(status=405, body=body, content_type="text/plain")
        response: web.StreamResponse = await handler(request)
        return response

    def _by_pattern(self, path: str) -> dict[str, Any] | None:
        if path.startswith("/api/blobs/"):
            return {"HEAD": self._blob_head, "POST": self._blob}
        return {"GET": self._v1_model} if path.startswith("/v1/models/") else None

    def _is_allowed(self, request: web.Request) -> bool:
        origin, host = request.headers.get("Origin"), request.headers.get("Host", "")
        local = r"(https?://)?(localhost|127\.0\.0\.1|0\.0\.0\.0|\[::1\])(:\d+)?"
        if origin and not re.fullmatch(local, origin) and origin not in self.origins:
            return False
        loopback = self.host in {"127.0.0.1", "localhost", "::1"}
        return not loopback or bool(re.fullmatch(local, host))

    async def _body(self, request: web.Request, kind: str) -> dict[str, Any]:
        self.last = parse_body(await request.read(), kind)
        return self.last

    def _find(self, text: str, error: HttpError) -> Model:
        name = Name.parse(text)
        model = Model.read(self.store, name) if name else None
        if model is None:
            raise error
        return model

    async def _root(self, _request: web.Request) -> web.Response:
        from aiohttp import web

        return web.Response(text="Ollama is running", content_type="text/plain", charset="utf-8")

    async def _version(self, _request: web.Request) -> web.Response:
        return reply({"version": self.version})

    async def _tags(self, _request: web.Request) -> web.Response:
        return reply({"models": [self._tag(model) for model in models_in(self.store)]})

    def _tag(self, model: Model) -> dict[str, Any]:
        facts = {
            "name": model.name.short,
            "model": model.name.short,
            "modified_at": stamp(model.path.stat().st_mtime - time.time()),
            "size": model.size,
            "digest": model.digest,
            "details": model.details(long=not self.old),
        }
        return facts if self.old else facts | {"capabilities": model.capabilities}

    async def _ps(self, _request: web.Request) -> web.Response:
        loaded = [runner for runner in self.scheduler.runners.values() if runner.loaded]
        return reply({"models": [self._loaded(runner) for runner in loaded]})

    def _loaded(self, runner: Runner) -> dict[str, Any]:
        model = runner.model
        return {
            "name": model.name.short,
            "model": model.name.short,
            "size": model.size * 2,
            "digest": model.config.get("digest") or digest_of(model.name.short)[7:],
            "details": model.details(),
            "expires_at": stamp(runner.expires - time.time()),
            "size_vram": 0,
            "context_length": runner.num_ctx,
        }

    async def _show(self, request: web.Request) -> web.Response:
        body = await self._body(request, "ShowRequest")
        text = body.get("model") or body.get("name") or ""
        if not text:
            raise HttpError(400, "model is required")
        model = self._find(text, HttpError(404, f"model '{self._asked(text)}' not found"))
        if not self.old and not model.blob.exists():
            raise HttpError(404, f"model '{text}' not found")
        head = f'# Modelfile generated by "ollama show"\n# FROM {text}\n\nFROM {model.blob}\n'
        facts = {
            "general.architecture": "llama",
            "llama.context_length": model.config["fake"]["context_length"],
            "llama.embedding_length": model.config["fake"]["embedding_length"],
        }
        return reply(
            {
                "modelfile": head,
                "parameters": 'stop                           "<|im_start|>"',
                "template": "{{ .Prompt }}",
                "details": model.details(),
                "model_info": facts,
                "tensors": [],
                "capabilities": model.capabilities,
                "modified_at": stamp(model.path.stat().st_mtime - time.time()),
            }
        )

    def _asked(self, text: str) -> str:
        """The name in the newer version's words: with its tag."""
        name = Name.parse(text)
        return text if self.old or name is None else name.short

    # -- chat and generate

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await self._body(request, "ChatRequest")
        text = body.get("model") or ""
        if not text:
            raise HttpError(400, "model is required")
        if Name.parse(text) is None:
            raise HttpError(400, "invalid model name")
        return await self._complete(request, body, text, chat=True)

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        body = await self._body(request, "GenerateRequest")
        return await self._complete(request, body, body.get("model") or "", chat=False)

    async def _complete(
        self, request: web.Request, body: dict[str, Any], text: str, *, chat: bool
    ) -> web.StreamResponse:
        model = self._find(text, HttpError(404, f"model '{text}' not found"))
        asked = body.get("keep_alive")
        seconds = None if asked is None else duration(asked)
        empty = not body.get("messages") if chat else not body.get("prompt")
        answer = Answer(body, text, chat=chat, thinking="thinking" in model.capabilities)
        if empty and seconds == 0:
            self.scheduler.unload(model.name)
            return reply(answer.mark("unload"))
        self._check(model, body, text, chat=chat)
        self.started += 1
        try:
            runner = await self.scheduler.acquire(model, body)
            try:
                if empty:
                    return reply(answer.mark("load"))
                async with runner.slots:
                    return await self._send(request, runner, answer)
            finally:
                self.scheduler.release(runner)
        except BaseException as error:
            if not isinstance(error, Exception):
                self.aborted += 1
            raise

    def _check(self, model: Model, body: dict[str, Any], text: str, *, chat: bool) -> None:
        if not model.blob.exists():
            if self.old:
                raise HttpError(400, f'"{text}" does not support {"chat" if chat else "generate"}')
            raise HttpError(404, f'model "{text}" not found, try pulling it first')
        able = model.capabilities
        if "completion" not in able:
            raise HttpError(400, f'"{text}" does not support {"chat" if chat else "generate"}')
        if body.get("tools") and "tools" not in able:
            raise HttpError(400, f"{model.name.without_tag} does not support tools")
        if body.get("think") and "thinking" not in able:
            raise HttpError(400, f'"{text}" does not support thinking')
        check_options(body.get("options") or {})
        self._check_length(body)
        pictures = body.get("images") or any(m.get("images") for m in body.get("messages") or [])
        if pictures and "vision" not in able and not self.old:
            inner = {
                "code": 400,
                "message": "Multimodal data provided, but model does not support multimodal requests.",
                "type": "invalid_request_error",
            }
            raise HttpError(400, json.dumps({"error": inner}, separators=(",", ":")))

    def _check_length(self, body: dict[str, Any]) -> None:
        """A prompt too long is cut in silence, unless the request says otherwise. A word is a token."""
        text = json.dumps(body.get("messages") or body.get("prompt") or "")
        count, limit = len(text.split()), (body.get("options") or {}).get("num_ctx")
        limit = limit or self.context_length
        if body.get("truncate") is not False or count <= limit:
            return
        if self.old:
            raise HttpError(400, "the input length exceeds the context length")
        inner = {
            "code": 400,
            "message": f"request ({count} tokens) exceeds the available context size ({limit} tokens), try increasing it",
            "type": "exceed_context_size_error",
            "n_prompt_tokens": count,
            "n_ctx": limit,
        }
        raise HttpError(400, json.dumps({"error": inner}, separators=(",", ":")))

    async def _send(
        self, request: web.Request, runner: Runner, answer: Answer
    ) -> web.StreamResponse:
        words = answer.words(int(self.habits.number("tokens", 12)))
        if self._calls(answer):
            answer.tool, words = ("old" if self.habits.has("old-tool") else "new"), []
        frames = self._frames(runner, answer, words)
        if answer.body.get("stream") is False:
            return await self._whole(frames, answer)
        return await stream(request, frames, NDJSON)

    def _calls(self, answer: Answer) -> bool:
        wanted = self.habits.has("tool") or self.habits.has("old-tool")
        last = (answer.body.get("messages") or [{}])[-1]
        return wanted and bool(answer.body.get("tools")) and last.get("role") != "tool"

    async def _whole(self, frames: AsyncIterator[dict[str, Any]], answer: Answer) -> web.Response:
        last: dict[str, Any] = {}
        async for frame in frames:
            if "error" in frame:
                raise HttpError(500, frame["error"])
            last = answer.collect(frame)
        return reply(last)

    async def _frames(
        self, runner: Runner, answer: Answer, words: list[str]
    ) -> AsyncIterator[dict[str, Any]]:
        count = 0
        try:
            async for word in self.ask(runner, words, self.habits.number("token", 0)):
                yield answer.frame(word)
                count += 1
                await self._misbehave(runner, count)
        except (OSError, EOFError):
            yield {"error": "an error was encountered while running the model: unexpected EOF"}
            return
        if answer.tool:
            yield answer.call()
        yield answer.final(count)

    async def _misbehave(self, runner: Runner, count: int) -> None:
        """What the runner has said beyond these tokens already is lost with it."""
        import asyncio

        habits = self.habits
        if habits.has("hang-after") and count == habits.number("hang-after", 3):
            os.kill(runner.process.pid, signal.SIGSTOP)
            await asyncio.to_thread(runner.process.wait)
            raise EOFError
        if habits.has("crash-after") and count == habits.number("crash-after", 3):
            runner.process.kill()
            raise EOFError
        if habits.has("die-after") and count == habits.number("die-after", 3):
            os.kill(os.getpid(), signal.SIGKILL)

    async def ask(self, runner: Runner, words: list[str], delay: float) -> AsyncIterator[str]:
        """Have the runner say words; raises EOFError when it dies meanwhile."""
        import asyncio

        reader, writer = await asyncio.open_connection("127.0.0.1", runner.port)
        try:
            writer.write(json.dumps({"words": words, "delay": delay}).encode() + b"\n")
            await writer.drain()
            while line := await reader.readline():
                heard = json.loads(line)
                if heard.get("done"):
                    return
                yield heard["word"]
            raise EOFError
        finally:
            writer.close()

    # -- embeddings

    async def _embed(self, request: web.Request) -> web.Response:
        model, texts = await self._embedding_request(request, "EmbedRequest", "input", 501)
        vectors = [unit_vector(text) for text in texts]
        return reply(
            {
                "model": model,
                "embeddings": vectors,
                "total_duration": 1,
                "load_duration": 1,
                "prompt_eval_count": sum(len(text.split()) for text in texts),
            }
        )

    async def _embeddings(self, request: web.Request) -> web.Response:
        _, texts = await self._embedding_request(request, "EmbeddingRequest", "prompt", 500)
        return reply({"embedding": [4 * number for number in unit_vector(texts[0])]})

    async def _embedding_request(
        self, request: web.Request, kind: str, key: str, refused: int
    ) -> tuple[str, list[str]]:
        body = await self._body(request, kind)
        text = body.get("model") or ""
        model = self._find(text, HttpError(404, f'model "{text}" not found, try pulling it first'))
        if not self.old and "embedding" not in model.capabilities:
            raise HttpError(refused, NO_EMBEDDINGS)
        self.scheduler.release(await self.scheduler.acquire(model, body))
        given = body.get(key) or []
        return text, [given] if isinstance(given, str) else list(given)

    # -- the store over HTTP

    async def _pull(self, request: web.Request) -> web.StreamResponse:
        body = await self._body(request, "PullRequest")
        text = body.get("model") or body.get("name") or ""
        name = Name.parse(text)
        if name is None:
            raise HttpError(400, "invalid model name")
        frames = self._pulling(name, text, request)
        if body.get("stream") is False:
            async for frame in frames:
                if "error" in frame:
                    raise HttpError(500, frame["error"])
            return reply({"status": "success"})
        return await stream(request, frames, NDJSON)

    async def _pulling(
        self, name: Name, text: str, request: web.Request
    ) -> AsyncIterator[dict[str, Any]]:
        import asyncio

        yield {"status": "pulling manifest"}
        problem = self._no_manifest(name)
        if problem:
            yield {"error": f"pull model manifest: {problem}"}
            return
        total = int(self.habits.number("pull-bytes", 400_000))
        sizes = {digest_of(f"{text} {total}"): total, digest_of("{{ .Prompt }}"): 13}
        (self.store / "blobs").mkdir(parents=True, exist_ok=True)
        for digest, size in sizes.items():
            partial = blob_path(self.store, f"{digest}-partial")
            done = partial.stat().st_size if partial.exists() else 0
            frame: dict[str, Any] = {"status": f"pulling {digest[7:19]}", "digest": digest}
            steps = max(1, round(self.habits.number("pull", 0.1) / 0.06))
            while done < size:
                yield frame | {"total": size} | ({"completed": done} if done else {})
                if done and await self._download_breaks(request):
                    yield {"error": f"max retries exceeded: {digest[7:19]}: unexpected EOF"}
                    return
                await asyncio.sleep(self.habits.number("pull", 0.1) / steps)
                done = min(size, done + -(-size // max(2, steps)))
                partial.touch()
                os.truncate(partial, done)
            yield frame | {"total": size, "completed": size}
            partial.unlink(missing_ok=True)
        for status in ("verifying sha256 digest", "writing manifest"):
            yield {"status": status}
        add_model(self.store, name.short, size=total)
        yield {"status": "success"}

    def _no_manifest(self, name: Name) -> str:
        if name.host == "registry.ollama.ai":
            return "file does not exist" if name.model.startswith("missing") else ""
        scheme = "http" if re.match(r"(127\.|localhost)", name.host) else "https"
        url = f"{scheme}://{name.host}/v2/{name.namespace}/{name.model}/manifests/{name.tag}"
        if scheme == "http":
            return f'Get "{url}": dial tcp {name.host}: connect: connection refused'
        return f'Get "{url}": dial tcp: lookup {name.host} on 10.255.255.53:53: no such host'

    async def _download_breaks(self, request: web.Request) -> bool:
        import asyncio

        if self.habits.has("pull-hang"):
            await asyncio.Event().wait()
        if self.habits.has("pull-cut") and request.transport:
            request.transport.abort()
            raise ConnectionResetError
        return self.habits.has("pull-fail")

    async def _delete(self, request: web.Request) -> web.Response:
        from aiohttp import web

        body = await self._body(request, "DeleteRequest")
        text = body.get("model") or body.get("name") or ""
        model = self._find(text, HttpError(404, f"model '{text}' not found"))
        model.path.unlink()
        kept = {
            part["digest"]
            for other in models_in(self.store)
            for part in [*other.manifest["layers"], other.manifest["config"]]
        }
        for part in [*model.manifest["layers"], model.manifest["config"]]:
            if part["digest"] not in kept:
                blob_path(self.store, part["digest"]).unlink(missing_ok=True)
        return web.Response()

    async def _copy(self, request: web.Request) -> web.Response:
        from aiohttp import web

        body = await self._body(request, "CopyRequest")
        text = body.get("source") or ""
        model = self._find(text, HttpError(404, f'model "{text}" not found'))
        name = Name.parse(body.get("destination") or "")
        if name is None:
            raise HttpError(400, f'destination "{body.get("destination")}" is invalid')
        path = name.path(self.store)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(model.path.read_bytes())
        return web.Response()

    async def _create(self, request: web.Request) -> web.StreamResponse:
        body = await self._body(request, "CreateRequest")
        name = Name.parse(body.get("model") or body.get("name") or "")
        if name is None or (body.get("from") and Name.parse(body["from"]) is None):
            raise HttpError(400, "invalid model name", PLAIN_JSON)
        if not body.get("from") and not body.get("files"):
            raise HttpError(400, "neither 'from' or 'files' was specified", PLAIN_JSON)
        return await stream(request, self._creating(name, body), NDJSON)

    async def _creating(self, name: Name, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        if not body.get("from"):
            yield {"status": "parsing GGUF"}
            path = blob_path(self.store, next(iter(body["files"].values())))
            missing = f"open {path}: no such file or directory"
            yield {"error": "supplied file was not in GGUF format" if path.exists() else missing}
            return
        source = Name.parse(body["from"])
        model = Model.read(self.store, source) if source else None
        if model is None:
            yield {"error": "pull model manifest: file does not exist"}
            return
        for part in model.manifest["layers"]:
            yield {"status": f"using existing layer {part['digest']}"}
        yield {"status": "writing manifest"}
        path = name.path(self.store)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(model.path.read_bytes())
        yield {"status": "success"}

    async def _blob(self, request: web.Request) -> web.Response:
        from aiohttp import web

        digest = request.path.rpartition("/")[2]
        if not _DIGEST.fullmatch(digest):
            raise HttpError(400, "invalid digest format")
        data = await request.read()
        found = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if found != digest.replace("-", ":"):
            raise HttpError(400, f'digest mismatch, expected "{digest}", got "{found}"')
        blob_path(self.store, digest).parent.mkdir(parents=True, exist_ok=True)
        blob_path(self.store, digest).write_bytes(data)
        return web.Response(status=201)

    async def _blob_head(self, request: web.Request) -> web.Response:
        from aiohttp import web

        digest = request.path.rpartition("/")[2]
        here = _DIGEST.fullmatch(digest) and blob_path(self.store, digest).exists()
        return web.Response(status=200 if here else 404)

    # -- /v1

    async def _v1_models(self, _request: web.Request) -> web.Response:
        cards = [v1_card(model) for model in models_in(self.store)]
        return reply({"object": "list", "data": cards}, content_type=PLAIN_JSON, end="\n")

    async def _v1_model(self, request: web.Request) -> web.Response:
        text = request.path.removeprefix("/v1/models/")
        name = Name.parse(text)
        model = Model.read(self.store, name) if name else None
        if model is None:
            return v1_error(
                404, f"model '{self._asked(text)}' not found", "not_found_error", end="\n"
            )
        return reply(v1_card(model), content_type=PLAIN_JSON, end="\n")

    async def _v1_chat(self, request: web.Request) -> web.StreamResponse:
        data = await request.read()
        if not data:
            return v1_error(400, "EOF", content_type=JSON)
        body = parse_body(data, "ChatCompletionRequest")
        if not body.get("messages"):
            return v1_error(400, "[] is too short - 'messages'", content_type=JSON)
        text = body.get("model") or ""
        name = Name.parse(text)
        model = Model.read(self.store, name) if name else None
        if model is None:
            return v1_error(404, f"model '{text}' not found", "not_found_error", end="\n")
        limit = {"num_predict": body["max_tokens"]} if body.get("max_tokens") else {}
        inner = {"model": text, "messages": body["messages"], "options": limit}
        self.last = body
        try:
            self._check(model, inner | {"tools": body.get("tools")}, text, chat=True)
            runner = await self.scheduler.acquire(model, inner)
        except HttpError as error:
            kind = "invalid_request_error" if error.status == 400 else "api_error"
            return v1_error(error.status, error.message, kind, end="\n")
        answer = Answer(inner, text, chat=True, thinking="thinking" in model.capabilities)
        try:
            async with runner.slots:
                return await self._v1_send(request, runner, answer, body)
        finally:
            self.scheduler.release(runner)

    async def _v1_send(
        self, request: web.Request, runner: Runner, answer: Answer, body: dict[str, Any]
    ) -> web.StreamResponse:
        words = answer.words(int(self.habits.number("tokens", 12)))
        frames = self._frames(runner, answer, words)
        head = {
            "id": f"chatcmpl-{time.time_ns() % 1000}",
            "object": "chat.completion.chunk" if body.get("stream") else "chat.completion",
            "created": int(time.time()),
            "model": answer.model,
            "system_fingerprint": "fp_ollama",
        }
        if body.get("stream"):
            wants = bool((body.get("stream_options") or {}).get("include_usage"))
            chunks = v1_frames(frames, head, usage=wants, every_role=self.old)
            return await stream(request, chunks, "text/event-stream")
        last: dict[str, Any] = {}
        async for frame in frames:
            if "error" in frame:
                return v1_error(500, frame["error"], "api_error", end="\n")
            last = answer.collect(frame)
        choice = {
            "index": 0,
            "message": v1_message(last["message"]),
            "finish_reason": last["done_reason"],
        }
        whole = head | {"choices": [choice], "usage": v1_usage(last)}
        return reply(whole, content_type=PLAIN_JSON, end="\n")

    # -- for tests

    async def _state(self, _request: web.Request) -> web.Response:
        runners = {name: item.process.pid for name, item in self.scheduler.runners.items()}
        facts = {"pid": os.getpid(), "runners": runners, "loads": self.loads, "last": self.last}
        return reply(facts | {"started": self.started, "aborted": self.aborted})

    async def _set_habits(self, request: web.Request) -> web.Response:
        self.habits = Habits((await request.json()).get("habits", []))
        return reply({})

    async def _reset(self, _request: web.Request) -> web.Response:
        """Be as new: nothing in memory, no habits."""
        self.habits = Habits([])
        for runner in list(self.scheduler.runners.values()):
            await self.scheduler.drop(runner)
        self.loads = self.started = self.aborted = 0
        return reply({})


class Answer:
    """What one request is answered with, as frames."""

    def __init__(self, body: dict[str, Any], model: str, *, chat: bool, thinking: bool) -> None:
        self.body, self.model, self.chat = body, model, chat
        self.thoughts = 2 if thinking and body.get("think", True) else 0
        self.started = time.monotonic()
        self._content = self._thinking = self.tool = ""
        self._called: list[dict[str, Any]] = []

    def words(self, count: int) -> list[str]:
        limit = (self.body.get("options") or {}).get("num_predict")
        text = json.dumps(self.body.get("messages") or self.body.get("prompt") or "")
        if self.body.get("format"):
            words = ['{"', "answer", '": ', '"fake"', "}"]
        elif "capital of France" in text:
            words = ["The", " capital", " of", " France", " is", " Paris", "."]
        else:
            words = [f"{' ' if n else ''}wörd{n}" for n in range(max(count, 0))]
        words = ["Let", " me", *words] if self.thoughts else words
        self.cut = limit is not None and 0 <= limit < len(words)
        return words[:limit] if self.cut else words

    def _head(self) -> dict[str, Any]:
        return {"model": self.model, "created_at": stamp()}

    def _part(self, content: str, thinking: str = "") -> dict[str, Any]:
        if not self.chat:
            return {"response": content} | ({"thinking": thinking} if thinking else {})
        message = {"role": "assistant", "content": content}
        return {"message": message | ({"thinking": thinking} if thinking else {})}

    def mark(self, reason: str) -> dict[str, Any]:
        return self._head() | self._part("") | {"done": True, "done_reason": reason}

    def frame(self, word: str) -> dict[str, Any]:
        if self.thoughts:
            self.thoughts -= 1
            return self._head() | self._part("", word) | {"done": False}
        said = self._head() | self._part(word) | {"done": False}
        return said | ({"logprobs": [self._logprob(word)]} if self.body.get("logprobs") else {})

    def _logprob(self, word: str) -> dict[str, Any]:
        found = {"token": word, "logprob": -0.5, "bytes": list(word.encode())}
        others = [found] * (self.body.get("top_logprobs") or 0)
        return found | ({"top_logprobs": others} if others else {})

    def call(self) -> dict[str, Any]:
        """A call of the first tool, whole."""
        function = {
            "name": self.body["tools"][0]["function"]["name"],
            "arguments": {"city": "Paris"},
        }
        called: dict[str, Any] = {"function": function}
        if self.tool == "new":
            called = {"id": "call_fake0001", "function": {"index": 0, **function}}
        said = self._head() | self._part("") | {"done": False}
        said["message"]["tool_calls"] = [called]
        return said

    def final(self, count: int) -> dict[str, Any]:
        took = int((time.monotonic() - self.started) * 1e9)
        text = json.dumps(self.body.get("messages") or self.body.get("prompt"))
        return self._head() | self._part("") | {
            "done": True,
            "done_reason": "length" if self.cut else "stop",
            **({} if self.chat else {"context": [1, 2, 3]}),
            "total_duration": took,
            "load_duration": 1_000_000,
            "prompt_eval_count": len(text.split()) + 8,
            "prompt_eval_duration": took // 2,
            "eval_count": count,
            "eval_duration": took // 2,
        }  # fmt: skip

    def collect(self, frame: dict[str, Any]) -> dict[str, Any]:
        """Take in a frame; the last one comes back with the whole text in it."""
        part = frame["message"] if self.chat else frame
        self._content += part["content" if self.chat else "response"]
        self._thinking += part.get("thinking", "")
        self._called += part.get("tool_calls", [])
        whole = {**frame, **self._part(self._content, self._thinking)}
        if self._called:
            whole["message"]["tool_calls"] = self._called
        return whole


async def v1_frames(
    frames: AsyncIterator[dict[str, Any]], head: dict[str, Any], *, usage: bool, every_role: bool
) -> AsyncIterator[dict[str, Any] | str]:
    """As OpenAI's chunks. A failure in mid-stream is an empty chunk, and no end mark follows."""
    first = True
    async for frame in frames:
        if "error" in frame:
            yield head | {"choices": [{"index": 0, "delta": {}, "finish_reason": None}]}
            return
        delta = v1_message(frame["message"])
        if frame["done"] or not (first or every_role):
            delta.pop("role")
        first = False
        reason = frame["done_reason"] if frame["done"] else None
        yield head | {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
        if frame["done"] and usage:
            yield head | {"choices": [], "usage": v1_usage(frame)}
    yield "[DONE]"


def v1_message(message: dict[str, Any]) -> dict[str, Any]:
    found = {"role": "assistant", "content": message["content"]}
    return found | ({"reasoning": message["thinking"]} if message.get("thinking") else {})


def v1_usage(last: dict[str, Any]) -> dict[str, int]:
    prompt, answer = last["prompt_eval_count"], last["eval_count"]
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}


def v1_card(model: Model) -> dict[str, Any]:
    made = int(model.path.stat().st_mtime)
    owner = model.name.namespace
    return {"id": model.name.short, "object": "model", "created": made, "owned_by": owner}


def v1_error(
    status: int,
    message: str,
    kind: str = "invalid_request_error",
    *,
    content_type: str = PLAIN_JSON,
    end: str = "",
) -> web.Response:
    body = {"error": {"message": message, "type": kind, "param": None, "code": None}}
    return reply(body, status=status, content_type=content_type, end=end)


def reply(
    body: dict[str, Any], *, status: int = 200, content_type: str = JSON, end: str = ""
) -> web.Response:
    from aiohttp import web

    data = dump(body) + end.encode()
    return web.Response(status=status, body=data, headers={"Content-Type": content_type})


async def stream(
    request: web.Request, frames: AsyncIterator[dict[str, Any] | str], content_type: str
) -> web.StreamResponse:
    """Send frames as they come; nothing, not even headers, before the first one."""
    from aiohttp import web

    response = web.StreamResponse(headers={"Content-Type": content_type})
    async with contextlib.aclosing(frames) as source:  # type: ignore[type-var]
        async for frame in source:
            if not response.prepared:
                if isinstance(frame, dict) and "error" in frame and content_type == NDJSON:
                    raise HttpError(500, frame["error"])
                await response.prepare(request)
            data = frame.encode() if isinstance(frame, str) else dump(frame)
            events = content_type == "text/event-stream"
            await response.write(b"data: " + data + b"\n\n" if events else data + b"\n")
    await response.write_eof()
    return response


async def _plain_headers(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers.pop("Server", None)
    if response.headers.get("Content-Type") == "application/octet-stream":
        del response.headers["Content-Type"]


def dump(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def unit_vector(text: str, length: int = 8) -> list[float]:
    numbers = [byte - 127.5 for byte in hashlib.sha256(text.encode()).digest()[:length]]
    norm = sum(number * number for number in numbers) ** 0.5
    return [number / norm for number in numbers]


def main() -> int:
    if "--version" in sys.argv or "-v" in sys.argv:
        print("Warning: could not connect to a running Ollama instance")
        print(f"Warning: client version is {os.environ.get('FAKE_OLLAMA_VERSION', '0.32.15')}")
        return 0
    if sys.argv[1:2] != ["serve"]:
        log("Usage:\n  ollama [flags]\n  ollama [command]")
        return 1
    log("# FAKE Ollama of mh's tests: canned answers, no model. Never use it for real.")
    Path("/proc/self/comm").write_text("ollama")
    import asyncio

    fake = FakeOllama.from_environment()
    settings = {key: value for key, value in os.environ.items() if key.startswith("OLLAMA_")}
    words = " ".join(f"{key}:{value}" for key, value in sorted(settings.items()))
    log_info("routes.go:1760", f'msg="server config" env="map[{words}]"')
    if fake.habits.has("fail-start"):
        log(f"Error: mkdir {fake.store}: permission denied: ensure path elements are traversable")
        return 1
    return asyncio.run(fake.run())


if __name__ == "__main__":
    sys.exit(main())
