"""Answers of OpenAI's API and the format they were to have: what is looked at, and what is made of it."""

import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from accounts.errors import InvalidRequest
from router.errors import FormatNotFollowed, UpstreamGarbled
from router.openai_translation import format_asked
from router.services import openai_formats
from router.services.openai_formats import relay, relay_complete

SCHEMA = {"type": "object", "required": ["city"]}
GOOD, BAD = '{"city": "Paris"}', "Paris."


class Call:
    """As much of a request as is looked at."""

    path = "/v1/chat/completions"

    def __init__(self, wanted: Any = SCHEMA) -> None:
        self.format = wanted
        self.fields = {"messages": [{"role": "user", "content": "Where?"}], "n": 2}


class Admitted:
    def __init__(self, call: Any) -> None:
        self.asked, self.actor = call, None


def choice(text: Any, reason: str = "stop", **message: Any) -> dict[str, Any]:
    said = {"role": "assistant", "content": text, **message}
    return {"index": 0, "message": said, "finish_reason": reason}


def answer(*choices: Any) -> bytes:
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    rows = [{**one, "index": i} if isinstance(one, dict) else one for i, one in enumerate(choices)]
    return json.dumps({"id": "1", "choices": rows, "usage": usage}).encode()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The requests that were made; answers are taken from ``answers``."""
    calls: list[Any] = []

    async def complete(admitted: Any) -> bytes:
        calls.append(admitted.asked)
        return answers.pop(0)

    async def admit(_: Any, read: Any) -> Admitted:
        return Admitted(read())

    answers.clear()
    monkeypatch.setattr(openai_formats.relaying, "relay_complete", complete)
    monkeypatch.setattr(openai_formats, "admit", admit)
    return calls


answers: list[bytes] = []


async def complete(*given: bytes, wanted: Any = SCHEMA) -> Any:
    answers.extend(given)
    return await relay_complete(Admitted(Call(wanted)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "body",
    [
        answer(choice(GOOD)),
        answer(choice(GOOD), choice(GOOD)),
        answer(choice(None, "tool_calls", tool_calls=[{}])),
        answer(choice(None, refusal="No.")),
        answer(choice(BAD, "content_filter")),
        answer("nonsense"),
    ],
)
async def test_what_is_good_or_no_answer_in_a_format_is_the_engines_own_bytes(
    asked: list[Any], body: bytes
) -> None:
    assert await complete(body) == body
    assert len(asked) == 1


async def test_where_no_format_is_asked_for_nothing_is_read(asked: list[Any]) -> None:
    assert await complete(b"not even JSON", wanted=None) == b"not even JSON"
    assert len(asked) == 1


async def test_an_answer_in_a_code_fence_is_taken_out_of_it(asked: list[Any]) -> None:
    found = json.loads(await complete(answer(choice(f"```json\n{GOOD}\n```"))))
    assert found["choices"][0]["message"]["content"] == GOOD
    assert len(asked) == 1


async def test_only_the_answer_that_is_wrong_is_asked_for_again(asked: list[Any]) -> None:
    whole = await complete(answer(choice(GOOD), choice(BAD)), answer(choice(f"```\n{GOOD}\n```")))
    found = json.loads(whole)
    assert [row["message"]["content"] for row in found["choices"]] == [GOOD, GOOD]
    assert [row["index"] for row in found["choices"]] == [0, 1]
    assert found["usage"] == {"prompt_tokens": 2, "completion_tokens": 4, "total_tokens": 6}
    fields = asked[1].fields
    assert "n" not in fields
    assert [message["role"] for message in fields["messages"]] == ["user", "assistant", "user"]
    assert json.loads(asked[1].body) == fields


async def test_a_second_answer_without_the_format_or_without_room_is_an_error(
    asked: list[Any],
) -> None:
    with pytest.raises(FormatNotFollowed, match="also when asked once more"):
        await complete(answer(choice(BAD)), answer(choice(BAD)))
    with pytest.raises(FormatNotFollowed, match="max_tokens") as cut:
        await complete(answer(choice('{"ci', "length")))
    assert cut.value.param == "response_format"
    with pytest.raises(UpstreamGarbled):
        await complete(answer(choice(BAD)), answer())
    assert len(asked) == 5


def frame(delta: Any, reason: str | None = None, index: Any = 0) -> bytes:
    row = {"index": index, "delta": delta, "finish_reason": reason}
    return b"data: " + json.dumps({"choices": [row]}).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


async def streamed(monkeypatch: pytest.MonkeyPatch, *blocks: bytes) -> list[bytes]:
    async def frames(_: Any) -> AsyncGenerator[bytes, None]:
        for block in blocks:
            yield block

    monkeypatch.setattr(openai_formats.relaying, "relay", frames)
    found: list[bytes] = []
    try:
        async for piece in relay(Admitted(Call())):  # type: ignore[arg-type]
            found += [piece]
    except FormatNotFollowed as exc:
        found += [exc.code.encode()]
    return found


@pytest.mark.parametrize("pieces", [[GOOD], [GOOD[:5], GOOD[5:]], list(GOOD)])
async def test_a_stream_in_its_format_is_passed_on_frame_by_frame(
    monkeypatch: pytest.MonkeyPatch, pieces: list[str]
) -> None:
    frames = [*(frame({"content": piece}) for piece in pieces), frame({}, "stop"), DONE]
    assert await streamed(monkeypatch, b"".join(frames)) == frames
    assert await streamed(monkeypatch, *frames) == frames


async def test_a_stream_without_its_format_ends_before_its_end_marker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said = [frame({"content": "say data: [DONE]\n\n"}), frame({}, "stop")]
    wrong = [*said, b"format_not_followed"]
    assert await streamed(monkeypatch, b"".join([*said, DONE])) == wrong
    # One of several is enough.
    both = [frame({"content": GOOD}), frame({}, "stop"), frame({"content": BAD}, "stop", index=1)]
    assert (await streamed(monkeypatch, *both, DONE))[-1] == b"format_not_followed"


async def test_calls_of_tools_and_nonsense_are_held_against_no_format(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    odd = [
        frame({"tool_calls": []}, "tool_calls"),
        frame(None, index=[]),
        b"data: {\n\n",
        b": x\n\n",
    ]
    assert await streamed(monkeypatch, *odd, DONE) == [*odd, DONE]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (None, None),
        ({"type": "text"}, None),
        ({"type": "json_object"}, "json"),
        ({"type": "json_schema", "json_schema": {"schema": SCHEMA}}, SCHEMA),
        ({"type": "structural_tag", "more": 1}, None),
    ],
)
def test_which_format_is_asked_for(given: Any, wanted: Any) -> None:
    assert format_asked({"response_format": given}) == wanted


@pytest.mark.parametrize("given", ["json", {}, {"type": 5}, {"type": "json_schema"}, []])
def test_what_is_no_format_is_refused(given: Any) -> None:
    with pytest.raises(InvalidRequest):
        format_asked({"response_format": given})
