"""What must be true before the site serves: a migrated database, rows, an owner, first settings.

Everything here may be called again at any time. Django must be set up.
"""

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from django.core.management import call_command
from django.db import DatabaseError, transaction

from accounts.actors import Actor
from mhsite import home, settings_files

logger = logging.getLogger(__name__)

#: Files read at first boot. A file that is not there is no settings.
SETTINGS_FILES = settings_files.NAMES


@dataclass(frozen=True, slots=True)
class Owner:
    """The owner account."""

    username: str
    #: Only when it was made up just now; it is shown once and kept nowhere.
    generated_password: str | None


def database_prepare() -> Owner:
    """Migrate, make the rows and the owner, and read ``etc/*.json`` when there was no owner before.

    Raises:
        InvalidRequest: a settings file is not JSON.
        MhError: a settings file is refused; nothing of the first boot is kept then.
    """
    from accounts.selectors import owner_first
    from accounts.services import owner_ensure
    from backends.services import backends_ensure

    home.folder("static")
    call_command("migrate", interactive=False, verbosity=0)
    first = owner_first() is None
    with transaction.atomic():
        backends_ensure()
        if first:
            settings_import(home.REPOSITORY / "etc")
        user, generated = owner_ensure(
            os.environ.get("MH_OWNER_USERNAME") or "owner", os.environ.get("MH_OWNER_PASSWORD")
        )
    return Owner(user.get_username(), generated)


def is_prepared() -> bool:
    """Return whether ``database_prepare`` has run on this database."""
    from accounts.selectors import owner_first

    try:
        return owner_first() is not None
    except DatabaseError:
        return False


def settings_import(folder: Path) -> None:
    """Read the settings files of ``folder`` into the database."""
    files = {name: folder / name for name in SETTINGS_FILES if (folder / name).exists()}
    settings_files.settings_import(Actor.system(), files)
    for path in files.values():
        logger.info("settings read from %s", path)
