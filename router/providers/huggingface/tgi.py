"""TGI's classic API: messages as one text in, frames of tokens out. Pure.

Source: huggingface/text-generation-inference, "Consuming TGI" and its OpenAPI description.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from router.errors import NotSupported, UpstreamGarbled
from router.events import TokenEvent, Usage
from router.providers.base import ChatCall, Delta, Finished
from router.providers.huggingface.errors import tgi_error
from router.providers.openai_stream import broken_off
from router.providers.sse import EventTooLong, SseDecoder

#: TGI's finish reasons, as OpenAI's.
_REASONS: Final = {"length": "length", "eos_token": "stop", "stop_sequence": "stop"}
_NAMES: Final = {"system": "System", "developer": "System", "assistant": "Assistant"}
#: Options with the same name and meaning here. What TGI has not (``min_p``, ``presence_penalty``) is left out.
_SAME: Final = ("frequency_penalty", "repetition_penalty")
_SEEDS: Final = 2**64


class TgiReader:
    """Turns a classic stream into deltas. Complete when the frame with ``generated_text`` has come."""

    def __init__(self) -> None:
        self._sse = SseDecoder()
        self._begun = False
        #: Whether the end marker has come; what follows it is not read.
        self.complete = False

    def feed(self, data: bytes) -> list[Delta]:
        """Return the deltas in ``data``.

        Raises:
            MhError: the stream carries an error, or is not what it should be.
        """
        try:
            events = self._sse.feed(data)
        except EventTooLong as exc:
            raise _garbled() from exc
        return [delta for event in events for delta in self._frame(event.data)]

    def end(self) -> list[Delta]:
        """Say that no more bytes come; return what that completes.

        Raises:
            EngineStopped: the stream is not complete.
        """
        deltas = [delta for event in self._sse.end() for delta in self._frame(event.data)]
        if not self.complete:
            raise broken_off()
        return deltas

    def _frame(self, data: str) -> list[Delta]:
        if self.complete or not data.strip():
            return []
        frame = _object(data)
        if frame.get("error"):
            raise tgi_error(frame, begun=self._begun)
        deltas: list[Delta] = []
        token = frame.get("token")
        if isinstance(token, dict) and token.get("text") and not token.get("special"):
            deltas.append(TokenEvent(type="token", content=str(token["text"])))
            self._begun = True
        if isinstance(frame.get("generated_text"), str):
            self.complete = True
            deltas.append(_finished(frame.get("details")))
        return deltas


def read_whole(body: bytes) -> list[Delta]:
    """Return the deltas of an answer that was not streamed: an object, or a list of one.

    Raises:
        MhError: it is an error, or not to be read.
    """
    data = _object_or_list(body.decode(errors="replace"))
    answer = data[0] if isinstance(data, list) and data else data
    if not isinstance(answer, dict):
        raise _garbled()
    if answer.get("error"):
        raise tgi_error(answer)
    text = answer.get("generated_text")
    if not isinstance(text, str):
        raise _garbled()
    tokens: list[Delta] = [TokenEvent(type="token", content=text)] if text else []
    return [*tokens, _finished(answer.get("details"))]


def generate_payload(call: ChatCall, max_tokens: int) -> dict[str, Any]:
    """Return the body of a streamed ``POST /``. ``max_tokens`` is for calls that set none.

    A format is told to the model by whoever calls (``Capabilities.schemas``).

    Raises:
        NotSupported: the call has tools or images, for which this API has no place.
    """
    if call.tools:
        raise NotSupported("TGI's classic API has no tools. Use an endpoint with a chat route.")
    parameters = {
        "max_new_tokens": call.options.get("max_tokens") or max_tokens,
        "details": True,
        "return_full_text": False,
        **_sampling(call.options),
    }
    return {"inputs": inputs_of(call.messages), "parameters": parameters, "stream": True}


def inputs_of(messages: Sequence[Mapping[str, Any]]) -> str:
    """Return ``messages`` as one text.

    A single message of the user's is passed as it is. More of them are written as a dialogue, each after its
    speaker's name, and end with ``Assistant:``.
    """
    if len(messages) == 1 and messages[0].get("role") == "user":
        return _text(messages[0].get("content"))
    lines = [
        f"{_NAMES.get(str(message.get('role')), 'User')}: {_text(message.get('content'))}"
        for message in messages
    ]
    return "\n\n".join([*lines, "Assistant:"])


def _sampling(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return TGI's names for ``options``, within its bounds: temperature above 0, top_p below 1."""
    found = {key: options[key] for key in _SAME if options.get(key) is not None}
    temperature = options.get("temperature")
    if temperature == 0:
        found["do_sample"] = False
    elif temperature is not None:
        found |= {"temperature": temperature, "do_sample": True}
    if (top_p := options.get("top_p")) is not None and top_p < 1 and temperature != 0:
        found["top_p"] = top_p
    if (top_k := options.get("top_k") or 0) > 0 and temperature != 0:
        found["top_k"] = top_k
    if (seed := options.get("seed")) is not None:
        found["seed"] = seed % _SEEDS
    if stop := options.get("stop"):
        found["stop"] = [stop] if isinstance(stop, str) else list(stop)
    return found


def _text(content: object) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        return ""
    if any(part.get("type") != "text" for part in content):
        msg = "TGI's classic API has no images. Use an endpoint with a chat route."
        raise NotSupported(msg)
    return "\n".join(str(part.get("text", "")) for part in content)


def _finished(details: object) -> Finished:
    if not isinstance(details, dict):
        return Finished("stop")
    made = int(details.get("generated_tokens") or 0)
    prompt = int(details.get("input_length") or 0)
    usage = Usage(prompt_tokens=prompt, completion_tokens=made, total_tokens=prompt + made)
    return Finished(_REASONS.get(str(details.get("finish_reason")), "stop"), usage)


def _object(data: str) -> dict[str, Any]:
    frame = _object_or_list(data)
    if not isinstance(frame, dict):
        raise _garbled()
    return frame


def _object_or_list(data: str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise _garbled() from exc


def _garbled() -> UpstreamGarbled:
    return UpstreamGarbled("The endpoint sent an answer that cannot be read.")
