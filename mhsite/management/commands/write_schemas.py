"""``manage.py write_schemas``: write what is made from code: the JSON Schemas, and the tables of options in docs."""

import json
import re
from typing import Any

from django.core.management.base import BaseCommand

from backends.engines.base import Options
from backends.engines.registry import engine
from mhsite import home
from mhsite.config_schema import schemas

_TABLE = "| option | default | |\n|---|---|---|\n"


class Command(BaseCommand):
    """Run it after changing an engine's options or a file's model; tests fail while a file is behind."""

    help = "Write etc/schemas/*.json and the option tables of docs/reference/files.md."

    def handle(self, *_args: Any, **_options: Any) -> None:
        """Write the files."""
        written = []
        for name, schema in schemas().items():
            path = home.REPOSITORY / "etc" / "schemas" / name
            path.write_text(json.dumps(schema, indent=2, ensure_ascii=False) + "\n")
            written.append(path)
        page = home.REPOSITORY / "docs" / "reference" / "files.md"
        page.write_text(with_tables(page.read_text()))
        for path in (*written, page):
            self.stdout.write(f"wrote {path.relative_to(home.REPOSITORY)}")


def with_tables(text: str) -> str:
    """Return the page with the tables of options as they are: those of every engine, and each one's own."""
    tables = {"Every engine": option_table(Options, frozenset())}
    for name in ("ollama", "vllm"):
        tables[f"`{name}`"] = option_table(engine(name).Options, frozenset(Options.model_fields))
    for heading, table in tables.items():
        pattern = rf"(\n### {re.escape(heading)}\n.*?){re.escape(_TABLE)}(?:\|[^\n]*\n)*"
        text = re.sub(pattern, lambda found, rows=table: found[1] + _TABLE + rows, text, flags=re.S)  # type: ignore[misc]
    return text


def option_table(options: type[Options], without: frozenset[str]) -> str:
    """Return a Markdown row for each option but those of ``without``."""
    rows = []
    for name, field in options.model_fields.items():
        if name in without:
            continue
        facts = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        value = json.dumps(field.default).strip('"') if field.default is not None else ""
        notes = f" ({facts['unit']})" if facts.get("unit") else ""
        notes += " Secret." if facts.get("secret") else ""
        shown = f"`{value}`" if value else ""
        rows.append(
            f"| `{options.file_names.get(name, name)}` | {shown} | {field.description}{notes} |\n"
        )
    return "".join(rows)
