"""The logs page: what an engine writes, as it writes it, and what it wrote at earlier starts."""

from typing import Any, Final
from urllib.parse import urlencode

from django.http import HttpRequest, HttpResponse
from django.urls import reverse

from accounts.actors import Actor
from accounts.pages import Page, only, shown
from accounts.permissions import Permission, is_allowed
from audit import access
from backends import selectors
from backends.errors import UnknownStart
from backends.models import Backend
from backends.selectors.history import backends_owned
from backends.words import bytes_text

#: Lines that the page comes with.
LINES: Final = 500


@only("GET")
def logs(request: HttpRequest, actor: Actor) -> HttpResponse:
    """Show the last lines of a start's log; the page's script follows the current one."""
    readable = [row for row in selectors.backend_list() if _may_read(actor, row)]
    name = request.GET.get("backend") or _first(readable)
    start = request.GET.get("start", "")
    titles = {row.name: selectors.backend_engine(row).title for row in readable}
    if name and name not in titles:
        _require(actor, name)
    context: dict[str, Any] = {
        "backends": [{"name": key, "title": title} for key, title in titles.items()],
        "name": name,
        "backend_title": titles.get(name, ""),
        "start": start,
        "lines": selectors.backend_log(name, LINES, start=start) if name else [],
        "starts": _starts(name) if name else [],
        "download_url": f"{reverse('admin:logs-download')}?{urlencode({'backend': name, 'start': start})}",
        "config": {"backend": name, "start": start},
    }
    return shown(request, "backends/logs.html", "Logs", context)


def _may_read(actor: Actor, backend: Backend) -> bool:
    return is_allowed(actor.user, Permission.LOGS_READ, backend_owner_id=backend.owner_id)


def _require(actor: Actor, name: str) -> Backend:
    backend = selectors.backend_get(name)
    access.require(
        actor,
        Permission.LOGS_READ,
        target_type="backend",
        target_id=name,
        backend_owner_id=backend.owner_id,
    )
    return backend


def _first(rows: list[Backend]) -> str:
    """Return the active backend where its log may be read, else the first one."""
    active = selectors.active_backend()
    names = [row.name for row in rows]
    return active.name if active and active.name in names else next(iter(names), "")


def _starts(name: str) -> list[dict[str, Any]]:
    return [
        {
            "id": start["id"],
            "at": (start["started_at"] or start["id"])[:19].replace("T", " "),
            "ended": "running" if start["running"] else start["ended"],
            "size": bytes_text(start["size_bytes"]),
        }
        for start in selectors.backend_starts(name)
    ]


@only("GET")
def download(request: HttpRequest, actor: Actor) -> HttpResponse:
    """Send everything that is kept of a start's log, without secrets, as a text file."""
    name, start = request.GET.get("backend", ""), request.GET.get("start", "")
    _require(actor, name)
    found = selectors.backend_log_whole(name, start=start)
    text = "".join(f"{line}\n" for line in found)
    if not text:
        raise UnknownStart(f"{name} has not been started yet, so there is no log.", param="start")
    return HttpResponse(
        text,
        content_type="text/plain; charset=utf-8",
        headers={
            "Content-Disposition": f'attachment; filename="{name}{"-" * bool(start)}{start}.log"'
        },
    )


PAGE: Final = Page(
    name="logs",
    title="Logs",
    path="backends/logs/",
    icon="terminal",
    section="Records",
    permission=Permission.LOGS_READ,
    view=logs,
    actions=(("logs-download", "download", download),),
    order=20,
    also_for=backends_owned,
)
