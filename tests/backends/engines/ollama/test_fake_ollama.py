"""The fake answers as the real servers were recorded to."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.backends.engines.ollama.conftest import FAKE, MODEL, Serve, Server
from tests.fakes import fake_ollama

RECORDINGS = FAKE.parent / "recordings" / "ollama"
VERSIONS = ("0.32.15", "0.24.0")
HELLO = [{"role": "user", "content": "Hello"}]
ZEROS = "0" * 64

Call = tuple[str, str, Any, dict[str, str]]


@dataclass
class Exchange:
    name: str
    status: int
    content_type: str
    size: int
    body: str


def exchanges(version: str) -> Iterator[Exchange]:
    """Read the first part of a recording: one request each."""
    text = (RECORDINGS / f"ollama-{version}.txt").read_text()
    for part in text.partition("# ---- processes")[0].split("\n--- ")[1:]:
        name, facts, body = part.split("\n", 2)
        found = re.fullmatch(r"HTTP (\d+) ct=(.*) size=(\d+) t=.*", facts)
        assert found, facts
        yield Exchange(name, int(found[1]), found[2], int(found[3]), body)


def call(method: str, path: str, body: Any = None, **headers: str) -> Call:
    return method, path, body, headers


def chat(**fields: Any) -> Call:
    return call("POST", "/api/chat", {"model": MODEL, "messages": HELLO, **fields})


def generate(**fields: Any) -> Call:
    return call("POST", "/api/generate", {"model": MODEL, **fields})


def predict(count: int) -> dict[str, Any]:
    return {"options": {"num_predict": count}, "stream": False}


BLOB = f"/api/blobs/sha256:{ZEROS}"
CALLS: dict[str, Call] = {
    "GET /": call("GET", "/"),
    "HEAD /": call("HEAD", "/"),
    "version": call("GET", "/api/version"),
    "tags": call("GET", "/api/tags"),
    "ps": call("GET", "/api/ps"),
    "ps immediately": call("GET", "/api/ps"),
    "ps 0.5s later": call("GET", "/api/ps"),
    "unknown path": call("GET", "/api/nope"),
    "wrong method GET /api/chat": call("GET", "/api/chat"),
    "chat unknown model": chat(model="nope"),
    "chat unknown model stream false": chat(model="nope:1b", stream=False),
    "generate unknown model": generate(model="nope", prompt="x"),
    "chat empty body": call("POST", "/api/chat"),
    "chat {}": call("POST", "/api/chat", {}),
    "generate empty body": call("POST", "/api/generate"),
    "generate {}": call("POST", "/api/generate", {}),
    "chat bad json": call("POST", "/api/chat", b"{bad"),
    "chat bad type": chat(model=1),
    "chat bad name": chat(model="!!"),
    "show unknown": call("POST", "/api/show", {"model": "nope"}),
    "show empty": call("POST", "/api/show"),
    "show {}": call("POST", "/api/show", {}),
    "delete unknown": call("DELETE", "/api/delete", {"model": "nope"}),
    "delete empty": call("DELETE", "/api/delete"),
    "POST delete": call("POST", "/api/delete", {"model": "nope"}),
    "embed unknown": call("POST", "/api/embed", {"model": "nope", "input": "x"}),
    "embed empty": call("POST", "/api/embed"),
    "chat unload when not loaded": chat(messages=[], keep_alive=0),
    "generate unload when not loaded": generate(keep_alive=0),
    "chat load only": chat(messages=[]),
    "generate load only": generate(),
    "generate load only stream false": generate(stream=False),
    "generate unload": generate(keep_alive=0),
    "generate unload unknown": generate(model="nope", keep_alive=0),
    "chat stream false": chat(**predict(5)),
    "chat num_predict length": chat(options={"num_predict": 3}),
    "chat keep_alive -1": chat(keep_alive=-1, **predict(2)),
    "keep_alive bad": chat(keep_alive="banana"),
    "unknown option": chat(stream=False, options={"num_predict": 2, "nope": 1}),
    "bad option type": chat(options={"num_predict": "many"}),
    "tools on model without": chat(tools=[{"type": "function"}]),
    "think on model without": chat(think=True),
    "images on model without": chat(
        messages=[{"role": "user", "content": "?", "images": ["aGk="]}]
    ),
    "embed": call("POST", "/api/embed", {"model": MODEL, "input": ["a", "b"]}),
    "embeddings": call("POST", "/api/embeddings", {"model": MODEL, "prompt": "a"}),
    "v1 models": call("GET", "/v1/models"),
    "v1 model": call("GET", f"/v1/models/{MODEL}"),
    "v1 model unknown": call("GET", "/v1/models/nope"),
    "v1 chat": call(
        "POST", "/v1/chat/completions", {"model": MODEL, "messages": HELLO, "max_tokens": 4}
    ),
    "v1 chat stream": call(
        "POST",
        "/v1/chat/completions",
        {"model": MODEL, "messages": HELLO, "max_tokens": 4, "stream": True},
    ),
    "v1 chat unknown": call("POST", "/v1/chat/completions", {"model": "nope", "messages": HELLO}),
    "v1 chat empty": call("POST", "/v1/chat/completions"),
    "v1 chat no messages": call("POST", "/v1/chat/completions", {"model": MODEL, "messages": []}),
    "show": call("POST", "/api/show", {"model": MODEL}),
    "origin evil": call("GET", "/api/tags", Origin="http://evil.example"),
    "host evil": call("GET", "/api/tags", Host="evil.example"),
    "copy": call("POST", "/api/copy", {"source": MODEL, "destination": "copy-of:x"}),
    "copy unknown": call("POST", "/api/copy", {"source": "nope", "destination": "copy-of:x"}),
    "delete copy": call("DELETE", "/api/delete", {"model": "copy-of:x"}),
    "delete copy again": call("DELETE", "/api/delete", {"model": "copy-of:x"}),
    "create missing blob": call(
        "POST", "/api/create", {"model": "new:x", "files": {"m.gguf": f"sha256:{ZEROS}"}}
    ),
    "create nothing": call("POST", "/api/create", {"model": "new:x"}),
    "create from unknown": call("POST", "/api/create", {"model": "new:x", "from": "no/such/a/b"}),
    "blob bad digest": call("POST", BLOB, b"hi"),
    "blob malformed digest": call("POST", "/api/blobs/sha256:xyz", b"hi"),
}
PULL = {
    "0.32.15": call("POST", "/api/pull", {"model": "127.0.0.1:9/a/b:c", "insecure": True}),
    "0.24.0": call("POST", "/api/pull", {"model": "nosuchhost.invalid/a/b:c"}),
}
#: Recorded as a time-out, which would be waited for.
SKIPPED = {("0.24.0", "images on model without")}
#: What differs from run to run.
VARIES = re.compile(r"created|_at$|digest|size|duration|_count$|_tokens$|^id$|^(content|response)$")


def normal(value: Any, key: str = "") -> Any:
    """Keep the shape: names, their order, types, and every value that does not vary."""
    if isinstance(value, dict):
        return [(name, normal(item, name)) for name, item in value.items()]
    if isinstance(value, list):
        return [normal(item, key) for item in value]
    return type(value).__name__ if VARIES.search(key) else value


def shape(text: str) -> Any:
    """Normalise a body: JSON, lines of JSON, frames; anything else as it is, without folders."""
    lines = [line.removeprefix("data: ") for line in text.strip().splitlines() if line]
    try:
        return [normal(json.loads(line)) for line in lines]
    except ValueError:
        return re.sub(r"(/[\w.-]+)+/blobs", "BLOBS", text.strip())


def ask(server: Server, wanted: Call) -> Any:
    method, path, body, headers = wanted
    data = body if body is None or isinstance(body, bytes) else json.dumps(body)
    return server.client.request(method, path, content=data, headers=headers)


@pytest.mark.process
@pytest.mark.parametrize("version", VERSIONS)
def test_every_recorded_exchange_is_answered_alike(serve: Serve, version: str) -> None:
    habit = "unload=0.3" if version == "0.24.0" else "unload=0"
    server = serve(habit, version=version)
    ask(server, generate())
    different = []
    for recorded in exchanges(version):
        if (version, recorded.name) in SKIPPED:
            continue
        if recorded.name == "ps 0.5s later":
            wait_until_empty(server)
        wanted = PULL[version] if recorded.name == "pull offline" else CALLS[recorded.name]
        answer = ask(server, wanted)
        problem = difference(recorded, answer)
        if problem:
            different.append(f"{recorded.name}: {problem}")
    assert not different, "\n".join(different)


def wait_until_empty(server: Server) -> None:
    from tests.backends.engines.ollama.conftest import until

    until(lambda: not server.loaded())


def difference(recorded: Exchange, answer: Any) -> str:
    if answer.status_code != recorded.status:
        return f"status {answer.status_code}, recorded {recorded.status}: {answer.text[:200]}"
    if answer.headers.get("content-type", "") != recorded.content_type:
        return f"type {answer.headers.get('content-type')!r}, recorded {recorded.content_type!r}"
    body = recorded.body
    if body.startswith("HTTP/1.1"):  # what curl prints of HEAD
        return "" if int(answer.headers["content-length"]) == 17 else "content-length"
    if recorded.size > len(body.encode()) + 1:  # the recording was cut
        return cut_difference(body, answer.text)
    if shape(answer.text) != shape(body):
        return f"\n  {shape(answer.text)}, recorded\n  {shape(body)}"
    return ""


def cut_difference(recorded: str, answer: str) -> str:
    """Compare what there is: the first whole frames, or the first name of an object."""
    if recorded.startswith("data:"):
        whole = recorded.split("\n\n")[:-1]
        mine = answer.split("\n\n")[: len(whole)]
        return "" if shape("\n".join(mine)) == shape("\n".join(whole)) else answer
    return "" if answer.startswith(recorded[: recorded.index(":")]) else answer


@pytest.mark.parametrize("version", VERSIONS)
def test_every_recorded_exchange_is_replayed(version: str) -> None:
    names = {exchange.name for exchange in exchanges(version)}
    assert names - {"pull offline"} == CALLS.keys()
    assert len(list(exchanges(version))) > 60


def test_a_model_put_into_the_store_is_what_a_pull_leaves(tmp_path: Path) -> None:
    manifest = fake_ollama.add_model(tmp_path, MODEL, size=98_000_000)
    assert manifest == tmp_path / "manifests/registry.ollama.ai/library/smollm2/135m"
    layers = json.loads(manifest.read_text())["layers"]
    for layer in layers:
        blob = tmp_path / "blobs" / layer["digest"].replace(":", "-")
        assert blob.stat().st_size == layer["size"]
