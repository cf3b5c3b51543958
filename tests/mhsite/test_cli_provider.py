"""``mh provider``: accounts, whose keys come from anywhere but the command line."""

import io
import json
from collections.abc import Callable
from typing import Any

import pytest

from accounts.errors import NotAllowed
from audit.models import Event
from backends import secrets
from mhsite import cli
from mhsite.cli import credentials
from mhsite.processes import boot
from router.models import ModelEntry, ProviderAccount
from router.providers.openai import OpenAI

KEY = "sk-never-to-be-seen-1234567890"
ADD = ["provider", "add", "openrouter", "--kind", "openai", "--set", "baseUrl=https://x.example/v1"]


@pytest.fixture(autouse=True)
def site(transactional_db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A site that has been booted once."""
    monkeypatch.setenv("MH_OWNER_PASSWORD", "pw-of-the-owner")
    monkeypatch.setattr(boot, "call_command", lambda *_args, **_kwargs: None)
    boot.database_prepare()


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the provider answers when credentials are tried; an error is raised."""
    said: dict[str, Any] = {"answer": "The key works.", "keys": []}

    async def check(self: OpenAI, target: Any) -> str:
        said["keys"].append(target.api_key)
        if isinstance(said["answer"], Exception):
            raise said["answer"]
        return str(said["answer"])

    monkeypatch.setattr(OpenAI, "check", check)
    return said


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def mh(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, Any]]:
    """Run a command with ``--json``; ``typed`` is what standard input holds."""

    def run(*arguments: str, typed: str = "") -> tuple[int, Any]:
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        status = cli.run([*arguments, "--json"])
        said = capfd.readouterr()
        assert KEY not in said.out + said.err
        return status, json.loads(said.out)

    return run


Mh = Callable[..., tuple[int, Any]]


def stored() -> Any:
    return secrets.unseal(ProviderAccount.objects.get().secrets)


def test_a_key_is_read_from_standard_input_tried_and_kept_unseen(
    mh: Mh, asked: dict[str, Any]
) -> None:
    status, account = mh(*ADD, typed=f"{KEY}\n")
    assert (status, account["secrets"], account["check"]["good"]) == (0, {"apiKey": True}, True)
    assert account["settings"]["baseUrl"] == "https://x.example/v1"
    assert (asked["keys"], stored()) == ([KEY], {"apiKey": KEY})
    assert Event.objects.get(event="provider.created").surface == "cli"
    listed = mh("provider", "list")[1]
    assert [row["name"] for row in listed["providers"]] == ["openrouter"]
    assert {"openai", "runpod", "huggingface"} <= {kind["kind"] for kind in listed["kinds"]}
    assert mh(*ADD, typed=KEY)[1]["error"]["code"] == "already_exists"


@pytest.mark.parametrize("given", ["THE_KEY", "apiKey=THE_KEY"])
def test_a_key_is_read_from_the_environment(
    mh: Mh, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.setenv("THE_KEY", KEY)
    assert mh(*ADD, "--env", given, typed="something else")[0] == 0
    assert stored() == {"apiKey": KEY}


def test_at_a_terminal_a_key_is_asked_for(mh: Mh, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answer(prompt: str) -> str:
        asked.append(prompt)
        return KEY

    monkeypatch.setattr(credentials.getpass, "getpass", answer)
    monkeypatch.setattr("sys.stdin", Terminal())
    assert cli.run(ADD) == 0
    assert "apiKey" in asked[0]
    assert stored() == {"apiKey": KEY}


def test_several_secrets_are_a_json_object(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO('{"a": "1", "b": ""}'))
    assert credentials.secrets_read(["a", "b"], []) == {"a": "1"}
    for wrong in ("one line", '{"c": "1"}', '{"a": 1}', "{"):
        monkeypatch.setattr("sys.stdin", io.StringIO(wrong))
        with pytest.raises(Exception, match="JSON object"):
            credentials.secrets_read(["a", "b"], [])
    assert credentials.secrets_read([], []) == {}


def test_a_setting_that_is_an_object_is_written_as_json(mh: Mh) -> None:
    endpoints = ["--set", 'endpoints={"default": "123"}', "--set", "pollMin=0.5", "--no-check"]
    status, account = mh("provider", "add", "runpod", *endpoints, typed=KEY)
    assert (status, account["settings"]["endpoints"]) == (0, {"default": "123"})
    assert account["settings"]["pollMin"] == 0.5
    assert account["check"]["good"] is None


@pytest.mark.parametrize(
    ("more", "status", "said"),
    [
        (["--set", f"apiKey={KEY}"], 2, "is a secret"),
        (["--set", f"api_key={KEY}"], 2, "is a secret"),
        (["--set", "baseUrl"], 2, "NAME=VALUE"),
        (["--set", "baseUrl={"], 2, "not JSON"),
        (["--set", "colour=red"], 1, "no such setting"),
        (["--env", "NOWHERE_SET"], 2, "NOWHERE_SET"),
        (["--env", "colour=PATH"], 2, "apiKey"),
        (["--kind", "nobody"], 1, "nobody"),
        (["--kind", "vllm"], 1, "needs no account"),
    ],
)
def test_what_cannot_be_added_is_told(mh: Mh, more: list[str], status: int, said: str) -> None:
    found, answer = mh(*ADD, *more, typed=KEY)
    assert found == status
    assert said in answer["error"]["message"]
    assert not ProviderAccount.objects.exists()


def test_a_key_that_does_not_work_is_not_saved_and_test_says_so_later(
    mh: Mh, asked: dict[str, Any]
) -> None:
    asked["answer"] = NotAllowed("The key is wrong.")
    status, said = mh(*ADD, typed=KEY)
    assert (status, said["error"]["code"]) == (1, "credentials_refused")
    assert mh(*ADD, "--no-check", typed=KEY)[0] == 0
    status, account = mh("provider", "test", "openrouter")
    assert (status, account["check"]["good"]) == (1, False)
    asked["answer"] = "The key works."
    status, account = mh("provider", "test", "openrouter")
    assert (status, account["check"]["message"]) == (0, "The key works.")
    assert mh("provider", "test", "nobody")[1]["error"]["code"] == "provider_not_found"


def test_an_account_that_a_model_names_stays(mh: Mh) -> None:
    mh(*ADD, typed=KEY)
    entry = ModelEntry.objects.create(id="m", provider="openrouter", model="x")
    assert mh("provider", "rm", "openrouter")[1]["error"]["code"] == "provider_in_use"
    entry.delete()
    assert mh("provider", "rm", "openrouter") == (0, {"removed": "openrouter"})
    assert not ProviderAccount.objects.exists()


def test_people_see_lines_of_cells(mh: Mh, capfd: pytest.CaptureFixture[str]) -> None:
    mh(*ADD, typed=KEY)
    assert cli.run(["provider", "list"]) == 0
    cells = capfd.readouterr().out.split("\n")[0].split("\t")
    assert cells == ["openrouter", "openai", "apiKey", "yes", "none", "The key works."]
