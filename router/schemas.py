"""What clients may send. Unknown keys are errors that name them; files are in ``router.registry_schemas``."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from accounts.errors import Invalid, InvalidRequest

#: Roles shipped; each can be asked for before anybody has configured it.
SHIPPED_ROLES = (
    "orchestrator",
    "persona",
    "curator",
    "coder",
    "planner",
    "summarizer",
    "embedder",
    "fallback",
)
MESSAGES_MAX = 4096
#: Characters of the name of a model.
NAME_MAX = 512

Name = Annotated[str, Field(min_length=1, max_length=NAME_MAX)]
#: What a model of the registry may be called.
ENTRY_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")
EntryId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$", max_length=128)]
#: What a role may be called.
ROLE_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")
RoleName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$", max_length=64)]
#: Go's notation of a time: ``5m``, ``1h30m``; below zero is for ever. A number is seconds.
Duration = Annotated[
    str,
    Field(
        pattern=r"^-?(?:[0-9]{1,10}|(?:[0-9]{1,10}(?:\.[0-9]{1,9})?(?:ms|s|m|h))+)$", max_length=40
    ),
]
Stop = Annotated[str, Field(min_length=1, max_length=256)]


class Strict(BaseModel):
    """Base of what people write: no unknown keys, no silent conversion of types."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, populate_by_name=True)


def _either(camel: str, snake: str) -> AliasChoices:
    return AliasChoices(camel, snake)


#: Options that make an engine load its model again, or drop it. Entries and roles set them, for everybody;
#: in a request they are read over, so that clients who disagree cannot have it loaded again and again.
PINNED = ("num_ctx", "keep_alive")


def unpinned(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``options`` without those a request cannot set."""
    return {name: value for name, value in options.items() if name not in PINNED}


class ChatOptions(Strict):
    """How to generate. None is unset; 0 is a value. Both spellings of a name are accepted."""

    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1, validation_alias=_either("topP", "top_p"))
    top_k: int | None = Field(None, ge=-1, le=1_000_000, validation_alias=_either("topK", "top_k"))
    min_p: float | None = Field(None, ge=0, le=1, validation_alias=_either("minP", "min_p"))
    max_tokens: int | None = Field(
        None, ge=1, le=10_000_000, validation_alias=_either("maxTokens", "max_tokens")
    )
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = None
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    presence_penalty: float | None = Field(
        None, ge=-2, le=2, validation_alias=_either("presencePenalty", "presence_penalty")
    )
    frequency_penalty: float | None = Field(
        None, ge=-2, le=2, validation_alias=_either("frequencyPenalty", "frequency_penalty")
    )
    repetition_penalty: float | None = Field(
        None, gt=0, le=10, validation_alias=_either("repetitionPenalty", "repetition_penalty")
    )
    #: Whether, or how much, a model that can thinks before it answers. Unset is the model's own way.
    think: bool | Literal["low", "medium", "high", "max"] | None = Field(
        None, validation_alias=AliasChoices("think", "reasoningEffort", "reasoning_effort")
    )
    logprobs: bool | None = None
    top_logprobs: int | None = Field(
        None, ge=0, le=20, validation_alias=_either("topLogprobs", "top_logprobs")
    )
    #: Ollama's length of the context, in tokens, and how long the model stays in memory.
    num_ctx: int | None = Field(
        None, ge=256, le=100_000_000, validation_alias=_either("numCtx", "num_ctx")
    )
    keep_alive: Duration | Annotated[int, Field(ge=-(10**9), le=10**9)] | None = Field(
        None, validation_alias=_either("keepAlive", "keep_alive")
    )

    def given(self) -> dict[str, Any]:
        """Return what is set, under the names of OpenAI's API."""
        return self.model_dump(exclude_none=True)

    def asked(self) -> dict[str, Any]:
        """Return what a request sets, but for ``PINNED``."""
        return unpinned(self.given())


class TextPart(Strict):
    """Text among several parts of a message."""

    type: Literal["text"]
    text: str


class ImageUrl(Strict):
    """Where an image is: an ``https:`` or ``data:`` URL."""

    url: str = Field(min_length=1)
    detail: Literal["auto", "low", "high"] | None = None


class ImagePart(Strict):
    """An image among several parts of a message."""

    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class Message(Strict):
    """One message of a conversation, as OpenAI's API has it."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[Part], Field(min_length=1, max_length=256)] | None = None
    name: str | None = Field(None, min_length=1, max_length=128)
    tool_calls: list[dict[str, Any]] | None = Field(None, max_length=128)
    tool_call_id: str | None = Field(None, max_length=256)

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.content is None and not self.tool_calls:
            msg = "a message needs content"
            raise ValueError(msg)
        return self

    def given(self) -> dict[str, Any]:
        """Return the message for an engine."""
        data = self.model_dump(exclude_none=True)
        return data if "content" in data else {**data, "content": None}


class ChatRequest(Strict):
    """A chat, as ``POST /api/chat``, ``/ws/chat/`` and ``mh chat`` ask for it.

    ``role`` or ``model``, not both; with neither, the active backend answers.
    """

    role: Name | None = None
    model: Name | None = None
    messages: list[Message] = Field(min_length=1, max_length=MESSAGES_MAX)
    options: ChatOptions = ChatOptions()
    stream: bool = False
    #: ``text``, ``json``, or a JSON Schema that the answer must follow.
    format: Literal["text", "json"] | dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = Field(None, min_length=1, max_length=128)
    tool_choice: str | dict[str, Any] | None = Field(
        None, validation_alias=_either("toolChoice", "tool_choice")
    )

    @model_validator(mode="after")
    def _one_of_role_and_model(self) -> Self:
        if self.role is not None and self.model is not None:
            msg = "give role or model, not both"
            raise ValueError(msg)
        return self


class Lenient(BaseModel):
    """Base of OpenAI's requests: what we do not know is the engine's to judge."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)


class OpenAISampling(Lenient):
    """What OpenAI's two completion requests have in common, as far as we judge it."""

    model: Name | None = None
    stream: bool | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    max_tokens: int | None = Field(None, ge=0)
    max_completion_tokens: int | None = Field(None, ge=1)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    n: int | None = Field(None, ge=1, le=128)
    stop: str | list[str] | None = None
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)


