"""REST: events, the check of their chain, and their export. Read-only; owners only."""

import json
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any, cast

from django.http import HttpRequest
from django.http.response import StreamingHttpResponse
from django.views.decorators.http import require_GET
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.lists import GrowingPages, ListView
from accounts.permissions import Permission
from accounts.requests import actor_of, authenticate
from accounts.strict import StrictSerializer
from audit import selectors
from audit.access import arequire, require
from audit.models import Category, Level, Outcome


class EventFilterSerializer(serializers.Serializer[Any]):
    """What events can be chosen by."""

    event = serializers.CharField(
        required=False, help_text="its name, or the part before a dot: operation"
    )
    category = serializers.ChoiceField(choices=Category.choices, required=False)
    level = serializers.ChoiceField(choices=Level.choices, required=False)
    outcome = serializers.ChoiceField(choices=Outcome.choices, required=False)
    actor = serializers.CharField(required=False, help_text="user name")
    surface = serializers.CharField(required=False)
    target_type = serializers.CharField(required=False)
    target = serializers.CharField(required=False)
    request_id = serializers.CharField(required=False)
    since = serializers.DateTimeField(required=False, help_text="from this time on")
    until = serializers.DateTimeField(required=False, help_text="before this time")
    q = serializers.CharField(required=False, help_text="text to look for")


class ExportQuerySerializer(StrictSerializer, EventFilterSerializer):
    """The same filters, and nothing else."""


class EventSerializer(serializers.Serializer[Any]):
    """One event."""

    id = serializers.IntegerField()
    uid = serializers.UUIDField()
    created_at = serializers.DateTimeField()
    event = serializers.CharField()
    category = serializers.ChoiceField(choices=Category.choices)
    level = serializers.ChoiceField(choices=Level.choices)
    outcome = serializers.ChoiceField(choices=Outcome.choices)
    actor = serializers.CharField()
    surface = serializers.CharField()
    source_address = serializers.CharField()
    request_id = serializers.CharField()
    target_type = serializers.CharField()
    target_id = serializers.CharField()
    message = serializers.CharField()
    before = serializers.DictField(allow_null=True)
    after = serializers.DictField(allow_null=True)
    previous_hash = serializers.CharField()
    hash = serializers.CharField()


class ChainSerializer(serializers.Serializer[Any]):
    """What became of the chain of hashes."""

    ok = serializers.BooleanField()
    checked = serializers.IntegerField()
    first_bad = serializers.IntegerField(allow_null=True)
    reason = serializers.CharField()
    head = serializers.CharField()


class EventsView(ListView):
    """Events."""

    query = EventFilterSerializer
    pagination_class = GrowingPages

    @extend_schema(
        operation_id="audit_events",
        parameters=[EventFilterSerializer],
        responses=EventSerializer(many=True),
        tags=["audit"],
    )
    def get(self, request: Request) -> Response:
        """Return the events chosen, newest first, a page at a time."""
        require(actor_of(request), Permission.AUDIT_READ, target_type="audit")
        filters = cast("selectors.EventFilters", self.asked())
        return self.page(selectors.events(filters), selectors.event_payload)


class VerifyView(APIView):
    """The chain."""

    @extend_schema(operation_id="audit_verify", responses=ChainSerializer, tags=["audit"])
    def get(self, request: Request) -> Response:
        """Compute every hash again; `ok` is false where an event was changed, removed or put in."""
        require(actor_of(request), Permission.AUDIT_READ, target_type="audit")
        return Response(asdict(selectors.chain_verify()))


@require_GET
async def export(request: HttpRequest) -> StreamingHttpResponse:
    """Stream the events chosen as one JSON object per line, oldest first."""
    actor = await authenticate(request, "rest")
    await arequire(actor, Permission.AUDIT_READ, target_type="audit")
    serializer = ExportQuerySerializer(data=request.GET.dict())
    serializer.is_valid(raise_exception=True)
    return StreamingHttpResponse(
        _lines(cast("selectors.EventFilters", serializer.validated_data)),
        content_type="application/x-ndjson",
        headers={"Content-Disposition": 'attachment; filename="audit.ndjson"'},
    )


async def _lines(filters: selectors.EventFilters) -> AsyncIterator[str]:
    async for event in selectors.aevents_oldest_first(filters):
        yield json.dumps(selectors.event_payload(event), ensure_ascii=False) + "\n"
