"""What ``etc/models.json`` may hold, and what the REST API of models, roles and providers takes.

Unknown keys are errors that name them.
"""

import re
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AliasChoices, ConfigDict, Field, model_validator

from accounts.errors import Invalid
from router.schemas import ROLE_NAME, ChatOptions, EntryId, RoleName, Strict

#: What a model can be said to do, by the names Ollama's ``/api/show`` gives them.
CAPABILITIES: Final = ("completion", "tools", "vision", "embedding", "thinking")

#: What an entry names: ``active``, a backend, or a provider account.
ACCOUNT_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
ProviderName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
WhenOffChoice = Literal["next", "wait", "substitute", "error"]
ContextChoice = Literal["error", "trim"]
Capability = Literal["completion", "tools", "vision", "embedding", "thinking"]
Chain = Annotated[list[EntryId], Field(max_length=32, json_schema_extra={"uniqueItems": True})]

_WHEN_OFF: Final = AliasChoices("whenOff", "when_off")


def _no_twins(chain: list[str]) -> None:
    twins = [entry for number, entry in enumerate(chain) if entry in chain[:number]]
    if twins:
        msg = f"{twins[0]!r} is in the chain twice"
        raise ValueError(msg)


class EntryFile(Strict):
    """One model of ``etc/models.json``."""

    provider: ProviderName = Field(description="active, a backend, or a provider account")
    model: str = Field(
        "",
        max_length=512,
        description="Name the provider knows it by; empty: what it serves at the moment.",
    )
    options: ChatOptions = Field(
        ChatOptions(), description="Defaults for requests; a role's options and the request's win."
    )
    when_off: WhenOffChoice = Field(
        "next",
        alias="whenOff",
        validation_alias=_WHEN_OFF,
        description="Where the local backend it names does not serve. next: go on in the chain; wait only "
        "where nothing else can answer. wait: start it and wait. substitute: take the active backend "
        "instead. error: say so.",
    )
    capabilities: list[Capability] = Field(
        [], max_length=len(CAPABILITIES), description="What the model can do; empty: not known."
    )
    description: str = Field("", max_length=512)

    def row(self) -> dict[str, Any]:
        """Return the values of a row."""
        return {
            "provider": self.provider,
            "model": self.model,
            "options": self.options.given(),
            "when_off": self.when_off,
            "capabilities": sorted(set(self.capabilities)),
            "description": self.description,
        }


class RoleFile(Strict):
    """One role of ``etc/models.json``, in its long form."""

    chain: Chain = Field(
        description="Ids of models, tried in this order; empty: the active backend."
    )
    options: ChatOptions = Field(
        ChatOptions(), description="Win over those of the models; the request's win over these."
    )
    context: ContextChoice = Field(
        "error",
        description="A conversation longer than the model's context: error, or trim: leave out the oldest "
        "messages.",
    )

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        _no_twins(self.chain)
        return self


class RegistryFile(Strict):
    """``etc/models.json``: models by registry id, and for each role its chain of ids."""

    model_config = ConfigDict(title="Models and roles of mh")

    schema_reference: str | None = Field(None, alias="$schema")
    version: Literal["1.0.0"] = "1.0.0"
    models: dict[EntryId, EntryFile]
    roles: dict[RoleName, Chain | RoleFile]

    def long_roles(self) -> dict[str, RoleFile]:
        """Return the roles, all in their long form."""
        return {
            name: role if isinstance(role, RoleFile) else RoleFile(chain=role)
            for name, role in self.roles.items()
        }

    @model_validator(mode="after")
    def _chains_name_models(self) -> Self:
        for role, said in self.roles.items():
            chain = said.chain if isinstance(said, RoleFile) else said
            _no_twins(chain)
            for entry in chain:
                if entry not in self.models:
                    msg = f"role {role!r} names {entry!r}, which is not among the models"
                    raise ValueError(msg)
        return self


class EntryCreate(EntryFile):
    """``POST /api/models``."""

    id: EntryId = Field(description="What requests name it: default.persona")


class EntryChange(Strict):
    """``PATCH /api/models/{id}``: what is not sent stays as it is; ``options`` are replaced as a whole."""

    provider: ProviderName | None = None
    model: str | None = Field(None, max_length=512)
    options: ChatOptions | None = None
    when_off: WhenOffChoice | None = Field(None, alias="whenOff", validation_alias=_WHEN_OFF)
    capabilities: list[Capability] | None = Field(None, max_length=len(CAPABILITIES))
    description: str | None = Field(None, max_length=512)


class AccountCreate(Strict):
    """``POST /api/providers``."""

    name: ProviderName = Field(description="What models name as their provider: openrouter")
    kind: str | None = Field(
        None, max_length=32, description="Provider plug-in; the name by default: openai, runpod"
    )
    settings: dict[str, Any] = Field(
        {}, description="As the kind's JSON Schema says; secrets among them."
    )
    check: bool = Field(
        True, description="Try the credentials before they are saved; false saves them untried."
    )
    save: bool = Field(
        True, description="false: only try them; nothing is saved, the answer is 200."
    )


class AccountChange(Strict):
    """``PATCH /api/providers/{name}``: what is not sent stays as it is; null removes a setting."""

    settings: dict[str, Any]
    check: bool = Field(True, description="Try the credentials before they are saved.")
    save: bool = Field(True, description="false: only try them; nothing is saved.")


def role_name_check(name: str) -> None:
    """Raise ``Invalid`` where a role cannot be called ``name``."""
    if not ROLE_NAME.fullmatch(name):
        msg = "A role's name is lower-case letters, digits, - and _, begins with a letter, and has at most 64."
        raise Invalid(msg, param="name")
