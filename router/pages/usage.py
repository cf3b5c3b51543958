"""The Usage page: what requests cost, who may use how much, and what is left."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import urlencode

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse

from accounts import selectors as people
from accounts.actors import Actor
from accounts.errors import Invalid, MhError, NotAuthenticated
from accounts.pages import only, shown
from accounts.permissions import Permission
from audit.access import require
from router.pages.asking import Question, asked_first, form_context, text_of
from router.pages.fields import Field, body_of, holding, posted, with_error
from router.usage import selectors, services
from router.usage.words import number_text

#: Days that can be looked back, and how the choice is called.
PERIODS: Final = (
    ("1", "today"),
    ("7", "7 days"),
    ("30", "30 days"),
    ("90", "90 days"),
    ("", "all"),
)
_GROUPS: Final = (("day", "day"), ("model", "model"), ("role", "role"), ("provider", "provider"))
_FILTERS: Final = ("user", "model", "role", "provider")
#: Newest requests that are listed.
ROWS_MAX: Final = 50
_COUNT_MAX: Final = 2**31 - 1
_TOKENS_MAX: Final = 2**62
_LIMITS: Final = (
    ("requests_per_minute", "requests_this_minute", "Requests a minute", _COUNT_MAX),
    ("tokens_per_day", "tokens_this_day", "Tokens a day", _TOKENS_MAX),
    ("tokens_per_month", "tokens_this_month", "Tokens a month", _TOKENS_MAX),
)


@only("GET")
def usage(request: HttpRequest, actor: Actor) -> HttpResponse:
    """Show the usage of a period, by group and by day, and the quotas."""
    return _page(request, actor)


def _page(request: HttpRequest, actor: Actor, **more: Any) -> HttpResponse:
    sees_all = selectors.sees_all(actor)
    own = _own(actor)
    set_for = selectors.quotas_set().exclude(user=actor.user) if sees_all else ()
    others = [selectors.quota_payload(row.user, row) for row in set_for]
    asked = _asked(request, sees_all=sees_all)
    records = selectors.records(actor, asked["filters"])
    days = selectors.summary(records, "day")
    rows = days if asked["group"] == "day" else selectors.summary(records, asked["group"])
    context = {
        "sees_all": sees_all,
        "groups": _GROUPS + ((("user", "user"),) if sees_all else ()),
        "periods": PERIODS,
        **asked,
        "chips": _chips(asked),
        "rows": _rows(rows, asked),
        "total": _total(rows),
        "records": [selectors.record_payload(row) for row in records.order_by("-id")[:ROWS_MAX]],
        "own": _quota(own),
        "quotas": [_quota(row) for row in others],
        "users": people.usernames() if sees_all else [],
        **(_quota_form(request.GET["quota"]) if sees_all and request.GET.get("quota") else {}),
        "config": {"days": _every_day(days, asked["period"])},
        **more,
    }
    return shown(request, "router/usage.html", "Usage", context)


def _asked(request: HttpRequest, *, sees_all: bool) -> dict[str, Any]:
    """Return what of the usage is asked for; what nobody knows is as if it had not been asked."""
    given = request.GET
    period = given.get("days", "30")
    period = period if period in dict(PERIODS) else "30"
    group = given.get("by", "day")
    known = [name for name, _ in _GROUPS] + (["user"] if sees_all else [])
    filters: dict[str, Any] = {
        name: given[name][:512]
        for name in _FILTERS
        if name in given and "\0" not in given[name] and (sees_all or name != "user")
    }
    if period:
        today = datetime.now(tz=UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        filters["from"] = today - timedelta(days=int(period) - 1)
    return {"period": period, "group": group if group in known else "day", "filters": filters}


def _query(asked: Mapping[str, Any], **changes: str | None) -> str:
    """Return the query for the same page with some of it changed; None takes a name away."""
    now = {"days": asked["period"], "by": asked["group"]}
    now |= {name: value for name, value in asked["filters"].items() if name in _FILTERS}
    merged = {**now, **changes}
    return "?" + urlencode({name: value for name, value in merged.items() if value is not None})


def _chips(asked: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the filters that are on, each with the address of the page without it."""
    return [
        {"name": name, "value": value or "none", "without": _query(asked, **{name: None})}
        for name, value in asked["filters"].items()
        if name in _FILTERS
    ]


