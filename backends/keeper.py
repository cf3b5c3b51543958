"""Keep one engine: own its whole process tree, write its log, record how it ended, leave nothing behind.

Run as a program, ``python -I -S keeper.py MARKER``, with a specification (``Spec``, JSON) on standard
input; it detaches itself, answers one JSON line on standard output when the engine's process
exists (or could not be made), and stays until no process of the engine's tree is left. What it
writes lies in the instance's folder:

==================  ====================================================================================
``engine.log``      the engine's output, appended by the engine itself; rotated by copy and truncate
``keeper.json``     who runs: pids with start times, marker, private temporary folder, tree as last seen
``exit.json``       how it ended; written last, when nothing of the tree is left (or cannot be ended)
``stop.json``       read on SIGTERM: ``{"grace": seconds, "kill_wait": seconds}`` for this stop
``keeper.log``      the keeper's own trouble
``keeper.lock``     held (flock) by whoever looks after the instance
==================  ====================================================================================

SIGTERM asks for a stop: TERM to the engine's main process only (it coordinates its children), then
to what is left of the tree, KILL at the end. Imported, the module offers the same functions to the
supervisor. Standard library only, Linux only.
"""

import contextlib
import ctypes
import fcntl
import functools
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

#: Environment variables every process of an engine carries: ``<backend>/<instance id>`` and its folder.
MARKER_VARIABLE: Final = "MH_INSTANCE"
FOLDER_VARIABLE: Final = "MH_INSTANCE_FOLDER"

#: Seconds leftovers may take to leave by themselves once the main process is gone.
LEFTOVER_SPARE: Final = 0.1
#: Seconds between TERM and KILL for leftovers of an engine that ended by itself.
LEFTOVER_TERM_WAIT: Final = 0.4
#: The longest the same may take in a requested stop, where a wrapper's child deserves its grace.
LEFTOVER_TERM_WAIT_REQUESTED: Final = 2.0
#: Seconds between looks at the size of the log.
LOG_CHECK_INTERVAL: Final = 1.0
#: The longest time between two looks at the tree, seconds; young engines are looked at more often.
TREE_CHECK_INTERVAL: Final = 5.0
#: A unix socket's path may have 107 bytes (unix(7)); this many are kept for names made by engines:
#: ``/<uuid>`` by vLLM, ``/pymp-xxxxxxxx/listener-xxxxxxxx`` by multiprocessing.
TMP_PATH_MAX: Final = 107 - 44

_PR_SET_NAME: Final = 15
_PR_SET_CHILD_SUBREAPER: Final = 36
_COPY_BLOCK: Final = 1 << 20
_SHM_FOLDER: Final = "/dev/shm/"  # noqa: S108
#: Names multiprocessing gives to shared memory and semaphores.
_SHM_LITTER: Final = ("psm_", "sem.mp-")


# Processes: always a pid together with its start time.


class Process(NamedTuple):
    """A process that cannot be mistaken for a later one with the same pid."""

    pid: int
    #: Clock ticks between boot and its start: field 22 of ``/proc/<pid>/stat``, proc(5).
    start: int


class Stat(NamedTuple):
    """The facts of a living process used here."""

    process: Process
    name: str
    parent: int
    session: int


def read_bytes(path: str) -> bytes:
    """Return a whole small file, or nothing when it is gone or not ours to read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    blocks = []
    try:
        while block := os.read(descriptor, _COPY_BLOCK):
            blocks.append(block)
    except OSError:
        return b""
    finally:
        os.close(descriptor)
    return b"".join(blocks)


def read_stat(pid: int) -> Stat | None:
    """Return the facts of ``pid``, or None when no such process lives. A zombie does not live."""
    head, found, rest = read_bytes(f"/proc/{pid}/stat").rpartition(b")")
    if not found:
        return None
    fields = rest.split()
    state, parent, session, start = fields[0], int(fields[1]), int(fields[3]), int(fields[19])
    if state in b"ZXx" and not _has_other_threads(pid):
        return None
    name = head.partition(b"(")[2].decode(errors="replace")
    return Stat(Process(pid, start), name, parent, session)


def _has_other_threads(pid: int) -> bool:
    """Say whether a process whose main thread has ended lives on in other threads."""
    try:
        return sum(1 for _ in os.scandir(f"/proc/{pid}/task")) > 1
    except OSError:
        return False


def identify(pid: int) -> Process | None:
    """Return the living process that has ``pid`` now."""
    stat = read_stat(pid)
    return stat.process if stat else None


def is_alive(process: Process) -> bool:
    """Say whether exactly this process lives, not a later one with its pid."""
    return identify(process.pid) == process


@functools.cache
def boot_id() -> str:
    """Return the id of the running boot: start times of another boot mean nothing."""
    return read_bytes("/proc/sys/kernel/random/boot_id").decode().strip()


def process_table() -> dict[int, Stat]:
    """Return every living process except the caller's own."""
    own = os.getpid()
    pids = (int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit())
    stats = (read_stat(pid) for pid in pids if pid != own)
    return {stat.process.pid: stat for stat in stats if stat}


