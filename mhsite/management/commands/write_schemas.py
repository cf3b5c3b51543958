"""``manage.py write_schemas``: write etc/schemas/llm-backend.json from the engines' options."""

import json
from typing import Any

from django.core.management.base import BaseCommand

from mhsite import home
from mhsite.config_schema import llm_backend_schema


class Command(BaseCommand):
    """Run it after changing an engine's options; a test fails while the file is behind."""

    help = "Write etc/schemas/llm-backend.json from the engines' options."

    def handle(self, *_args: Any, **_options: Any) -> None:
        """Write the file."""
        path = home.REPOSITORY / "etc" / "schemas" / "llm-backend.json"
        path.write_text(json.dumps(llm_backend_schema(), indent=2, ensure_ascii=False) + "\n")
        self.stdout.write(f"wrote {path.relative_to(home.REPOSITORY)}")
