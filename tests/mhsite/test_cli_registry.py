"""``mh role``, ``mh model`` and ``mh config``."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backends.models import Backend
from mhsite import cli
from mhsite.processes import boot
from router.models import ModelEntry, Role
from router.registry_reads import deployment, registry


@pytest.fixture(autouse=True)
def site(transactional_db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A site that has been booted once."""
    monkeypatch.setenv("MH_OWNER_PASSWORD", "pw-of-the-owner")
    monkeypatch.setattr(boot, "call_command", lambda *_args, **_kwargs: None)
    boot.database_prepare()


@pytest.fixture
def mh(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, Any]]:
    """Run a command with ``--json``."""

    def run(*arguments: str) -> tuple[int, Any]:
        status = cli.run([*arguments, "--json"])
        return status, json.loads(capfd.readouterr().out)

    return run


Mh = Callable[..., tuple[int, Any]]


def test_a_model_is_added_listed_shown_and_removed(mh: Mh) -> None:
    status, added = mh("model", "add", "night", "--provider", "vllm", "--options", '{"topP": 1.0}')
    assert (status, added["options"]) == (0, {"top_p": 1.0})
    assert mh("model", "list", "NIGHT")[1]["models"][0]["id"] == "night"
    assert mh("model", "show", "night")[1]["when_off"] == "next"
    assert mh("model", "rm", "night") == (0, {"removed": "night"})
    status, said = mh("model", "show", "night")
    assert (status, said["error"]["code"]) == (1, "model_not_found")


def test_a_role_is_set_keeps_its_options_and_is_unset(mh: Mh) -> None:
    mh("model", "add", "night")
    options = ["--options", '{"temperature": 0}', "--context", "trim"]
    assert mh("role", "set", "persona", "night", "default.persona", *options)[0] == 0
    status, role = mh("role", "set", "persona", "night")
    assert (status, role["chain"], role["options"]) == (0, ["night"], {"temperature": 0})
    assert role["context"] == "trim"
    assert mh("model", "rm", "night")[1]["error"]["code"] == "model_in_use"
    assert mh("role", "unset", "persona") == (0, {"unset": "persona"})
    assert not Role.objects.filter(name="persona").exists()
    listed = {row["name"]: row for row in mh("role", "list")[1]["roles"]}
    assert listed["persona"]["chain"] == []


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (["role", "set", "persona"], 2),
        (["model", "add", "a", "--options", "red"], 2),
        (["model", "add", "a", "--when-off", "red"], 1),
        (["role", "set", "persona", "ghost"], 1),
        (["role", "unset", "nobody"], 1),
    ],
)
def test_what_cannot_be_done_has_its_exit_status(mh: Mh, command: list[str], status: int) -> None:
    found, said = mh(*command)
    assert found == status
    assert said["error"]["message"]


def test_people_see_lines_of_cells(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["role", "list"]) == 0
    assert "persona\tdefault.persona\t" in capfd.readouterr().out
    assert cli.run(["model", "list"]) == 0
    assert "default.persona\tactive\t" in capfd.readouterr().out


def test_what_was_just_imported_is_no_difference_and_an_export_can_be_imported(
    mh: Mh, tmp_path: Path
) -> None:
    assert mh("config", "diff") == (0, {"differences": []})
    assert len(mh("config", "export", str(tmp_path))[1]["written"]) == 3
    assert mh("config", "validate", str(tmp_path))[1]["good"] is True
    assert mh("config", "diff", str(tmp_path)) == (0, {"differences": []})
    assert mh("config", "import", str(tmp_path))[0] == 0
    assert mh("config", "diff") == (0, {"differences": []})


def test_a_difference_is_named_and_ends_with_1(mh: Mh) -> None:
    mh("model", "add", "night")
    Backend.objects.filter(name="vllm").update(options={"maxModelLen": 4096})
    status, found = mh("config", "diff")
    assert status == 1
    assert {(row["file"], row["path"]) for row in found["differences"]} >= {
        ("models.json", "models.night")
    }
    assert ModelEntry.objects.filter(pk="night").exists(), "a diff changes nothing"


def test_a_file_that_is_refused_is_named_and_nothing_is_imported(mh: Mh, tmp_path: Path) -> None:
    (tmp_path / "deployment.json").write_text('{"mode": "local"}')
    (tmp_path / "models.json").write_text('{"models": {}, "roles": {"persona": ["ghost"]}}')
    status, found = mh("config", "validate", str(tmp_path))
    assert status == 1
    assert found["files"]["deployment.json"] == ""
    assert "ghost" in found["files"]["models.json"]
    status, said = mh("config", "import", str(tmp_path))
    assert status == 1
    assert said["error"]["message"].startswith("models.json: ")
    assert "persona" in registry().roles
    assert len(registry().entries) == 8


def test_one_file_can_be_imported_with_a_key_of_the_environment(
    mh: Mh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "deployment.json"
    account = {"kind": "openai", "apiKey": "${MY_KEY}"}
    path.write_text(
        json.dumps(
            {"mode": "server", "server": {"provider": "mine"}, "providers": {"mine": account}}
        )
    )
    status, said = mh("config", "import", str(path))
    assert (status, said["error"]["code"]) == (1, "environment_variable_missing")
    assert "MY_KEY" in said["error"]["message"]
    monkeypatch.setenv("MY_KEY", "sk-never-to-be-seen-1234567890")
    assert mh("config", "import", str(path))[0] == 0
    assert deployment().mode == "server"
    assert "sk-never" not in json.dumps(mh("config", "export")[1])
    assert mh("config", "diff", str(path))[0] == 0
    monkeypatch.setenv("MY_KEY", "sk-never-another-1234567890")
    status, found = mh("config", "diff", str(path))
    assert (status, found["differences"][0]["path"]) == (1, "mine.apiKey")
    assert "sk-never" not in json.dumps(found)


def test_a_folder_without_files_is_an_error(mh: Mh, tmp_path: Path) -> None:
    assert mh("config", "import", str(tmp_path))[1]["error"]["code"] == "no_file"
    other = tmp_path / "other.json"
    other.write_text("{}")
    assert mh("config", "validate", str(other))[1]["error"]["code"] == "no_file"
