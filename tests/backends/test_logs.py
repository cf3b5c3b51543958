"""Logs of starts: kept, listed, read one by one, and without secrets wherever they are shown."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.test import Client
from typer.testing import CliRunner

from accounts.models import User
from backends import logs, secrets, selectors, supervisor
from backends.errors import UnknownStart
from backends.models import Backend
from tests.backends.conftest import FakeBackend
from tests.backends.faults.table import fault

KEY = "a-key-of-our-own"
TOKEN = "hf_abcdefghijklmnopqrstuvwx"
Make = Callable[..., FakeBackend]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"key {KEY} and {KEY}", "key ••• and •••"),
        (f"token={TOKEN}", "token=•••"),
        ("Authorization: Bearer abc.def-123", "Authorization: Bearer •••"),
        ("http://joe:pass%20word@proxy:3128/x", "http://•••@proxy:3128/x"),
        ("sk-abcdefghijklmnop1234", "•••"),
        ("inherited-value-42", "•••"),
        ("nothing to hide: http://127.0.0.1:8000/v1 tokens/s 12", None),
        ("asked false", None),
    ],
)
def test_secrets_are_blotted_out_by_value_and_by_looks(text: str, shown: str | None) -> None:
    environ = {
        "MY_API_KEY": "inherited-value-42",
        "HF_TOKEN": "a-token-without-looks",
        "TOKENIZERS_PARALLELISM": "tokens/s is no secret",
        "ASK_PASSWORD": "false",
        "SECRET_KEY_FILE": "/run/secret",
    }
    mask = logs.masker([KEY, ""], environ)
    assert mask(text) == (text if shown is None else shown)


def test_a_secret_that_is_part_of_another_leaves_no_rest() -> None:
    assert logs.masker(["abcdefgh", "abcdefgh-ijkl"], {})("x abcdefgh-ijkl y") == "x ••• y"


@pytest.fixture
def written(fake: Make, monkeypatch: pytest.MonkeyPatch) -> Callable[..., supervisor.Instance]:
    """Have a start of ``fake`` with a log, without a process."""
    backend = fake().row
    backend.secrets = secrets.seal({"apiKey": KEY})
    backend.save()
    monkeypatch.setenv("HF_TOKEN", TOKEN)

    def write(text: str, *, last: bool = True) -> supervisor.Instance:
        inst = supervisor.new_instance(settings.MH_HOME, "fake")
        supervisor.log_path(inst).write_text(text)
        if last:
            Backend.objects.filter(name="fake").update(last_instance_id=inst.instance_id)
        return inst

    return write


SAID = f"started with {KEY} and {TOKEN}\n"


def test_old_starts_can_be_read_and_are_listed(
    written: Callable[..., supervisor.Instance], owner: User
) -> None:
    old, new = written("the old one\n" + SAID), written("the new one\n")
    client = Client()
    client.force_login(owner)
    body = client.get("/api/llm-backend/fake/logs").json()
    assert body["lines"] == ["the new one"]
    assert [start["id"] for start in body["starts"]][:2] == [new.instance_id, old.instance_id]
    first = body["starts"][0]
    assert (first["running"], first["ended"], first["size_bytes"]) == (False, "", 12)
    assert first["started_at"].startswith("20")
    body = client.get(f"/api/llm-backend/fake/logs?start={old.instance_id}").json()
    assert body["lines"] == ["the old one", "started with ••• and •••"]


@pytest.mark.parametrize("start", ["nope", "../../etc", "..", "%00", "a" * 200])
def test_a_start_that_is_not_kept_is_404(
    written: Callable[..., supervisor.Instance], owner: User, start: str
) -> None:
    written("x\n")
    client = Client()
    client.force_login(owner)
    answer = client.get(f"/api/llm-backend/fake/logs?start={start}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "start_not_found")
    with pytest.raises(UnknownStart):
        selectors.backend_log("fake", start="nope")


def test_what_is_followed_is_masked_too_and_a_line_without_end_is_not_waited_for(
    written: Callable[..., supervisor.Instance],
) -> None:
    inst = written("before\n")
    Backend.objects.filter(name="fake").update(instance_id=inst.instance_id, state="ready")
    follower = selectors.LogFollower("fake")
    with supervisor.log_path(inst).open("a") as file:
        file.write(SAID)
    assert follower.read() == (["started with ••• and •••"], False)
    with supervisor.log_path(inst).open("a") as file:
        file.write("#" * 3_000_000)
    seen = 0
    for _ in range(100):
        seen += sum(map(len, follower.read()[0]))
    assert seen > 0


def test_the_command_line_lists_starts_and_shows_one(
    written: Callable[..., supervisor.Instance], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mhsite.cli import engine
    from mhsite.cli.output import Output

    inst = written("the old one\n" + SAID)
    monkeypatch.setattr(engine, "site_ready", lambda: None)
    said: list[Any] = []
    monkeypatch.setattr(Output, "result", lambda _self, payload, *_lines: said.append(payload))
    monkeypatch.setattr(Output, "table", lambda _self, payload, *_a, **_k: said.append(payload))
    engine.starts("fake", Output(as_json=True))
    engine.logs("fake", 50, follow=False, start=inst.instance_id, out=Output(as_json=True))
    listed, shown = said
    assert listed["starts"][0]["id"] == inst.instance_id
    assert shown["lines"] == ["the old one", "started with ••• and •••"]


def test_the_help_says_how() -> None:
    from mhsite.cli.vllm import app

    text = CliRunner().invoke(app, ["logs", "--help"], env={"COLUMNS": "200"}).output
    assert "--start" in text
    assert "--starts" in text


@fault(38)
@pytest.mark.process
def test_keys_and_tokens_given_to_an_engine_stand_nowhere_it_leaves(
    fake: Make, owner_actor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backends import services

    monkeypatch.setenv("HF_TOKEN", TOKEN)
    backend = fake()
    services.backend_configure(actor=owner_actor, name="fake", options={"apiKey": KEY})
    services.backend_start(actor=owner_actor, name="fake", foreground=True)
    backend.run()
    assert backend.row.state == "ready", backend.row.failure
    (inst,) = supervisor.find(settings.MH_HOME, "fake")
    folder = Path(inst.folder)
    kept = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    lines = b"".join(Path(f"/proc/{pid}/cmdline").read_bytes() for pid in supervisor.tree(inst))
    for secret in (KEY.encode(), TOKEN.encode()):
        assert secret not in kept
        assert secret not in lines
    assert os.environ["HF_TOKEN"] == TOKEN
