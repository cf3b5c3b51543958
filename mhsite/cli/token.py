"""``mh token …``"""

from typing import Annotated

import typer

from mhsite.cli.output import Json, Output

app = typer.Typer(help="API tokens: make, list, revoke.", no_args_is_help=True)


@app.command()
def create(
    name: Annotated[str, typer.Option("--name", help="What it is for.")],
    user: Annotated[
        str | None, typer.Option("--user", help="Whose it is; the owner's by default.")
    ] = None,
    expires: Annotated[
        int, typer.Option("--expires", metavar="DAYS", help="Days it lives; 0 for ever.", min=0)
    ] = 365,
    scope: Annotated[
        list[str], typer.Option("--scope", help="Limit it to a permission; may be repeated.")
    ] = [],  # noqa: B006
    *,
    as_json: Json = False,
) -> None:
    """Make a token and print it, the only time it is shown."""
    from mhsite.cli.context import owner_actor, site_ready

    site_ready()
    from accounts import selectors, services

    actor = owner_actor()
    owner = selectors.user_get(user) if user else actor.user
    if owner is None:
        raise typer.BadParameter("this site has no owner; name a user", param_hint="--user")
    token, plain = services.token_create(
        actor=actor, user=owner, name=name, expires_days=expires or None, scopes=scope
    )
    out = Output(as_json=as_json)
    out.note(f"Token {token.public_id} of {owner.get_username()}; it is not shown again:")
    out.result({"token": plain, **selectors.token_payload(token)}, plain)


@app.command("list")
def list_(
    user: Annotated[str | None, typer.Option("--user", help="Only this user's.")] = None,
    *,
    as_json: Json = False,
) -> None:
    """List the tokens; what they are is not kept."""
    from mhsite.cli.context import owner_actor, site_ready

    site_ready()
    from accounts import selectors

    found = [
        selectors.token_payload(token)
        for token in selectors.tokens(actor=owner_actor(), username=user)
    ]
    rows = [
        (t["id"], t["name"], t["user"], " ".join(t["scopes"]) or "all", str(t["expires_at"] or ""))
        for t in found
    ]
    columns = ("id", "name", "user", "scopes", "expires")
    Output(as_json=as_json).table({"tokens": found}, columns, rows, empty="No tokens.")


@app.command()
def revoke(
    token_id: Annotated[str, typer.Argument(metavar="ID", help="Its id: tok_…")],
    *,
    as_json: Json = False,
) -> None:
    """Revoke a token; it stops working at once."""
    from mhsite.cli.context import owner_actor, site_ready

    site_ready()
    from accounts import services

    services.token_revoke(actor=owner_actor(), public_id=token_id)
    Output(as_json=as_json).result({"revoked": token_id}, f"{token_id} is revoked.")
