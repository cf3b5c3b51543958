"""Downloading and deleting models."""

import threading

import pytest

from accounts.errors import UpstreamFailed
from backends.engines.base import Target, Transfer
from backends.engines.ollama import OllamaEngine, store
from backends.errors import OperationCancelled, UnknownModel
from tests.backends.engines.ollama.conftest import MODEL, Serve, Server

ENGINE = OllamaEngine()
NEW = "llama3.2:1b"


def ignore(_seen: Transfer) -> None:
    pass


@pytest.mark.process
class TestPull:
    def pull(self, server: Server, model: str = NEW) -> list[Transfer]:
        seen: list[Transfer] = []
        ENGINE.pull(server.target, model, report=seen.append)
        return seen

    def test_a_pull_reports_bytes_and_leaves_a_whole_model(self, serve: Serve) -> None:
        server = serve("pull=0.2", "pull-bytes=500000")
        seen = self.pull(server)
        assert seen[0].message == "pulling manifest"
        assert seen[0].fraction == 0.0
        assert seen[-1].message == "success"
        assert seen[-1].completed_bytes == seen[-1].total_bytes == 500_013
        done = [item.completed_bytes for item in seen]
        assert done == sorted(done)
        assert any(0 < item.fraction < 1 for item in seen)
        found = store.find(server.store, NEW)
        assert found
        assert found.problem == ""
        ENGINE.load(server.target, NEW, timeout=10)

    @pytest.mark.parametrize(
        ("model", "kind", "words"),
        [
            ("missing:1b", UnknownModel, "Check its name and tag"),
            ("!!", UnknownModel, "Check its name and tag"),
            ("nosuchhost.invalid/a/b:c", UpstreamFailed, "registry cannot be reached"),
            ("127.0.0.1:9/a/b:c", UpstreamFailed, "registry cannot be reached"),
        ],
    )
    def test_a_failure_under_status_200_is_a_failure(
        self, serve: Serve, model: str, kind: type[Exception], words: str
    ) -> None:
        with pytest.raises(kind, match=words):
            self.pull(serve(), model)

    @pytest.mark.parametrize(
        ("habit", "words"), [("pull-fail", "unexpected EOF"), ("pull-cut", "Pull it again")]
    )
    def test_a_download_that_breaks_is_taken_up_where_it_ended(
        self, serve: Serve, habit: str, words: str
    ) -> None:
        server = serve(habit, "pull=0.3", "pull-bytes=500000")
        with pytest.raises(UpstreamFailed, match=words):
            self.pull(server)
        assert store.find(server.store, NEW) is None
        server.habits("pull=0.3", "pull-bytes=500000")
        seen = self.pull(server)
        first = next(item for item in seen if item.total_bytes)
        assert first.completed_bytes > 0

    def test_a_cancelled_download_ends_in_the_server_too(self, serve: Serve) -> None:
        server = serve("pull-hang")
        seen: list[Transfer] = []
        with pytest.raises(OperationCancelled):
            ENGINE.pull(
                server.target,
                NEW,
                report=seen.append,
                cancelled=lambda: any(item.completed_bytes for item in seen),
            )
        assert "mh-ollama-request" not in [thread.name for thread in threading.enumerate()]
        assert store.find(server.store, NEW) is None

    def test_an_exception_of_whoever_watches_ends_the_download(self, serve: Serve) -> None:
        server = serve("pull-hang")

        def report(seen: Transfer) -> None:
            if seen.total_bytes:
                raise OperationCancelled("enough")

        with pytest.raises(OperationCancelled, match="enough"):
            ENGINE.pull(server.target, NEW, report=report)
        assert "mh-ollama-request" not in [thread.name for thread in threading.enumerate()]

    def test_a_deleted_model_is_gone_and_cannot_be_deleted_twice(self, serve: Serve) -> None:
        server = serve()
        ENGINE.delete(server.target, MODEL, timeout=5)
        assert store.inventory(server.store) == []
        with pytest.raises(UnknownModel):
            ENGINE.delete(server.target, MODEL, timeout=5)


def test_no_server_is_a_failed_download() -> None:
    target = Target(endpoint="http://127.0.0.1:1")
    with pytest.raises(UpstreamFailed, match="Ollama stopped answering"):
        ENGINE.pull(target, NEW, report=ignore)
