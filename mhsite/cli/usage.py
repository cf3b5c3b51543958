"""``mh usage``: what requests cost."""

from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mhsite.cli.output import Json, Output

if TYPE_CHECKING:
    from router.usage.selectors import GroupPayload, RecordPayload


class Group(StrEnum):
    """What requests are summed by."""

    DAY = "day"
    USER = "user"
    MODEL = "model"
    ROLE = "role"
    PROVIDER = "provider"


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command()(usage)


def usage(
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, max=100_000)] = 20,
    by: Annotated[Group | None, typer.Option("--by", help="Sums by this instead.")] = None,
    user: Annotated[str | None, typer.Option("--user", help="Only this user's.")] = None,
    days: Annotated[int | None, typer.Option("--days", min=1, help="Only the last days.")] = None,
    *,
    as_json: Json = False,
) -> None:
    """Show what requests cost, the last first, or sums of them."""
    from mhsite.cli.context import owner_actor, site_ready

    site_ready()
    from django.utils import timezone

    from router.usage import selectors

    since = timezone.now() - timedelta(days=days) if days else None
    query = selectors.records(owner_actor(), {"user": user, "from": since})
    out = Output(as_json=as_json)
    if by is not None:
        groups = selectors.summary(query, by.value)
        payload: dict[str, Any] = {"group_by": by.value, "results": groups}
        columns = [by.value, "requests", "errors", "tokens", "first token", "total"]
        out.table(payload, columns, [_group(group) for group in groups], empty="No requests.")
        return
    rows = [selectors.record_payload(row) for row in query[:lines]]
    columns = ["at", "user", "surface", "model", "outcome", "tokens", "first token", "total"]
    out.table({"results": rows}, columns, [_row(row) for row in rows], empty="No requests.")


def _group(group: "GroupPayload") -> list[str]:
    return [
        group["group"] or "-",
        str(group["requests"]),
        str(group["errors"]),
        str(group["total_tokens"]),
        _ms(group["ttft_ms"]["p50"]),
        _ms(group["total_ms"]["p50"]),
    ]


def _row(row: "RecordPayload") -> list[str]:
    tokens = row["total_tokens"]
    return [
        row["at"][:19].replace("T", " "),
        row["user"],
        row["surface"],
        row["model"] or "-",
        row["outcome"],
        "-" if tokens is None else str(tokens),
        _ms(row["ttft_ms"]),
        _ms(row["total_ms"]),
    ]


def _ms(milliseconds: float | None) -> str:
    return "-" if milliseconds is None else f"{milliseconds:.0f} ms"
