"""``etc/deployment.json``: where models run, and the accounts at providers. CONTRACT.md has an example.

A ``${NAME}`` in a setting is read from the environment when the file is read; what is kept beside the value
is the reference, which an export writes again. A secret that was written out is masked in an export, and
a masked one leaves what is stored as it is.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field

from accounts.errors import Invalid
from accounts.masking import MASK
from router.account_settings import secret_names, settings_class
from router.errors import InvalidProvider
from router.registry_schemas import ProviderName
from router.schemas import Strict, parse

#: Sections of ``server`` that CONTRACT.md names; their kind is their name.
SERVER_KINDS: Final = ("runpod", "huggingface")

_REFERENCE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


class RunpodSection(Strict):
    """An account at RunPod."""

    model_config = ConfigDict(extra="allow")

    api_key: str | None = Field(
        None, alias="apiKey", description="RunPod's key, or ${RUNPOD_API_KEY}."
    )
    endpoints: dict[str, str] | None = Field(
        None,
        description="Ids of serverless endpoints by names of models; default serves all others.",
    )


class HuggingFaceSection(Strict):
    """An account at Hugging Face."""

    model_config = ConfigDict(extra="allow")

    api_key: str | None = Field(None, alias="apiKey", description="A token, or ${HF_TOKEN}.")
    endpoint_url: str | None = Field(
        None,
        alias="endpointUrl",
        description="Of an Inference Endpoint; empty: Inference Providers.",
    )


class ServerSection(Strict):
    """Who answers for local providers in server mode."""

    provider: ProviderName = Field(description="Name of a provider account: runpod, huggingface.")
    runpod: RunpodSection | None = None
    huggingface: HuggingFaceSection | None = None


class ProviderSection(Strict):
    """Any other account. Its settings stand beside its kind."""

    model_config = ConfigDict(extra="allow")

    kind: Annotated[str, Field(max_length=32)] | None = Field(
        None, description="Provider plug-in; the account's name by default: openai."
    )


class DeploymentFile(Strict):
    """``etc/deployment.json``: where models run, and accounts at providers."""

    model_config = ConfigDict(title="Deployment of mh")

    schema_reference: str | None = Field(None, alias="$schema")
    version: Literal["1.0.0"] = "1.0.0"
    mode: Literal["local", "server"] = Field(
        description="server: what names a local provider goes to server.provider."
    )
    server: ServerSection | None = None
    providers: dict[ProviderName, ProviderSection] = Field(
        {}, description="Further accounts, by the name that models give as their provider."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One account of the file, its references resolved."""

    #: Where in the file it stands: ``server.runpod``.
    where: str
    name: str
    kind: str
    settings: Mapping[str, Any]
    #: As they stand in the file: settings that are read from the environment.
    references: Mapping[str, Any]
    #: Masked secrets: what is stored stays.
    kept: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """The whole file."""

    mode: str
    server_account: str
    sections: list[Section] = field(default_factory=list)


def parsed(data: object, environment: Mapping[str, str]) -> Parsed:
    """Read the file's content.

    Raises:
        InvalidRequest, Invalid: a key is unknown, a value wrong, or a variable not set; the message names it.
        InvalidProvider: there is no plug-in for an account.
    """
    file = parse(DeploymentFile, data)
    if file.mode == "server" and file.server is None:
        raise Invalid(
            "Server mode needs server.provider, the account that answers.", param="server.provider"
        )
    return Parsed(
        mode=file.mode,
        server_account=file.server.provider if file.server else "",
        sections=[
            _section(where, name, kind, values, environment)
            for where, name, kind, values in _written(file)
        ],
    )


def _written(file: DeploymentFile) -> list[tuple[str, str, str, dict[str, Any]]]:
    """Return place, name, kind and settings of each account."""
    found = []
    for kind in SERVER_KINDS:
        section = getattr(file.server, kind, None)
        if section is not None:
            values = section.model_dump(by_alias=True, exclude_none=True)
            found.append((f"server.{kind}", kind, kind, values))
    for name, other in file.providers.items():
        where = f"providers.{name}"
        if any(name == taken for _, taken, _, _ in found):
            raise Invalid(f"{where} is also under server. Keep one of the two.", param=where)
        found.append((where, name, other.kind or name, dict(other.model_extra or {})))
    return found


def _section(
    where: str, name: str, kind: str, values: dict[str, Any], environment: Mapping[str, str]
) -> Section:
    try:
        hidden = secret_names(settings_class(kind))
    except InvalidProvider as exc:
        raise InvalidProvider(f"{where}: {exc.message}", param=where) from exc
    return Section(
        where=where,
        name=name,
        kind=kind,
        settings={
            key: _resolved(f"{where}.{key}", value, environment)
            for key, value in values.items()
            if not (key in hidden and value == MASK)
        },
        references={key: value for key, value in values.items() if _REFERENCE.search(str(value))},
        kept=frozenset(key for key in hidden if values.get(key) == MASK),
    )


def _resolved(where: str, value: Any, environment: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _resolved(f"{where}.{key}", part, environment) for key, part in value.items()}
    if not isinstance(value, str):
        return value

    def read(found: re.Match[str]) -> str:
        name = found[1]
        if not environment.get(name):
            raise Invalid(
                f"{where} reads the environment variable {name}, which is not set. Set it where mh runs, or"
                " take this out of the file.",
                code="environment_variable_missing",
                param=where,
            )
        return environment[name]

    return _REFERENCE.sub(read, value)


def in_form(
    *, mode: str, server_account: str, accounts: Mapping[str, tuple[str, Mapping[str, Any]]]
) -> dict[str, Any]:
    """Return the file that says this; ``accounts`` are kind and settings by name."""
    server: dict[str, Any] = {"provider": server_account} if server_account else {}
    others = {}
    for name, (kind, settings) in accounts.items():
        if name in SERVER_KINDS and kind == name and server:
            server[name] = dict(settings)
        else:
            others[name] = {"kind": kind, **settings}
    file: dict[str, Any] = {"version": "1.0.0", "mode": mode}
    if server:
        file["server"] = server
    if others:
        file["providers"] = others
    return file
