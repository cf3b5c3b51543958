"""The ``mh`` command: what it answers, and how it ends."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from accounts.models import User
from backends.errors import BackendNotRunning
from mhsite import cli
from mhsite.cli import engine, operations
from mhsite.cli.output import Output, size
from mhsite.processes import boot


class Ran:
    """What one command did."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def mh(capfd: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    def run(*arguments: str) -> Ran:
        status = cli.run(arguments)
        out, err = capfd.readouterr()
        return Ran(status, out, err)

    return run


@pytest.fixture
def site(transactional_db: None, clean_broker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A site that has been booted once: an owner, and rows of backends."""
    monkeypatch.setenv("MH_OWNER_PASSWORD", "pw-of-the-owner")
    monkeypatch.setattr(boot, "call_command", lambda *_args, **_kwargs: None)
    boot.database_prepare()


@pytest.mark.parametrize("command", ["--help", "up --help", "vllm --help", "token create --help"])
def test_help_is_an_answer(mh: Callable[..., Ran], command: str) -> None:
    ran = mh(*command.split())
    assert ran.status == 0
    assert "Usage" in ran.out


@pytest.mark.parametrize(
    "command",
    [
        "nonsense",
        "vllm nonsense",
        "token create",
        "vllm logs -n 0",
        "vllm start -o x",
        "chat --format /no/such/file hello",
        "chat --format {broken hello",
        "chat --format /dev/null hello",
    ],
)
def test_wrong_usage_ends_with_2(mh: Callable[..., Ran], command: str, site: None) -> None:
    ran = mh(*command.split())
    assert ran.status == 2
    assert ran.err
    with_json = mh(*command.split(), "--json")
    assert with_json.status == 2
    assert with_json.json()["error"]["code"] == "usage"


def test_an_error_is_one_line_and_with_json_one_object(mh: Callable[..., Ran], site: None) -> None:
    ran = mh("token", "revoke", "tok_none")
    assert (ran.status, ran.out, ran.err) == (1, "", "mh: There is no token tok_none.\n")
    error = mh("token", "revoke", "tok_none", "--json").json()["error"]
    assert error["code"] == "token_not_found"


def test_a_fault_of_ours_is_a_sentence_and_no_traceback(
    mh: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mhsite.cli.site._own_version", lambda: 1 / 0)
    ran = mh("version")
    assert ran.status == 1
    assert ran.err.startswith("mh: ZeroDivisionError")
    assert "Traceback" not in ran.err


def test_a_token_is_printed_once_and_works_out_whose_it_is(
    mh: Callable[..., Ran], site: None
) -> None:
    made = mh("token", "create", "--name", "ci", "--scope", "chat", "--json").json()
    assert made["token"].startswith("mh_")
    assert (made["user"], made["scopes"]) == ("owner", ["chat"])
    listed = mh("token", "list", "--json").json()["tokens"]
    assert [row["id"] for row in listed] == [made["id"]]
    assert "token" not in listed[0]
    assert mh("token", "revoke", made["id"]).status == 0
    assert mh("token", "list", "--json").json() == {"tokens": []}


def test_a_plain_token_stands_alone_on_standard_output(mh: Callable[..., Ran], site: None) -> None:
    ran = mh("token", "create", "--name", "ci")
    assert ran.out.startswith("mh_")
    assert ran.out.count("\n") == 1


def test_a_token_can_be_somebody_elses(mh: Callable[..., Ran], site: None) -> None:
    User.objects.create_user("stan", password="pw-stan-123")
    made = mh("token", "create", "--name", "x", "--user", "stan", "--json").json()
    assert made["user"] == "stan"
    assert mh("token", "create", "--name", "x", "--user", "nobody").status == 1


def test_a_stopped_engine_is_status_3(mh: Callable[..., Ran], site: None) -> None:
    ran = mh("vllm", "status")
    assert ran.status == 3
    assert ran.out.startswith("vLLM Status: ")
    assert mh("vllm", "status", "--json").json()["running"] is False


def test_a_running_engine_is_described_as_the_contract_says(
    mh: Callable[..., Ran], site: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    gib = 1024**3
    mine = {
        "title": "vLLM",
        "running": True,
        "state": "ready",
        "installed": True,
        "installing": None,
        "endpoint": "http://localhost:8000",
        "model": "Qwen/Qwen2.5-14B-Instruct",
        "failure": "",
        "reason": "",
        "standby": None,
    }
    gpu = {
        "memory_total": 24 * gib,
        "memory_used": int(12.4 * gib),
        "processes": [{"pid": 1, "backend": "vllm", "memory": 1}],
    }
    other = {"memory_total": 24 * gib, "memory_used": 0, "processes": []}
    monkeypatch.setattr(engine, "_available", lambda _name: ({"gpus": [gpu, other]}, mine))
    ran = mh("vllm", "status")
    assert ran.status == 0
    assert ran.out.splitlines() == [
        "vLLM Status: Running",
        "Endpoint: http://localhost:8000",
        "Model: Qwen/Qwen2.5-14B-Instruct",
        "GPU Memory: 12.4GB / 24GB (52%)",
    ]


def test_an_option_is_shown_set_and_put_back(mh: Callable[..., Ran], site: None) -> None:
    assert mh("vllm", "config", "port", "8123").out == "8123\n"
    assert mh("vllm", "config", "port", "--json").json() == {"port": 8123}
    assert mh("vllm", "config", "port", "null").out == "8000\n"
    wrong = mh("vllm", "config", "port", "many")
    assert wrong.status == 1
    assert "'port'" in wrong.err
    assert "There is no option 'prot'" in mh("vllm", "config", "prot").err


def test_every_engine_has_the_same_commands(
    mh: Callable[..., Ran], site: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MH_OLLAMA_BIN", "/nowhere/ollama")
    ran = mh("ollama", "status")
    assert ran.status == 3
    assert ran.out.startswith("Ollama Status: Not installed\n")
    assert "MH_OLLAMA_BIN names /nowhere/ollama" in ran.out
    assert mh("ollama", "config", "defaultModel", "smollm2:135m").out == "smollm2:135m\n"
    assert mh("ollama", "config", "model").out == "smollm2:135m\n"
    assert mh("ollama", "logs").status == 0


def test_a_secret_option_is_never_shown(mh: Callable[..., Ran], site: None) -> None:
    ran = mh("vllm", "config", "apiKey", "a-very-secret-key")
    assert ran.out == "(set)\n"
    assert "a-very-secret-key" not in mh("vllm", "config", "--json").out
    assert "a-very-secret-key" not in mh("audit", "export").out


def test_a_chat_with_nothing_running_is_status_3(mh: Callable[..., Ran], site: None) -> None:
    ran = mh("chat", "hello")
    assert ran.status == 3
    assert ran.err.startswith("mh: ")
    assert mh("chat", "hello", "--json").json()["error"]["code"] == "backend_not_running"


def test_an_unknown_model_is_named(mh: Callable[..., Ran], site: None) -> None:
    ran = mh("vllm", "start", "no/such-model")
    assert ran.status == 1
    assert "Traceback" not in ran.err


def test_the_audit_is_shown_verified_and_exported(
    mh: Callable[..., Ran], site: None, tmp_path: Path
) -> None:
    mh("token", "create", "--name", "x")
    last = mh("audit", "tail", "-n", "1").out
    assert " owner token.created token:tok_" in last
    assert mh("audit", "tail", "--event", "nothing").out == ""
    report = mh("audit", "verify", "--json").json()
    assert report["ok"] is True
    lines = mh("audit", "export").out.splitlines()
    assert [json.loads(line)["event"] for line in lines][-1] == "token.created"
    ran = mh("audit", "export", "--output", str(tmp_path / "events"), "--json")
    assert ran.json()["events"] == len((tmp_path / "events").read_text().splitlines())


def test_what_mh_does_is_recorded_as_the_owners_by_the_person_at_the_keyboard(
    mh: Callable[..., Ran], site: None
) -> None:
    mh("token", "create", "--name", "x")
    event = mh("audit", "tail", "-n", "1", "--json").json()["events"][0]
    assert (event["actor"], event["surface"]) == ("owner", "cli")
    assert event["source_address"].startswith("local:")


def test_version_and_doctor_answer(mh: Callable[..., Ran], site: None) -> None:
    assert mh("version", "--json").json()["mh"] == "0.1.0"
    found = mh("doctor", "--json").json()["findings"]
    assert {"python", "MH_HOME", "site", "vllm"} <= {row["subject"] for row in found}


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0B"), (1023, "1023B"), (1024, "1KB"), (13314398617, "12.4GB"), (25769803776, "24GB")],
)
def test_bytes_are_written_for_people(count: int, text: str) -> None:
    assert size(count) == text


def test_options_on_the_command_line_are_json_where_they_can_be() -> None:
    given = engine.option_pairs(["port=1", "model=a/b", "seed=null", "x=a=b", "y=0.5"])
    assert given == {"port": 1, "model": "a/b", "seed": None, "x": "a=b", "y": 0.5}
    with pytest.raises(typer.BadParameter):
        engine.option_pairs(["=1"])


def test_a_table_is_tab_separated_when_piped(capsys: pytest.CaptureFixture[str]) -> None:
    out = Output(as_json=False)
    out.table({}, ("a", "b"), [("1", "2")], empty="none")
    assert capsys.readouterr().out == "1\t2\n"
    out.table({}, ("a", "b"), [], empty="none")
    assert capsys.readouterr() == ("", "none\n")


def test_a_step_is_told_in_words() -> None:
    payload: Any = {"state": "queued", "steps": []}
    assert operations.step_phrase(payload) == "waiting for the worker"
    payload = {"state": "running", "steps": [{"name": "start", "message": "loading weights"}]}
    assert operations.step_phrase(payload) == "start: loading weights"


def test_every_code_of_what_is_not_there_exists() -> None:
    assert BackendNotRunning.code in cli.NOT_THERE


def test_gpu_memory_that_the_driver_does_not_tell_is_said_to_be_unknown() -> None:
    card = {"processes": [], "memory_used": None, "memory_total": 24 << 30}
    assert engine.gpu_memory([card], "vllm") == "unknown: the driver does not say"
