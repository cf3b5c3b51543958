"""What tests of processes use: a home, launches of the fake engines, and their reports."""

import json
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backends import keeper, supervisor
from backends.engines.base import Launch
from backends.keeper import Process
from backends.supervisor import Instance

FAKES = Path(__file__).parent
TIMEOUT = 20.0


@dataclass
class Report:
    """A process of a fake engine, as it described itself."""

    facts: dict[str, Any]
    connection: socket.socket
    process: Process | None
    _lines: Any = field(repr=False, default=None)

    @property
    def pid(self) -> int:
        return int(self.facts["pid"])

    def tell(self, command: str) -> None:
        self.connection.sendall(command.encode() + b"\n")

    def heard(self) -> Any:
        """Wait for its next word; None when it has died."""
        line = self._lines.readline()
        return json.loads(line) if line else None

    @property
    def alive(self) -> bool:
        return self.process is not None and keeper.is_alive(self.process)


class Yard:
    """A home with fake engines in it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(TIMEOUT)
        self._reports: list[Report] = []

    def launch(self, fake: str, *arguments: str, stop_timeout: float = 5.0) -> Launch:
        return Launch(
            argv=(sys.executable, "-S", "-E", str(FAKES / fake), *arguments),
            env={"FAKE_REPORT": "{}:{}".format(*self._listener.getsockname())},
            secret_env={"FAKE_API_KEY": "sk-very-secret"},
            host="127.0.0.1",
            port=0,
            served_model="none",
            stop_timeout=stop_timeout,
        )

    def new(self) -> Instance:
        return supervisor.new_instance(self.home, "fake")

    def spawn(
        self, fake: str, *arguments: str, stop_timeout: float = 5.0, **limits: int
    ) -> Instance:
        inst = self.new()
        supervisor.spawn(inst, self.launch(fake, *arguments, stop_timeout=stop_timeout), **limits)
        return inst

    def report(self, role: str = "engine") -> Report:
        """Wait until a process with this role has said who it is."""
        while True:
            for report in self._reports:
                if report.facts["role"] == role:
                    self._reports.remove(report)
                    return report
            connection, _ = self._listener.accept()
            connection.settimeout(TIMEOUT)
            lines = connection.makefile()
            facts = json.loads(lines.readline())
            process = keeper.identify(facts["pid"])
            self._reports.append(Report(facts, connection, process, lines))

    def close(self) -> None:
        for inst in supervisor.find(self.home, "fake"):
            supervisor.stop(inst, grace=0)
        self._listener.close()
        shutil.rmtree(self.home, ignore_errors=True)


@contextmanager
def yard(prefix: str = "mh") -> Iterator[Yard]:
    """A yard in a folder of its own, with a short path; nothing of it runs afterwards."""
    made = Yard(Path(tempfile.mkdtemp(prefix=prefix)))
    try:
        yield made
    finally:
        made.close()


def keeper_of(inst: Instance) -> Process:
    record = keeper.read_json(inst.folder / "keeper.json")
    assert record
    return Process(*record["keeper"])


def kill(process: Process | None, number: int) -> None:
    assert process
    assert keeper.send(process, number)


def wait_dead(process: Process | None) -> None:
    assert process
    assert keeper.wait_gone([process], TIMEOUT)


def until(condition: Callable[[], Any]) -> Any:
    """Wait for something in the file system, which has no event for it."""
    deadline = time.monotonic() + TIMEOUT
    while not (value := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return value


def everything_in(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def own_children() -> set[int]:
    """Pids of every child of this process, zombies included."""
    tasks = Path("/proc/self/task").iterdir()
    return {int(pid) for task in tasks for pid in (task / "children").read_text().split()}


def descriptors_of(pid: int) -> dict[int, str]:
    return {int(path.name): str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()}


def status_of(pid: int) -> dict[str, str]:
    """The fields of ``/proc/<pid>/status``."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.replace("\t", "").split(":", 1) for line in lines)


def environment_of(pid: int) -> dict[str, str]:
    items = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(item.split("=", 1) for item in items if item)
