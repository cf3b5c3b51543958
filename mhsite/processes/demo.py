"""The installation of vLLM and the demo model beside the running site, as a process of its own."""

import os
import signal
import subprocess
import sys
import threading
from typing import Final

from mhsite import home
from mhsite.processes.console import Console

#: Seconds between asking the installation to end and killing it.
STOP_SECONDS: Final = 10


class DemoInstall:
    """`mh vllm install`, shown line by line. What it has done by then is kept when it is interrupted."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._stopping = False
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mhsite.processes.child", "install"],
            cwd=home.REPOSITORY,
            env={**os.environ, "MH_UP_PID": str(os.getpid())},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
            errors="replace",
        )
        self._reader = threading.Thread(target=self._show, name="install", daemon=True)
        self._reader.start()

    def stop(self) -> None:
        """End it if it still runs; the next run goes on from there."""
        self._stopping = True
        if self._process.poll() is None:
            self._console.say("Interrupting the installation; the next mh up goes on from here.")
            self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._reader.join(timeout=2)

    def _show(self) -> None:
        for line in self._process.stdout or ():
            self._console.line("install", line.rstrip())
        if self._stopping:
            return
        if self._process.wait() == 0:
            self._console.say(
                "vLLM and the demo model are installed. Start it on the page, or: mh vllm start"
            )
        else:
            self._console.say(
                "vLLM is not installed; the site works without. Try again with: mh vllm install"
            )
