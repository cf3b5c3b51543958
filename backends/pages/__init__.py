"""The settings pages about engines."""

from typing import Final

from accounts.pages import Page
from backends.pages import charts, llm_backend, logs, operations

PAGES: Final[tuple[Page, ...]] = (llm_backend.PAGE, operations.PAGE, logs.PAGE, charts.PAGE)
