"""Embeddings and counts at OpenAI-compatible servers, without a server."""

from typing import Any

import pytest

from accounts.errors import MhError
from backends.engines.base import Target
from router.errors import UpstreamGarbled
from router.providers.base import ChatCall, EmbeddingCall
from router.providers.openai_compatible import is_strict
from router.providers.openai_errors import has_no_embeddings
from router.providers.vllm import Vllm

TARGET = Target(endpoint="http://127.0.0.1:1")


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A vLLM that answers everything with one body, and remembers what it was asked."""

    def make(body: bytes) -> Vllm:
        async def post(
            self: Vllm, target: Target, path: str, sent: bytes, request_id: str
        ) -> bytes:
            asked.append((path, sent))
            return body

        monkeypatch.setattr(Vllm, "post", post)
        return Vllm()

    asked: list[tuple[str, bytes]] = []
    make.asked = asked  # type: ignore[attr-defined]
    return make


def call(**more: Any) -> EmbeddingCall:
    return EmbeddingCall(model="m", texts=["a", "b"], request_id="r", **more)


async def test_vectors_come_in_the_order_of_their_texts(answering: Any) -> None:
    body = b'{"data":[{"index":1,"embedding":[2]},{"index":0,"embedding":[1]}],"usage":{"prompt_tokens":3}}'
    found = await answering(body).embed(TARGET, call(dimensions=1))
    assert found.vectors == [[1.0], [2.0]]
    assert found.usage["prompt_tokens"] == 3
    assert answering.asked[0][0] == "/v1/embeddings"
    assert b'"dimensions":1' in answering.asked[0][1]


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b'{"data":[{"index":0}]}', b'{"data":[{"index":0,"embedding":["x"]}]}'],
)
async def test_what_is_no_embedding_is_garbled(answering: Any, body: bytes) -> None:
    with pytest.raises(UpstreamGarbled):
        await answering(body).embed(TARGET, call())
    with pytest.raises(MhError):
        await answering(b'{"error":{"message":"no","code":500}}').embed(TARGET, call())


async def test_a_prompt_is_counted_as_the_template_makes_it(answering: Any) -> None:
    chat = ChatCall(model="m", messages=[{"role": "user", "content": "x"}], request_id="r")
    assert await answering(b'{"count":5,"max_model_len":9}').count(TARGET, chat) == (5, 9)
    assert answering.asked[0][0] == "/tokenize"
    for body in (b"{}", b"", b"[]", b'{"count":null,"max_model_len":1}'):
        with pytest.raises(UpstreamGarbled):
            await answering(body).count(TARGET, chat)


@pytest.mark.parametrize(
    ("status", "body", "no_embeddings"),
    [
        (404, b'{"detail":"Not Found"}', True),
        (405, b'{"detail":"Method Not Allowed"}', True),
        (400, b'{"error":{"message":"The model does not support Embeddings API"}}', True),
        (501, b'{"error":{"message":"The model does not support Embeddings API"}}', True),
        (404, b'{"error":{"message":"The model `x` does not exist.","param":"model"}}', False),
        (400, b'{"error":{"message":"input is empty"}}', False),
        (500, b"", False),
    ],
)
def test_a_server_without_embeddings_is_told_from_other_refusals(
    status: int, body: bytes, no_embeddings: bool
) -> None:
    assert has_no_embeddings(status, body) is no_embeddings


def test_only_schemas_that_openai_takes_as_strict_are_called_so() -> None:
    name = {"name": {"type": "string"}}
    closed = {
        "type": "object",
        "properties": name,
        "required": ["name"],
        "additionalProperties": False,
    }
    assert is_strict(closed)
    assert is_strict({"type": "array", "items": {"anyOf": [closed, {"type": "null"}]}})
    for missing in ("required", "additionalProperties"):
        opened = {key: value for key, value in closed.items() if key != missing}
        assert not is_strict(opened)
        assert not is_strict({"$defs": {"a": opened}})
