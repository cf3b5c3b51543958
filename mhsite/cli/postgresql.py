"""A PostgreSQL server of one's own, for a test run: nobody else's data, and gone at the end."""

import os
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from accounts.errors import Unavailable
from backends.ports import free_port

#: Where Debian keeps what is not for everybody's path.
_DEBIAN: Final = Path("/usr/lib/postgresql")
_READY_SECONDS: Final = 60.0
#: Nothing here has to outlive a power cut.
_SETTINGS: Final = ("fsync=off", "full_page_writes=off", "max_connections=300")


def programs() -> Path | None:
    """Return the folder of ``initdb`` and ``postgres``, the newest there is; None where there is none."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else []
    with suppress(OSError):
        folders += sorted(_DEBIAN.glob("*/bin"), key=lambda each: float(each.parent.name))[::-1]
    return next((each for each in folders if (each / "postgres").exists()), None)


@contextmanager
def server() -> Iterator[str]:
    """Run a server on a free port of 127.0.0.1; yield the ``DATABASE_URL`` of its empty database.

    Raises:
        Unavailable: PostgreSQL is not installed, or did not come up.
    """
    folder = programs()
    if folder is None:
        raise Unavailable("PostgreSQL is not installed (Debian: apt-get install postgresql).")
    with tempfile.TemporaryDirectory(prefix="mhp-") as name:
        # PostgreSQL refuses to run as root; Debian's package makes a user for it.
        account = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}
        place = Path(name)
        if account:
            shutil.chown(place, **account)
        password, port = secrets.token_hex(16), free_port()
        _create(folder, place, password, account)
        listening = [*("-c", "listen_addresses=127.0.0.1"), "-p", str(port), "-k", str(place)]
        command = [str(folder / "postgres"), "-D", str(place / "data"), *listening]
        for setting in _SETTINGS:
            command += ["-c", setting]
        with (place / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, cwd=place, **account)  # type: ignore[call-overload]
        try:
            _wait(process, port, place / "log")
            yield f"postgres://mh:{password}@127.0.0.1:{port}/postgres"
        finally:
            # SIGINT: at once, whoever is still connected ("Shutting Down the Server" in its manual).
            process.send_signal(2)
            process.wait(30)


def _create(folder: Path, place: Path, password: str, account: dict[str, str]) -> None:
    secret = place / "password"
    secret.touch(mode=0o600)
    secret.write_text(password)
    if account:
        shutil.chown(secret, **account)
    command = [str(folder / "initdb"), "-D", str(place / "data"), "-U", "mh", "-E", "UTF8"]
    command += ["--locale=C.UTF-8", "-A", "scram-sha-256", "--pwfile", str(secret), "--no-sync"]
    done = subprocess.run(
        command, cwd=place, capture_output=True, text=True, check=False, **account
    )  # type: ignore[call-overload]
    if done.returncode != 0:
        raise Unavailable(f"PostgreSQL made no database: {done.stderr.strip()[-500:]}")


def _wait(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if "ready to accept connections" in log.read_text(errors="replace"):
            return
        time.sleep(0.05)
    raise Unavailable(f"PostgreSQL did not come up on port {port}: {log.read_text()[-500:]}")