def _rows(rows: list[selectors.GroupPayload], asked: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of the table; a group other than a day leads to its days."""
    most = max((row["total_tokens"] for row in rows), default=0)
    by_day = asked["group"] == "day"
    ordered = list(reversed(rows)) if by_day else rows
    return [
        {
            **row,
            "link": ""
            if by_day or asked["group"] in asked["filters"]
            else _query(asked, by="day", **{asked["group"]: row["group"]}),
            "name": row["group"] or "none",
            "most": most,
        }
        for row in ordered
    ]


def _total(rows: list[selectors.GroupPayload]) -> dict[str, int]:
    names = (
        "requests",
        "errors",
        "cancelled",
        "prompt_tokens",
        "completion_tokens",
        "total_tokens",
    )
    plain: list[dict[str, Any]] = [dict(row) for row in rows]
    return {name: sum(row[name] for row in plain) for name in names}


def _every_day(days: list[selectors.GroupPayload], period: str) -> list[list[Any]]:
    """Return day (seconds since 1970), tokens and requests for the chart, with the days nobody asked anything."""
    found = {row["group"]: row for row in days}
    today = datetime.now(tz=UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if period:
        first = today - timedelta(days=int(period) - 1)
    elif found:
        first = datetime.fromisoformat(min(found)).replace(tzinfo=UTC)
    else:
        return []
    whole = [first + timedelta(days=one) for one in range((today - first).days + 1)]
    rows = [(day, found.get(f"{day:%Y-%m-%d}")) for day in whole]
    return [
        [
            int(day.timestamp()),
            row["prompt_tokens"] if row else 0,
            row["completion_tokens"] if row else 0,
            row["requests"] if row else 0,
        ]
        for day, row in rows
    ]


# -- quotas


def _own(actor: Actor) -> selectors.QuotaPayload:
    if actor.user is None:  # the door lets nobody in who is not signed in
        raise NotAuthenticated("Sign in first.")
    return selectors.quota_payload(actor.user, selectors.quota_of(actor.user))


def _quota(row: selectors.QuotaPayload) -> dict[str, Any]:
    """Return the limits of one user, each with what is used and left of it."""
    limits = []
    for name, used_name, label, _ in _LIMITS:
        most = row["effective"][name]
        used = int(row["used"][used_name])  # type: ignore[literal-required]
        limits.append(
            {
                "label": label,
                "most": most,
                "used": used,
                "left": number_text(max(0, most - used)),
                "is_own": row[name] is not None,  # type: ignore[literal-required]
            }
        )
    return {"user": row["user"], "limits": limits}


def _quota_fields() -> list[Field]:
    return [
        Field(
            name=name,
            label=label,
            kind="integer",
            help="0: no limit. Empty: as the site says.",
            least=0,
            most=most if most < _TOKENS_MAX else None,
            empty="null",
            placeholder="as the site says",
        )
        for name, _, label, most in _LIMITS
    ]


def _quota_form(username: str) -> dict[str, Any]:
    """Return the form of one user's quota.

    Raises:
        NotFound: there is no such user.
    """
    user = people.user_get(username[:150])
    row = selectors.quota_of(user)
    now = selectors.quota_payload(user, row)
    fields = holding(_quota_fields(), dict(now))
    return {
        **form_context(fields, prefix="quota-"),
        "quota_user": user.get_username(),
        "quota_is_set": row is not None,
    }


@only("POST")
def quota_change(request: HttpRequest, actor: Actor) -> HttpResponse:
    """Save one user's quota, or take it back."""
    require(actor, Permission.USERS_MANAGE, target_type="quota")
    username = text_of(request, "user", 150)
    back = f"{reverse('admin:usage')}#quotas"
    if request.POST.get("do") == "delete":
        question = Question(
            title=f"Take back the quota of {username}?",
            question=f"For {username} holds again what the site says for everybody.",
            action="Take it back",
            back=back,
            done=f"The quota of {username} was taken back.",
        )
        return asked_first(
            request, question, lambda: services.quota_delete(actor=actor, username=username)
        )
    fields = _quota_fields()
    try:
        values = {name: _count(name, one) for name, one in body_of(fields, request.POST).items()}
        services.quota_set(actor=actor, username=username, **values)
    except MhError as exc:
        typed, problem = with_error(posted(fields, request.POST), exc)
        form = {**form_context(typed, problem, "quota-"), "quota_user": username}
        page = _page(request, actor, **form)
        page.status_code = exc.status
        return page
    messages.success(request, f"The quota of {username} was saved.")
    return HttpResponseRedirect(back)


def _count(name: str, value: Any) -> int | None:
    most = next(limit for each, _, _, limit in _LIMITS if each == name)
    if value is not None and (not isinstance(value, int) or not 0 <= value <= most):
        raise Invalid(f"A whole number from 0 to {most}.", param=name)
    return value
