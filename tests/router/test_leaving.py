"""A client that leaves, on every surface and in every phase: the engine sees it within a second."""

import contextlib
import json
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
import pytest
from websockets.sync.client import connect

from tests.backends.faults.table import fault
from tests.router.live import Site, wait_until

pytestmark = pytest.mark.process

TEXT: Final = "Go on."
MESSAGES: Final = [{"role": "user", "content": TEXT}]


@dataclass(frozen=True)
class Surface:
    """One way to ask, and whether the answer is streamed."""

    path: str
    streams: bool = True
    body: dict[str, Any] = field(default_factory=lambda: {"messages": MESSAGES})
    #: What a websocket's client does to be rid of an answer.
    frame: str = ""

    def __str__(self) -> str:
        more = self.frame or ("in a format" if "response_format" in self.body else "")
        return " ".join(filter(None, [self.path, more, "" if self.streams else "whole"]))

    def leave_later(self, site: Site) -> tuple[Callable[[], Any], Callable[[], None]]:
        """Ask; return what reads a piece of the answer, and what leaves."""
        if self.path == "/ws/chat/":
            return self._over_websocket(site)
        host, port = site.url.removeprefix("http://").split(":")
        connection = socket.create_connection((host, int(port)), timeout=10)
        content = json.dumps({**self.body, "stream": self.streams}).encode()
        head = [
            f"POST {self.path} HTTP/1.1",
            f"Host: {host}:{port}",
            f"Authorization: Bearer {site.tokens['standard']}",
            "Content-Type: application/json",
            f"Content-Length: {len(content)}",
        ]
        connection.sendall("\r\n".join([*head, "", ""]).encode() + content)
        return lambda: connection.recv(10), connection.close

    def _over_websocket(self, site: Site) -> tuple[Callable[[], Any], Callable[[], None]]:
        connection = connect(site.websocket, additional_headers=site.auth, proxy=None, legacy=True)
        connection.send(json.dumps({"type": "chat", "id": "a", **self.body}))

        def leave() -> None:
            if self.frame == "cancel":
                connection.send(json.dumps({"type": "cancel", "id": "a"}))
            else:
                connection.socket.shutdown(socket.SHUT_RDWR)

        return lambda: connection.recv(10), leave


MODEL: Final = {"model": "role:persona"}
SURFACES: Final = (
    *(
        Surface(path, streams, body)
        for streams in (True, False)
        for path, body in (
            ("/api/chat", {"messages": MESSAGES}),
            ("/v1/chat/completions", {"messages": MESSAGES}),
            ("/v1/completions", {"prompt": TEXT}),
            ("/v1/responses", {"input": TEXT}),
            ("/ollama/api/chat", {**MODEL, "messages": MESSAGES}),
            ("/ollama/api/generate", {**MODEL, "prompt": TEXT}),
        )
    ),
    # With a format they go another way.
    Surface(
        "/v1/chat/completions",
        body={"messages": MESSAGES, "response_format": {"type": "json_object"}},
    ),
    Surface("/ws/chat/", frame="cancel"),
    Surface("/ws/chat/", frame="close"),
)
#: What the engine does: nothing at all; says who speaks, and thinks; answers.
PHASES: Final = {
    "before it answers": (["silent"], 0.0),
    "before its first token": (["silent-after=0"], 0.0),
    "while it answers": ([], 0.02),
}


def name_of(surface: Surface) -> str:
    return str(surface)


@fault(24)
@pytest.mark.parametrize("surface", SURFACES, ids=name_of)
@pytest.mark.parametrize("phase", PHASES)
def test_the_engine_sees_that_a_client_has_left(site: Site, surface: Surface, phase: str) -> None:
    habits, delay = PHASES[phase]
    site.engine.behave(*habits, token_delay=delay, tokens=2000)
    before = site.engine.state()["aborted"]
    read, leave = surface.leave_later(site)
    site.engine.await_running(1)
    if phase == "while it answers" and surface.streams:
        assert read()
    leave()
    site.engine.await_abort(before, seconds=1)
    site.engine.await_running(0)


SWITCHING: Final = """
from django.utils import timezone
from backends.models import Backend, Operation
Backend.objects.update(state="starting")
Operation.objects.create(
    kind="start", backend_id="vllm", node="testnode", state="running", eta_seconds=5, created_at=timezone.now()
)
"""
READY: Final = """
from backends.models import Backend, Operation
Operation.objects.all().delete()
Backend.objects.update(state="ready")
"""


@pytest.fixture
def held(site: Site) -> Iterator[Site]:
    """The site while its engine is being started."""
    site.manage(SWITCHING)
    yield site
    site.manage(READY)


@contextlib.contextmanager
def queued(site: Site) -> Iterator[Iterator[int]]:
    """Wait in the queue behind the others; yield the places had in it, from the first on."""
    with (
        httpx.Client(base_url=site.url, headers=site.auth, trust_env=False, timeout=20) as client,
        client.stream("POST", "/api/chat", json={"messages": MESSAGES, "stream": True}) as answer,
    ):
        events = (
            json.loads(line.removeprefix("data: "))
            for line in answer.iter_lines()
            if line.startswith("data: ")
        )
        yield (_position(event) for event in events)


def _position(event: dict[str, Any]) -> int:
    if event["type"] != "queued":
        pytest.fail(f"it waits no more: {event}")
    return int(event["position"])


def await_queued(site: Site, length: int) -> None:
    """Wait until so many wait: whoever comes then has the next place.

    The requests were sent one after the other, and are not taken in that order.
    """

    def as_many() -> bool:
        with queued(site) as places:
            return next(places) > length

    wait_until(as_many, what=f"{length} requests in the queue")


@fault(24)
def test_a_request_that_is_held_is_forgotten_with_its_client(held: Site) -> None:
    """The engine never hears of it, on whichever surface it came."""
    before = held.engine.state()["started"]
    waiting = [surface.leave_later(held) for surface in SURFACES]
    await_queued(held, len(SURFACES))
    with queued(held) as places:
        # Those who only looked may still be seen ahead for a moment.
        assert any(place == len(SURFACES) + 1 for place in places)
        for gone, (_, leave) in enumerate(waiting, start=1):
            leave()
            assert any(place == len(SURFACES) + 1 - gone for place in places)
        held.manage(READY)
        wait_until(lambda: held.engine.state()["started"] > before, what="the answer of the last")
    held.engine.await_running(0)
    assert held.engine.state()["started"] == before + 1
