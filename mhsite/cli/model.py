"""``mh model …``"""

import json
from typing import Annotated

import typer

from mhsite.cli.output import Json, Output

app = typer.Typer(
    help="Models of the registry: names for a provider's models, with options.",
    no_args_is_help=True,
)


@app.command("list")
def list_(
    search: Annotated[
        str, typer.Argument(help="Part of an id or of a model's name.", show_default=False)
    ] = "",
    *,
    as_json: Json = False,
) -> None:
    """List the models, each with whether it can answer."""
    from mhsite.cli.context import site_ready

    site_ready()
    from router import registry_payloads

    found = [
        row
        for row in registry_payloads.models(None)
        if search.lower() in f"{row['id']} {row['model']}".lower()
    ]
    rows = [
        (
            row["id"],
            row["provider"],
            row["model"],
            row["availability"]["state"],
            ", ".join(row["roles"]),
        )
        for row in found
    ]
    columns = ("id", "provider", "model", "state", "roles")
    Output(as_json=as_json).table({"models": found}, columns, rows, empty="No models.")


@app.command()
def show(
    model_id: Annotated[str, typer.Argument(metavar="ID", help="Its id: default.persona")],
    *,
    as_json: Json = False,
) -> None:
    """Show a model: what it names, its options, who uses it, and whether it can answer."""
    from mhsite.cli.context import site_ready

    site_ready()
    from router import registry_payloads

    row = registry_payloads.model(model_id, None)
    state, why = row["availability"]["state"], row["availability"]["message"]
    Output(as_json=as_json).result(
        row,
        f"{row['id']}: {row['description']}".removesuffix(": "),
        f"Provider: {row['provider']}",
        f"Model: {row['model'] or 'what it serves at the moment'}",
        f"Options: {json.dumps(row['options'])}",
        f"When off: {row['when_off']}",
        f"Capabilities: {', '.join(row['capabilities']) or 'not said'}",
        f"Roles: {', '.join(row['roles']) or 'none'}",
        f"State: {state}" + (f" ({why})" if why else ""),
    )


@app.command()
def add(
    model_id: Annotated[str, typer.Argument(metavar="ID", help="What requests name: night.coder")],
    *,
    provider: Annotated[
        str, typer.Option("--provider", help="active, a backend, or a provider account.")
    ] = "active",
    model: Annotated[
        str, typer.Option("--model", help="As the provider names it; empty: what it serves.")
    ] = "",
    options: Annotated[
        str | None, typer.Option("--options", help='JSON: {"temperature": 0, "maxTokens": 2048}')
    ] = None,
    when_off: Annotated[
        str, typer.Option("--when-off", help="next, wait, substitute or error.")
    ] = "next",
    capability: Annotated[
        list[str],
        typer.Option(
            "--capability",
            help="completion, tools, vision, embedding or thinking; may be repeated.",
        ),
    ] = [],  # noqa: B006
    description: Annotated[str, typer.Option("--description", help="For people.")] = "",
    as_json: Json = False,
) -> None:
    """Add a model to the registry."""
    from mhsite.cli.context import owner_actor, site_ready
    from mhsite.cli.given import json_object

    site_ready()
    from router import registry_payloads, services
    from router.registry_schemas import EntryCreate
    from router.schemas import parse
    from router.services.scopes import Scope

    data = parse(
        EntryCreate,
        {
            "id": model_id,
            "provider": provider,
            "model": model,
            "options": json_object(options, "--options"),
            "whenOff": when_off,
            "capabilities": capability,
            "description": description,
        },
    )
    services.model_entry_create(actor=owner_actor(), data=data, scope=Scope.SITE)
    row = registry_payloads.model(model_id, None)
    state, why = row["availability"]["state"], row["availability"]["message"]
    Output(as_json=as_json).result(row, f"{model_id} is added: {state}. {why}".strip())


@app.command()
def rm(
    model_id: Annotated[str, typer.Argument(metavar="ID", help="Its id.")],
    *,
    as_json: Json = False,
) -> None:
    """Remove a model that no role needs."""
    from mhsite.cli.context import owner_actor, site_ready

    site_ready()
    from router import services
    from router.services.scopes import Scope

    services.model_entry_delete(actor=owner_actor(), entry_id=model_id, scope=Scope.SITE)
    Output(as_json=as_json).result({"removed": model_id}, f"{model_id} is removed.")
