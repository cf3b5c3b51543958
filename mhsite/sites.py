"""The admin site: who may enter it, and its first page."""

from typing import Any

from django import forms
from django.contrib.auth.models import AbstractBaseUser
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, reverse
from unfold.forms import AuthenticationForm
from unfold.sites import UnfoldAdminSite

from accounts.models import User
from accounts.permissions import Permission, is_allowed
from mhsite import pages
from mhsite.header import header_for


class SignInForm(AuthenticationForm):
    """Signs in everybody who may read the status, not only those Django calls staff."""

    def confirm_login_allowed(self, user: AbstractBaseUser) -> None:
        """Refuse those who may not even read the status."""
        if not (isinstance(user, User) and is_allowed(user, Permission.STATUS_READ)):
            msg = "This account is not active."
            raise forms.ValidationError(msg, code="inactive")


class MhAdminSite(UnfoldAdminSite):
    """Opens on the LLM Backend page. Model pages stay with those whose permissions allow them."""

    login_form = SignInForm
    site_title = site_header = "mh"

    def has_permission(self, request: HttpRequest) -> bool:
        """Return whether the one who asks may enter: everybody who may read the status."""
        user = request.user
        return isinstance(user, User) and is_allowed(user, Permission.STATUS_READ)

    def index(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Go to the LLM Backend page."""
        del request, extra_context
        return HttpResponseRedirect(reverse("admin:llm-backend"))

    def extra_urls(self) -> list[URLPattern]:
        """Return the settings pages."""
        return pages.urls()

    def each_context(self, request: HttpRequest) -> dict[str, Any]:
        """Add what the header of every page shows: the active backend and what is done to it."""
        header = header_for(request) if self.has_permission(request) else None
        return {**super().each_context(request), "mh_header": header}
