"""Which provider plug-ins there are: ours, and those of installed packages."""

import functools
import re
from collections.abc import Mapping
from importlib.metadata import EntryPoint
from typing import Final

from backends.plugins import plugins
from router.errors import InvalidProvider
from router.providers.base import Capabilities, Provider, ProviderSettings

GROUP: Final = "metahuman.providers"
_HERE: Final = "router.providers"
#: Ours, known even where the project's own metadata is not installed.
BUILT_IN: Final = (
    EntryPoint(name="vllm", value=f"{_HERE}.vllm:Vllm", group=GROUP),
    EntryPoint(name="ollama", value=f"{_HERE}.ollama:Ollama", group=GROUP),
    EntryPoint(name="openai", value=f"{_HERE}.openai:OpenAI", group=GROUP),
    EntryPoint(name="runpod", value=f"{_HERE}.runpod:RunPod", group=GROUP),
    EntryPoint(name="huggingface", value=f"{_HERE}.huggingface:HuggingFace", group=GROUP),
)
#: Engines without a provider of their own speak OpenAI's API, as nearly all of them do.
ENGINE_DEFAULT: Final = "vllm"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")


@functools.cache
def providers() -> Mapping[str, Provider]:
    """Return every working plug-in by name, loaded once; a broken one is logged and left out."""
    return plugins(BUILT_IN, _problem, Provider)  # type: ignore[type-abstract]


def provider(name: str) -> Provider:
    """Return the plug-in called ``name``.

    Raises:
        InvalidProvider: there is none.
    """
    try:
        return providers()[name]
    except KeyError:
        known = ", ".join(sorted(providers())) or "none"
        msg = f"There is no provider {name[:80]!r}. There are: {known}."
        raise InvalidProvider(msg, param="provider") from None


def engine_provider(engine: str) -> Provider:
    """Return the adapter for the engine plug-in called ``engine``."""
    found = providers().get(engine)
    return found if found and found.Settings is None else providers()[ENGINE_DEFAULT]


def _problem(plugin: object, name: str) -> str:
    """Say why ``plugin`` cannot be used as a provider; empty when it can."""
    if not (isinstance(plugin, type) and issubclass(plugin, Provider)):
        return "it is not a subclass of router.providers.base.Provider"
    missing = sorted(plugin.__abstractmethods__)
    if missing:
        return f"it lacks {', '.join(missing)}"
    if getattr(plugin, "name", None) != name or not _NAME.fullmatch(name):
        return f"it calls itself {getattr(plugin, 'name', None)!r}"
    return _problem_of_declarations(plugin)


def _problem_of_declarations(plugin: type[Provider]) -> str:
    if not isinstance(getattr(plugin, "title", None), str):
        return "it has no title"
    if not isinstance(plugin.capabilities, Capabilities):
        return "its capabilities are not a Capabilities"
    settings = plugin.Settings
    if settings is not None and not issubclass(settings, ProviderSettings):
        return "its Settings are not a subclass of router.providers.base.ProviderSettings"
    return ""
