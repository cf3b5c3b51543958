"""Lists over REST, the same on every path: a page, how many there are, and where the next one is.

``limit`` and ``offset`` are checked, not bent to what fits, and a query nobody knows is an error: a filter
with a slip in its name would else answer everything.
"""

import re
from collections.abc import Sequence
from typing import Any, ClassVar, Final

from django.db.models import QuerySet
from django_filters.rest_framework import BooleanFilter, CharFilter, DjangoFilterBackend, Filter
from drf_spectacular.utils import OpenApiParameter
from rest_framework.exceptions import NotFound
from rest_framework.generics import GenericAPIView
from rest_framework.pagination import CursorPagination, LimitOffsetPagination
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import Serializer

from accounts.errors import Invalid

#: How far rows of a query are counted, and a page can begin; what lies beyond is for filters.
COUNT_MAX = 100_000
#: Base 64: REST framework would read over what is none.
_CURSOR: Final = re.compile(r"[A-Za-z0-9+/]+={0,2}")


def query_number(request: Request, name: str, default: int, least: int, most: int) -> int:
    """Return a whole number of the query.

    Raises:
        Invalid: it is none, or not from ``least`` to ``most``.
    """
    text = request.query_params.get(name)
    if text is None:
        return default
    fits = text.isascii() and text.isdigit() and len(text) <= len(str(most))
    if not fits or not least <= int(text) <= most:
        msg = f"{name} must be a whole number from {least} to {most}."
        raise Invalid(msg, param=name)
    return int(text)


def count(rows: Any) -> int:
    """Return how many there are; of a query at most ``COUNT_MAX``, for nobody turns so many pages."""
    if isinstance(rows, QuerySet):
        return int(rows.order_by()[:COUNT_MAX].count())
    return len(rows)


def _parameter(name: str, schema: dict[str, Any], words: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "description": words, "schema": schema}


def _limit_parameter(default: int, most: int) -> dict[str, Any]:
    schema = {"type": "integer", "minimum": 1, "maximum": most, "default": default}
    return _parameter("limit", schema, "how many at most")


_OFFSET_PARAMETER = _parameter(
    "offset",
    {"type": "integer", "minimum": 0, "maximum": COUNT_MAX, "default": 0},
    "how many to leave out",
)


def _page_schema(results: dict[str, Any]) -> dict[str, Any]:
    link = {"type": "string", "format": "uri", "nullable": True}
    number = {"type": "integer"}
    return {
        "type": "object",
        "required": ["results", "count", "next", "previous", "limit", "offset"],
        "properties": {
            "results": results,
            "count": {**number, "description": f"how many there are, counted to {COUNT_MAX}"},
            "next": {**link, "description": "the next page"},
            "previous": {**link, "description": "the page before"},
            "limit": number,
            "offset": {**number, "nullable": True, "description": "null: by `cursor`"},
        },
    }


def parameters_of(pages: type[Any]) -> list[OpenApiParameter]:
    """Return what a kind of pages takes from the query, for answers that are not only a list."""
    return [
        OpenApiParameter(item["name"], item["schema"], description=item["description"])
        for item in pages().get_schema_operation_parameters(None)
    ]


class Pages(LimitOffsetPagination):
    """Pages by ``limit`` and ``offset``."""

    default_limit = 50
    max_limit: int = 500

    def get_limit(self, request: Request) -> int:
        """Return how many rows a page has."""
        return query_number(request, "limit", self.default_limit, 1, self.max_limit)

    def get_offset(self, request: Request) -> int:
        """Return how many rows come before the page."""
        return query_number(request, "offset", 0, 0, COUNT_MAX)

    def get_count(self, queryset: Any) -> int:
        """Return how many rows there are."""
        return count(queryset)

    def get_paginated_response(self, data: Any) -> Response:
        """Answer a page."""
        return Response(
            {
                "results": data,
                "count": self.count,
                "next": self.get_next_link(),
                "previous": self.get_previous_link(),
                "limit": self.limit,
                "offset": self.offset,
            }
        )

    def get_paginated_response_schema(self, schema: dict[str, Any]) -> dict[str, Any]:
        """Return the page as OpenAPI has it."""
        return _page_schema(schema)

    def get_schema_operation_parameters(self, view: Any) -> list[dict[str, Any]]:
        """Return what is taken from the query, as OpenAPI has it."""
        del view
        return [_limit_parameter(self.default_limit, self.max_limit), _OFFSET_PARAMETER]


class WholePages(Pages):
    """Pages of lists that are short, and wanted whole."""

    default_limit = 500
    max_limit = 1000


