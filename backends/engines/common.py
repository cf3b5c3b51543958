"""What the plugins for HTTP servers on this machine share: kinds of options, address checks, requests."""

import asyncio
import functools
import ipaddress
import queue
import threading
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final

import httpx
from pydantic import Field, StringConstraints

from backends.engines.base import Cancelled, Problem, Target, facts
from backends.errors import OperationCancelled

#: One line of text: no control characters, which no command line and no environment can carry.
Text = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]+$", max_length=4096)]
#: A host name or an IP address, without brackets or a port.
Host = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._:-]+$", max_length=253)]
#: A key as it can stand in an HTTP header.
Key = Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]+$", min_length=8, max_length=512)]

#: Seconds between two looks at whether a long request is still wanted.
CHECK_SECONDS: Final = 0.1
_CONNECT_TIMEOUT: Final = 5.0


# Options.


def host_field(description: str) -> Any:
    """Return the option of the address a server listens on: by default this machine itself."""
    return Field(
        default="127.0.0.1",
        title="Host",
        description=description,
        json_schema_extra=facts("Network"),
    )


def port_field(default: int, who: str) -> Any:
    """Return the option of the port ``who`` listens on."""
    return Field(
        default=default,
        ge=1,
        le=65535,
        title="Port",
        description=f"Port {who} listens on.",
        json_schema_extra=facts("Network"),
    )


def start_timeout_field(default: int, least: int, description: str) -> Any:
    """Return the option of the time from start to ready, in seconds."""
    return _time_limit(default, least, 86_400, "Start limit", description)


def stop_timeout_field(who: str) -> Any:
    """Return the option of the time between TERM and KILL, in seconds."""
    said = f"Time between asking {who} to stop and killing it."
    return _time_limit(10, 1, 600, "Stop limit", said)


def _time_limit(default: int, least: int, most: int, title: str, description: str) -> Any:
    return Field(
        default=default,
        ge=least,
        le=most,
        title=title,
        description=description,
        json_schema_extra=facts("Time limits", unit="s", restart=False),
    )


# Addresses.


def is_loopback(host: str) -> bool:
    """Say whether only this machine can reach ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def open_address(host: str, consequence: str, *, has_key: bool = False) -> Iterator[Problem]:
    """Yield a problem where others on the network would reach a server that asks for no key.

    Args:
        host: address it listens on.
        consequence: the rest of the sentence after "Listening on HOST": what it means, and what to do.
        has_key: whether it asks for one.
    """
    if not has_key and not is_loopback(host):
        yield Problem(message=f"Listening on {host} {consequence}", option="host")


# Requests.


@functools.cache
def client() -> httpx.Client:
    """One client for all threads; the environment's proxies never see loopback traffic.

    No connection is kept: every answer comes from whoever listens on the port now.
    """
    limits = httpx.Limits(max_keepalive_connections=0)
    return httpx.Client(trust_env=False, limits=limits, verify=False)  # noqa: S501 — plain HTTP only


def post(
    target: Target,
    path: str,
    *,
    timeout: float,
    cancelled: Cancelled,
    body: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> httpx.Response:
    """POST and return the whole answer, or give it up at once when ``cancelled`` says so.

    The request runs on a thread of its own: an engine may be silent for minutes. Giving it up closes
    its connection.

    Raises:
        OperationCancelled: ``cancelled`` said so.
        httpx.HTTPError: no connection, or no answer within ``timeout`` seconds.
    """
    request = _Post(f"{target.endpoint}{path}", body, dict(headers or {}), timeout)
    request.start()
    try:
        while True:
            if cancelled():
                raise OperationCancelled("The operation was cancelled.")
            answer = request.next()
            if isinstance(answer, httpx.Response):
                return answer
            if answer is not None:
                raise answer
    finally:
        request.stop()


class _Post(threading.Thread):
    """One request on a thread and an event loop of its own."""

    def __init__(
        self, url: str, body: Mapping[str, Any] | None, headers: dict[str, str], timeout: float
    ) -> None:
        super().__init__(name="mh-engine-request", daemon=True)
        self._url, self._body, self._headers, self._timeout = url, body, headers, timeout
        self._inbox: queue.SimpleQueue[httpx.Response | Exception] = queue.SimpleQueue()
        self._loop = asyncio.new_event_loop()
        self._task = self._loop.create_task(self._exchange())

    def next(self) -> httpx.Response | Exception | None:
        """Return the answer or what went wrong; None when there is neither for a while."""
        try:
            return self._inbox.get(timeout=CHECK_SECONDS)
        except queue.Empty:
            return None

    def stop(self) -> None:
        """Close the connection, if it is open, and wait for the thread."""
        if self.is_alive():
            self._loop.call_soon_threadsafe(self._task.cancel)
        self.join()
        self._loop.close()

    def run(self) -> None:
        """Do the exchange; whatever goes wrong is for the one who asked."""
        try:
            self._inbox.put(self._loop.run_until_complete(self._task))
        except asyncio.CancelledError:
            pass
        except Exception as error:  # noqa: BLE001 — carried over to the caller's thread
            self._inbox.put(error)

    async def _exchange(self) -> httpx.Response:
        timeout = httpx.Timeout(self._timeout, connect=min(_CONNECT_TIMEOUT, self._timeout))
        client = httpx.AsyncClient(trust_env=False, timeout=timeout, verify=False)  # noqa: S501
        try:
            async with asyncio.timeout(self._timeout), client:
                return await client.post(self._url, json=self._body, headers=self._headers)
        except TimeoutError as error:
            msg = f"no whole answer within {self._timeout:g} s"
            raise httpx.ReadTimeout(msg) from error
