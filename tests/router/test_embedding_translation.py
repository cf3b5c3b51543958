"""OpenAI's embeddings, for providers with a protocol of their own."""

import base64
import struct

import pytest

from accounts.errors import InvalidRequest
from router.embedding_translation import embedding_answer, embedding_call
from router.errors import UpstreamGarbled
from router.providers.base import Embeddings


def test_one_text_and_several_are_asked_for_alike() -> None:
    one = embedding_call({"input": "a", "dimensions": 2}, "m", "r")
    assert (one.texts, one.dimensions) == (["a"], 2)
    assert embedding_call({"input": ["a", "b"]}, "m", "r").texts == ["a", "b"]
    with pytest.raises(InvalidRequest, match="Send texts"):
        embedding_call({"input": [1, 2]}, "m", "r")


def test_vectors_are_numbers_or_base64() -> None:
    call = embedding_call({"input": ["a", "b"]}, "m", "r")
    usage = {"prompt_tokens": 5, "completion_tokens": 0, "total_tokens": 5}
    found = Embeddings([[0.5, 1.0], [2.0, 3.0]], usage)  # type: ignore[arg-type]
    answer = embedding_answer(found, call, None)
    assert [row["embedding"] for row in answer["data"]] == [[0.5, 1.0], [2.0, 3.0]]
    assert answer["usage"] == {"prompt_tokens": 5, "total_tokens": 5}
    packed = base64.b64decode(embedding_answer(found, call, "base64")["data"][1]["embedding"])
    assert struct.unpack("<2f", packed) == (2.0, 3.0)
    with pytest.raises(UpstreamGarbled):
        embedding_answer(Embeddings([[1.0]]), call, None)
