"""Run in a process of its own by ``live.py``: migrate a fresh home, and put a running backend into it.

Prints JSON: tokens by user, session keys, backend.
"""

import json
import os
import sys

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mhsite.settings")


def main(endpoint: str, model: str) -> None:
    import django

    django.setup()
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    backend(endpoint, model)
    registry()
    print(json.dumps({"tokens": tokens()}))


def backend(endpoint: str, model: str) -> None:
    from django.conf import settings
    from django.utils import timezone

    from backends.lifecycle import State
    from backends.models import Backend, Switchboard

    row, _ = Backend.objects.update_or_create(
        name="vllm",
        defaults={
            "engine": "vllm",
            "node": settings.MH_NODE,
            "state": State.READY,
            "state_since": timezone.now(),
            "endpoint": endpoint,
            "model": model,
        },
    )
    Switchboard.objects.update_or_create(id=1, defaults={"active_backend": row})


def registry() -> None:
    from accounts.actors import Actor
    from mhsite import home
    from router.services import registry_import

    data = json.loads((home.REPOSITORY / "etc" / "models.json").read_text())
    data["models"]["cold"] = {"provider": "active", "options": {"temperature": 0, "maxTokens": 3}}
    data["models"]["elsewhere"] = {"provider": "openai", "model": "gpt"}
    data["roles"]["cold"] = ["elsewhere", "cold"]
    registry_import(actor=Actor.system(), data=data)


def tokens() -> dict[str, str]:
    from accounts.actors import Actor
    from accounts.models import Role
    from accounts.services import token_create, user_create

    found = {}
    for role in Role.values:
        user = user_create(
            actor=Actor.system(), username=f"the-{role}", password="a-Long-enough-1", role=role
        )
        _, found[role] = token_create(actor=Actor.system(), user=user, name="test")
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
