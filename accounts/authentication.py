"""How REST requests are authenticated: bearer token first, then the browser's session."""

from typing import Any

from django.conf import settings
from django.contrib.auth.models import AnonymousUser
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from knox.auth import TokenAuthentication
from rest_framework import authentication, exceptions
from rest_framework.request import Request

from accounts import requests, services
from accounts.errors import NotAuthenticated
from accounts.models import Token, User


class BearerAuthentication(TokenAuthentication):  # type: ignore[misc]  # knox has no types
    """``Authorization: Bearer <token>``, with the checks and the record every surface shares."""

    def authenticate(self, request: Request) -> tuple[User, Token] | None:
        """Return the user and token; None where the request brings none.

        Raises:
            rest_framework.exceptions.AuthenticationFailed: the token is not good.
        """
        try:
            plain = requests.bearer_of(request.headers.get("Authorization", ""))
            if plain is None:
                return None
            address = requests.source_address(request._request)  # noqa: SLF001 - DRF has no other way
            token = services.token_use(plain, source_address=address)
        except NotAuthenticated as error:
            raise exceptions.AuthenticationFailed(error.message, code=error.code) from error
        return token.user, token


class SessionAuthentication(authentication.SessionAuthentication):
    """Django's session, with CSRF. A request that brings a bearer token is never signed in by cookie."""

    def authenticate(self, request: Request) -> tuple[Any, None] | None:
        """Return the session's user; None where nobody is signed in."""
        if requests.has_bearer(request._request):  # noqa: SLF001 - DRF has no other way
            return None
        user = getattr(request._request, "user", AnonymousUser())  # noqa: SLF001 - as above
        if not user.is_authenticated:
            return None
        return super().authenticate(request)

    def authenticate_header(self, request: Request) -> str:
        """Ask for a bearer token: without a header DRF would answer 403 for 401."""
        del request
        return "Bearer"


class BearerScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """How the API's description names the bearer token."""

    target_class = BearerAuthentication
    name = "bearer"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        """Return the scheme."""
        del auto_schema
        return {"type": "http", "scheme": "bearer", "bearerFormat": "mh_…"}


class SessionScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """How the API's description names the session."""

    target_class = SessionAuthentication
    name = "session"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        """Return the scheme."""
        del auto_schema
        return {"type": "apiKey", "in": "cookie", "name": settings.SESSION_COOKIE_NAME}
