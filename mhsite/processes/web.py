"""The web server: one of three ASGI servers, all set up alike.

Open streams do not keep a stopping server alive: each gives them ``GRACE`` seconds.
"""

import contextlib
import gc
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, Final

from mhsite.processes.death import die_with_parent

APPLICATION: Final = "mhsite.asgi:application"
#: Seconds that requests under way get when the server is told to stop.
GRACE: Final = 3
#: Tells granian's workers that they are about to be stopped.
_STOPPING: Final = signal.SIGUSR1


def serve(name: str, host: str, port: int) -> None:
    """Serve the site until told to stop.

    Args:
        name: ``uvicorn``, ``granian`` or ``daphne``.
        host: address to listen on.
        port: port to listen on.
    """
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mhsite.settings")
    SERVERS[name](host, port)


def _application() -> Any:
    """Load the application, and start what runs beside it in its process.

    What has been loaded by now stays: the garbage collector need not walk over it, which would stop every
    stream for a tenth of a second. It looks at what is new less often, too: a token leaves no garbage.
    """
    from accounts import database
    from mhsite.asgi import application
    from router import usage

    database.pool_start()
    usage.start()
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
    return application


def _uvicorn(host: str, port: int) -> None:
    import uvicorn

    application = _application()
    # Imports models: not before Django is set up.
    from mhsite.processes.uvicorn_protocols import Http, WebSocket
    from mhsite.processes.uvicorn_server import Server

    # When uvicorn has ended, it gives itself the signal that it was told with. The default would end the
    # process there and then: cancelled requests would not be ended, nor what they cost be recorded.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    config = uvicorn.Config(
        application,
        host=host,
        port=port,
        loop="uvloop",
        http=Http,
        ws=WebSocket,
        # A token is smaller than what says how it was packed, and each socket would keep 300 KB for it.
        ws_per_message_deflate=False,
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=GRACE,
    )
    with contextlib.suppress(KeyboardInterrupt):
        Server(config).run()


def _granian(host: str, port: int) -> None:
    from granian.constants import HTTPModes, Interfaces, Loops
    from granian.server import Server

    server = Server(
        APPLICATION,
        address=host,
        port=port,
        interface=Interfaces.ASGINL,
        loop=Loops.uvloop,
        http=HTTPModes.http1,
        websockets=True,
        log_access=False,
        log_dictconfig={"root": {"handlers": []}},
        respawn_failed_workers=True,
        workers_kill_timeout=GRACE,
    )

    interrupt: Callable[[], None] = server.signal_handler_interrupt

    def stop(*_: Any) -> None:
        for worker in multiprocessing.active_children():
            if worker.pid is not None:
                os.kill(worker.pid, _STOPPING)
        interrupt()

    # Granian kills workers whose requests have not ended after ``GRACE``; first they shall hear of it.
    server.on_startup(lambda: signal.signal(signal.SIGTERM, stop))
    server.serve(target_loader=_granian_application, wrap_loader=False)


def _granian_application() -> Any:
    """Load the application in granian's worker, which dies with granian's main process."""
    die_with_parent()
    application = _application()
    from router import usage

    signal.signal(_STOPPING, lambda *_: usage.close_in(GRACE - 1))
    return application


def _daphne(host: str, port: int) -> None:
    from daphne.endpoints import build_endpoint_description_strings
    from daphne.server import Server

    Server(
        application=_application(),
        endpoints=build_endpoint_description_strings(host=host, port=port),
        application_close_timeout=GRACE,
        server_name="",
        verbosity=0,
    ).run()


SERVERS: Final[dict[str, Callable[[str, int], None]]] = {
    "uvicorn": _uvicorn,
    "granian": _granian,
    "daphne": _daphne,
}
