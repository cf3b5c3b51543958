"""The pages as somebody without JavaScript sees them."""

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from accounts.models import User
from backends import services


class Reader:
    """A browser that runs no scripts."""

    def __init__(self, user: User) -> None:
        self.client = Client()
        self.client.force_login(user)

    def page(self, path: str, status: int = 200) -> str:
        answer = self.client.get(path)
        assert answer.status_code == status, answer.content.decode()[:2000]
        return answer.content.decode()

    def send(self, path: str, data: dict[str, Any] | None = None, status: int = 302) -> str:
        """Post a form; return where it leads, or the page that answers."""
        answer = self.client.post(path, data or {})
        assert answer.status_code == status, answer.content.decode()[:2000]
        return answer["Location"] if status == 302 else answer.content.decode()


@pytest.fixture(autouse=True)
def backends(db: None, clean_broker: object) -> None:
    services.backends_ensure()


@pytest.fixture
def reader() -> Callable[[User], Reader]:
    return Reader


@pytest.fixture
def boss(owner: User) -> Reader:
    return Reader(owner)


@pytest.fixture
def stan(standard: User) -> Reader:
    return Reader(standard)
