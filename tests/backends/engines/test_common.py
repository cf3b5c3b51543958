"""What the plugins share: address checks, and requests that can be given up."""

import socket
import threading
import time
from collections.abc import Iterator

import httpx
import pytest

from backends.engines.base import Target
from backends.engines.common import is_loopback, open_address, post
from backends.errors import OperationCancelled


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.2", False),
        ("gpu.example", False),
    ],
)
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_only_an_open_address_without_a_key_is_a_problem() -> None:
    assert list(open_address("127.0.0.1", "is fine.")) == []
    assert list(open_address("0.0.0.0", "is fine.", has_key=True)) == []
    (problem,) = open_address("0.0.0.0", "lets everybody in.")
    assert (problem.option, problem.message) == (
        "host",
        "Listening on 0.0.0.0 lets everybody in.",
    )


@pytest.fixture
def mute() -> Iterator[socket.socket]:
    """A server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        yield listener


def target(server: socket.socket) -> Target:
    return Target(endpoint=f"http://127.0.0.1:{server.getsockname()[1]}")


def test_a_request_is_given_up_at_once_and_its_connection_closed(mute: socket.socket) -> None:
    cancel = threading.Event()
    threading.Timer(0.2, cancel.set).start()
    began = time.monotonic()
    with pytest.raises(OperationCancelled):
        post(target(mute), "/x", timeout=60, cancelled=cancel.is_set)
    assert time.monotonic() - began < 5
    connection, _ = mute.accept()
    connection.settimeout(10)
    while connection.recv(4096):
        pass  # its end is reached: the client has closed


def test_what_cancelled_raises_ends_the_request_too(mute: socket.socket) -> None:
    def look() -> bool:
        raise ConnectionError("the engine has ended")

    with pytest.raises(ConnectionError):
        post(target(mute), "/x", timeout=60, cancelled=look)


def test_silence_is_a_time_out_and_nobody_there_an_error(mute: socket.socket) -> None:
    with pytest.raises(httpx.TimeoutException):
        post(target(mute), "/x", timeout=0.2, cancelled=lambda: False)
    nobody = Target(endpoint="http://127.0.0.1:1")
    with pytest.raises(httpx.ConnectError):
        post(nobody, "/x", timeout=5, cancelled=lambda: False)
