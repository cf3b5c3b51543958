"""Where the site listens, and whether it is ready."""

import http.client
import socket
from dataclasses import dataclass

from accounts.errors import Conflict, Invalid


class PortInUse(Conflict):
    """Somebody else listens where the site should."""

    code = "port_in_use"


@dataclass(frozen=True, slots=True)
class Address:
    """A host and a port to listen on."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """The site's URL on this machine."""
        host = self.local_host
        return f"http://[{host}]:{self.port}/" if ":" in host else f"http://{host}:{self.port}/"

    @property
    def local_host(self) -> str:
        """The host by which this machine reaches the site."""
        return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(self.host, self.host)  # noqa: S104


def claim(host: str, port: int) -> Address:
    """Return the address after checking that it is free; port 0 becomes one that is.

    Raises:
        PortInUse: somebody listens there.
        Invalid: this machine has no such address.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        # As the servers do: a port that only old connections linger on is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen()
        except (socket.gaierror, PermissionError) as exc:
            raise Invalid(
                f"mh cannot listen on {host}:{port}: {exc.strerror}.", param="MH_PORT"
            ) from exc
        except OSError as exc:
            raise _refused(host, port, exc) from exc
        return Address(host, int(probe.getsockname()[1]))


def _refused(host: str, port: int, exc: OSError) -> PortInUse | Invalid:
    import errno

    if exc.errno != errno.EADDRINUSE:
        return Invalid(f"mh cannot listen on {host}:{port}: {exc.strerror}.", param="MH_HOST")
    from backends.supervisor import port_holder

    holder = port_holder(port, host) or "another process"
    return PortInUse(
        f"Port {port} is in use by {holder}. Stop that, or choose another port: MH_PORT={port + 1} mh up"
    )


def is_ready(address: Address, host_header: str, *, https: bool, timeout: float = 2.0) -> bool:
    """Return whether ``/health/ready`` answers 200.

    Args:
        address: where to ask.
        host_header: a name from ``MH_ALLOWED_HOSTS``.
        https: whether the site believes to be behind a TLS proxy, and redirects whoever is not.
        timeout: seconds for the answer.
    """
    connection = http.client.HTTPConnection(address.local_host, address.port, timeout=timeout)
    headers = {"Host": host_header} | ({"X-Forwarded-Proto": "https"} if https else {})
    try:
        connection.request("GET", "/health/ready", headers=headers)
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
