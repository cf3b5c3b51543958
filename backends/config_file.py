"""``etc/llm-backend.json``: read at first boot and by ``mh config import``. CONTRACT.md has an example."""

from typing import Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from backends.errors import InvalidOptions

#: Engines the file may speak of although no plugin for them is installed yet.
FORESEEN: Final = frozenset({"ollama", "vllm"})


class _Head(BaseModel):
    """The keys that are not about one backend."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    schema_: str = Field("", alias="$schema")
    version: Literal["1.0.0"] = "1.0.0"
    active_backend: str = Field("ollama", alias="activeBackend")
    startup_behavior: Literal["auto", "ollama", "vllm", "fallback"] = Field(
        "auto", alias="startupBehavior"
    )


class BackendSection(BaseModel):
    """What the file says of one backend, in the words of its engine's options."""

    auto_start: bool = False
    options: dict[str, Any] = {}


class ConfigFile(BaseModel):
    """The whole file."""

    active_backend: str
    startup_behavior: str
    backends: dict[str, BackendSection]


def parse(data: Any, known: frozenset[str]) -> ConfigFile:
    """Read the file's content.

    Args:
        data: what ``json.load`` gave.
        known: names of the engines installed.

    Raises:
        InvalidOptions: a key is unknown or a value wrong; the message names it.
    """
    if not isinstance(data, dict):
        msg = "The file must hold a JSON object."
        raise InvalidOptions(msg)
    names = known | FORESEEN
    sections = {key: value for key, value in data.items() if key in names}
    try:
        head = _Head.model_validate({key: data[key] for key in data if key not in names})
    except ValidationError as exc:
        first = exc.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        reason = "unknown key" if first["type"] == "extra_forbidden" else first["msg"]
        msg = f"{key}: {reason}."
        raise InvalidOptions(msg, param=key) from exc
    return ConfigFile(
        active_backend=head.active_backend,
        startup_behavior=head.startup_behavior,
        backends={name: _section(name, value) for name, value in sections.items()},
    )


def _section(name: str, value: Any) -> BackendSection:
    if not isinstance(value, dict):
        msg = f"{name}: must be an object of options."
        raise InvalidOptions(msg, param=name)
    options = dict(value)
    auto_start = options.pop("autoStart", False)
    if not isinstance(auto_start, bool):
        msg = f"{name}.autoStart: must be true or false."
        raise InvalidOptions(msg, param=f"{name}.autoStart")
    endpoint = options.pop("endpoint", None)
    if endpoint is not None:
        options |= _host_and_port(name, endpoint)
    return BackendSection(auto_start=auto_start, options=options)


def _host_and_port(name: str, endpoint: Any) -> dict[str, Any]:
    """Split ``http://localhost:8000``; ``localhost`` is taken as the loopback address it means."""
    try:
        parts = urlsplit(endpoint)
        host, port = parts.hostname, parts.port
    except (ValueError, AttributeError, TypeError):
        host = port = None
    if not host or not port or parts.scheme != "http":
        msg = f"{name}.endpoint: must look like http://localhost:8000."
        raise InvalidOptions(msg, param=f"{name}.endpoint")
    return {"host": "127.0.0.1" if host == "localhost" else host, "port": port}
