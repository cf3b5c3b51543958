"""What lists of users and tokens can be chosen by."""

from django.db.models import Q, QuerySet
from django.utils import timezone
from django_filters import rest_framework as filters

from accounts.models import Role, Token, User


class UserFilters(filters.FilterSet):  # type: ignore[misc]  # django-filter has no types
    """Users."""

    role = filters.MultipleChoiceFilter(choices=Role.choices)
    active = filters.BooleanFilter(field_name="is_active", label="may sign in")
    search = filters.CharFilter("username", "icontains", label="part of a name")

    class Meta:
        model = User
        fields = ()


class TokenFilters(filters.FilterSet):  # type: ignore[misc]  # django-filter has no types
    """Tokens."""

    user = filters.CharFilter(field_name="user__username", label="owners: only this user's")
    search = filters.CharFilter("name", "icontains", label="part of a name")
    expired = filters.BooleanFilter(method="expired_or_not", label="works no more")

    class Meta:
        model = Token
        fields = ()

    def expired_or_not(self, query: QuerySet[Token], name: str, value: bool) -> QuerySet[Token]:
        """Keep those that have expired, or those that have not."""
        del name
        expired = Q(expiry__lte=timezone.now())
        return query.filter(expired) if value else query.exclude(expired)
