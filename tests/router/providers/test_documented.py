"""Settings of providers are documented, with their defaults."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from router.providers.registry import provider

HOW_TO = Path(__file__).resolve().parents[3] / "docs" / "how-to" / "use-a-cloud-provider.md"
#: Settings whose default is told in words, or in a pair.
IN_WORDS = {"pollMin", "pollMax"}


def rows(kind: str) -> dict[str, str]:
    """The rows of the table of the section that names a setting of ``kind``'s."""
    titles = {"openai": "## OpenAI", "runpod": "## RunPod", "huggingface": "## Hugging Face"}
    section = HOW_TO.read_text().partition(titles[kind])[2].partition("\n## ")[0]
    lines = [line.split("|") for line in section.splitlines() if line.startswith("| `")]
    return {
        name.strip().strip("`"): cells[2].strip().strip("`")
        for cells in lines
        for name in cells[1].split(",")
    }


@pytest.mark.parametrize("kind", ["openai", "runpod", "huggingface"])
def test_every_setting_of_a_provider_is_documented_with_its_default(kind: str) -> None:
    settings = provider(kind).Settings
    assert settings is not None
    documented = rows(kind)
    fields = {field.alias or name: field for name, field in settings.model_fields.items()}
    assert fields.keys() == documented.keys()
    for name, field in fields.items():
        if isinstance(field.default, SecretStr) or field.default == "" or name in IN_WORDS:
            continue
        assert documented[name] == str(field.default), name