class GrowingPages(CursorPagination):
    """Pages of what grows while it is read: by ``cursor``, which holds still, or by ``offset``."""

    ordering = "-id"
    page_size = 50
    max_page_size = 500
    page_size_query_param = "limit"

    def paginate_queryset(
        self, queryset: Any, request: Request, view: Any = None
    ) -> list[Any] | None:
        """Return the rows of the page asked for."""
        self.count = count(queryset)
        self.by_offset: Pages | None = None
        if "offset" in request.query_params:
            self.by_offset = Pages()
            return self.by_offset.paginate_queryset(queryset.order_by(self.ordering), request, view)
        try:
            if not _CURSOR.fullmatch(request.query_params.get("cursor", "cA==")):
                raise NotFound
            return super().paginate_queryset(queryset, request, view=view)
        except (NotFound, ValueError, OverflowError) as exc:
            msg = "This is no cursor: take it from `next` or `previous`."
            raise Invalid(msg, code="invalid_cursor", param="cursor") from exc

    def get_page_size(self, request: Request) -> int:
        """Return how many rows a page has."""
        return query_number(request, "limit", self.page_size, 1, self.max_page_size)

    def get_paginated_response(self, data: Any) -> Response:
        """Answer a page."""
        if self.by_offset is not None:
            return self.by_offset.get_paginated_response(data)
        return Response(
            {
                "results": data,
                "count": self.count,
                "next": self.get_next_link(),
                "previous": self.get_previous_link(),
                "limit": self.page_size,
                "offset": None,
            }
        )

    def get_paginated_response_schema(self, schema: dict[str, Any]) -> dict[str, Any]:
        """Return the page as OpenAPI has it."""
        return _page_schema(schema)

    def get_schema_operation_parameters(self, view: Any) -> list[dict[str, Any]]:
        """Return what is taken from the query, as OpenAPI has it."""
        del view
        words = "from `next` or `previous`; holds still while rows are added"
        cursor = _parameter("cursor", {"type": "string"}, words)
        return [
            _limit_parameter(self.page_size, self.max_page_size),
            _OFFSET_PARAMETER,
            cursor,
        ]


class Filters(DjangoFilterBackend):  # type: ignore[misc]  # django-filter has no types
    """The filters of a list's filter set, and no others."""

    def filter_queryset(self, request: Request, queryset: Any, view: Any) -> Any:
        """Return the rows chosen.

        Raises:
            Invalid: a name of the query is unknown.
            ValidationError: a value cannot be one of its filter's.
        """
        filters = view.filterset_class.base_filters
        query_check(request, [*filters, *page_names(view)])
        for name, kind in filters.items():
            for value in request.query_params.getlist(name):
                _value_check(name, kind, value)
        return super().filter_queryset(request, queryset, view)


def _value_check(name: str, kind: Filter, value: str) -> None:
    """Refuse what django-filter would take for no filter at all."""
    if isinstance(kind, BooleanFilter) and value.lower() not in {"true", "false"}:
        msg = f"{name} must be true or false."
        raise Invalid(msg, param=name)
    if value == "" and not isinstance(kind, CharFilter):
        msg = f"{name} has no value. Leave it out to have all."
        raise Invalid(msg, param=name)


def query_check(request: Request, known: Sequence[str]) -> None:
    """Raise ``Invalid`` where the query has a name that is not one of ``known``."""
    for name in sorted(set(request.query_params) - set(known)):
        msg = f"There is no filter {name[:80]!r} here. There are: {', '.join(known)}."
        raise Invalid(msg, param=name[:80])


def page_names(view: Any) -> list[str]:
    """Return the names by which a list's pages are asked for."""
    parameters = view.pagination_class().get_schema_operation_parameters(view)
    return [parameter["name"] for parameter in parameters]


class ListView(GenericAPIView[Any]):
    """A list. Its filters are the fields of the serializer ``query``, if it has one."""

    pagination_class: Any = Pages
    filter_backends: Any = ()
    query: ClassVar[type[Serializer[Any]] | None] = None

    def asked(self) -> dict[str, Any]:
        """Return what the query asks, checked, but for the page.

        Raises:
            Invalid: a name of the query is unknown.
            ValidationError: a value is not acceptable.
        """
        serializer = (self.query or Serializer)(data=self.request.query_params.dict())
        query_check(self.request, [*serializer.fields, *page_names(self)])
        serializer.is_valid(raise_exception=True)
        return dict(serializer.validated_data)

    def page(self, rows: Any, payload: Any = None) -> Response:
        """Answer a page of ``rows``, each as ``payload`` makes it."""
        found = self.paginate_queryset(self.filter_queryset(rows)) or []
        return self.get_paginated_response([payload(row) for row in found] if payload else found)


class FilteredListView(ListView):
    """A list of rows. Its filters are those of its ``filterset_class``."""

    filter_backends = (Filters,)
