"""``mh provider …``"""

from typing import Annotated, Any

import typer

from mhsite.cli.given import settings_given
from mhsite.cli.output import Json, Output

app = typer.Typer(
    help="Accounts at providers on the network: keys are tried, kept encrypted, and never shown.",
    no_args_is_help=True,
)

_COLUMNS = ("name", "kind", "credentials", "ready", "models", "last try")
NAME = Annotated[str, typer.Argument(help="What models name as their provider: openrouter")]


@app.command("list")
def list_(*, as_json: Json = False) -> None:
    """List the accounts: whether each can be used, and what was found when its credentials were tried last."""
    from mhsite.cli.context import site_ready

    site_ready()
    from router import registry_payloads

    found = registry_payloads.accounts(whole=True)
    payload = {"providers": found, "kinds": registry_payloads.kinds()}
    Output(as_json=as_json).table(payload, _COLUMNS, map(_cells, found), empty="No accounts.")


def _cells(account: Any) -> tuple[str, ...]:
    return (
        account["name"],
        account["kind"],
        ", ".join(name for name, is_set in account["secrets"].items() if is_set) or "none",
        "yes" if account["ready"] else "no",
        ", ".join(account["models"]) or "none",
        account["why_not"] or account["check"]["message"],
    )


@app.command()
def add(
    name: NAME,
    *,
    kind: Annotated[
        str, typer.Option("--kind", help="openai, runpod or huggingface; the name by default.")
    ] = "",
    given: Annotated[
        list[str],
        typer.Option(
            "--set",
            metavar="SETTING=VALUE",
            help="A setting that is no secret: baseUrl=https://openrouter.ai/api/v1. May be repeated.",
        ),
    ] = [],  # noqa: B006
    environment: Annotated[
        list[str],
        typer.Option(
            "--env",
            metavar="[SETTING=]VARIABLE",
            help="Read a secret from an environment variable; may be repeated. Without it secrets are asked"
            " for, or read from standard input: the one there is, or a JSON object of several.",
        ),
    ] = [],  # noqa: B006
    untried: Annotated[
        bool, typer.Option("--no-check", help="Save the credentials without trying them.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Add an account. Secrets never stand on the command line, which others on the machine can read."""
    from mhsite.cli.context import owner_actor, site_ready

    site_ready()
    from mhsite.cli.credentials import secrets_read
    from router import registry_payloads, services
    from router.account_settings import secret_names, settings_class
    from router.registry_schemas import AccountCreate
    from router.schemas import parse

    secret = sorted(secret_names(settings_class(kind or name)))
    settings = settings_given(given, "--set")
    if named := [setting for setting in settings if _plain(setting) in map(_plain, secret)]:
        msg = f"{named[0]} is a secret: leave it out, and it is asked for; or see --env"
        raise typer.BadParameter(msg, param_hint="--set")
    settings |= secrets_read(secret, environment)
    data = parse(
        AccountCreate,
        {"name": name, "kind": kind or name, "settings": settings, "check": not untried},
    )
    row = services.provider_account_create(actor=owner_actor(), data=data)
    account = registry_payloads.account(row, whole=True)
    said = account["check"]["message"]
    Output(as_json=as_json).result(account, f"{name} is added. {said}")


def _plain(setting: str) -> str:
    """Return a setting's name as it is compared: ``apiKey`` and ``api_key`` are one."""
    return setting.replace("_", "").lower()


@app.command("test")
def try_(name: NAME, *, as_json: Json = False) -> None:
    """Try the stored credentials now, without generating anything. 1 where they do not work."""
    from mhsite.cli.context import owner_actor, site_ready

    site_ready()
    from router import registry_payloads, services

    row = services.provider_account_check(actor=owner_actor(), name=name)
    account = registry_payloads.account(row, whole=True)
    Output(as_json=as_json).result(account, f"{name}: {account['check']['message']}")
    if account["check"]["good"] is False:
        raise typer.Exit(1)


@app.command()
def rm(name: NAME, *, as_json: Json = False) -> None:
    """Remove an account that no model names, its credentials with it."""
    from mhsite.cli.context import owner_actor, site_ready

    site_ready()
    from router import services

    services.provider_account_delete(actor=owner_actor(), name=name)
    Output(as_json=as_json).result({"removed": name}, f"{name} is removed.")
