"""`mh up`: the whole site in the foreground, and nothing left of it afterwards.

In order: the lock of this ``MH_HOME``, the port, the database, supervisord with broker, worker,
observer and web server, readiness, and the demo where the machine has nothing else. Until Ctrl-C,
TERM or HUP; then engines as ``MH_ENGINES_ON_EXIT`` says, and the processes.
"""

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TextIO

from accounts.errors import Invalid, Unavailable
from mhsite.processes import address as addresses
from mhsite.processes.address import Address
from mhsite.processes.console import Console, LogFollower, log_end
from mhsite.processes.demo import DemoInstall
from mhsite.processes.interrupts import Interrupts
from mhsite.processes.layout import OBSERVER, WEB, WORKER, programs
from mhsite.processes.lock import SiteLock
from mhsite.processes.supervision import Supervision
from mhsite.processes.web import SERVERS

if TYPE_CHECKING:
    from mhsite.processes.boot import Owner
    from mhsite.processes.engines import Departure

#: Seconds from starting the processes to ``/health/ready``.
READY_SECONDS: Final = 120.0
#: Seconds between two looks at it.
READY_EVERY: Final = 0.25
#: Whose logs are shown; the broker's are for its own developers.
SHOWN: Final = (WORKER, OBSERVER, WEB)
_PORT_MAX: Final = 65535
ON_EXIT: Final = ("stop", "keep")


class NotReady(Unavailable):
    """The site did not come up."""

    code = "site_not_ready"


def up(output: TextIO) -> None:
    """Run the site until it is asked to stop.

    Args:
        output: where to say what happens, and to show the logs.

    Raises:
        AlreadyRunning, PortInUse, Invalid, Unavailable: before anything is started.
        NotReady: the processes did not come up; they are gone again.
    """
    from django.conf import settings

    from mhsite.outages import services_check

    interrupts = Interrupts()
    with SiteLock() as lock:
        _check_settings()
        address = addresses.claim(settings.MH_HOST, settings.MH_PORT)
        services_check()
        lock.announce(address.url)
        interrupts.install()
        Site(address, interrupts, Console(output)).run()


def _check_settings() -> None:
    from django.conf import settings

    if settings.MH_ASGI not in SERVERS:
        known = ", ".join(SERVERS)
        raise Invalid(f"MH_ASGI is {settings.MH_ASGI!r}; it may be: {known}.", param="MH_ASGI")
    if not 0 <= settings.MH_PORT <= _PORT_MAX:
        msg = f"MH_PORT is {settings.MH_PORT}; it may be 0 to {_PORT_MAX}."
        raise Invalid(msg, param="MH_PORT")
    if settings.MH_ENGINES_ON_EXIT not in ON_EXIT:
        msg = f"MH_ENGINES_ON_EXIT is {settings.MH_ENGINES_ON_EXIT!r}; it may be: stop, keep."
        raise Invalid(msg, param="MH_ENGINES_ON_EXIT")


class Site:
    """One run of the site."""

    def __init__(self, address: Address, interrupts: Interrupts, console: Console) -> None:
        from django.conf import settings

        from backends.booting import BOOT_VARIABLE, new_boot

        self._settings = settings
        self._boot = {BOOT_VARIABLE: new_boot()}
        self._address = address
        self._interrupts = interrupts
        self._console = console
        self._install: DemoInstall | None = None
        self._owner: Owner | None = None
        self._programs = programs(embedded_broker=settings.MH_REDIS_EMBEDDED)
        self._supervision = Supervision(self._programs, self._environment(), self._console.say)

    def _environment(self) -> dict[str, str]:
        return {
            "MH_HOME": str(self._settings.MH_HOME),
            "MH_HOST": self._settings.MH_HOST,
            "MH_PORT": str(self._address.port),
            "MH_NODE": self._settings.MH_NODE,
            **self._boot,
            "PYTHONUNBUFFERED": "1",
        }

    def run(self) -> None:
        """Bring it up, keep it up, take it down."""
        from mhsite.processes import boot, engines

        self._console.say("Preparing the database…")
        self._owner = boot.database_prepare()
        departure = engines.Departure(engines.running_instances(), self._console.say)
        demo = engines.demo_wanted()
        if demo:
            engines.demo_choose()
        follower = LogFollower(self._console, tuple(program.name for program in SHOWN))
        try:
            self._console.say("Starting…")
            self._supervision.start()
            if self._wait_ready():
                self._greet()
                if demo and not engines.demo_is_installed():
                    self._console.say(
                        "No engine and no GPU here: installing vLLM for CPU and a demo model."
                    )
                    self._install = DemoInstall(self._console)
                self._keep_running()
        finally:
            self._say_password()
            self._close(departure)
            follower.stop()
        self._console.say("Stopped.")

    def _wait_ready(self) -> bool:
        """Wait for ``/health/ready``; return False when interrupted before."""
        deadline = time.monotonic() + READY_SECONDS
        while not self._is_ready():
            if self._interrupts.asked.wait(READY_EVERY):
                return False
            failing = self._supervision.failing()
            if failing or time.monotonic() > deadline or not self._supervision.watch():
                raise NotReady(_why_not_ready(failing))
        return True

    def _is_ready(self) -> bool:
        # The worker first: each look of /health/ready that fails is a line in the log.
        from backends.selectors import worker_alive

        https = self._settings.MH_HTTPS
        return worker_alive() and addresses.is_ready(
            self._address, self._host_header(), https=https
        )

    def _host_header(self) -> str:
        names = [name.lstrip(".") for name in self._settings.ALLOWED_HOSTS if name != "*"]
        local = self._address.local_host
        return local if local in names or not names else names[0]

    def _greet(self) -> None:
        self._console.say("")
        self._console.say(f"mh is ready: {self._address.url}")
        if self._owner is not None and not self._owner.generated_password:
            name = self._owner.username
            self._console.say(f"Sign in as {name} with the password set at first boot.")
        self._say_password()
        self._console.say("Ctrl-C stops it.")
        self._console.say("")

    def _say_password(self) -> None:
        """Print a password made up in this run, once."""
        if self._owner is not None and self._owner.generated_password:
            self._console.say(
                f"Sign in as {self._owner.username} with the password "
                f"{self._owner.generated_password} (made up now and kept nowhere: write it down)."
            )
            self._owner = replace(self._owner, generated_password=None)

    def _keep_running(self) -> None:
        while not self._interrupts.asked.wait(0.2):
            if not self._supervision.watch():
                raise NotReady("The site's supervisor keeps dying; see the logs in MH_HOME/logs.")

    def _close(self, departure: "Departure") -> None:
        """Take everything down, each part whatever becomes of the others."""
        self._console.say("Stopping… (Ctrl-C again to hurry)")
        from mhsite.processes import engines

        stop_engines = self._settings.MH_ENGINES_ON_EXIT == "stop"
        hurry = self._interrupts.hurry
        try:
            if self._install is not None:
                self._install.stop()
            if stop_engines:
                departure.stop(hurry=hurry)
        finally:
            self._supervision.stop(hurry=hurry)
            if stop_engines:
                departure.kill()
            engines.standbys_end()


def _why_not_ready(failing: list[str]) -> str:
    if not failing:
        return f"The site was not ready after {READY_SECONDS:.0f} s; see the logs in MH_HOME/logs."
    tail = "\n".join(f"  {line}" for line in log_end(failing[0]))
    return f"{failing[0]} does not start. The end of its log:\n{tail}"
