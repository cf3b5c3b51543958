"""REST of samples: how GPUs and engines did over time."""

import time
from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.errors import Invalid
from accounts.lists import query_check
from accounts.permissions import Permission
from accounts.requests import actor_of
from audit import access
from backends import selectors, serializers
from backends.sampling.resolution import FINE, QUARTERS


def samples_asked(data: Any) -> dict[str, Any]:
    """Return what a query says, for ``selectors.samples_between``; the last hour where it says nothing.

    Raises:
        ValidationError: it is not understood.
        Invalid: there is no such time.
    """
    query = serializers.SamplesQuery(data=data)
    query.is_valid(raise_exception=True)
    asked, now = query.validated_data, time.time()
    until = min(now, asked["until"].timestamp()) if "until" in asked else now
    since = asked["since"].timestamp() if "since" in asked else until - FINE.kept
    if since >= until:
        msg = "since must be before until, and not in the future."
        raise Invalid(msg, code="invalid_time_range", param="since")
    if until - since > QUARTERS.reaches:
        msg = "Samples are kept for 30 days: ask for no longer time than that."
        raise Invalid(msg, code="invalid_time_range", param="since")
    return {
        "now": now,
        "since": since,
        "until": until,
        "step": asked.get("step"),
        "statistic": asked["statistic"],
    }


class SamplesView(APIView):
    """Samples of GPUs and engines."""

    @extend_schema(
        operation_id="samples",
        parameters=[serializers.SamplesQuery],
        responses=serializers.SamplesResponse,
    )
    def get(self, request: Request) -> Response:
        """Return memory, load and power of GPUs, and requests, tokens and times of engines, over time."""
        access.require(actor_of(request), Permission.STATUS_READ)
        query_check(request, list(serializers.SamplesQuery().fields))
        asked = samples_asked(request.query_params.dict())
        return Response(selectors.samples_between(**asked))
