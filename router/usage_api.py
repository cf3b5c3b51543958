"""REST of usage: what requests cost, and who may use how much; and its metrics for Prometheus."""

import ipaddress
from typing import Any, Final

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe
from drf_spectacular.utils import PolymorphicProxySerializer, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.lists import GrowingPages, ListView, parameters_of
from accounts.models import User
from accounts.permissions import Permission
from accounts.requests import actor_of, has_bearer, source_address
from accounts.selectors import user_get
from accounts.strict import StrictSerializer
from audit.access import require
from router.usage import metrics as prometheus
from router.usage import selectors, services

#: Headers that say that a proxy has passed the request on: then its address is nobody's.
_PASSED_ON: Final = ("Forwarded", "X-Forwarded-For", "X-Real-IP", "Via")
_COUNT_MAX: Final = 2**31 - 1


class UsageQuery(serializers.Serializer[Any]):
    """Which requests, and how they are answered."""

    user = serializers.CharField(required=False, help_text="user name; owners only see others'")
    role = serializers.CharField(required=False, allow_blank=True)
    provider = serializers.CharField(required=False, allow_blank=True)
    backend = serializers.CharField(required=False, allow_blank=True)
    model = serializers.CharField(required=False, allow_blank=True)
    surface = serializers.CharField(required=False)
    outcome = serializers.CharField(
        required=False, help_text="done, cancelled, or the code of an error"
    )
    request_id = serializers.CharField(required=False)
    group_by = serializers.ChoiceField(
        choices=list(selectors.GROUPS), required=False, help_text="answer with sums instead"
    )
    since = serializers.DateTimeField(required=False, help_text="from this time on")
    until = serializers.DateTimeField(required=False, help_text="before this time")

    def get_fields(self) -> dict[str, Any]:
        """Add the older names of ``since`` and ``until``, one of which Python keeps to itself."""
        fields = super().get_fields()
        for name, now in (("from", "since"), ("to", "until")):
            fields[name] = serializers.DateTimeField(required=False, help_text=f"as `{now}`")
        return fields


class UsageRecordSerializer(serializers.Serializer[Any]):
    """One request that has ended."""

    id = serializers.IntegerField()
    at = serializers.DateTimeField()
    user = serializers.CharField()
    token = serializers.CharField()
    surface = serializers.CharField()
    request_id = serializers.CharField()
    role = serializers.CharField()
    entry = serializers.CharField()
    provider = serializers.CharField()
    backend = serializers.CharField()
    model = serializers.CharField()
    kind = serializers.CharField()
    outcome = serializers.CharField()
    prompt_tokens = serializers.IntegerField(allow_null=True)
    completion_tokens = serializers.IntegerField(allow_null=True)
    reasoning_tokens = serializers.IntegerField(allow_null=True)
    total_tokens = serializers.IntegerField(allow_null=True)
    estimated = serializers.BooleanField(
        help_text="tokens are counted from the pieces that came: the engine did not get to say"
    )
    queued_ms = serializers.FloatField(allow_null=True)
    ttft_ms = serializers.FloatField(allow_null=True)
    total_ms = serializers.FloatField()
    attempts = serializers.IntegerField()


class UsagePageSerializer(serializers.Serializer[Any]):
    """A page of requests, newest first."""

    results = UsageRecordSerializer(many=True)
    count = serializers.IntegerField()
    next = serializers.URLField(allow_null=True)
    previous = serializers.URLField(allow_null=True)
    limit = serializers.IntegerField()
    offset = serializers.IntegerField(allow_null=True)


class UsageTimesSerializer(serializers.Serializer[Any]):
    """Milliseconds."""

    p50 = serializers.FloatField(allow_null=True)
    p95 = serializers.FloatField(allow_null=True)


class UsageGroupSerializer(serializers.Serializer[Any]):
    """Sums over a group of requests."""

    group = serializers.CharField()
    requests = serializers.IntegerField()
    errors = serializers.IntegerField()  # type: ignore[assignment]  # DRF takes fields off the class
    cancelled = serializers.IntegerField()
    prompt_tokens = serializers.IntegerField()
    completion_tokens = serializers.IntegerField()
    total_tokens = serializers.IntegerField()
    ttft_ms = UsageTimesSerializer()
    total_ms = UsageTimesSerializer()


class UsageSummarySerializer(serializers.Serializer[Any]):
    """Sums by group."""

    group_by = serializers.CharField()
    results = UsageGroupSerializer(many=True)


class QuotaRequest(StrictSerializer):
    """How much a user may use. Null, or left out: as the site says. 0: no limit."""

    requests_per_minute = serializers.IntegerField(
        required=False, allow_null=True, min_value=0, max_value=_COUNT_MAX
    )
    tokens_per_day = serializers.IntegerField(
        required=False, allow_null=True, min_value=0, max_value=2**62
    )
    tokens_per_month = serializers.IntegerField(
        required=False, allow_null=True, min_value=0, max_value=2**62
    )


