"""REST of models, roles and provider accounts: a view parses, calls one service or selector, and answers."""

from typing import Any, Final

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.actors import Actor
from accounts.errors import Invalid
from accounts.lists import ListView, WholePages
from accounts.permissions import Permission, is_allowed
from accounts.requests import actor_of
from audit.access import require
from router import registry_payloads as payloads
from router import registry_serializers as shapes
from router import services
from router.registry_schemas import (
    AccountChange,
    AccountCreate,
    EntryChange,
    EntryCreate,
    RoleFile,
)
from router.schemas import ROLE_NAME, parse
from router.services.scopes import Scope, scope_parse

_ROLE: Final = OpenApiParameter(
    "name",
    {"type": "string", "pattern": f"^{ROLE_NAME.pattern}$"},
    OpenApiParameter.PATH,
)
_SCOPE: Final = OpenApiParameter(
    "scope", OpenApiTypes.STR, enum=["site", "mine"], description=shapes.WHOSE
)
_KIND: Final = {
    "type": "object",
    "required": ["kind", "title", "schema", "secrets"],
    "properties": {
        "kind": {"type": "string"},
        "title": {"type": "string"},
        "schema": {"type": "object", "additionalProperties": {}},
        "secrets": {"type": "array", "items": {"type": "string"}},
    },
}


def _reader(request: Request, target_type: str) -> Actor:
    actor = actor_of(request)
    require(actor, _least(actor), target_type=target_type)
    return actor


def _least(actor: Actor) -> Permission:
    """Return what ``actor`` needs to see the registry: who may change the site's, may see it."""
    manages = is_allowed(actor.user, Permission.REGISTRY_MANAGE, scopes=actor.scopes)
    return Permission.REGISTRY_MANAGE if manages else Permission.REGISTRY_OWN


def _writer(request: Request, target_type: str, target_id: str = "") -> tuple[Actor, Scope | None]:
    """Return who writes and whose things; that they may is judged before the body is read."""
    actor = actor_of(request)
    require(actor, _least(actor), target_type=target_type, target_id=target_id[:80])
    return actor, scope_parse(request.query_params.get("scope"))


def _owner(request: Request, name: str = "") -> Actor:
    actor = actor_of(request)
    require(actor, Permission.REGISTRY_MANAGE, target_type="provider", target_id=name[:80])
    return actor


def _scope_read(request: Request) -> str | None:
    return scope_parse(request.query_params.get("scope"))


def _body(request: Request) -> Any:
    """Return the body.

    Raises:
        Invalid: text in it cannot be stored.
    """
    if not _is_storable(request.data):
        raise Invalid("The body holds a NUL character or half of a surrogate pair.")
    return request.data


def _is_storable(value: Any) -> bool:
    """Say whether every text in a JSON value can be written to any database."""
    if isinstance(value, dict):
        return all(_is_storable(part) for item in value.items() for part in item)
    if isinstance(value, list):
        return all(_is_storable(part) for part in value)
    if not isinstance(value, str):
        return True
    return "\0" not in value and not any("\ud800" <= letter <= "\udfff" for letter in value)


class _Pages(WholePages):
    """Pages that also have ``total``, as ``count`` was called here first."""

    def get_paginated_response(self, data: Any) -> Response:
        """Answer a page."""
        answer = super().get_paginated_response(data)
        answer.data["total"] = self.count
        return answer

    def get_paginated_response_schema(self, schema: dict[str, Any]) -> dict[str, Any]:
        """Return the page as OpenAPI has it."""
        page = super().get_paginated_response_schema(schema)
        page["properties"]["total"] = {"type": "integer", "description": "as `count`"}
        return page


class _AccountPages(_Pages):
    """Pages that also have the kinds that can be added, for owners."""

    def get_paginated_response_schema(self, schema: dict[str, Any]) -> dict[str, Any]:
        """Return the page as OpenAPI has it."""
        page = super().get_paginated_response_schema(schema)
        page["properties"]["kinds"] = {
            "type": "array",
            "description": "what can be added; for owners",
            "items": _KIND,
        }
        return page