class OpenAIMessage(Lenient):
    """A message, as far as we judge it."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[dict[str, Any]] | None = None


class OpenAIChat(OpenAISampling):
    """``POST /v1/chat/completions``."""

    messages: list[OpenAIMessage] = Field(min_length=1, max_length=MESSAGES_MAX)


class OpenAICompletion(OpenAISampling):
    """``POST /v1/completions``."""

    prompt: str | list[str] | list[int] | list[list[int]]


class OpenAIEmbedding(Lenient):
    """``POST /v1/embeddings``."""

    model: Name | None = None
    input: str | list[str] | list[int] | list[list[int]]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(None, ge=1, le=1_000_000)


AnyModel = TypeVar("AnyModel", bound=BaseModel)

#: What makes a request impossible to understand, as against a value that is not acceptable.
_MALFORMED = ("missing", "extra_forbidden", "_type", "_parsing", "union_tag", "literal_error")


def parse(model: type[AnyModel], data: object, *, always_400: bool = False) -> AnyModel:
    """Return ``data`` as a ``model``.

    Raises:
        InvalidRequest: a field is missing, unknown or of the wrong type; with ``always_400`` (as
            OpenAI answers) also for values that are not acceptable.
        Invalid: a value is not acceptable.
    """
    if not isinstance(data, Mapping):
        raise InvalidRequest("The body must be a JSON object.", code="invalid_json")
    try:
        return model.model_validate(data)
    except ValidationError as exc:
        # Without the input: it is somebody's conversation.
        details = exc.errors(include_url=False, include_context=False, include_input=False)
    raise _refusal(details, always_400=always_400)


def problems(model: type[BaseModel], data: object) -> list[str]:
    """Return all that is wrong with ``data`` as a ``model``, a sentence each; empty where it is good."""
    if not isinstance(data, Mapping):
        return ["It must be a JSON object."]
    try:
        model.model_validate(data)
    except ValidationError as exc:
        details = exc.errors(include_url=False, include_context=False, include_input=False)
        # What may be written in two ways is wrong in both; one of them is what was meant.
        things: dict[tuple[int | str, ...], list[ErrorDetails]] = {}
        for one in details:
            things.setdefault(one["loc"][:2], []).append(one)
        return [_refusal(found, always_400=True).message for found in things.values()]
    return []


def _refusal(details: list[ErrorDetails], *, always_400: bool) -> InvalidRequest | Invalid:
    # Of the branches of a union, the one that was followed deepest is the one that was meant.
    first = max(details, key=lambda item: len(item["loc"]))
    where = _path(first["loc"])
    unknown = [_path(item["loc"]) for item in details if item["type"] == "extra_forbidden"]
    if unknown:
        message = f"Unknown key{'s' if len(unknown) > 1 else ''}: {', '.join(unknown[:10])}."
        return InvalidRequest(message, code="unknown_key", param=unknown[0])
    text = first["msg"].removeprefix("Value error, ")
    message = f"{where}: {text}." if where else f"{text[:1].upper()}{text[1:]}."
    code = "missing_field" if first["type"] == "missing" else None
    if always_400 or any(word in first["type"] for word in _MALFORMED):
        return InvalidRequest(message, code=code, param=where or None)
    return Invalid(message, param=where or None)


def _path(location: tuple[int | str, ...]) -> str:
    """Return ``messages[0].content``; the names pydantic gives to branches of a union are left out."""
    path = ""
    for step in location:
        if isinstance(step, int):
            path += f"[{step}]"
        elif (
            step.isidentifier() and step not in {"str", "bool", "int", "text", "image_url"}
        ) or not path:
            path += f".{step[:80]}" if path else step[:80]
    return path
