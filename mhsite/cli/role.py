"""``mh role …``"""

from typing import Annotated, Any

import typer

from mhsite.cli.output import Json, Output

app = typer.Typer(
    help="Roles: what applications ask for, each a chain of models.", no_args_is_help=True
)


@app.command("list")
def list_(*, as_json: Json = False) -> None:
    """List the roles, each with its chain and which model of it can answer."""
    from mhsite.cli.context import site_ready

    site_ready()
    from router import registry_payloads

    found = registry_payloads.roles(None)
    rows = [
        (
            role["name"],
            " → ".join(role["chain"]) or "(the active backend)",
            "yes" if role["available"] else "no",
            _remark(role),
        )
        for role in found
    ]
    columns = ("role", "models", "available", "remark")
    Output(as_json=as_json).table({"roles": found}, columns, rows, empty="No roles.")


def _remark(role: Any) -> str:
    said = [f"options {role['options']}"] if role["options"] else []
    said += [f"context {role['context']}"] if role["context"] != "error" else []
    troubled = [
        f"{link['id']}: {link['availability']['state']}"
        for link in role["links"]
        if link["availability"]["state"] != "available"
    ]
    return "; ".join([*said, *troubled])


@app.command("set")
def set_(
    role: Annotated[str, typer.Argument(help="Its name: persona")],
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL…", help="Ids of models, tried in this order.")
    ],
    options: Annotated[
        str | None,
        typer.Option("--options", help='JSON that wins over the models\': {"temperature": 0}'),
    ] = None,
    context: Annotated[
        str | None,
        typer.Option("--context", help="error, or trim: leave out the oldest messages."),
    ] = None,
    *,
    as_json: Json = False,
) -> None:
    """Give a role a chain of models. Its options and context policy stay, unless they are named."""
    from mhsite.cli.context import owner_actor, site_ready
    from mhsite.cli.given import json_object

    site_ready()
    from router import registry_payloads, services
    from router.registry_schemas import RoleFile
    from router.schemas import parse
    from router.services.scopes import Scope

    before = next((row for row in registry_payloads.roles(None) if row["name"] == role), None)
    data = parse(
        RoleFile,
        {
            "chain": models,
            "options": json_object(options, "--options")
            if options is not None
            else (before["options"] if before else {}),
            "context": context or (before["context"] if before else "error"),
        },
    )
    services.role_set(actor=owner_actor(), name=role, data=data, scope=Scope.SITE)
    found = registry_payloads.role(role, None)
    lines = [f"{role}: {' → '.join(found['chain'])}"]
    lines += [
        f"  {link['id']} is {link['availability']['state']}: {link['availability']['message']}"
        for link in found["links"]
        if link["availability"]["message"]
    ]
    Output(as_json=as_json).result(found, *lines)


@app.command()
def unset(role: Annotated[str, typer.Argument(help="Its name.")], *, as_json: Json = False) -> None:
    """Forget what is set for a role; a shipped one is then answered by the active backend."""
    from mhsite.cli.context import owner_actor, site_ready

    site_ready()
    from router import services
    from router.services.scopes import Scope

    services.role_unset(actor=owner_actor(), name=role, scope=Scope.SITE)
    Output(as_json=as_json).result({"unset": role}, f"{role} is unset.")
