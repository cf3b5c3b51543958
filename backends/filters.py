"""What lists of backends can be chosen by."""

from django_filters import rest_framework as filters

from backends.models import Operation, OperationKind, OperationState


class OperationFilters(filters.FilterSet):  # type: ignore[misc]  # django-filter has no types
    """Operations; a filter given twice takes either value."""

    state = filters.MultipleChoiceFilter(choices=OperationState.choices)
    kind = filters.MultipleChoiceFilter(choices=OperationKind.choices)
    backend = filters.CharFilter(field_name="backend_id", label="name of a backend")
    requested_by = filters.CharFilter(field_name="requested_by_name", label="user name")
    request_id = filters.CharFilter()
    since = filters.IsoDateTimeFilter("created_at", "gte", label="asked for from this time on")
    until = filters.IsoDateTimeFilter("created_at", "lt", label="asked for before this time")

    class Meta:
        model = Operation
        fields = ()