class QuotaLimitsSerializer(serializers.Serializer[Any]):
    """What holds; 0 is no limit."""

    requests_per_minute = serializers.IntegerField()
    tokens_per_day = serializers.IntegerField()
    tokens_per_month = serializers.IntegerField()


class QuotaUsedSerializer(serializers.Serializer[Any]):
    """How much is used."""

    requests_this_minute = serializers.IntegerField()
    tokens_this_day = serializers.IntegerField()
    tokens_this_month = serializers.IntegerField()


class QuotaResponse(serializers.Serializer[Any]):
    """What one user may use: as set, as it holds, and how much of it is used."""

    user = serializers.CharField()
    requests_per_minute = serializers.IntegerField(allow_null=True)
    tokens_per_day = serializers.IntegerField(allow_null=True)
    tokens_per_month = serializers.IntegerField(allow_null=True)
    effective = QuotaLimitsSerializer()
    used = QuotaUsedSerializer()


class UsageView(ListView):
    """What requests cost."""

    query = UsageQuery
    pagination_class = GrowingPages

    @extend_schema(
        operation_id="usage",
        parameters=[UsageQuery, *parameters_of(GrowingPages)],
        responses=PolymorphicProxySerializer(
            component_name="Usage",
            serializers=[UsagePageSerializer, UsageSummarySerializer],
            resource_type_field_name=None,
            many=False,
        ),
        tags=["usage"],
    )
    def get(self, request: Request) -> Response:
        """Return your requests, an owner everybody's, newest first; with `group_by` sums of them."""
        actor = actor_of(request)
        if not selectors.sees_all(actor):
            require(actor, Permission.CHAT, target_type="usage")
        asked = self.asked()
        query = selectors.records(actor, asked)
        if group_by := asked.get("group_by"):
            found = selectors.summary(query, group_by)
            return Response({"group_by": group_by, "results": found})
        return self.page(query, selectors.record_payload)


class QuotasView(ListView):
    """Who may use how much."""

    @extend_schema(operation_id="usage_quotas", responses=QuotaResponse(many=True), tags=["usage"])
    def get(self, request: Request) -> Response:
        """Return every quota that is set, and how much of it is used."""
        require(actor_of(request), Permission.USERS_MANAGE, target_type="quota")
        self.asked()
        return self.page(selectors.quotas_set(), lambda row: selectors.quota_payload(row.user, row))


class QuotaView(APIView):
    """How much one user may use."""

    @extend_schema(operation_id="usage_quota", responses=QuotaResponse, tags=["usage"])
    def get(self, request: Request, username: str) -> Response:
        """Return what a user may use and has; your own, an owner anybody's."""
        actor = actor_of(request)
        permission = Permission.USERS_MANAGE
        if actor.user is not None and actor.user.get_username() == username:
            permission = Permission.CHAT
        require(actor, permission, target_type="quota", target_id=username[:128])
        user: User = user_get(username)
        return Response(selectors.quota_payload(user, selectors.quota_of(user)))

    @extend_schema(
        operation_id="usage_quota_set",
        request=QuotaRequest,
        responses=QuotaResponse,
        tags=["usage"],
    )
    def put(self, request: Request, username: str) -> Response:
        """Say how much a user may use, in place of what was said before."""
        actor = actor_of(request)
        require(actor, Permission.USERS_MANAGE, target_type="quota", target_id=username[:128])
        serializer = QuotaRequest(data=request.data)
        serializer.is_valid(raise_exception=True)
        return Response(
            services.quota_set(actor=actor, username=username, **serializer.validated_data)
        )

    @extend_schema(
        operation_id="usage_quota_delete", responses={200: QuotaResponse}, tags=["usage"]
    )
    def delete(self, request: Request, username: str) -> Response:
        """Let the site's defaults hold for a user again."""
        return Response(services.quota_delete(actor=actor_of(request), username=username))


@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    """Answer Prometheus: with a token, or from this machine without."""
    if has_bearer(request) or not _is_local(request):
        require(actor_of(request), Permission.STATUS_READ, target_type="path", target_id="/metrics")
    return HttpResponse(prometheus.exposition(), content_type=prometheus.CONTENT_TYPE)


def _is_local(request: HttpRequest) -> bool:
    """Whether the request comes from this machine, and not from a proxy on it."""
    if settings.MH_HTTPS or any(name in request.headers for name in _PASSED_ON):
        return False
    try:
        return ipaddress.ip_address(source_address(request)).is_loopback
    except ValueError:
        return False