class ModelsView(ListView):
    """The models of the registry."""

    query = shapes.EntriesQuery
    pagination_class = _Pages

    @extend_schema(
        operation_id="models_list",
        parameters=[shapes.EntriesQuery],
        responses=shapes.EntryResponse(many=True),
        tags=["models"],
    )
    def get(self, request: Request) -> Response:
        """List models, each with whether it can answer, and if not, why."""
        actor = _reader(request, "model")
        asked, scope = self.asked(), _scope_read(request)
        rows = payloads.models(actor.user, scope)
        if "provider" in asked:
            rows = [row for row in rows if row["provider"] == asked["provider"]]
        if "state" in asked:
            rows = [row for row in rows if row["availability"]["state"] == asked["state"]]
        part = asked.get("search", "").lower()
        return self.page([row for row in rows if part in f"{row['id']} {row['model']}".lower()])

    @extend_schema(
        operation_id="models_create",
        parameters=[_SCOPE],
        request={"application/json": shapes.reference(EntryCreate)},
        responses={201: shapes.EntryResponse},
        tags=["models"],
    )
    def post(self, request: Request) -> Response:
        """Add a model."""
        actor, scope = _writer(request, "model")
        data = parse(EntryCreate, _body(request))
        services.model_entry_create(actor=actor, data=data, scope=scope)
        return Response(
            _model_now(actor, data.id, scope),
            status=status.HTTP_201_CREATED,
            headers={"Location": f"/api/models/{data.id}"},
        )


def _model_now(actor: Actor, entry_id: str, scope: Scope | None) -> payloads.ModelPayload:
    return payloads.model(entry_id, actor.user, _scope_written(actor, scope))


def _scope_written(actor: Actor, scope: Scope | None) -> Scope:
    """Return whose thing was written where the request did not say."""
    if scope is not None:
        return scope
    return Scope.SITE if _least(actor) == Permission.REGISTRY_MANAGE else Scope.MINE


class ModelView(APIView):
    """One model of the registry."""

    @extend_schema(
        operation_id="model", parameters=[_SCOPE], responses=shapes.EntryResponse, tags=["models"]
    )
    def get(self, request: Request, entry_id: str) -> Response:
        """Return a model, with whether it can answer."""
        actor = _reader(request, "model")
        return Response(payloads.model(entry_id, actor.user, _scope_read(request)))

    @extend_schema(
        operation_id="models_change",
        parameters=[_SCOPE],
        request={"application/json": shapes.reference(EntryChange)},
        responses={200: shapes.EntryResponse},
        tags=["models"],
    )
    def patch(self, request: Request, entry_id: str) -> Response:
        """Change what is sent of a model; null puts it back to its default."""
        actor, scope = _writer(request, "model", entry_id)
        data = parse(EntryChange, _body(request))
        services.model_entry_update(actor=actor, entry_id=entry_id, data=data, scope=scope)
        return Response(_model_now(actor, entry_id, scope))

    @extend_schema(
        operation_id="models_delete",
        parameters=[_SCOPE],
        responses={
            204: OpenApiResponse(description="deleted"),
            409: OpenApiResponse(description="roles need it; the message names them"),
        },
        tags=["models"],
    )
    def delete(self, request: Request, entry_id: str) -> Response:
        """Delete a model that no role needs."""
        actor, scope = _writer(request, "model", entry_id)
        services.model_entry_delete(actor=actor, entry_id=entry_id, scope=scope)
        return Response(status=status.HTTP_204_NO_CONTENT)


class RolesView(ListView):
    """The roles."""

    query = shapes.RolesQuery
    pagination_class = _Pages

    @extend_schema(
        operation_id="roles_list",
        parameters=[shapes.RolesQuery],
        responses=shapes.RoleResponse(many=True),
        tags=["roles"],
    )
    def get(self, request: Request) -> Response:
        """List roles, each with its chain and which of it can answer."""
        actor = _reader(request, "role")
        asked, scope = self.asked(), _scope_read(request)
        rows = payloads.roles(actor.user, scope)
        if "available" in asked:
            rows = [row for row in rows if row["available"] is asked["available"]]
        part = asked.get("search", "").lower()
        return self.page([row for row in rows if part in row["name"]])


