"""The settings pages about who answers: roles, chat, providers, usage."""

from typing import Final

from accounts.pages import Page, Section
from router.pages import deployment

PAGES: Final[tuple[Page, ...]] = ()
#: What stands on pages of other rooms.
SECTIONS: Final[tuple[Section, ...]] = (deployment.SECTION,)
