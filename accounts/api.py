"""REST: sign in and out, who am I, tokens."""

from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.contrib.auth import logout
from django.middleware.csrf import get_token
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework import serializers, status
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts import selectors, services
from accounts.access import require
from accounts.errors import NotAllowed
from accounts.filters import TokenFilters, UserFilters
from accounts.lists import FilteredListView
from accounts.logins import login_by_password
from accounts.models import Role, Token, User
from accounts.permissions import Permission
from accounts.requests import actor_of
from accounts.strict import StrictSerializer


class LoginSerializer(StrictSerializer):
    """What to send to sign in."""

    username = serializers.CharField(max_length=150)
    password = serializers.CharField(max_length=4096, trim_whitespace=False, write_only=True)


class MeSerializer(serializers.Serializer[Any]):
    """Who is signed in, and what they may do."""

    username = serializers.CharField()
    role = serializers.ChoiceField(choices=["owner", "standard", "guest"])
    permissions = serializers.ListField(child=serializers.CharField())
    scopes = serializers.ListField(
        child=serializers.CharField(), help_text="what the token used is limited to; empty: nothing"
    )
    csrf_token = serializers.CharField(
        help_text="send as X-CSRFToken with every change while signed in by session"
    )


class TokenSerializer(serializers.Serializer[Any]):
    """A token, without the token itself."""

    id = serializers.CharField()
    name = serializers.CharField()
    user = serializers.CharField()
    scopes = serializers.ListField(child=serializers.CharField())
    created_at = serializers.DateTimeField()
    expires_at = serializers.DateTimeField(allow_null=True)
    last_used_at = serializers.DateTimeField(allow_null=True)


class TokenCreatedSerializer(TokenSerializer):
    """A new token: the only time the token itself is shown."""

    token = serializers.CharField()


class UserSerializer(serializers.Serializer[Any]):
    """A user."""

    username = serializers.CharField()
    role = serializers.ChoiceField(choices=Role.choices)
    active = serializers.BooleanField(help_text="may sign in")
    created_at = serializers.DateTimeField()
    last_login_at = serializers.DateTimeField(allow_null=True)


class TokenCreateSerializer(StrictSerializer):
    """What to send to create a token."""

    name = serializers.CharField(max_length=100)
    expires_days = serializers.IntegerField(
        min_value=1,
        max_value=services.TOKEN_DAYS_MAX,
        default=services.TOKEN_DAYS_DEFAULT,
        allow_null=True,
        help_text="null: never expires",
    )
    scopes = serializers.ListField(
        child=serializers.ChoiceField(choices=[p.value for p in Permission]),
        default=list,
        help_text="permissions it is limited to; empty: all its user's",
    )
    user = serializers.CharField(max_length=150, required=False, help_text="owners: whose it is")


class LoginView(APIView):
    """Sign in by name and password, for scripts and pages."""

    authentication_classes = ()
    permission_classes = (AllowAny,)

    @extend_schema(
        operation_id="auth_login", request=LoginSerializer, responses=MeSerializer, tags=["auth"]
    )
    def post(self, request: Request) -> Response:
        """Sign in. Sets the session and CSRF cookies."""
        _same_site_only(request)
        serializer = LoginSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        http = request._request  # noqa: SLF001 - the session is Django's
        user = login_by_password(http, **serializer.validated_data)
        http.user = user
        return Response({**selectors.me_payload(actor_of(http)), "csrf_token": get_token(http)})


class LogoutView(APIView):
    """Sign out."""

    @extend_schema(
        operation_id="auth_logout",
        request=None,
        responses={204: OpenApiResponse(description="signed out")},
        tags=["auth"],
    )
    def post(self, request: Request) -> Response:
        """End the session. A bearer token is ended by deleting it."""
        logout(request._request)  # noqa: SLF001 - the session is Django's
        return Response(status=status.HTTP_204_NO_CONTENT)


class MeView(APIView):
    """Who is signed in."""

    @extend_schema(operation_id="auth_me", responses=MeSerializer, tags=["auth"])
    def get(self, request: Request) -> Response:
        """Return who is signed in and what they may do."""
        me = selectors.me_payload(actor_of(request))
        return Response({**me, "csrf_token": get_token(request._request)})  # noqa: SLF001 - Django's


class TokensView(FilteredListView):
    """The API tokens one may see."""

    queryset = Token.objects.none()
    filterset_class = TokenFilters

    @extend_schema(
        operation_id="tokens_list",
        responses=TokenSerializer(many=True),
        tags=["tokens"],
    )
    def get(self, request: Request) -> Response:
        """List one's own tokens; an owner sees everybody's."""
        actor = actor_of(request)
        require(actor, Permission.TOKENS_OWN, target_type="token")
        return self.page(selectors.tokens(actor=actor), selectors.token_payload)

    @extend_schema(
        operation_id="tokens_create",
        request=TokenCreateSerializer,
        responses={201: TokenCreatedSerializer},
        tags=["tokens"],
    )
    def post(self, request: Request) -> Response:
        """Create a token. It is shown here and never again."""
        actor = actor_of(request)
        require(actor, Permission.TOKENS_OWN, target_type="token")
        serializer = TokenCreateSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        wanted = serializer.validated_data
        token, plain = services.token_create(
            actor=actor,
            user=_user_of(request, wanted.get("user")),
            name=wanted["name"],
            expires_days=wanted["expires_days"],
            scopes=wanted["scopes"],
        )
        payload = {**selectors.token_payload(token), "token": plain}
        return Response(payload, status=status.HTTP_201_CREATED)


class UsersView(FilteredListView):
    """The users of the site."""

    queryset = User.objects.none()
    filterset_class = UserFilters

    @extend_schema(operation_id="users_list", responses=UserSerializer(many=True), tags=["users"])
    def get(self, request: Request) -> Response:
        """List users by name. They are added and changed in the admin."""
        require(actor_of(request), Permission.USERS_MANAGE, target_type="user")
        return self.page(selectors.users(), selectors.user_payload)


class TokenView(APIView):
    """One token."""

    @extend_schema(
        operation_id="tokens_revoke",
        responses={204: OpenApiResponse(description="revoked")},
        tags=["tokens"],
    )
    def delete(self, request: Request, public_id: str) -> Response:
        """Revoke a token; it stops working with the next request."""
        services.token_revoke(actor=actor_of(request), public_id=public_id)
        return Response(status=status.HTTP_204_NO_CONTENT)


def _user_of(request: Request, username: str | None) -> User:
    """Return whose token it shall be. Only an owner learns whether another user exists."""
    actor = actor_of(request)
    if username is None or (actor.user is not None and username == actor.user.get_username()):
        return actor.user  # type: ignore[return-value]  # signed in: TOKENS_OWN was required
    require(actor, Permission.USERS_MANAGE, target_type="user", target_id=username)
    return selectors.user_get(username)


def _same_site_only(request: Request) -> None:
    """Refuse a login that a foreign page sends; a browser says where a POST comes from."""
    origin = request.headers.get("Origin")
    if origin is None or origin in settings.CSRF_TRUSTED_ORIGINS:
        return
    if urlsplit(origin).netloc.lower() != request.get_host().lower():
        raise NotAllowed("A page of another site may not sign in here.", code="cross_origin")