def environment_value(pid: int, name: str) -> str | None:
    """Return a variable of the environment ``pid`` was started with; None where it is not readable."""
    prefix = name.encode() + b"="
    data = read_bytes(f"/proc/{pid}/environ")
    if prefix not in data:
        return None
    for item in data.split(b"\0"):
        if item.startswith(prefix):
            return item[len(prefix) :].decode(errors="surrogateescape")
    return None


def marked(table: Mapping[int, Stat], marker: str) -> set[Process]:
    """Return the processes that carry an instance's marker, whatever they are called now."""
    return {
        stat.process
        for stat in table.values()
        if environment_value(stat.process.pid, MARKER_VARIABLE) == marker
    }


def family(
    table: Mapping[int, Stat], seeds: Iterable[Process], leader: Process | None
) -> set[Process]:
    """Return the living ``seeds``, what descends from them, and members of sessions they lead.

    ``leader`` is the engine's main process: its session counts also when it is dead itself, as
    long as a verified member of it lives (until then its pid cannot be given to another session).
    """
    children: dict[int, list[Process]] = {}
    sessions: dict[int, list[Process]] = {}
    for stat in table.values():
        children.setdefault(stat.parent, []).append(stat.process)
        sessions.setdefault(stat.session, []).append(stat.process)
    found: set[Process] = set()
    queue = list(seeds)
    while queue:
        process = queue.pop()
        stat_now = table.get(process.pid)
        if process in found or stat_now is None or stat_now.process != process:
            continue
        found.add(process)
        queue += children.get(process.pid, [])
        queue += sessions.get(process.pid, [])
        if leader and stat_now.session == leader.pid:
            queue += sessions[leader.pid]
    return found


def tree(
    marker: str,
    *,
    known: Iterable[Process] = (),
    leader: Process | None = None,
    keeper: int | None = None,
) -> set[Process]:
    """Return every living process of an instance.

    That is: what carries the marker, what was ``known`` before and still lives, what the
    subreaper ``keeper`` (a pid) has as children, and the families of all these.
    """
    table = process_table()
    seeds = marked(table, marker) | set(known)
    seeds |= {stat.process for stat in table.values() if keeper and stat.parent == keeper}
    return family(table, seeds, leader)


# Ending processes.


def open_pidfd(process: Process) -> int | None:
    """Return a pidfd of exactly this process, or None when it is gone. The caller closes it.

    None also where the kernel or a sandbox has no pidfds (before Linux 5.3).
    """
    try:
        descriptor = os.pidfd_open(process.pid)
    except OSError:
        return None
    if is_alive(process):
        return descriptor
    os.close(descriptor)
    return None


def send(process: Process, number: int) -> bool:
    """Signal exactly this process; return False when it is gone or not ours to signal."""
    descriptor = open_pidfd(process)
    try:
        if descriptor is not None:
            signal.pidfd_send_signal(descriptor, number)
        elif is_alive(process):  # no pidfds here: the check just before is the best there is
            os.kill(process.pid, number)
        else:
            return False
    except OSError:
        return False
    finally:
        if descriptor is not None:
            os.close(descriptor)
    return True


def wait_gone(processes: Iterable[Process], timeout: float) -> bool:
    """Wait until all of these are gone, at most ``timeout`` seconds; say whether they are."""
    deadline = time.monotonic() + timeout
    return all(_wait_one(process, deadline) for process in processes)


def _wait_one(process: Process, deadline: float) -> bool:
    descriptor = open_pidfd(process)
    if descriptor is None:
        while alive := is_alive(process):
            if time.monotonic() >= deadline:
                break
            time.sleep(0.01)
        return not alive
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    try:
        return bool(poller.poll(max(0.0, deadline - time.monotonic()) * 1000))
    finally:
        os.close(descriptor)


class Ended(NamedTuple):
    """What it took to end a tree."""

    #: Processes that were signalled.
    signalled: frozenset[Process]
    #: Processes that are still there, after all.
    left: frozenset[Process]


