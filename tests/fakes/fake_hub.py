"""A fake Hugging Face Hub: the part of its HTTP interface that downloads use, and its bad days.

True to https://huggingface.co/docs/hub/api and to what ``huggingface_hub`` sends and reads:
``GET /api/models/{model}/revision/{revision}?blobs=true``, ``HEAD`` and ``GET
/{model}/resolve/{commit}/{path}`` with ``ETag``, ``X-Repo-Commit``, ``Content-Length`` and ranges; large files are
redirected to another host, a CDN, which must not be shown the access token. Runs on a thread.
"""

import asyncio
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

#: The model it has from the start.
MODEL = "lab/tiny"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_letmein"
#: Size from which a file is kept as a large one, in bytes.
LARGE = 1024
_CHUNK = 16 * 1024


@dataclass
class FakeModel:
    """A model the Hub has."""

    files: dict[str, bytes]
    commit: str = COMMIT
    #: Only listed, and served to nobody without ``TOKEN``.
    gated: bool = False
    #: Not even listed without it.
    private: bool = False
    revisions: tuple[str, ...] = ("main",)


@dataclass
class Habits:
    """How the Hub misbehaves."""

    #: Seconds before each 16 KiB of a file.
    delay: float = 0.0
    #: The connection is cut after so many bytes of a large file's answer, this many times.
    cut_after: int = 0
    cuts: int = 0
    #: The next answers to requests for files, as statuses.
    statuses: list[int] = field(default_factory=list)
    #: Sends whole files, whatever range is asked for.
    no_ranges: bool = False
    #: Says nothing more after so many bytes of a file.
    hang_after: int | None = None
    #: Sends other bytes than it listed.
    corrupt: bool = False


class FakeHub:
    """The Hub, and the CDN it sends large files from."""

    def __init__(self) -> None:
        self.models: dict[str, FakeModel] = {}
        self.habits = Habits()
        #: Of every request for a file: host, path, range, whether a token came along.
        self.asked: list[tuple[str, str, str, bool]] = []
        #: Connections that are being served now.
        self.open = 0
        self._loop = asyncio.new_event_loop()
        self._ports: list[int] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._ports[0]}"

    @property
    def _cdn(self) -> str:
        return f"http://localhost:{self._ports[1]}"

    def add(self, name: str, **files: Any) -> FakeModel:
        """Have a model of one part of weights, of 300 kB, unless ``files`` says otherwise."""
        content = files.pop("files", None) or model_files()
        self.models[name] = FakeModel(files=content, **files)
        return self.models[name]

    @contextmanager
    def running(self) -> Iterator["FakeHub"]:
        started = threading.Event()
        thread = threading.Thread(target=self._run, args=(started,), daemon=True)
        thread.start()
        assert started.wait(10)
        try:
            yield self
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join(10)

    def _run(self, started: threading.Event) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.call_soon(started.set)
        self._loop.run_forever()

    async def _serve(self) -> None:
        hub, cdn = web.Application(), web.Application()
        hub.router.add_get("/api/models/{model:.+}/revision/{revision}", self._listing)
        hub.router.add_get("/{model:.+}/resolve/{revision}/{path:.+}", self._file)
        cdn.router.add_get("/cdn/{model:.+}@{path:.+}", self._large)
        for app in (hub, cdn):
            runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self._ports.append(runner.addresses[0][1])

    # -- answers

    def _has_token(self, request: web.Request) -> bool:
        return request.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _refuse(self, request: web.Request, model: FakeModel | None) -> web.Response | None:
        said = request.headers.get("Authorization")
        if said and not self._has_token(request):
            return error(401, "", "Invalid credentials in Authorization header")
        if model is None or (model.private and not self._has_token(request)):
            if self._has_token(request):
                return error(404, "RepoNotFound", "Repository not found")
            return error(401, "RepoNotFound", "Invalid username or password.")
        return None

    async def _listing(self, request: web.Request) -> web.Response:
        name = request.match_info["model"]
        model = self.models.get(name)
        if (refused := self._refuse(request, model)) is not None:
            return refused
        assert model is not None
        revision = request.match_info["revision"]
        if revision not in {*model.revisions, model.commit}:
            return error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        detailed = request.query.get("blobs") in {"true", "True", "1"}
        siblings = [
            entry(path, content) if detailed else {"rfilename": path}
            for path, content in model.files.items()
        ]
        return web.json_response(
            {"id": name, "sha": model.commit, "gated": "auto" if model.gated else False,
             "siblings": siblings}
        )  # fmt: skip

    async def _file(self, request: web.Request) -> web.StreamResponse:
        name, path = request.match_info["model"], request.match_info["path"]
        self._note(request, path)
        model = self.models.get(name)
        if (refused := self._refuse(request, model)) is not None:
            return refused
        assert model is not None
        if model.gated and not self._has_token(request):
            return error(401, "GatedRepo", f"Access to model {name} is restricted.")
        if path not in model.files:
            return error(404, "EntryNotFound", "Entry not found")
        content = model.files[path]
        headers = {"X-Repo-Commit": model.commit, "ETag": f'"{digest(content)}"'}
        if len(content) >= LARGE:
            headers |= {
                "X-Linked-Size": str(len(content)),
                "X-Linked-ETag": headers.pop("ETag"),
                "Location": f"{self._cdn}/cdn/{name}@{path}",
            }
            return web.Response(status=302, headers=headers)
        return await self._send(request, content, headers)

    async def _large(self, request: web.Request) -> web.StreamResponse:
        path = request.match_info["path"]
        self._note(request, path)
        content = self.models[request.match_info["model"]].files[path]
        return await self._send(request, content, {"ETag": f'"{digest(content)}"'})

    def _note(self, request: web.Request, path: str) -> None:
        range_ = request.headers.get("Range", "")
        self.asked.append((request.host, path, range_, "Authorization" in request.headers))

    async def _send(
        self, request: web.Request, content: bytes, headers: dict[str, str]
    ) -> web.StreamResponse:
        habits = self.habits
        if habits.statuses:
            return error(habits.statuses.pop(0), "", "We are having a bad day")
        whole = len(content)
        range_ = request.http_range
        start = 0 if habits.no_ranges else range_.start or 0
        stop = whole if habits.no_ranges or range_.stop is None else min(range_.stop, whole)
        if start >= whole:
            return web.Response(status=416, headers={"Content-Range": f"bytes */{whole}"})
        partial = "Range" in request.headers and not habits.no_ranges
        if partial:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{whole}"
        answer = web.StreamResponse(status=206 if partial else 200, headers=headers)
        answer.content_length = stop - start
        await answer.prepare(request)
        if request.method == "HEAD":
            return answer
        self.open += 1
        try:
            await self._send_bytes(request, answer, content[start:stop])
        finally:
            self.open -= 1
        return answer

    async def _send_bytes(
        self, request: web.Request, answer: web.StreamResponse, content: bytes
    ) -> None:
        habits = self.habits
        if habits.corrupt:
            content = bytes(byte ^ 1 for byte in content)
        for at in range(0, len(content), _CHUNK):
            if habits.hang_after is not None and at >= habits.hang_after:
                await asyncio.Event().wait()
            if habits.cuts and len(content) >= LARGE and at >= habits.cut_after:
                habits.cuts -= 1
                assert request.transport
                request.transport.abort()
                raise ConnectionResetError
            await asyncio.sleep(habits.delay)
            await answer.write(content[at : at + _CHUNK])


