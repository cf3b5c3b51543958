"""supervisord as a child of `mh up`: started, watched, started again when it dies, ended for good."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Final

from mhsite import home
from mhsite.processes.control import program_start, program_states
from mhsite.processes.layout import Program, config_write, log_path
from mhsite.processes.lock import process_started

#: Seconds between two looks at the programs, and between two tries of one that keeps failing.
LOOK_SECONDS: Final = 1.0
RETRY_SECONDS: Final = 10.0
#: supervisord itself may die this often within ``RESTART_WINDOW`` seconds before `mh up` gives up.
RESTARTS: Final = 3
RESTART_WINDOW: Final = 60.0


class Supervision:
    """Keeps the site's processes running."""

    def __init__(
        self,
        programs: tuple[Program, ...],
        environment: Mapping[str, str],
        say: Callable[[str], None],
    ) -> None:
        self._programs = programs
        self._environment = {**os.environ, **environment, "MH_UP_PID": str(os.getpid())}
        self._environment.pop("MH_OWNER_PASSWORD", None)
        self._say = say
        self._process: subprocess.Popen[bytes] | None = None
        self._deaths: list[float] = []
        self._looked = 0.0
        self._failing: dict[str, float] = {}
        #: Every process of the site ever seen, by pid with its start time.
        self._seen: dict[int, int] = {}

    def start(self) -> None:
        """Write the configuration and start supervisord in a session of its own."""
        config_write(self._programs)
        with log_path("supervisor-output").open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mhsite.processes.child", "supervisor"],
                cwd=home.REPOSITORY,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def watch(self) -> bool:
        """Do what is due now; return False once supervisord has died too often. Call it often."""
        if self._process is not None and self._process.poll() is not None:
            return self._restart()
        if time.monotonic() - self._looked >= LOOK_SECONDS:
            self._looked = time.monotonic()
            self._retry(self.failing())
        return True

    def failing(self) -> list[str]:
        """Return the programs that supervisord has given up on, after several tries."""
        states = program_states()
        for state in states:
            started = process_started(state.pid) if state.pid else None
            if started is not None:
                self._seen[state.pid] = started
        return [state.name for state in states if state.state == "FATAL"]

    def stop(self, *, hurry: Callable[[], bool]) -> None:
        """End every process of the site.

        Args:
            hurry: returns True once somebody does not want to wait any longer.
        """
        if self._process is None:
            return
        self.failing()
        deadline = time.monotonic() + sum(program.stop_seconds for program in self._programs)
        self._process.terminate()
        while self._process.poll() is None and time.monotonic() < deadline and not hurry():
            time.sleep(0.05)
        if self._process.poll() is None:
            # The programs get KILL from the kernel with supervisord's death.
            self._process.kill()
        self._process.wait()
        self._process = None
        self._clear()

    def _restart(self) -> bool:
        now = time.monotonic()
        self._deaths = [at for at in self._deaths if now - at < RESTART_WINDOW] + [now]
        if len(self._deaths) > RESTARTS:
            self._say(f"The supervisor died {len(self._deaths)} times in a minute; giving up.")
            return False
        self._say("The supervisor died, and the site's processes with it; starting them again.")
        self._clear()
        self.start()
        return True

    def _retry(self, failing: list[str]) -> None:
        now = time.monotonic()
        for name in failing:
            if name not in self._failing:
                self._say(f"{name} keeps failing; see {log_path(name)}. Trying again…")
                self._failing[name] = now
            elif now - self._failing[name] >= RETRY_SECONDS:
                self._failing[name] = now
                program_start(name)

    def _clear(self) -> None:
        """Wait for what is on its way out, and kill what is not. Each pid is checked by its start time."""
        deadline = time.monotonic() + 2
        while (left := self._left()) and time.monotonic() < deadline:
            time.sleep(0.02)
        for pid in left:
            os.kill(pid, signal.SIGKILL)

    def _left(self) -> list[int]:
        return [pid for pid, started in self._seen.items() if process_started(pid) == started]
