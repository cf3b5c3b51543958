"""``models.json`` on the Roles page: downloaded, and taken over after a look at what changes."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final, TypedDict

from django.core.files.uploadedfile import UploadedFile
from django.http import HttpRequest, HttpResponse

from accounts.actors import Actor
from accounts.errors import Invalid, InvalidRequest, MhError, TooLarge
from accounts.pages import changed, only, shown
from accounts.permissions import Permission
from audit.access import require
from router import services
from router.pages.roles import roles_url
from router.registry_schemas import RegistryFile
from router.schemas import problems
from router.services.scopes import Scope

#: Bytes of a file; the largest registry is far smaller.
FILE_MAX: Final = 2 * 1024 * 1024


class Difference(TypedDict):
    """What becomes of one model or role."""

    #: ``model`` or ``role``.
    kind: str
    name: str
    #: ``added``, ``changed`` or ``removed``.
    change: str
    #: As the file has it; empty where it is not there.
    before: str
    after: str


@only("GET")
def export_file(request: HttpRequest, actor: Actor) -> HttpResponse:
    """Download the site's models and roles as ``models.json``."""
    del request
    _door(actor)
    text = json.dumps(services.registry_export(), indent=2, ensure_ascii=False) + "\n"
    headers = {"Content-Disposition": 'attachment; filename="models.json"'}
    return HttpResponse(text, content_type="application/json", headers=headers)


def import_file(request: HttpRequest, actor: Actor) -> HttpResponse:
    """Read a ``models.json``, show what it changes, and take it over when that was confirmed."""
    _door(actor)
    if request.method != "POST":
        return _page(request)
    try:
        text = _text(request)
        data = _read(text)
    except MhError as exc:
        return _page(request, problems=[exc.message], status=exc.status)
    wrong = problems(RegistryFile, data)
    if wrong:
        return _page(request, problems=wrong, status=422)
    now = digest()
    if request.POST.get("seen") == now:
        return changed(
            request,
            roles_url(Scope.SITE),
            lambda: services.registry_import(actor=actor, data=data),
            "The file was taken over.",
        )
    differences = differences_of(services.registry_export(), data)
    moved = bool(request.POST.get("seen"))
    return _page(request, differences=differences, text=text, seen=now, moved=moved, is_read=True)


def _door(actor: Actor) -> None:
    require(actor, Permission.REGISTRY_MANAGE, target_type="registry")


def _text(request: HttpRequest) -> str:
    file = request.FILES.get("file")
    if not isinstance(file, UploadedFile):
        text = str(request.POST.get("text", ""))
        if not text:
            raise InvalidRequest("Choose a file.", param="file")
        return text
    if (file.size or 0) > FILE_MAX:
        raise TooLarge(f"The file is larger than {FILE_MAX // 1024 // 1024} MiB.", param="file")
    try:
        return str(file.read().decode())
    except UnicodeDecodeError as exc:
        raise Invalid("The file is no text in UTF-8.", param="file") from exc


def _read(text: str) -> Any:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as exc:
        where = f" {exc}." if isinstance(exc, json.JSONDecodeError) else ""
        raise InvalidRequest(f"The file is no JSON.{where}", param="file") from exc
    if "\\u0000" in text or "\0" in text:
        raise Invalid("The file holds a NUL character.", param="file")
    return data


def _page(request: HttpRequest, status: int = 200, **context: Any) -> HttpResponse:
    page = shown(
        request,
        "router/import.html",
        "Import models.json",
        {"back": roles_url(Scope.SITE), **context},
    )
    page.status_code = status
    return page


def digest() -> str:
    """Return what tells this registry from another."""
    text = json.dumps(services.registry_export(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def differences_of(before: Mapping[str, Any], data: Mapping[str, Any]) -> list[Difference]:
    """Return what a file that is good would change, models before roles."""
    file = RegistryFile.model_validate(data)
    models = {name: _plain(entry.row()) for name, entry in file.models.items()}
    roles = {name: _role(role.model_dump()) for name, role in file.long_roles().items()}
    stored = RegistryFile.model_validate(before)
    old_models = {name: _plain(entry.row()) for name, entry in stored.models.items()}
    old_roles = {name: _role(role.model_dump()) for name, role in stored.long_roles().items()}
    return [*_changes("model", old_models, models), *_changes("role", old_roles, roles)]


def _role(role: dict[str, Any]) -> dict[str, Any]:
    options = {name: value for name, value in role["options"].items() if value is not None}
    return _plain({**role, "options": options, "context": role["context"].replace("error", "")})


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in values.items()
        if value not in ("", {}, []) and (name, value) != ("when_off", "next")
    }


def _changes(kind: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Difference]:
    return [
        Difference(
            kind=kind,
            name=name,
            change=_word(name in before, name in after),
            before=_lines(before.get(name)),
            after=_lines(after.get(name)),
        )
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    ]


def _word(was: bool, will_be: bool) -> str:
    if was and will_be:
        return "changed"
    return "added" if will_be else "removed"


def _lines(value: Any) -> str:
    if value is None:
        return ""
    return "\n".join(
        f"{name}: {json.dumps(one, ensure_ascii=False)}" for name, one in value.items()
    )
