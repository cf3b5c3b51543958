"""The audit page: what can be chosen, what changed, and that nothing can be changed."""

import pytest
from django.test import Client
from hypothesis import given, settings
from hypothesis import strategies as st

from accounts.actors import Actor
from accounts.models import User
from audit import diff
from audit.models import Event
from audit.services import event_record

URL = "/admin/audit/"


def entry(actor: Actor, number: int = 0, **given: object) -> None:
    values: dict[str, object] = {
        "event": "backend.configured",
        "category": "configuration",
        "target_type": "backend",
        "target_id": "vllm",
        "message": f"number {number} <b>",
        "before": {"options": {"port": 8000, "model": "a"}},
        "after": {"options": {"port": 8001, "model": "a"}},
        **given,
    }
    event_record(actor=actor, **values)  # type: ignore[arg-type]


def html_of(client: Client, user: User, query: str = "") -> str:
    client.force_login(user)
    response = client.get(f"{URL}{query}")
    assert response.status_code == 200
    return response.content.decode()


@pytest.mark.django_db
def test_an_event_shows_what_it_changed_side_by_side(
    client: Client, owner: User, owner_actor: Actor
) -> None:
    entry(owner_actor)
    html = html_of(client, owner, "?q=number")
    assert "number 0 &lt;b&gt;" in html
    changed = html[html.index("data-changed") :]
    assert "options.port" in changed
    assert "<code>8000</code>" in changed
    assert "<code>8001</code>" in changed
    assert changed.index("options.port") < changed.index("options.model")


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("?q=number+1", 1),
        ("?category=configuration", 3),
        ("?category=configuration&outcome=failure", 0),
        ("?target=vllm", 3),
        ("?actor=olga&target=vllm", 3),
        ("?target=vllm&since=2020-01-01T00:00&until=2020-01-02T00:00", 0),
        ("?request_id=test-request&target=vllm", 3),
        ("?category=nonsense", 0),
        ("?since=whenever", 0),
    ],
)
def test_events_can_be_chosen(
    client: Client, owner: User, owner_actor: Actor, query: str, found: int
) -> None:
    for number in range(3):
        entry(owner_actor, number)
    assert html_of(client, owner, query).count('id="event-') == found


@pytest.mark.django_db
def test_pages_go_back_without_losing_or_repeating_an_event(
    client: Client, owner: User, owner_actor: Actor
) -> None:
    for number in range(120):
        entry(owner_actor, number)
    client.force_login(owner)
    seen: list[int] = []
    query = "?target=vllm"
    while query:
        context = client.get(f"{URL}{query}").context
        seen += [row["event"].pk for row in context["rows"]]
        query = context["older"]
    events = Event.objects.filter(target_id="vllm").order_by("-id")
    assert seen == list(events.values_list("pk", flat=True))


@pytest.mark.django_db
def test_the_chain_can_be_checked_without_javascript(
    client: Client, owner: User, owner_actor: Actor
) -> None:
    entry(owner_actor)
    assert "The chain is whole" in html_of(client, owner, "?verify=1")


@pytest.mark.django_db
def test_what_events_say_is_text_and_never_markup(
    client: Client, owner: User, owner_actor: Actor
) -> None:
    hostile = "<script>alert(1)</script>"
    entry(owner_actor, message=hostile, target_id=hostile, before={hostile: hostile})
    html = html_of(client, owner)
    assert hostile not in html
    assert "&lt;script&gt;alert(1)" in html


@pytest.mark.django_db
def test_the_page_takes_nothing(client: Client, owner: User) -> None:
    client.force_login(owner)
    assert client.post(URL).status_code == 405
    assert client.delete(URL).status_code == 405


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.dictionaries(st.text("abc", min_size=1, max_size=2), inner, max_size=3),
    max_leaves=6,
)
_SIDES = st.none() | st.dictionaries(st.text("abc", min_size=1, max_size=2), _VALUES, max_size=4)


@settings(deadline=None)
@given(_SIDES, _SIDES)
def test_a_diff_has_every_key_once_and_nothing_where_both_sides_are_alike(
    before: dict[str, object] | None, after: dict[str, object] | None
) -> None:
    rows = diff.changes(before, after)
    keys = [row.key for row in rows]
    assert len(keys) == len(set(keys))
    assert not any(row.is_change for row in diff.changes(before, before))
    assert [row.is_change for row in rows] == sorted((row.is_change for row in rows), reverse=True)
