"""Documentation that cannot rot: what can be set, typed or requested is in docs/reference."""

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from channels.routing import URLRouter
from django.urls import URLPattern, URLResolver, get_resolver

from backends.engines.base import Options
from backends.engines.registry import engine
from backends.routing import websocket_urlpatterns as backends_sockets
from mhsite.cli import app
from mhsite.config_schema import llm_backend_schema
from mhsite.management.commands.write_schemas import with_tables
from router.routing import websocket_urlpatterns as router_sockets

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
CODE = ("mhsite", "router", "backends", "audit", "accounts", "bin")
#: Passed from one of our processes to another; nobody sets them.
INTERNAL = {"MH_BOOT", "MH_UP_PID", "MH_INSTANCE", "MH_INSTANCE_FOLDER"}


def reference(name: str) -> str:
    return (DOCS / "reference" / f"{name}.md").read_text()


def environment_variables() -> set[str]:
    quoted = re.compile(r"""["'](MH_[A-Z_]+|DATABASE_URL|REDIS_URL)["']""")
    files = [path for folder in CODE for path in (ROOT / folder).rglob("*") if _is_code(path)]
    return {name for path in files for name in quoted.findall(path.read_text())} - INTERNAL


def _is_code(path: Path) -> bool:
    return path.suffix == ".py" or path == ROOT / "bin" / "mh"


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every command with its options."""
    yield from _commands(typer.main.get_command(app), "mh")


def _commands(command: Any, path: str) -> Iterator[tuple[str, list[str]]]:
    children = getattr(command, "commands", None)
    if children is None:
        options = [name for p in command.params for name in p.opts if name.startswith("-")]
        yield path, options
        return
    for name, child in children.items():
        yield from _commands(child, f"{path} {name}")


def routes() -> Iterator[str]:
    """Every path outside of the admin, as the documentation writes it."""
    for pattern in _patterns(get_resolver().url_patterns, ""):
        if pattern and not pattern.startswith("admin/") and "(?P" not in pattern:
            yield "/" + re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", pattern)


def _patterns(entries: list[URLPattern | URLResolver], before: str) -> Iterator[str]:
    for entry in entries:
        here = before + str(entry.pattern)
        if isinstance(entry, URLResolver):
            yield from _patterns(entry.url_patterns, here)
        else:
            yield here


@pytest.mark.parametrize("name", sorted(environment_variables()))
def test_every_setting_is_documented(name: str) -> None:
    assert f"`{name}`" in reference("settings")


def test_no_setting_is_documented_that_does_not_exist() -> None:
    documented = set(re.findall(r"`(MH_[A-Z_]+)`", reference("settings")))
    assert documented <= environment_variables()


@pytest.mark.parametrize(("path", "options"), list(commands()))
def test_every_command_and_option_is_documented(path: str, options: list[str]) -> None:
    text = reference("commands")
    assert re.search(rf"`{path}[` ]", text)
    for option in options:
        assert re.search(rf"`{option}[` ]", text), option


@pytest.mark.parametrize("path", sorted(set(routes())))
def test_every_route_is_documented(path: str) -> None:
    assert f"`{path}`" in reference("rest")


@pytest.mark.parametrize("pattern", [*backends_sockets, *router_sockets])
def test_every_websocket_is_documented(pattern: URLPattern) -> None:
    assert URLRouter([pattern])
    path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", str(pattern.pattern))
    assert f"`/{path}`" in reference("websockets")


@pytest.mark.parametrize("name", ["ollama", "vllm"])
def test_every_engine_option_is_documented(name: str) -> None:
    options = engine(name).Options
    for field in options.model_fields:
        heading = "Every engine" if field in Options.model_fields else f"`{name}`"
        text = reference("files").split(f"\n### {heading}\n")[1].split("\n#")[0]
        assert f"| `{options.file_names.get(field, field)}` |" in text


def test_the_tables_of_options_are_made_from_the_options() -> None:
    page = DOCS / "reference" / "files.md"
    assert page.read_text() == with_tables(page.read_text()), "run: manage.py write_schemas"


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    every = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    text = (DOCS / "explanation" / "dependencies.md").read_text()
    names = [re.split(r"[\[<>=!~ ]", line)[0] for line in every]
    assert [name for name in names if f"`{name}`" not in text] == []


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))], ids=lambda p: p.name
)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_every_page_is_in_the_index() -> None:
    index = (DOCS / "README.md").read_text()
    pages = [page.relative_to(DOCS) for page in DOCS.rglob("*.md") if page.parent != DOCS]
    assert [str(page) for page in pages if f"({page})" not in index] == []


def test_the_schema_of_the_backends_file_is_made_from_the_options() -> None:
    kept = json.loads((ROOT / "etc" / "schemas" / "llm-backend.json").read_text())
    made = json.loads(json.dumps(llm_backend_schema()))
    for name in ("ollama", "vllm"):
        assert kept["properties"][name] == made["properties"][name], "run: manage.py write_schemas"


def test_shipped_files_name_schemas_that_are_there() -> None:
    for path in (ROOT / "etc").glob("*.json"):
        data = json.loads(path.read_text())
        assert (path.parent / data["$schema"]).exists(), path.name
