"""REST of where models run: on this machine, or on a server."""

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.permissions import Permission
from accounts.requests import actor_of
from accounts.strict import StrictSerializer
from audit.access import require
from router import selectors, services


class DeploymentRequest(StrictSerializer):
    """Where models run; what is left out stays as it is."""

    mode = serializers.ChoiceField(["local", "server"], required=False)
    server_account = serializers.CharField(required=False, allow_blank=True, max_length=64)


class DeploymentResponse(serializers.Serializer[Any]):
    """Where models of local providers run."""

    mode = serializers.ChoiceField(["local", "server"])
    server_account = serializers.CharField(
        help_text="the provider account that answers in server mode; empty: none is chosen"
    )


def payload() -> dict[str, str]:
    """Return where models run, as clients see it."""
    found = selectors.deployment()
    return {"mode": found.mode, "server_account": found.server_account}


class DeploymentView(APIView):
    """Where models run."""

    @extend_schema(operation_id="deployment", responses=DeploymentResponse, tags=["providers"])
    def get(self, request: Request) -> Response:
        """Return the mode, and the account that answers in server mode."""
        require(actor_of(request), Permission.REGISTRY_MANAGE, target_type="deployment")
        return Response(payload())

    @extend_schema(
        operation_id="deployment_set",
        request=DeploymentRequest,
        responses={200: DeploymentResponse},
        tags=["providers"],
    )
    def patch(self, request: Request) -> Response:
        """Change where models of local providers run; those of cloud providers stay where they are."""
        actor = actor_of(request)
        require(actor, Permission.REGISTRY_MANAGE, target_type="deployment")
        body = DeploymentRequest(data=request.data)
        body.is_valid(raise_exception=True)
        services.deployment_set(actor=actor, **body.validated_data)
        return Response(payload())
