"""Where everything written at run time lives, and the secrets generated into it."""

import os
import secrets
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent

#: A unix socket's path may have 107 bytes on Linux (unix(7), ``sun_path``).
SOCKET_PATH_MAX = 107
#: Some servers bind to a longer name first and rename it (supervisor adds ``.<pid>``).
SOCKET_PATH_SPARE = 9


def home() -> Path:
    """Return ``MH_HOME`` (default ``./var`` of the clone), absolute, created with mode 0700."""
    path = Path(os.environ.get("MH_HOME") or REPOSITORY / "var").expanduser().resolve()
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path


def cache() -> Path:
    """Return the folder shared by all clones of one user: engine installs and the demo model.

    ``MH_CACHE``, else ``$XDG_CACHE_HOME/mh``, else ``~/.cache/mh``.
    """
    base = os.environ.get("MH_CACHE")
    if base:
        return Path(base).expanduser().resolve()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "mh"


def secret_key() -> str:
    """Return ``MH_SECRET_KEY``, else the key kept in ``MH_HOME/secret_key`` (made once, mode 0600)."""
    given = os.environ.get("MH_SECRET_KEY")
    if given:
        return given
    path = home() / "secret_key"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_text().strip()
    key = secrets.token_urlsafe(64)
    with os.fdopen(descriptor, "w") as file:
        file.write(key)
    return key


def folder(name: str) -> Path:
    """Return the folder ``name`` of ``MH_HOME``, created with mode 0700."""
    path = home() / name
    path.mkdir(mode=0o700, exist_ok=True)
    return path


def run_socket(name: str) -> Path:
    """Return the path of a unix socket: in ``MH_HOME/run`` where that is short enough, else in the
    temporary folder, in a folder of this user and this ``MH_HOME``."""
    path = folder("run") / name
    if len(os.fsencode(path)) + SOCKET_PATH_SPARE <= SOCKET_PATH_MAX:
        return path
    short = Path(tempfile.gettempdir()) / f"mh-{os.getuid()}-{hash_path(home()):x}"
    short.mkdir(mode=0o700, exist_ok=True)
    if short.stat().st_uid != os.getuid():
        msg = f"{short} belongs to somebody else; set MH_HOME to a shorter path."
        raise PermissionError(msg)
    return short / name


def broker_socket() -> Path:
    """Return the path of the embedded Valkey's socket."""
    return run_socket("broker.sock")


def hash_path(path: Path) -> int:
    """Return a stable 32-bit number for ``path`` (Python's own ``hash`` changes between runs)."""
    import zlib

    return zlib.crc32(os.fsencode(path))
