"""Model names as Ollama reads them: ``[host/][namespace/]model[:tag]``. Source: ollama types/model/name.go."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

#: What a name that does not say belongs to; never contacted from here.
DEFAULT_HOST: Final = "registry.ollama.ai"
DEFAULT_NAMESPACE: Final = "library"
DEFAULT_TAG: Final = "latest"


@dataclass(frozen=True, slots=True)
class Name:
    """A whole name."""

    host: str
    namespace: str
    model: str
    tag: str

    @classmethod
    def parse(cls, text: str) -> "Name":
        """Fill in what ``text`` leaves out. Does not judge: a name that cannot be is one nobody has."""
        head, colon, tag = text.strip().rpartition(":")
        if not colon or "/" in tag:
            head, tag = text.strip(), DEFAULT_TAG
        rest, _, model = head.rpartition("/")
        host, _, namespace = rest.rpartition("/")
        return cls(host or DEFAULT_HOST, namespace or DEFAULT_NAMESPACE, model, tag)

    @property
    def short(self) -> str:
        """The name as Ollama shows it: ``smollm2:135m``, always with its tag."""
        parts = [self.host, self.namespace, self.model]
        if self.host == DEFAULT_HOST:
            parts.pop(0)
            if self.namespace == DEFAULT_NAMESPACE:
                parts.pop(0)
        return f"{'/'.join(parts)}:{self.tag}"

    def manifest(self, store: Path) -> Path:
        """Return where the manifest of a model with this name lies."""
        return store / "manifests" / self.host / self.namespace / self.model / self.tag


def is_same(one: str, other: str) -> bool:
    """Say whether two names mean the same model. Ollama minds neither case nor a missing ``:latest``."""
    return Name.parse(one).short.casefold() == Name.parse(other).short.casefold()
