"""The reader of Ollama's streams, on what real servers were recorded to send."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from accounts.errors import MhError, UpstreamFailed
from router.errors import EngineStopped, UpstreamGarbled
from router.events import Usage
from router.providers import ollama_stream
from router.providers.base import Delta, Finished
from router.providers.ollama_stream import OllamaReader
from tests.fakes import fake_ollama

RECORDINGS = Path(fake_ollama.__file__).parent / "recordings" / "ollama"
HEAD = {"model": "m", "created_at": "2026-11-22T11:10:34.266709519Z"}
END = {
    "done": True,
    "done_reason": "stop",
    "prompt_eval_count": 13,
    "eval_count": 3,
}


def line(content: str = "", **more: Any) -> bytes:
    inner = {key: more.pop(key) for key in ("thinking", "tool_calls") if key in more}
    message = {"role": "assistant", "content": content, **inner}
    return raw({**HEAD, "message": message, "done": False, **more})


def raw(data: object) -> bytes:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


LAST = line(**END)


def read(data: bytes, size: int = 1 << 20) -> list[Delta]:
    reader = OllamaReader("m", "request-abcdef")
    found = [
        delta
        for start in range(0, len(data), size)
        for delta in reader.feed(data[start : start + size])
    ]
    return found + reader.end()


def recorded(version: str, name: str) -> bytes:
    text = (RECORDINGS / f"ollama-{version}.txt").read_text()
    found = re.search(rf"^--- {name}\nHTTP .*\n((?:\{{.*\n)+)", text, re.M)
    assert found
    return found[1].encode()


@pytest.mark.parametrize("version", ["0.24.0", "0.32.15"])
def test_a_recorded_stream_is_tokens_and_an_end(version: str) -> None:
    *tokens, end = read(recorded(version, "chat num_predict length"))
    assert len(tokens) == 3
    assert all(not isinstance(token, Finished) for token in tokens)
    assert isinstance(end, Finished)
    assert end.reason == "length"
    assert end.usage == Usage(prompt_tokens=13, completion_tokens=3, total_tokens=16)


def test_thinking_is_apart_from_the_answer_and_before_it() -> None:
    found = read(line(thinking="Let me") + line("Par", thinking=" see") + line("is") + LAST)
    assert [(d["type"], d["content"]) for d in found[:-1]] == [  # type: ignore[index, typeddict-item]
        ("reasoning", "Let me"),
        ("reasoning", " see"),
        ("token", "Par"),
        ("token", "is"),
    ]


def test_tool_calls_are_numbered_through_and_end_as_such() -> None:
    one = {"id": "call_a", "function": {"index": 0, "name": "f", "arguments": {"x": "é"}}}
    two = {"function": {"name": "g", "arguments": {}}}
    found = read(line(tool_calls=[one]) + line(tool_calls=[two]) + LAST)
    pieces = [delta["tool_call"] for delta in found[:-1]]  # type: ignore[index, typeddict-item]
    assert pieces == [
        {"index": 0, "id": "call_a", "name": "f", "arguments": '{"x": "é"}'},
        {"index": 1, "id": "call_quest-abcdef_1", "name": "g", "arguments": "{}"},
    ]
    assert found[-1] == Finished(
        "tool_calls", Usage(prompt_tokens=13, completion_tokens=3, total_tokens=16)
    )


def test_log_probabilities_come_with_their_token() -> None:
    probability = {"token": "Hi", "logprob": -0.5, "bytes": [72, 105], "top_logprobs": []}
    token = read(line("Hi", logprobs=[probability]) + LAST)[0]
    assert token["logprobs"] == [probability]  # type: ignore[index, typeddict-item]


@pytest.mark.fault(26)
@pytest.mark.parametrize("rest", [b"", LAST[:-20], b"{", line("half")[:-5]])
def test_only_done_is_complete(rest: bytes) -> None:
    with pytest.raises(EngineStopped):
        read(line("The") + rest)


def test_a_last_line_without_its_end_is_complete_all_the_same() -> None:
    assert isinstance(read(line("The") + LAST.rstrip())[-1], Finished)


@pytest.mark.fault(25)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 64])
def test_lines_cut_anywhere_are_the_same(size: int) -> None:
    stream = line("wörd🙂") + line(" two", thinking="…") + b"\n" + LAST
    assert read(stream, size) == read(stream)


def test_an_error_under_200_is_an_error_and_not_an_end() -> None:
    died = "an error was encountered while running the model: unexpected EOF"
    with pytest.raises(EngineStopped):
        read(line("The") + raw({"error": died}) + LAST)
    with pytest.raises(UpstreamFailed) as caught:
        read(raw({"error": "llama-server process has terminated: exit status 1"}))
    assert caught.value.code == "model_load_failed"


@pytest.mark.parametrize("junk", [b"<html>\n", b"[1]\n", b'"x"\n', b"{bad}\n", b"\xff\xfe\n"])
def test_what_is_no_object_is_garbled(junk: bytes) -> None:
    with pytest.raises(UpstreamGarbled):
        read(line("The") + junk + LAST)


def test_a_line_without_end_is_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ollama_stream, "LINE_MAX", 100)
    with pytest.raises(UpstreamGarbled):
        read(b"x" * 101)


def test_nothing_is_read_after_the_end() -> None:
    assert len(read(LAST + line("late") + raw({"error": "late"}))) == 1


def test_odd_fields_do_no_harm() -> None:
    odd = [
        {"message": None, "done": False},
        {"message": {"content": 5, "thinking": [], "tool_calls": [1, {"function": None}]}},
        {"logprobs": [None, {}], "message": {"content": "x"}},
        {},
    ]
    try:
        read(b"".join(raw(item) for item in odd) + LAST)
    except MhError as exc:
        pytest.fail(str(exc))
