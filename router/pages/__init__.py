"""The settings pages about who answers: roles, chat, providers, usage."""

from typing import Final

from accounts.pages import Page
from router.pages import chat, models

PAGES: Final[tuple[Page, ...]] = (chat.PAGE, models.PAGE)
