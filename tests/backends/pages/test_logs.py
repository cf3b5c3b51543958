"""The logs page: whose log, which start, and what leaves as a file."""

from pathlib import Path

import pytest
from django.conf import settings
from django.test import Client

from accounts.models import User
from backends import services, supervisor
from backends.models import Backend

pytestmark = pytest.mark.django_db
URL = "/admin/backends/logs/"
FIRST, SECOND = "261128T100000000000-aaaa", "261128T110000000000-bbbb"


@pytest.fixture(autouse=True)
def home(db: None, clean_broker: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "MH_HOME", tmp_path)
    services.backends_ensure()
    for start, text in (
        (FIRST, "first start\n"),
        (SECOND, "a key: hf_abcdefghijklmnopqrst\nsecond\n"),
    ):
        path = supervisor.log_path(supervisor.instance(tmp_path, "vllm", start))
        path.parent.mkdir(parents=True)
        path.write_text(text)
        path.with_name(f"{path.name}.1").write_text("rotated out\n")
    Backend.objects.filter(name="vllm").update(instance_id=SECOND)


def html_of(client: Client, user: User, query: str = "") -> str:
    client.force_login(user)
    response = client.get(f"{URL}{query}")
    assert response.status_code == 200
    return response.content.decode()


def test_the_current_start_is_shown_and_earlier_ones_can_be_chosen(
    client: Client, owner: User
) -> None:
    html = html_of(client, owner, "?backend=vllm")
    assert "<div>second</div>" in html
    assert f'value="{FIRST}"' in html
    assert "2026-11-28 10:00:00" in html
    assert "<div>first start</div>" in html_of(client, owner, f"?backend=vllm&start={FIRST}")


def test_the_whole_log_leaves_as_a_file_without_secrets(client: Client, owner: User) -> None:
    client.force_login(owner)
    response = client.get(f"{URL}download?backend=vllm&start={SECOND}")
    assert response["Content-Disposition"] == f'attachment; filename="vllm-{SECOND}.log"'
    assert response["Content-Type"] == "text/plain; charset=utf-8"
    assert response.content.decode() == "rotated out\na key: •••\nsecond\n"


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("?backend=nosuch", 404),
        ("?backend=vllm&start=nosuch", 404),
        ("download?backend=nosuch", 404),
        ("download?backend=ollama", 404),
        ("download", 404),
    ],
)
def test_what_is_not_there_is_said(client: Client, owner: User, query: str, status: int) -> None:
    client.force_login(owner)
    response = client.get(f"{URL}{query}")
    assert response.status_code == status
    assert 'role="alert"' in response.content.decode()


def test_the_owner_of_one_backend_reads_its_log_only(client: Client, standard: User) -> None:
    client.force_login(standard)
    assert client.get(URL).status_code == 403
    Backend.objects.filter(name="vllm").update(owner=standard)
    html = html_of(client, standard)
    assert "<div>second</div>" in html
    assert 'value="ollama"' not in html
    assert client.get(f"{URL}?backend=ollama").status_code == 403
    assert client.get(f"{URL}download?backend=ollama").status_code == 403
