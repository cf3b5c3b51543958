"""What commands need of the site: Django, a database that is there, and who is asking."""

import getpass
import logging
import os
import uuid
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from accounts.actors import Actor


def django_ready() -> None:
    """Set up Django. Logs below warnings are for the site, not for a terminal."""
    import django

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mhsite.settings")
    django.setup()
    if "MH_LOG_LEVEL" not in os.environ:
        logging.getLogger().setLevel(logging.WARNING)


def site_ready() -> None:
    """Set up Django and, where nobody has before, the database."""
    django_ready()
    from mhsite.processes import boot

    if boot.is_prepared():
        return
    owner = boot.database_prepare()
    if owner.generated_password:
        import typer

        typer.echo(
            f"The owner account is {owner.username} with the password {owner.generated_password} "
            "(made up now and kept nowhere: write it down).",
            err=True,
        )


def owner_actor() -> "Actor":
    """Return the site's owner, as whom ``mh`` acts: who can read ``MH_HOME`` can do everything anyway.

    The user of the operating system is kept as the source.
    """
    from accounts.actors import Actor
    from accounts.selectors import owner_first

    return Actor(
        user=owner_first(),
        surface="cli",
        request_id=uuid.uuid4().hex,
        source_address=f"local:{_user_name()}"[:64],
    )


def _user_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