class RoleView(APIView):
    """One role."""

    @extend_schema(
        operation_id="role", parameters=[_SCOPE], responses=shapes.RoleResponse, tags=["roles"]
    )
    def get(self, request: Request, name: str) -> Response:
        """Return a role."""
        actor = _reader(request, "role")
        return Response(payloads.role(name, actor.user, _scope_read(request)))

    @extend_schema(
        operation_id="roles_set",
        parameters=[_ROLE, _SCOPE],
        request={"application/json": shapes.reference(RoleFile)},
        responses={200: shapes.RoleResponse},
        tags=["roles"],
    )
    def put(self, request: Request, name: str) -> Response:
        """Give a role its chain, options and context policy; a user's own wins for their requests only."""
        actor, scope = _writer(request, "role", name)
        data = parse(RoleFile, _body(request))
        scope = services.role_set(actor=actor, name=name, data=data, scope=scope)
        return Response(payloads.role(name, actor.user, scope))

    @extend_schema(
        operation_id="roles_unset",
        parameters=[_SCOPE],
        responses={204: OpenApiResponse(description="what was set is forgotten")},
        tags=["roles"],
    )
    def delete(self, request: Request, name: str) -> Response:
        """Forget what is set for a role: one's own gives way to the site's, a shipped one to the active backend."""
        actor, scope = _writer(request, "role", name)
        services.role_unset(actor=actor, name=name, scope=scope)
        return Response(status=status.HTTP_204_NO_CONTENT)


class ProvidersView(ListView):
    """The accounts at providers."""

    query = shapes.ProvidersQuery
    pagination_class = _AccountPages

    @extend_schema(
        operation_id="providers_list",
        parameters=[shapes.ProvidersQuery],
        responses=shapes.ProviderResponse(many=True),
        tags=["providers"],
    )
    def get(self, request: Request) -> Response:
        """List accounts; owners see their settings, which secrets are set, and what kinds can be added."""
        actor = _reader(request, "provider")
        whole = is_allowed(actor.user, Permission.REGISTRY_MANAGE, scopes=actor.scopes)
        asked, rows = self.asked(), payloads.accounts(whole=whole)
        if "kind" in asked:
            rows = [row for row in rows if row["kind"] == asked["kind"]]
        answer = self.page(rows)
        if whole:
            answer.data["kinds"] = payloads.kinds()
        return answer

    @extend_schema(
        operation_id="providers_create",
        request={"application/json": shapes.reference(AccountCreate)},
        responses={
            200: OpenApiResponse(shapes.ProviderResponse, description="tried, not saved"),
            201: shapes.ProviderResponse,
            503: OpenApiResponse(description="the provider could not be asked; nothing was saved"),
        },
        tags=["providers"],
    )
    def post(self, request: Request) -> Response:
        """Add an account. Its credentials are tried before they are saved, and never shown."""
        actor = _owner(request)
        data = parse(AccountCreate, _body(request))
        row = services.provider_account_create(actor=actor, data=data)
        if not data.save:
            return Response(payloads.account(row, whole=True))
        return Response(
            payloads.account(row, whole=True),
            status=status.HTTP_201_CREATED,
            headers={"Location": f"/api/providers/{row.name}"},
        )


class ProviderView(APIView):
    """One account."""

    @extend_schema(operation_id="provider", responses=shapes.ProviderResponse, tags=["providers"])
    def get(self, request: Request, name: str) -> Response:
        """Return an account with the JSON Schema of its settings; secrets only as whether they are set."""
        _owner(request, name)
        return Response(payloads.account_named(name, whole=True))

    @extend_schema(
        operation_id="providers_change",
        request={"application/json": shapes.reference(AccountChange)},
        responses={200: shapes.ProviderResponse},
        tags=["providers"],
    )
    def patch(self, request: Request, name: str) -> Response:
        """Change settings, the whole tried before it is saved; null removes one."""
        actor = _owner(request, name)
        data = parse(AccountChange, _body(request))
        row = services.provider_account_update(actor=actor, name=name, data=data)
        return Response(payloads.account(row, whole=True))

    @extend_schema(
        operation_id="providers_delete",
        responses={
            204: OpenApiResponse(description="deleted"),
            409: OpenApiResponse(description="models name it; the message names them"),
        },
        tags=["providers"],
    )
    def delete(self, request: Request, name: str) -> Response:
        """Delete an account that no model names."""
        services.provider_account_delete(actor=_owner(request, name), name=name)
        return Response(status=status.HTTP_204_NO_CONTENT)


class ProviderCheckView(APIView):
    """Do the credentials work?"""

    @extend_schema(
        operation_id="providers_check",
        request=None,
        responses={200: shapes.ProviderResponse},
        tags=["providers"],
    )
    def post(self, request: Request, name: str) -> Response:
        """Try the stored credentials; ``check`` of the answer says what was found."""
        row = services.provider_account_check(actor=_owner(request, name), name=name)
        return Response(payloads.account(row, whole=True))
