"""The Charts page as the server makes it: whole without JavaScript."""

import time
from collections.abc import Callable

import pytest
from django.conf import settings
from django.test import Client
from django.urls import reverse

from accounts.models import User
from backends import flow, services
from backends.sampling.stats import Stat

pytestmark = pytest.mark.django_db


@pytest.fixture
def page(client: Client, guest: User, clean_broker: object) -> Callable[..., str]:
    services.backends_ensure()
    client.force_login(guest)

    def get(**query: str) -> str:
        answer = client.get(reverse("admin:charts"), query)
        assert answer.status_code == 200
        return answer.content.decode()

    return get


def seen() -> None:
    reading = {
        "gpu/GPU-0": {"power": Stat.of(310), "memory_used": Stat.of(12 << 30)},
        "backend/ollama": {"tokens_per_second": Stat.rate(83, 2)},
        "site/held": {"requests_held": Stat.of(0)},
    }
    flow.samples_push(settings.MH_NODE, int(time.time()) // 5 * 5, reading)


def test_values_stand_in_a_table(page: Callable[..., str]) -> None:
    seen()
    html = page()
    for text in ("GPU memory", "12 GB", "310 W", "41.5 tokens/s", "Ollama"):
        assert text in html


def test_a_range_is_chosen_by_its_link(page: Callable[..., str]) -> None:
    html = page(range="7d")
    assert 'href="?range=7d" data-range="7d" aria-current="true"' in html
    assert html.count('aria-current="true"') == 1


def test_nothing_to_show_is_said(page: Callable[..., str]) -> None:
    html = page(range="24h")
    assert "No NVIDIA GPU found" in html
    assert "No engine ran in the last" in html
    assert "data-numbers hidden" in html
    seen()
    html = page()
    assert html.count("data-none hidden") == 2
    assert "data-numbers >" in html
