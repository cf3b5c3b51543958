"""A site on services of one's own: PostgreSQL for its data, a Redis or Valkey server for its messages."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest

from accounts.errors import Unavailable
from backends.ports import free_port
from mhsite.cli import postgresql
from mhsite.environment import Environment
from mhsite.home import REPOSITORY
from tests.backends.faults.whole_site import WholeSite, until, whole_site
from tests.conftest import valkey


@pytest.fixture
def redis_url() -> Iterator[str]:
    port = free_port()
    url = f"redis://127.0.0.1:{port}/0"
    with valkey(url, "--port", str(port), "--bind", "127.0.0.1"):
        yield url


@pytest.mark.process
def test_a_site_on_postgresql_and_redis_serves_switches_counts_and_keeps_its_audit(
    redis_url: str,
) -> None:
    with (
        postgresql.server() as url,
        whole_site(DATABASE_URL=url, REDIS_URL=redis_url) as site,
    ):
        assert not list(site.home.glob("*.sqlite3*"))
        assert "broker" not in site.parts()
        site.start("left")
        assert site.chat().json()["backend"] == "left"
        assert site.ask("switch", "right", wait=60)["state"] == "succeeded"
        assert site.chat().json()["backend"] == "right"
        token = site.post_created("/api/tokens", {"name": "by a program"})["token"]
        body = {
            "model": "role:persona",
            "messages": [{"role": "user", "content": "hi"}],
            "stream": True,
        }
        headers = {"Authorization": f"Bearer {token}"}
        streamed = httpx.post(
            f"{site.url}/v1/chat/completions", json=body, headers=headers, trust_env=False
        )
        assert streamed.text.endswith("data: [DONE]\n\n"), streamed.text
        until(lambda: counted(site) == 3, 20, "all three requests are counted")
        assert site.client.get("/api/audit/verify").json()["ok"] is True
        # Nobody changes the audit, whoever speaks to the database itself.
        with psycopg.connect(url) as connection, pytest.raises(psycopg.Error, match="append-only"):
            connection.execute("DELETE FROM audit_event")
        command = [sys.executable, "-m", "mhsite.cli", "status"]
        said = subprocess.run(
            command, cwd=REPOSITORY, env=site.env, capture_output=True, text=True, check=False
        )
        assert said.returncode == 0, said.stderr
        assert "right" in said.stdout


def counted(site: WholeSite) -> int:
    return len(site.client.get("/api/usage").json()["results"])


#: Where nobody listens; the same for every worker, which names tests after it.
NOBODY = "127.0.0.1:1"


@pytest.mark.process
@pytest.mark.parametrize("command", ["up", "status"])
@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("DATABASE_URL", f"postgres://mh:word@{NOBODY}/mh", "The database that DATABASE_URL names"),
        ("DATABASE_URL", "mysql://mh:word@host/mh", "must be like postgres://user:password@host/"),
        ("DATABASE_URL", "word", "DATABASE_URL cannot be understood"),
        ("REDIS_URL", f"redis://:word@{NOBODY}/0", "The server that REDIS_URL names"),
        ("REDIS_URL", "redis://word:six", "REDIS_URL cannot be understood"),
        ("MH_HOLD_SECONDS", "soon", "MH_HOLD_SECONDS is 'soon'; it must be a whole number."),
        ("MH_PORT", "99999", "MH_PORT is 99999; it may be 0 to 65535."),
        ("MH_ANSWER_SECONDS", "soon", "MH_ANSWER_SECONDS is 'soon'; it must be a number."),
    ],
)
def test_what_a_setting_says_wrongly_or_names_in_vain_is_told_in_a_sentence(
    name: str, value: str, said: str, command: str, tmp_path: Path
) -> None:
    environment = {**os.environ, "MH_HOME": str(tmp_path), "MH_PORT": "0", name: value}
    ended = subprocess.run(
        [sys.executable, "-m", "mhsite.cli", command],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if command == "status" and ((NOBODY in value and name == "REDIS_URL") or name == "MH_PORT"):
        # What the database knows is shown all the same, and that the site is not running.
        assert ended.returncode == 3
        return
    assert ended.returncode == 1
    assert said in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert "word@" not in ended.stderr.replace("password@", "")
    assert "a fault in mh" not in ended.stderr


def test_empty_addresses_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    read = Environment()
    for name in ("DATABASE_URL", "REDIS_URL"):
        monkeypatch.setenv(name, "")
    assert read.database("DATABASE_URL", "sqlite:////here")["NAME"] == "/here"
    assert read.redis("REDIS_URL", "unix:///there") == "unix:///there"


def test_without_postgresql_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgresql, "programs", lambda: None)
    with pytest.raises(Unavailable, match="apt-get install postgresql"), postgresql.server():
        pass
