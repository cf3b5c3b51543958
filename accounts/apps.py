"""The app of users, roles and tokens."""

from django.apps import AppConfig


class AccountsConfig(AppConfig):
    """Users, roles and tokens."""

    """Users, roles and tokens."""

    name = "accounts"

    def ready(self) -> None:
        """Start recording who signs in and out."""
        from accounts import logins

        logins.connect()