def error(status: int, code: str, message: str) -> web.Response:
    headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
    return web.json_response({"error": message}, status=status, headers=headers)


def digest(content: bytes) -> str:
    """Return what the Hub names a content by: SHA-256 of a large one, git's SHA-1 of a small one."""
    if len(content) >= LARGE:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


def entry(path: str, content: bytes) -> dict[str, Any]:
    """Return a file as a listing with blobs has it."""
    found: dict[str, Any] = {"rfilename": path, "size": len(content)}
    if len(content) >= LARGE:
        pointer = b"version https://git-lfs.github.com/spec/v1"
        found |= {
            "blobId": hashlib.sha1(pointer + digest(content).encode()).hexdigest(),
            "lfs": {"sha256": digest(content), "size": len(content), "pointerSize": 135},
        }
    else:
        found["blobId"] = digest(content)
    return found


def model_files(size: int = 300_000, **config: Any) -> dict[str, bytes]:
    """Return the files of a small model that passes for whole."""
    facts = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "max_position_embeddings": 2048,
        "num_attention_heads": 4,
        "hidden_size": 64,
        "num_hidden_layers": 2,
    }
    return {
        ".gitattributes": b"*.safetensors filter=lfs\n",
        "README.md": b"# A model\n",
        "config.json": json.dumps(facts | config).encode(),
        "tokenizer.json": b"{}" * 20,
        "model.safetensors": safetensors(size),
        "pytorch_model.bin": b"the same again" * 1000,
        "original/consolidated.00.pth": b"and again" * 1000,
    }


def safetensors(size: int) -> bytes:
    """Return a valid file of about ``size`` bytes, no two of which are alike."""
    data = b"".join(hashlib.sha256(str(n).encode()).digest() for n in range(size // 32))
    header = json.dumps(
        {"t": {"dtype": "U8", "shape": [len(data)], "data_offsets": [0, len(data)]}}
    ).encode()
    return len(header).to_bytes(8, "little") + header + data
