"""What drf-spectacular cannot see: the plain async views, every error, headers, and examples.

The hook ``complete`` goes over what drf-spectacular made of the REST views:

* ``plain`` adds the views that are not REST framework's: chats, OpenAI's and Ollama's API, health, metrics;
* ``shapes`` adds the schemas that are pydantic's, and those of answers that other programs make;
* ``errors`` says which errors each operation can give, and in which of the two shapes;
* ``examples`` has a request and an answer for each operation; a test holds them against the schemas.
"""

from typing import Any, Final

from mhsite.openapi import errors, examples, plain, shapes

#: Beginning of a path, the tag of what is there, and what it is about. The first that fits.
TAGS: Final = (
    ("/api/llm-backend/operations", "operations", "What was asked of backends, and how far it is."),
    ("/api/llm-backend/", "backends", "Engines on this site's machines: state, switch, models."),
    ("/api/chat", "chat", "Chats with a role or a model."),
    ("/v1/", "openai", "OpenAI's API, answered by whichever engine runs."),
    ("/ollama/", "ollama", "Ollama's API, answered by whichever engine runs."),
    ("/api/models", "models", "The registry's models, of the site and one's own."),
    ("/api/roles", "roles", "Roles and their chains of models."),
    ("/api/providers", "providers", "Accounts at providers; credentials are only written."),
    ("/api/deployment", "providers", "Accounts at providers; credentials are only written."),
    ("/api/auth/", "sign-in", "Sign in and out."),
    ("/api/users", "people", "Users and their API tokens."),
    ("/api/tokens", "people", "Users and their API tokens."),
    ("/api/usage", "usage", "What requests cost, and who may use how much."),
    ("/api/audit/", "audit", "Who did what; nobody changes or deletes it."),
    ("/", "site", "Is it alive, is it ready, and what can it do."),
)


def complete(result: dict[str, Any], generator: Any, **_: Any) -> dict[str, Any]:
    """Make the document whole (drf-spectacular's postprocessing hook)."""
    del generator
    components = result.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    schemas.update(shapes.schemas())
    components["headers"] = errors.HEADERS
    for path, method, operation in plain.operations(result["paths"]):
        result["paths"].setdefault(path, {})[method] = operation
    for path, methods in result["paths"].items():
        for operation in methods.values():
            _require_body(operation, schemas)
            _finish(path, operation)
    result["paths"] = dict(sorted(result["paths"].items()))
    result["tags"] = _tags()
    return result


def _finish(path: str, operation: dict[str, Any]) -> None:
    operation["tags"] = [next(tag for start, tag, _ in TAGS if path.startswith(start))]
    operation["summary"] = _summary(operation["description"])
    errors.add(path, operation)
    examples.add(operation)


def _require_body(operation: dict[str, Any], schemas: dict[str, Any]) -> None:
    """Say that a body must be there, where its schema has something that must be in it."""
    body = operation.get("requestBody")
    if body is None:
        return
    name = body["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    body["required"] = bool(schemas[name].get("required") or "anyOf" in schemas[name])


def _summary(description: str) -> str:
    """Return the first sentence, without what follows a semicolon."""
    first = (
        description.split("\n", maxsplit=1)[0].split(". ", maxsplit=1)[0].split("; ", maxsplit=1)[0]
    )
    return first.removesuffix(".")


def _tags() -> list[dict[str, str]]:
    return [
        {"name": tag, "description": words} for tag, words in {t: w for _, t, w in TAGS}.items()
    ]
