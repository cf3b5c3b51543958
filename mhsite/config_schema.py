"""The JSON Schemas of ``etc/*.json``, made from the engines' options and from what parses the files."""

from typing import Any

from pydantic import BaseModel

from backends.config_file import FORESEEN
from backends.engines.registry import engines
from router.deployment_file import DeploymentFile
from router.registry_schemas import RegistryFile

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
#: What ``backends.engines.base.facts`` says for forms alone.
_FOR_FORMS = frozenset({"group", "restart", "unit", "step", "bound"})


def schemas() -> dict[str, dict[str, Any]]:
    """Return the schema of each file, by the file's name."""
    return {
        "llm-backend.json": llm_backend_schema(),
        "models.json": _of(RegistryFile),
        "deployment.json": _of(DeploymentFile),
    }


def _of(model: type[BaseModel]) -> dict[str, Any]:
    return {"$schema": _DIALECT, **model.model_json_schema(by_alias=True)}


def llm_backend_schema() -> dict[str, Any]:
    """Return the schema: one section per engine, with exactly its options."""
    sections = {name: _section(engine.Options) for name, engine in sorted(engines().items())}
    for name in sorted(FORESEEN - sections.keys()):
        sections[name] = _foreseen()
    return {
        "$schema": _DIALECT,
        "title": "Backends of mh",
        "description": "Read at first boot and by `mh config import`; the database is the truth after.",
        "type": "object",
        "additionalProperties": False,
        "required": ["version"],
        "properties": {
            "$schema": {"type": "string"},
            "version": {"const": "1.0.0"},
            "activeBackend": {"enum": sorted(sections), "default": "ollama"},
            "startupBehavior": {
                "enum": ["auto", "ollama", "vllm", "fallback"],
                "default": "auto",
                "description": "auto: running vLLM, else running Ollama, else installed vLLM, else "
                "installed Ollama. fallback: the configured one, else the other.",
            },
            **dict(sorted(sections.items())),
        },
    }


def _section(options: Any) -> dict[str, Any]:
    schema = options.model_json_schema()
    hidden = options.fields_with("secret") | {"host", "port"}
    properties = {
        options.file_names.get(name, name): {
            key: value for key, value in field.items() if key not in _FOR_FORMS
        }
        for name, field in _inlined(schema, schema.get("$defs", {}))["properties"].items()
        if name not in hidden
    }
    return _foreseen() | {
        "additionalProperties": False,
        "properties": {**_common(), **properties},
    }


def _inlined(part: Any, definitions: dict[str, Any]) -> Any:
    """Return a part of a schema with what it refers to in place: a section has no ``$defs``."""
    if isinstance(part, list):
        return [_inlined(item, definitions) for item in part]
    if not isinstance(part, dict):
        return part
    if "$ref" in part:
        return _inlined(definitions[part["$ref"].removeprefix("#/$defs/")], definitions)
    return {key: _inlined(value, definitions) for key, value in part.items() if key != "$defs"}


def _foreseen() -> dict[str, Any]:
    return {"type": "object", "properties": _common()}


def _common() -> dict[str, Any]:
    return {
        "endpoint": {
            "type": "string",
            "pattern": "^http://",
            "description": "Where the engine listens: http://localhost:8000",
        },
        "autoStart": {"type": "boolean", "default": False},
    }
