"""Downloads from the (fake) Hub over real sockets: whole, resumed, cancelled, refused."""

import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backends.engines.base import Transfer
from backends.engines.huggingface import download as downloading
from backends.engines.huggingface.cache import PARTIAL
from backends.engines.huggingface.download import download
from backends.engines.models_on_disk import Places, inventory, problem_of, resolve
from backends.errors import OperationCancelled, PullFailed, UnknownModel
from tests.fakes.fake_hub import COMMIT, MODEL, TOKEN, FakeHub, Habits, digest, model_files

#: Sent in several pieces, so that a download can be watched.
BIG = 2_000_000


def fetch(
    tmp_path: Path,
    model: str = MODEL,
    *,
    revision: str = "main",
    seen: list[Transfer] | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Path:
    report = (seen if seen is not None else []).append
    return download(
        model, revision=revision, hub=tmp_path / "hub", report=report, cancelled=cancelled
    )


def weights_asked(hub: FakeHub) -> list[str]:
    """Return the ranges of the weights that were asked of the CDN."""
    return [
        range_
        for host, path, range_, _ in hub.asked
        if path.endswith(".safetensors") and host.startswith("localhost")
    ]


def names(tmp_path: Path) -> list[str]:
    return [model.id for model in inventory(Places(hubs=(tmp_path / "hub",)))]


def test_a_model_is_fetched_whole_into_the_caches_own_layout(hub: FakeHub, tmp_path: Path) -> None:
    seen: list[Transfer] = []
    snapshot = fetch(tmp_path, seen=seen)
    files = hub.models[MODEL].files
    repository = tmp_path / "hub" / "models--lab--tiny"
    assert snapshot == repository / "snapshots" / COMMIT
    assert (repository / "refs" / "main").read_text() == COMMIT
    assert problem_of(snapshot) == ""
    for name in ("config.json", "tokenizer.json", "model.safetensors", "README.md"):
        assert (snapshot / name).read_bytes() == files[name]
        assert (snapshot / name).is_symlink()
        assert (snapshot / name).resolve() == repository / "blobs" / digest(files[name])
    assert resolve(MODEL, Places(hubs=(tmp_path / "hub",))) == snapshot
    assert seen[-1].completed_bytes == seen[-1].total_bytes > 300_000
    (found,) = inventory(Places(hubs=(tmp_path / "hub",)))
    assert (found.id, found.architecture, found.context_length, found.place) == (
        MODEL, "LlamaForCausalLM", 2048, "hub",
    )  # fmt: skip


def test_only_one_format_of_the_weights_is_fetched(hub: FakeHub, tmp_path: Path) -> None:
    snapshot = fetch(tmp_path)
    assert {path.name for path in snapshot.iterdir()} == {
        "README.md", "config.json", "tokenizer.json", "model.safetensors",
    }  # fmt: skip


def test_what_is_here_is_not_fetched_again(hub: FakeHub, tmp_path: Path) -> None:
    fetch(tmp_path)
    hub.asked.clear()
    seen: list[Transfer] = []
    fetch(tmp_path, seen=seen)
    assert hub.asked == []
    assert seen[-1].fraction == 1.0


def test_a_connection_that_is_cut_goes_on_at_the_next_byte(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloading, "PAUSE_SECONDS", 0.01)
    hub.habits = Habits(cuts=3, cut_after=64 * 1024)
    snapshot = fetch(tmp_path)
    assert problem_of(snapshot) == ""
    asked = weights_asked(hub)
    assert len(asked) >= 2
    assert asked[0].startswith("bytes=0-")
    assert not asked[-1].startswith("bytes=0-")


def test_a_cancelled_download_stops_the_transfer_and_goes_on_there_next_time(
    hub: FakeHub, tmp_path: Path
) -> None:
    hub.add(MODEL, files=model_files(BIG))
    hub.habits = Habits(hang_after=1_000_000)
    seen: list[Transfer] = []
    began = time.monotonic()
    with pytest.raises(OperationCancelled):
        fetch(
            tmp_path,
            seen=seen,
            cancelled=lambda: bool(seen and seen[-1].completed_bytes >= 1_000_000),
        )
    assert time.monotonic() - began < 20
    assert "mh-hub-download" not in [thread.name for thread in threading.enumerate()]
    deadline = time.monotonic() + 10
    while hub.open and time.monotonic() < deadline:
        time.sleep(0.01)
    assert hub.open == 0, "the Hub still sends"
    assert names(tmp_path) == [], "what is not whole is not listed"

    hub.habits = Habits()
    hub.asked.clear()
    assert problem_of(fetch(tmp_path)) == ""
    (asked,) = weights_asked(hub)
    assert int(asked.removeprefix("bytes=").partition("-")[0]) >= 1_000_000
    assert names(tmp_path) == [MODEL]
    assert not list((tmp_path / "hub").rglob(f"*{PARTIAL}"))


def test_a_hub_without_ranges_is_asked_for_everything_again(hub: FakeHub, tmp_path: Path) -> None:
    blobs = tmp_path / "hub" / "models--lab--tiny" / "blobs"
    blobs.mkdir(parents=True)
    content = hub.models[MODEL].files["model.safetensors"]
    (blobs / f"{digest(content)}{PARTIAL}").write_bytes(content[:1000])
    hub.habits = Habits(no_ranges=True)
    assert problem_of(fetch(tmp_path)) == ""


@pytest.mark.parametrize("there", [b"x" * 1000, b"x" * 900_000])
def test_a_partial_file_of_other_bytes_is_found_by_its_checksum(
    hub: FakeHub, tmp_path: Path, there: bytes
) -> None:
    blobs = tmp_path / "hub" / "models--lab--tiny" / "blobs"
    blobs.mkdir(parents=True)
    content = hub.models[MODEL].files["model.safetensors"]
    (blobs / f"{digest(content)}{PARTIAL}").write_bytes(there)
    if len(there) > len(content):
        assert problem_of(fetch(tmp_path)) == ""
    else:
        with pytest.raises(PullFailed, match="damaged"):
            fetch(tmp_path)
        assert names(tmp_path) == []
        assert problem_of(fetch(tmp_path)) == "", "the next pull begins it anew"


def test_bytes_that_are_not_those_listed_are_never_shown(hub: FakeHub, tmp_path: Path) -> None:
    hub.habits = Habits(corrupt=True)
    with pytest.raises(PullFailed, match=r"damaged.*checksum"):
        fetch(tmp_path)
    assert names(tmp_path) == []


def test_a_hub_that_fails_for_a_moment_is_asked_again(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloading, "PAUSE_SECONDS", 0.01)
    hub.habits = Habits(statuses=[503, 429, 500])
    assert problem_of(fetch(tmp_path)) == ""


def test_a_hub_that_goes_on_failing_is_given_up_with_what_to_do(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloading, "PAUSE_SECONDS", 0.01)
    hub.habits = Habits(statuses=[503] * 100)
    with pytest.raises(PullFailed, match=r"broke off 5 times.*503.*Pull lab/tiny again"):
        fetch(tmp_path)


def test_the_token_reaches_the_hub_and_never_the_cdn(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.models[MODEL].private = True
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    fetch(tmp_path)
    assert {(host.split(":")[0], shown) for host, _, _, shown in hub.asked} == {
        ("127.0.0.1", True), ("localhost", False),
    }  # fmt: skip


def test_the_token_that_a_login_left_is_used(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.models[MODEL].private = True
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "token").write_text(f"{TOKEN}\n")
    assert problem_of(fetch(tmp_path)) == ""


@pytest.mark.parametrize(
    "case",
    [
        (
            {"name": "lab/none"},
            "",
            UnknownModel,
            "model_not_found",
            "no model “lab/none”.*HF_TOKEN",
        ),
        ({"name": "lab/none"}, TOKEN, UnknownModel, "model_not_found", "private to others"),
        ({"private": True}, "", UnknownModel, "model_not_found", "set HF_TOKEN"),
        ({"gated": True}, "", PullFailed, "model_gated", "Accept the terms at .*lab/tiny"),
        ({}, "hf_wrong", PullFailed, "hub_token_refused", "does not accept the access token"),
        ({"revision": "v9"}, "", UnknownModel, "model_not_found", "no revision “v9”"),
    ],
)
def test_a_refusal_says_what_to_do(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: tuple[Any, ...]
) -> None:
    change, token, kind, code, words = case
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    for name in {"private", "gated"} & change.keys():
        setattr(hub.models[MODEL], name, True)
    with pytest.raises(kind, match=words) as caught:
        fetch(tmp_path, change.get("name", MODEL), revision=change.get("revision", "main"))
    assert caught.value.code == code
    assert "hf_" not in caught.value.message, "a token in a message"
    assert names(tmp_path) == []


def test_no_hub_is_said_so(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(PullFailed, match=r"127\.0\.0\.1:9 cannot be reached"):
        fetch(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(PullFailed, match="HF_HUB_OFFLINE"):
        fetch(tmp_path)


def test_something_that_is_no_hub_is_said_so(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.models[MODEL].commit = "main"
    with pytest.raises(PullFailed, match="Check HF_ENDPOINT"):
        fetch(tmp_path)


@pytest.mark.parametrize("path", ["../../evil", "/etc/evil", "a/../../../evil"])
def test_a_hub_cannot_write_outside_of_the_models_folder(
    hub: FakeHub, tmp_path: Path, path: str
) -> None:
    hub.models[MODEL].files[path] = b"evil"
    with pytest.raises(PullFailed):
        fetch(tmp_path)
    assert not list(tmp_path.rglob("evil"))


def test_a_model_without_weights_for_vllm_is_refused_before_anything_is_fetched(
    hub: FakeHub, tmp_path: Path
) -> None:
    hub.add("lab/gguf", files={"config.json": b"{}", "tiny.Q4.gguf": b"GGUF" * 1000})
    with pytest.raises(PullFailed, match="no weights that vLLM can load") as caught:
        fetch(tmp_path, "lab/gguf")
    assert caught.value.code == "model_not_servable"
    assert hub.asked == []


def test_space_on_the_disk_is_looked_at_first(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(PullFailed, match=r"needs another 0\.0 GB.*are free") as caught:
        fetch(tmp_path)
    assert caught.value.code == "disk_full"
    assert hub.asked == []


def test_a_disk_that_fills_up_meanwhile_is_said_so(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(downloading, "_rename", full)
    with pytest.raises(PullFailed, match=r"is full\. Make room") as caught:
        fetch(tmp_path)
    assert caught.value.code == "disk_full"


def test_a_folder_that_cannot_be_written_is_said_so(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "hub").write_text("a file")
    with pytest.raises(PullFailed, match="could not be kept in"):
        fetch(tmp_path)


def test_a_new_commit_replaces_the_old_one_only_when_it_is_whole(
    hub: FakeHub, tmp_path: Path
) -> None:
    old = fetch(tmp_path)
    newer = "f" * 40
    hub.add(MODEL, files=model_files(BIG), commit=newer)
    hub.habits = Habits(hang_after=100_000)
    seen: list[Transfer] = []
    with pytest.raises(OperationCancelled):
        fetch(tmp_path, seen=seen, cancelled=lambda: any(s.completed_bytes > 90_000 for s in seen))
    places = Places(hubs=(tmp_path / "hub",))
    assert resolve(MODEL, places) == old
    hub.habits = Habits()
    assert fetch(tmp_path).name == newer
    assert resolve(MODEL, places) == old.with_name(newer)


def test_a_revision_has_its_own_name(hub: FakeHub, tmp_path: Path) -> None:
    hub.models[MODEL].revisions = ("main", "v2")
    snapshot = fetch(tmp_path, revision="v2")
    places = Places(hubs=(tmp_path / "hub",))
    assert resolve(MODEL, places, "v2") == snapshot
    assert resolve(MODEL, places) is None


def test_two_downloads_of_one_file_do_not_write_into_each_other(
    hub: FakeHub, tmp_path: Path
) -> None:
    hub.habits = Habits(hang_after=0)
    waiting = threading.Event()

    def fetch_until_told() -> None:
        with pytest.raises(OperationCancelled):
            fetch(tmp_path, cancelled=waiting.is_set)

    first = threading.Thread(target=fetch_until_told)
    first.start()
    try:
        deadline = time.monotonic() + 10
        while not list(tmp_path.rglob(f"*{PARTIAL}")):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        with pytest.raises(PullFailed, match="Another mh"):
            fetch(tmp_path)
    finally:
        waiting.set()
        first.join(10)
