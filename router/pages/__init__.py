"""The settings pages about who answers: roles, chat, providers, usage."""

from typing import Final

from accounts.pages import Page

PAGES: Final[tuple[Page, ...]] = ()
