"""What `mh up` writes on the terminal: its own sentences, and the logs of the site's processes."""

import os
import threading
from pathlib import Path
from typing import Final, TextIO

from mhsite.processes.layout import log_path

POLL_SECONDS: Final = 0.2
NAME_WIDTH: Final = 10


class Console:
    """A terminal that several threads write lines to."""

    def __init__(self, output: TextIO) -> None:
        self._output = output
        self._lock = threading.Lock()
        self._colour = output.isatty()

    def say(self, message: str) -> None:
        """Write a sentence of `mh up` itself."""
        self._write(f"\033[1m{message}\033[0m" if self._colour and message else message)

    def line(self, name: str, text: str) -> None:
        """Write a line of one of the processes."""
        label = f"{name:<{NAME_WIDTH}}| "
        self._write(f"\033[2m{label}\033[0m{text}" if self._colour else label + text)

    def _write(self, text: str) -> None:
        with self._lock:
            try:
                self._output.write(text + "\n")
                self._output.flush()
            except OSError:
                # Nobody reads any more (a closed terminal or pipe); the site goes on, and its logs too.
                self._output = Path(os.devnull).open("w")  # noqa: SIM115


class LogFollower:
    """Shows what the processes write to their logs, from now on, through rotation."""

    def __init__(self, console: Console, names: tuple[str, ...]) -> None:
        self._console = console
        self._tails = [Tail(name, log_path(name)) for name in names]
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="logs", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Show what is left, and stop."""
        self._stopped.set()
        self._thread.join(timeout=5)

    def _follow(self) -> None:
        while not self._stopped.wait(POLL_SECONDS):
            self._show()
        self._show()

    def _show(self) -> None:
        for tail in self._tails:
            for line in tail.lines():
                self._console.line(tail.name, line)


class Tail:
    """The new lines of one file, which may not be there yet, and may be rotated."""

    def __init__(self, name: str, path: Path, *, from_end: bool = True) -> None:
        self.name = name
        self.path = path
        there = from_end and path.exists()
        self._position = path.stat().st_size if there else 0
        self._inode = path.stat().st_ino if there else 0
        self._rest = b""

    def lines(self) -> list[str]:
        """Return the whole lines written since the last call."""
        try:
            with self.path.open("rb") as file:
                self._reset_if_rotated()
                file.seek(self._position)
                data = file.read()
        except FileNotFoundError:
            return []
        self._position += len(data)
        *whole, self._rest = (self._rest + data).split(b"\n")
        return [line.decode(errors="replace").rstrip() for line in whole]

    def _reset_if_rotated(self) -> None:
        now = self.path.stat()
        if now.st_ino != self._inode or now.st_size < self._position:
            self._inode, self._position = now.st_ino, 0


def log_end(name: str, lines: int = 20) -> list[str]:
    """Return the last lines of a process's log."""
    try:
        return log_path(name).read_text(errors="replace").splitlines()[-lines:]
    except FileNotFoundError:
        return []
