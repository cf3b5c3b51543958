"""Signing in by password, over REST and in the admin."""

import json
import time

import pytest
from django.test import Client

from accounts import logins
from accounts.models import User
from audit.models import Event

pytestmark = pytest.mark.django_db
WRONG = {"username": "stan", "password": "wrong"}
RIGHT = {"username": "stan", "password": "pw-stan-123"}


def login(client: Client, body: dict[str, str], **headers: str):
    return client.post(
        "/api/auth/login", json.dumps(body), content_type="application/json", headers=headers
    )


@pytest.fixture
def browser() -> Client:
    return Client(enforce_csrf_checks=True)


def test_a_script_signs_in_changes_something_and_signs_out(browser: Client, standard: User) -> None:
    answer = login(browser, RIGHT)
    assert answer.status_code == 200
    assert answer.json()["role"] == "standard"
    csrf = browser.cookies["csrftoken"].value
    assert browser.cookies["sessionid"]["httponly"]
    made = browser.post(
        "/api/tokens",
        '{"name": "mine"}',
        content_type="application/json",
        headers={"X-CSRFToken": csrf},
    )
    assert made.status_code == 201
    assert (
        browser.post(
            "/api/auth/logout", "", "application/json", headers={"X-CSRFToken": csrf}
        ).status_code
        == 204
    )
    assert browser.get("/api/auth/me").status_code == 401


def test_the_csrf_token_in_the_answer_works_as_well_as_the_cookie(
    browser: Client, standard: User
) -> None:
    token = login(browser, RIGHT).json()["csrf_token"]
    answer = browser.post(
        "/api/tokens",
        '{"name": "mine"}',
        content_type="application/json",
        headers={"X-CSRFToken": token},
    )
    assert answer.status_code == 201


def test_a_change_by_session_without_csrf_is_403_in_the_error_shape(
    browser: Client, standard: User
) -> None:
    login(browser, RIGHT)
    for path in ("/api/tokens", "/api/chat"):
        answer = browser.post(path, '{"name": "x"}', content_type="application/json")
        assert answer.status_code == 403
        assert answer.json()["error"]["code"] == "csrf_failed"


def test_nobody_signed_in_is_401_not_403(browser: Client, db: None) -> None:
    for path in ("/api/tokens", "/api/chat", "/v1/chat/completions"):
        answer = browser.post(path, "{}", content_type="application/json")
        assert answer.status_code == 401, path
        assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_a_wrong_password_an_unknown_user_and_an_inactive_one_sound_the_same(
    client: Client, standard: User
) -> None:
    User.objects.create_user("gone", password="pw-gone-123", is_active=False)
    answers = [
        login(client, body).json()["error"] | {"request_id": ""}
        for body in (
            WRONG,
            {"username": "nobody", "password": "x"},
            {"username": "gone", "password": "pw-gone-123"},
        )
    ]
    assert answers[0] == answers[1] == answers[2]
    assert answers[0]["code"] == "invalid_credentials"


def test_success_failure_and_logout_are_recorded(client: Client, standard: User) -> None:
    login(client, WRONG, **{"X-Request-ID": "req-7"})
    login(client, RIGHT)
    client.post("/api/auth/logout", "", "application/json")
    failed, ok, out = Event.objects.filter(category="authentication").order_by("id")
    assert (failed.event, failed.outcome, failed.target_id) == ("login.failed", "failure", "stan")
    assert failed.request_id == "req-7"
    assert failed.actor_id is None
    assert failed.source_address == "127.0.0.1"
    assert (ok.event, ok.actor_id) == ("login.succeeded", standard.pk)
    assert out.event == "logout"
    assert "wrong" not in json.dumps([failed.after, failed.before])


def test_guessing_is_stopped_with_the_seconds_to_wait(client: Client, standard: User) -> None:
    for _ in range(logins.FAILURES_MAX):
        assert login(client, WRONG).status_code == 401
    answer = login(client, RIGHT)
    assert answer.status_code == 429
    assert answer.json()["error"]["code"] == "too_many_logins"
    assert 0 < int(answer.headers["Retry-After"]) <= logins.WINDOW_SECONDS
    assert Event.objects.filter(event="login.failed").count() == logins.FAILURES_MAX


def test_the_admins_form_is_limited_too_and_other_addresses_are_not(
    client: Client, owner: User
) -> None:
    for _ in range(logins.FAILURES_MAX):
        login(client, {"username": "olga", "password": "wrong"})
    right = {"username": "olga", "password": "pw-olga-123"}
    assert client.post("/admin/login/", right).status_code == 200, "the form again, not a redirect"
    elsewhere = Client(REMOTE_ADDR="192.0.2.7")
    assert elsewhere.post("/admin/login/", right).status_code == 302


def test_the_limit_ends(client: Client, standard: User, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(logins.FAILURES_MAX):
        login(client, WRONG)
    later = time.time() + logins.WINDOW_SECONDS + 1
    monkeypatch.setattr("accounts.logins.time.time", lambda: later)
    assert login(client, RIGHT).status_code == 200


def test_the_admins_form_records_who_came(client: Client, owner: User) -> None:
    client.post("/admin/login/", {"username": "olga", "password": "wrong"})
    client.post("/admin/login/", {"username": "olga", "password": "pw-olga-123"})
    events = Event.objects.filter(category="authentication").order_by("id")
    assert [(e.event, e.surface) for e in events] == [
        ("login.failed", "admin"),
        ("login.succeeded", "admin"),
    ]


def test_a_foreign_page_cannot_sign_somebody_in(browser: Client, standard: User) -> None:
    assert login(browser, RIGHT, Origin="https://evil.example").status_code == 403
    assert login(browser, RIGHT, Origin="http://testserver").status_code == 200
    as_form = browser.post("/api/auth/login", RIGHT)
    assert as_form.status_code == 415, "a form needs no preflight, so it is not taken"
