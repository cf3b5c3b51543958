"""Users and tokens in the admin. Everything that changes something goes through the services."""

from http import HTTPStatus
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group
from django.http import HttpRequest
from unfold.admin import ModelAdmin
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm

from accounts import services
from accounts.models import Token, User
from accounts.permissions import Permission
from accounts.requests import actor_of

# Roles decide; Django's groups would be a second, silent answer to who may do what.
if admin.site.is_registered(Group):
    admin.site.unregister(Group)


@admin.register(User)
class UserAdmin(DjangoUserAdmin, ModelAdmin):  # type: ignore[type-arg]
    """Users and their roles."""

    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm
    list_display = ("username", "role", "is_active", "last_login", "date_joined")
    list_filter = ("role", "is_active")
    search_fields = ("username", "email")
    filter_horizontal = ()
    readonly_fields = ("last_login", "date_joined")
    fieldsets = (
        (None, {"fields": ("username", "password", "role", "is_active")}),
        ("Contact", {"fields": ("first_name", "last_name", "email")}),
        ("Dates", {"fields": ("last_login", "date_joined")}),
    )
    add_fieldsets = (
        (None, {"classes": ("wide",), "fields": ("username", "role", "password1", "password2")}),
    )

    def save_model(self, request: HttpRequest, obj: User, form: Any, change: bool) -> None:
        """Save, and record what changed."""
        del form, change
        services.user_save(actor=actor_of(request, "admin"), user=obj)

    def user_change_password(self, request: HttpRequest, id: str, form_url: str = "") -> Any:  # noqa: A002 - Django's name
        """Change a password, and record that it was."""
        response = super().user_change_password(request, id, form_url)
        if request.method == "POST" and response.status_code == HTTPStatus.FOUND:
            user = User.objects.get(pk=id)
            services.user_save(
                actor=actor_of(request, "admin"), user=user, message="The password was changed."
            )
        return response

    def delete_model(self, request: HttpRequest, obj: User) -> None:
        """Delete, and record it."""
        services.user_delete(actor=actor_of(request, "admin"), user=obj)

    def delete_queryset(self, request: HttpRequest, queryset: Any) -> None:
        """Delete the chosen ones, each recorded."""
        for user in queryset:
            self.delete_model(request, user)

    def has_delete_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        """Nobody deletes themselves."""
        return super().has_delete_permission(request, obj) and obj != request.user


@admin.register(Token)
class TokenAdmin(ModelAdmin):
    """API tokens: create one (shown once), revoke by deleting. Digests are not shown."""

    list_display = ("public_id", "name", "user", "scope_list", "created", "expiry", "last_used_at")
    list_filter = ("user",)
    search_fields = ("public_id", "name", "user__username")
    list_select_related = ("user",)
    ordering = ("-created",)
    fields = ("name", "user", "scopes")
    actions = ("delete_selected",)

    @admin.display(description="scopes")
    def scope_list(self, token: Token) -> str:
        """Show what the token is limited to."""
        return ", ".join(token.scopes) or "everything its user may"

    def get_form(self, request: HttpRequest, obj: Token | None = None, **kwargs: Any) -> Any:
        """Offer the scopes by name."""
        if obj is None:
            kwargs["form"] = TokenForm
            kwargs["fields"] = ("name", "user")
        return super().get_form(request, obj, **kwargs)

    def get_fields(self, request: HttpRequest, obj: Token | None = None) -> tuple[str, ...]:
        """Show everything but the digest of an existing token."""
        del request
        if obj is None:
            return ("name", "user", "expires_days", "chosen_scopes")
        return (
            "public_id", "name", "user", "scope_list", "created", "expiry", "last_used_at"
        )  # fmt: skip

    def has_change_permission(self, request: HttpRequest, obj: Token | None = None) -> bool:
        """A token is made and revoked, never changed."""
        del request, obj
        return False

    def save_model(self, request: HttpRequest, obj: Token, form: Any, change: bool) -> None:
        """Create by the service, and show the token this once."""
        del change
        token, plain = services.token_create(
            actor=actor_of(request, "admin"),
            user=form.cleaned_data["user"],
            name=form.cleaned_data["name"],
            expires_days=form.cleaned_data["expires_days"],
            scopes=form.cleaned_data["chosen_scopes"],
        )
        obj.__dict__.update(token.__dict__)
        messages.warning(request, f"Copy the token now, it is not shown again: {plain}")

    def delete_model(self, request: HttpRequest, obj: Token) -> None:
        """Revoke."""
        services.token_revoke(actor=actor_of(request, "admin"), public_id=obj.public_id)

    def delete_queryset(self, request: HttpRequest, queryset: Any) -> None:
        """Revoke the chosen ones, each recorded."""
        for token in queryset:
            self.delete_model(request, token)

    def log_addition(self, *_args: Any, **_kwargs: Any) -> None:
        """Nothing: the audit has it, and Django's log would keep the digest as the row's id."""

    def log_deletions(self, *_args: Any, **_kwargs: Any) -> None:
        """Nothing, as above."""


class TokenForm(forms.ModelForm):  # type: ignore[type-arg]
    """What a new token needs."""

    expires_days = forms.IntegerField(
        min_value=1,
        max_value=services.TOKEN_DAYS_MAX,
        initial=services.TOKEN_DAYS_DEFAULT,
        required=False,
        help_text="Days until it expires; empty for never.",
    )
    chosen_scopes = forms.MultipleChoiceField(
        label="Scopes",
        choices=[(p.value, p.value) for p in Permission],
        required=False,
        widget=forms.CheckboxSelectMultiple,
        help_text="Limit the token to these; none for everything its user may do.",
    )

    class Meta:
        model = Token
        fields = ("name", "user")