def end_tree(
    scan: Callable[[], set[Process]], *, spare: float, term_wait: float, kill_wait: float
) -> Ended:
    """End every process ``scan`` finds: wait ``spare`` s, TERM, wait ``term_wait`` s, KILL.

    KILL is repeated for at most ``kill_wait`` s, since a tree may still grow while it is killed.
    """
    _wait_empty(scan, spare)
    signalled = {process for process in scan() if send(process, signal.SIGTERM)}
    _wait_empty(scan, term_wait)
    deadline = time.monotonic() + kill_wait
    while left := scan():
        signalled |= {process for process in left if send(process, signal.SIGKILL)}
        wait_gone(left, 0.05)
        if time.monotonic() >= deadline:
            left = scan()
            break
    return Ended(frozenset(signalled), frozenset(left))


def _wait_empty(scan: Callable[[], set[Process]], timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while (remaining := deadline - time.monotonic()) > 0 and (left := scan()):
        wait_gone(left, min(remaining, 0.25))


# Records.


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a record that readers see whole or not at all, readable by its owner only."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(descriptor, "w") as file:  # noqa: PTH123
        json.dump(value, file)
    draft.replace(path)


def read_json(path: Path) -> dict[str, Any] | None:
    """Return a record, or None when it is missing or damaged."""
    try:
        value = json.loads(read_bytes(str(path)))
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def exit_record(
    *,
    wait_status: int | None = None,
    at: float,
    requested: bool,
    leftovers_killed: int,
    left: Iterable[Process] = (),
    error: str = "",
) -> dict[str, Any]:
    """Return the content of ``exit.json``. ``wait_status`` as os.waitpid gives it; None if unknown."""
    exited = wait_status is not None and os.WIFEXITED(wait_status)
    killed = wait_status is not None and os.WIFSIGNALED(wait_status)
    return {
        "status": os.WEXITSTATUS(wait_status) if exited and wait_status is not None else None,
        "signal": os.WTERMSIG(wait_status) if killed and wait_status is not None else None,
        "at": at,
        "requested": requested,
        "leftovers_killed": leftovers_killed,
        "left": sorted(process.pid for process in left),
        "error": error,
    }


def take_lock(folder: Path) -> int | None:
    """Take the right to look after an instance; None when somebody else has it.

    Returns the descriptor that holds it. A file system without locks gives it to everybody.
    """
    path = folder / "keeper.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError as error:
        note(f"{path} cannot be locked: {error}")
    return descriptor


def note(text: str) -> None:
    """Write a line to the keeper's own log."""
    with contextlib.suppress(OSError):
        sys.stderr.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {text}\n")
        sys.stderr.flush()


# What an engine leaves behind.


def make_private_tmp(folder: Path) -> Path:
    """Make the engine's own temporary folder, short enough for the unix sockets it will hold."""
    path = folder / "tmp"
    if len(os.fsencode(path)) <= TMP_PATH_MAX:
        path.mkdir(mode=0o700, exist_ok=True)
        return path
    for base in (os.environ.get("TMPDIR") or "/tmp", "/tmp"):  # noqa: S108
        path = Path(base) / f"mh-{os.urandom(5).hex()}"
        if len(os.fsencode(path)) <= TMP_PATH_MAX:
            break
    path.mkdir(mode=0o700)
    return path


def remove_private_tmp(folder: Path, tmp: Path | None) -> None:
    """Remove a folder made by ``make_private_tmp``, and nothing else, whatever the record says."""
    import shutil  # only needed at the end, and slow to import

    if tmp is None or (tmp != folder / "tmp" and not tmp.name.startswith("mh-")):
        return
    with contextlib.suppress(OSError):
        if tmp.lstat().st_uid == os.getuid() and not tmp.is_symlink():
            shutil.rmtree(tmp, onerror=lambda _f, path, e: note(f"{path} not removed: {e[1]}"))


def mapped_shm(processes: Iterable[Process]) -> dict[str, str]:
    """Return the shared memory these processes have mapped: path → device and inode as in maps."""
    found: dict[str, str] = {}
    for process in processes:
        for line in read_bytes(f"/proc/{process.pid}/maps").split(b"\n"):
            if _SHM_FOLDER.encode() not in line:
                continue
            fields = line.decode(errors="replace").split(maxsplit=5)
            path = fields[-1]
            if path.startswith(tuple(_SHM_FOLDER + name for name in _SHM_LITTER)):
                found[path] = f"{fields[3]} {fields[4]}"
    return {path: key for path, key in found.items() if not path.endswith(" (deleted)")}


def remove_shm(candidates: Mapping[str, str]) -> None:
    """Remove shared memory that dead processes had mapped, if it is the same and nobody maps it now."""
    existing = {path: key for path, key in candidates.items() if _shm_key(path) == key}
    if not existing:
        return
    in_use = mapped_shm(stat.process for stat in process_table().values())
    for path in existing.keys() - in_use.keys():
        with contextlib.suppress(OSError):
            Path(path).unlink()


def _shm_key(path: str) -> str | None:
    """Return device and inode of a file of ours, written as in ``/proc/<pid>/maps``."""
    try:
        stat = os.stat(path, follow_symlinks=False)  # noqa: PTH116
    except OSError:
        return None
    if stat.st_uid != os.getuid():
        return None
    return f"{os.major(stat.st_dev):02x}:{os.minor(stat.st_dev):02x} {stat.st_ino}"


class Log:
    """The engine's log: written by the engine, kept under a size by its keeper."""

    def __init__(self, path: Path, *, max_bytes: int, files: int) -> None:
        """Open the log. Above ``max_bytes`` it is moved aside; ``files`` old ones are kept."""
        self._path = path
        self._max_bytes = max_bytes
        self._files = files
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self.descriptor = os.open(path, flags, 0o600)

    def keep_small(self) -> None:
        """Rotate if the log is over its size. The writer keeps its file: copied, then truncated."""
        if os.fstat(self.descriptor).st_size <= self._max_bytes:
            return
        try:
            self._copy_aside()
        except OSError as error:
            note(f"log not copied aside, its content is lost: {error}")
        os.ftruncate(self.descriptor, 0)

    def _copy_aside(self) -> None:
        if not self._files:
            return
        for number in range(self._files - 1, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                self._aside(number).replace(self._aside(number + 1))
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        target = os.open(self._aside(1), flags, 0o600)
        try:
            self._copy(target)
        finally:
            os.close(target)

    def _copy(self, target: int) -> None:
        """Copy to the end, which moves while we copy; twice the cap at most."""
        copied = 0
        while copied < 2 * self._max_bytes and (
            block := os.pread(self.descriptor, _COPY_BLOCK, copied)
        ):
            copied += os.write(target, block)

    def _aside(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")


# The keeper itself.


class Spec(NamedTuple):
    """What to keep. Arrives as a JSON object on standard input, so that secrets touch no disk."""

    folder: str
    marker: str
    #: Command and complete environment of the engine; both empty to adopt a running one.
    argv: list[str] = []
    env: dict[str, str] = {}
    cwd: str = "/"
    #: Variables that name the private temporary folder.
    tmp_variables: list[str] = ["TMPDIR"]
    #: Seconds between TERM and KILL in a requested stop, and seconds KILL is repeated.
    stop_timeout: float = 10.0
    kill_wait: float = 5.0
    log_max_bytes: int = 16 << 20
    log_files: int = 3
    #: The main process of an engine to adopt, and its folder.
    engine: list[int] | None = None
    tmp: str | None = None


class Keeper:
    """Looks after one engine until nothing of it is left."""

    def __init__(self, spec: Spec) -> None:
        """Prepare to keep what ``spec`` describes; touches only the log."""
        self.folder = Path(spec.folder)
        self.marker = spec.marker
        self.kill_wait = spec.kill_wait
        self.stop_timeout = spec.stop_timeout
        self.tmp = Path(spec.tmp) if spec.tmp else None
        self.engine = Process(*spec.engine) if spec.engine else None
        self.adopted = not spec.argv
        self.log = Log(
            self.folder / "engine.log", max_bytes=spec.log_max_bytes, files=spec.log_files
        )
        self.started_at = time.time()
        self.known: set[Process] = {self.engine} if self.engine else set()
        self.shm: dict[str, str] = {}
        self.killed: set[Process] = set()
        self.wait_status: int | None = None
        self.stop_asked = False
        self.requested = False
        self.kill_at = float("inf")
        self._born = time.monotonic()
        self._next_log_check = self._next_tree_check = 0.0
        self._wake, wake_writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._on_term)
        self._pidfd = open_pidfd(self.engine) if self.engine else None

    def _on_term(self, _number: int, _frame: object) -> None:
        self.stop_asked = True

    def start(self, spec: Spec) -> None:
        """Start the engine; OSError if it cannot be."""
        self.tmp = make_private_tmp(self.folder)
        self.record()
        env = spec.env | dict.fromkeys(spec.tmp_variables, str(self.tmp))
        env |= {MARKER_VARIABLE: spec.marker, FOLDER_VARIABLE: spec.folder}
        child = subprocess.Popen(
            spec.argv,
            env=env,
            cwd=spec.cwd,
            stdin=subprocess.DEVNULL,
            stdout=self.log.descriptor,
            stderr=self.log.descriptor,
            start_new_session=True,
        )
        child.returncode = 0  # reaped by us: Popen must not try
        stat = read_bytes(f"/proc/{child.pid}/stat")  # also there when it has ended already
        self.engine = Process(child.pid, int(stat.rpartition(b")")[2].split()[19]))
        self.known = {self.engine}
        self._pidfd = open_pidfd(self.engine)
        self.record()

    def record(self) -> None:
        """Write ``keeper.json``; trouble with the disk does not end the keeping."""
        own = identify(os.getpid())
        value = {
            "version": 1,
            "boot": boot_id(),
            "marker": self.marker,
            "keeper": own,
            "engine": self.engine,
            "adopted": self.adopted,
            "started_at": self.started_at,
            "stop_timeout": self.stop_timeout,
            "tmp": str(self.tmp) if self.tmp else None,
            "tree": sorted(self.known),
            "shm": self.shm,
        }
        try:
            write_json(self.folder / "keeper.json", value)
        except OSError as error:
            note(f"keeper.json not written: {error}")

    def keep(self) -> None:
        """Look after the engine until its main process ends, then clean up and record it."""
        while self._is_running():
            self._sleep()
            self._reap()
            self._obey()
            self._look_after()
        self._finish(time.time())

    def _is_running(self) -> bool:
        if self.adopted:
            return self.engine is not None and is_alive(self.engine)
        return self.wait_status is None

    def _sleep(self) -> None:
        """Wait for a signal, the end of the engine, or the next thing to look at."""
        until = min(self._next_log_check, self._next_tree_check, self.kill_at)
        if self.adopted and self._pidfd is None:
            until = time.monotonic() + 0.05
        poller = select.poll()
        poller.register(self._wake, select.POLLIN)
        if self._pidfd is not None:
            poller.register(self._pidfd, select.POLLIN)
        poller.poll(max(0.0, until - time.monotonic()) * 1000 + 1)
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake, 4096)

    def _reap(self) -> None:
        """Take the exit status of every child that ended, adopted orphans included."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if self.engine and pid == self.engine.pid and not self.adopted:
                self.wait_status = status if self.wait_status is None else self.wait_status

    def _obey(self) -> None:
        """Begin a stop when asked; a later request moves the moment of the KILL."""
        if self.stop_asked and self.engine and self._is_running():
            self.stop_asked = False
            wish = read_json(self.folder / "stop.json") or {}
            self.kill_wait = float(wish.get("kill_wait", self.kill_wait))
            self.kill_at = time.monotonic() + float(wish.get("grace", self.stop_timeout))
            if not self.requested:
                self.requested = True
                send(self.engine, signal.SIGTERM)
        if time.monotonic() >= self.kill_at and self._is_running():
            self._kill_all()
            self.kill_at = time.monotonic() + 1.0

    def _kill_all(self) -> None:
        self._remember_shm()
        ended = end_tree(self._scan, spare=0, term_wait=0, kill_wait=self.kill_wait)
        self.killed |= ended.signalled
        self._reap()

    def _look_after(self) -> None:
        """Keep the log small and the record of the tree fresh."""
        now = time.monotonic()
        if now >= self._next_log_check:
            self._next_log_check = now + LOG_CHECK_INTERVAL
            try:
                self.log.keep_small()
            except OSError as error:
                note(f"log not rotated: {error}")
        if now >= self._next_tree_check:
            age = now - self._born
            self._next_tree_check = now + min(TREE_CHECK_INTERVAL, 0.25 + age / 4)
            self._remember_tree()

    def _remember_tree(self) -> None:
        """Write down who belongs to the tree now, for the day the keeper itself is killed."""
        table = process_table()
        children = {stat.process for stat in table.values() if stat.parent == os.getpid()}
        seen = family(table, self.known | children, self.engine)
        changed = seen != self.known
        self.known = seen
        if self._remember_shm() or changed:
            self.record()

    def _remember_shm(self) -> bool:
        before = len(self.shm)
        self.shm |= mapped_shm(self.known)
        return len(self.shm) != before

    def _scan(self) -> set[Process]:
        """Return every process of the tree, the main one included."""
        self._reap()
        self.known |= tree(self.marker, known=self.known, leader=self.engine, keeper=os.getpid())
        return {process for process in self.known if is_alive(process)}

    def _finish(self, at: float) -> None:
        """End what is left of the tree, remove what it left behind, and record the end."""
        term_wait = LEFTOVER_TERM_WAIT
        if self.requested:
            grace_left = max(0.0, self.kill_at - time.monotonic())
            term_wait = max(term_wait, min(grace_left, LEFTOVER_TERM_WAIT_REQUESTED))
        left = self._scan()
        if left:
            self._remember_shm()
            ended = end_tree(
                self._scan, spare=LEFTOVER_SPARE, term_wait=term_wait, kill_wait=self.kill_wait
            )
            self.killed |= ended.signalled
            left = set(ended.left)
        if not left:
            self._clean_up()
        self._write_exit(at, left)
        while left:  # stuck in the kernel: nothing to do but to stay and try again
            wait_gone(left, 1.0)
            ended = end_tree(self._scan, spare=0, term_wait=0, kill_wait=1.0)
            left = set(ended.left)
            if not left:
                self._clean_up()
                self._write_exit(at, left)

    def _clean_up(self) -> None:
        remove_private_tmp(self.folder, self.tmp)
        remove_shm(self.shm)

    def _write_exit(self, at: float, left: Iterable[Process], error: str = "") -> None:
        value = exit_record(
            wait_status=self.wait_status,
            at=at,
            requested=self.requested,
            leftovers_killed=len(self.killed - {self.engine}),
            left=left,
            error=error,
        )
        try:
            write_json(self.folder / "exit.json", value)
        except OSError as trouble:
            note(f"exit.json not written: {trouble}; it would have said {value}")

    def fail(self, error: str) -> None:
        """Record that the engine's process could not be made."""
        self._clean_up()
        self._write_exit(time.time(), (), error)


def _detach() -> None:
    """Leave whoever started us: a process of its own session that belongs to nobody."""
    if os.fork():
        os._exit(0)
    os.setsid()
    os.chdir("/")
    inherited = [int(entry.name) for entry in os.scandir("/proc/self/fd")]
    for descriptor in inherited:
        if descriptor > 2:  # noqa: PLR2004 - standard input, output and error stay
            with contextlib.suppress(OSError):
                os.close(descriptor)


def _take_signals() -> None:
    """Undo what was inherited; be ended by nothing but KILL.

    Handlers that do nothing, in place of SIG_IGN, because the engine would inherit that.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
    quiet = "SIGHUP SIGINT SIGQUIT SIGPIPE SIGUSR1 SIGUSR2 SIGALRM SIGTSTP SIGTTIN SIGTTOU SIGCHLD"
    for name in [*quiet.split(), "SIGTERM"]:
        signal.signal(signal.Signals[name], lambda _number, _frame: None)


def _become_subreaper() -> None:
    """Have orphans of the tree handed to us and not to init: prctl(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        note(f"not a subreaper: {os.strerror(ctypes.get_errno())}")
    libc.prctl(_PR_SET_NAME, b"mh-keeper", 0, 0, 0)


def _read_spec() -> Spec:
    spec = Spec(**json.load(sys.stdin.buffer))
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.close(null)
    return spec


def _answer(error: str = "") -> None:
    """Tell whoever started us, if they still listen, and let go of the pipe."""
    with contextlib.suppress(OSError):
        os.write(1, json.dumps({"error": error}).encode() + b"\n")
    os.dup2(0, 1)


def _begin(spec: Spec) -> Keeper | None:
    """Start or adopt the engine, answer, and return its keeper; None when there is nothing to keep."""
    if take_lock(Path(spec.folder)) is None:
        _answer("it is already being kept")
        return None
    keeper = Keeper(spec)
    if keeper.adopted:
        keeper.record()
        _answer()
        return keeper
    try:
        keeper.start(spec)
    except (OSError, ValueError) as error:
        keeper.fail(str(error))
        _answer(str(error))
        return None
    _answer()
    return keeper


def main() -> int:
    """Keep one engine. Returns 0 when it has ended and that is recorded, 1 when it was never there."""
    _detach()
    _take_signals()
    _become_subreaper()
    spec = _read_spec()
    keeper = _begin(spec)
    del spec  # and with it the secrets
    if keeper is None:
        return 1
    keeper.keep()
    return 0


if __name__ == "__main__":
    sys.exit(main())
