"""Start, find, watch and stop engines on this machine, each under its keeper (``backends.keeper``).

Used by the worker and the observer of a GPU machine. Knows processes, files and ports; knows nothing
of models, operations or the database. Everything about one start lies in one folder,
``MH_HOME/engines/<backend>/<instance id>/``, and every process of it carries
``MH_INSTANCE=<backend>/<instance id>`` in its environment.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol

from backends import keeper, ports
from backends.errors import StartFailed, StopFailed
from backends.keeper import Process

#: Size above which an engine's log is rotated, bytes, and how many old ones are kept per start.
LOG_MAX_BYTES: Final = 16 << 20
LOG_FILES: Final = 3
#: How much of a log is read for its last lines, bytes.
LOG_TAIL_BYTES: Final = 256 << 10
#: Seconds a keeper may take to say that the engine's process exists.
KEEPER_TIMEOUT: Final = 15.0
#: Seconds a keeper may take beyond grace and kill wait: leftovers, removal of files, a busy machine.
KEEPER_MARGIN: Final = 10.0
#: In the folder of an instance that is no engine yet.
WAITING_FILE: Final = "waiting.json"

#: Variables of the site's environment that engines inherit. Everything else is the plugin's to say.
_INHERITED: Final = (
    "PATH HOME USER LOGNAME SHELL LANG LANGUAGE TZ LD_LIBRARY_PATH XDG_CACHE_HOME XDG_DATA_HOME"
    " XDG_CONFIG_HOME XDG_RUNTIME_DIR HTTP_PROXY HTTPS_PROXY NO_PROXY ALL_PROXY http_proxy"
    " https_proxy no_proxy all_proxy SSL_CERT_FILE SSL_CERT_DIR REQUESTS_CA_BUNDLE CURL_CA_BUNDLE"
    " OMP_NUM_THREADS"
)
_INHERITED_PREFIXES: Final = ("LC_", "CUDA_", "NVIDIA_", "NCCL_", "HIP_", "ROCR_", "HF_", "KMP_")
_ENGINES_FOLDER: Final = "engines"
_SAFE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_ANSI_ESCAPE: Final = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")


class Launch(Protocol):
    """What is needed of ``backends.engines.base.Launch`` to start a process."""

    @property
    def argv(self) -> tuple[str, ...]:
        """The command."""

    @property
    def env(self) -> dict[str, str]:
        """Added to a clean environment."""

    @property
    def secret_env(self) -> dict[str, str]:
        """The same, for values that must not reach a disk, a log or a command line."""

    @property
    def stop_timeout(self) -> float:
        """Seconds between TERM and KILL."""


@dataclass(frozen=True)
class Instance:
    """One start of an engine."""

    backend: str
    #: Sorts by time of the start.
    instance_id: str
    folder: Path

    @property
    def marker(self) -> str:
        """Value of ``MH_INSTANCE`` in the environment of its processes."""
        return f"{self.backend}/{self.instance_id}"


@dataclass(frozen=True)
class ExitRecord:
    """How an engine ended."""

    #: Exit status of the main process; None if a signal ended it, or if nobody knows.
    status: int | None
    signal: int | None
    #: When it was noticed, seconds since 1970.
    at: float
    #: Whether a stop had been asked for.
    requested: bool
    #: Processes that outlived the main one and were ended by us.
    leftovers_killed: int
    #: Why the process could not be made at all, in the system's words; for the owner.
    error: str = ""


@dataclass(frozen=True)
class Inspection:
    """What is known of an instance without searching."""

    #: Whether any process of the tree lives, or its keeper is still cleaning up.
    alive: bool
    #: The main process, while it lives.
    engine_pid: int | None
    keeper_alive: bool
    exit: ExitRecord | None
    #: Living processes of the tree, as far as its keeper has seen them (``tree`` searches).
    pids: tuple[int, ...]
    #: Resident memory of ``pids``; shared pages count once per process.
    rss_bytes: int


@dataclass
class KeeperAhead:
    """A keeper that was begun before it is known what it keeps: its Python starts meanwhile.

    One that is not handed to ``spawn`` ends by itself, when told so or with this process.
    """

    inst: Instance
    process: "subprocess.Popen[bytes]"

    def end_unused(self) -> None:
        """End it, and remove the folder of its instance, unless it was used."""
        if self.process.returncode is not None:
            return
        self.process.communicate()  # the end of its input ends it
        shutil.rmtree(self.inst.folder, ignore_errors=True)


@dataclass(frozen=True)
class _Record:
    """``keeper.json``, as far as it is about this boot of the machine."""

    keeper: Process | None = None
    engine: Process | None = None
    known: frozenset[Process] = frozenset()
    tmp: Path | None = None
    shm: tuple[tuple[str, str], ...] = ()
    stop_timeout: float = 10.0


# Instances.


def new_instance(home: Path, backend: str) -> Instance:
    """Make the id and the folder (mode 0700) of a new start."""
    while True:
        instance_id = f"{datetime.now(UTC):%y%m%dT%H%M%S%f}-{os.urandom(2).hex()}"
        made = instance(home, backend, instance_id)
        made.folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with contextlib.suppress(FileExistsError):
            made.folder.mkdir(mode=0o700)
            return made


def instance(home: Path, backend: str, instance_id: str) -> Instance:
    """Return the instance with this id, whether or not anything of it exists.

    Raises:
        ValueError: a name that cannot be a folder of ours.
    """
    for name in (backend, instance_id):
        if not _SAFE_NAME.fullmatch(name):
            msg = f"{name!r} cannot be the name of a backend or an instance"
            raise ValueError(msg)
    return Instance(backend, instance_id, _backend_folder(home, backend) / instance_id)


def _backend_folder(home: Path, backend: str) -> Path:
    return home.absolute() / _ENGINES_FOLDER / backend


def _recorded_instances(home: Path, backend: str) -> list[Instance]:
    """Return every instance that has a folder, newest first."""
    try:
        names = [path.name for path in _backend_folder(home, backend).iterdir() if path.is_dir()]
    except OSError:
        return []
    names = sorted((name for name in names if _SAFE_NAME.fullmatch(name)), reverse=True)
    return [instance(home, backend, name) for name in names]


def instances(home: Path, backend: str) -> list[Instance]:
    """Return every instance whose folder is kept, living or not, newest first."""
    return _recorded_instances(home, backend)


def find(home: Path, backend: str) -> list[Instance]:
    """Return every instance of this site with a living process, newest first.

    Found by their records and by the marker in their environment, so also when the keeper was
    killed, or the records are gone. Those that only wait to become an engine (``waiting``) are not
    among them.
    """
    return [inst for inst in _living(home, backend) if not is_waiting(inst)]


def waiting(home: Path, backend: str) -> list[Instance]:
    """Return every instance that waits to become an engine, newest first; also one that died waiting."""
    return [inst for inst in _recorded_instances(home, backend) if is_waiting(inst)]


def is_waiting(inst: Instance) -> bool:
    """Return whether an instance is no engine yet: ``backends.standby``."""
    return (inst.folder / WAITING_FILE).exists()


def _living(home: Path, backend: str) -> list[Instance]:
    found = {inst.instance_id: inst for inst in _marked_instances(home, backend)}
    for inst in _recorded_instances(home, backend):
        if inst.instance_id not in found and _known_alive(inst, _read_record(inst)):
            found[inst.instance_id] = inst
    return [found[instance_id] for instance_id in sorted(found, reverse=True)]


def _known_alive(inst: Instance, record: _Record) -> bool:
    if any(keeper.is_alive(process) for process in record.known):
        return True
    cleaning = record.keeper is not None and keeper.is_alive(record.keeper)
    return cleaning and _read_exit(inst) is None


def _marked_instances(home: Path, backend: str) -> Iterator[Instance]:
    for pid in keeper.process_table():
        owner, _, instance_id = (
            keeper.environment_value(pid, keeper.MARKER_VARIABLE) or ""
        ).partition("/")
        if owner != backend or not _SAFE_NAME.fullmatch(instance_id):
            continue
        inst = instance(home, backend, instance_id)
        if keeper.environment_value(pid, keeper.FOLDER_VARIABLE) == str(inst.folder):
            yield inst


def prune(home: Path, backend: str, keep: int = 10) -> None:
    """Remove the folders of old starts: all but the ``keep`` newest and those that live."""
    living = {inst.instance_id for inst in _living(home, backend)}
    for inst in _recorded_instances(home, backend)[keep:]:
        if inst.instance_id not in living:
            keeper.remove_private_tmp(inst.folder, _read_record(inst, any_boot=True).tmp)
            shutil.rmtree(inst.folder, ignore_errors=True)


# Start and adopt.


def spawn(
    inst: Instance,
    launch: Launch,
    *,
    log_max_bytes: int = LOG_MAX_BYTES,
    log_files: int = LOG_FILES,
    ahead: KeeperAhead | None = None,
) -> None:
    """Start an engine under a keeper that outlives us; return when its process exists.

    Args:
        inst: a new instance.
        launch: what to start.
        log_max_bytes, log_files: when its log is rotated, and how many old ones are kept.
        ahead: its keeper, where ``begin_keeper`` has begun it.

    Raises:
        StartFailed: its process could not be made, or this instance was started before.
    """
    if _record_path(inst).exists():
        msg = f"{inst.marker} was started before; every start is a new instance."
        raise StartFailed(msg)
    _run_keeper(
        inst,
        {
            "argv": list(launch.argv),
            "env": _clean_environment() | launch.env | launch.secret_env,
            "cwd": str(inst.folder),
            "tmp_variables": ["TMPDIR", "VLLM_RPC_BASE_PATH"],
            "stop_timeout": launch.stop_timeout,
            "log_max_bytes": log_max_bytes,
            "log_files": log_files,
        },
        ahead.process if ahead else None,
    )


def begin_keeper(inst: Instance) -> KeeperAhead:
    """Begin the keeper of a new instance that is about to be spawned.

    Raises:
        StartFailed: its process could not be made.
    """
    return KeeperAhead(inst, _begin_keeper(inst))


def adopt(inst: Instance) -> None:
    """Give an engine whose keeper was killed a new one. Does nothing when it has one or is gone.

    The new keeper is not the engine's parent: how the engine ends will be known, its exit status
    will not.

    Raises:
        StartFailed: no keeper could be started; the engine runs on without one.
    """
    if inspect(inst).keeper_alive:
        return
    record = _read_record(inst)
    processes = _tree(inst, record)
    if not processes:
        return
    _run_keeper(
        inst,
        {
            "engine": _main_process(processes, record),
            "tmp": str(record.tmp) if record.tmp else None,
            "stop_timeout": record.stop_timeout,
            "log_max_bytes": LOG_MAX_BYTES,
            "log_files": LOG_FILES,
        },
    )


def _main_process(processes: set[Process], record: _Record) -> Process | None:
    """Return the main process of a tree: the recorded one, without a record the session's leader."""
    if record.engine:
        return record.engine
    leaders = [p for p in processes if (stat := keeper.read_stat(p.pid)) and stat.session == p.pid]
    return min(leaders, key=lambda process: process.start, default=None)


def _clean_environment() -> dict[str, str]:
    """Return the part of our environment that engines inherit, and what makes any engine well-behaved."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name in _INHERITED.split() or name.startswith(_INHERITED_PREFIXES)
    }
    defaults = {"PATH": os.defpath, "HOME": str(Path.home()), "LANG": "C.UTF-8"}
    # Output reaches the log at once; the marker in /proc survives a changed process title.
    return defaults | inherited | {"PYTHONUNBUFFERED": "1", "SPT_NOENV": "1"}


def _run_keeper(
    inst: Instance, spec: dict[str, Any], ahead: "subprocess.Popen[bytes] | None" = None
) -> None:
    spec |= {"folder": str(inst.folder), "marker": inst.marker}
    process = ahead or _begin_keeper(inst)
    if reason := _keeper_error(process, json.dumps(spec).encode()):
        raise _not_started(reason)


def _begin_keeper(inst: Instance) -> "subprocess.Popen[bytes]":
    """Start a keeper, which then waits for its specification."""
    passed = {name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ}
    try:
        with _open_private(inst.folder / "keeper.log") as trouble:
            return subprocess.Popen(
                [sys.executable, "-I", "-S", str(keeper.__file__), inst.marker],
                env=passed | {"LANG": "C.UTF-8"},
                cwd="/",
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=trouble,
                start_new_session=True,
            )
    except OSError as error:
        raise _not_started(f"no keeper: {error}") from error


def _keeper_error(process: subprocess.Popen[bytes], spec: bytes) -> str:
    """Hand over the specification and return what went wrong, if anything."""
    with process:  # ends at once: the keeper is a grandchild
        try:
            answer, _ = process.communicate(spec, timeout=KEEPER_TIMEOUT)
            return str(json.loads(answer)["error"])
        except subprocess.TimeoutExpired:
            process.kill()
            return f"the keeper did not answer within {KEEPER_TIMEOUT:.0f} s; see keeper.log"
        except (ValueError, KeyError, TypeError):
            return "the keeper gave no answer; see keeper.log"


def _not_started(reason: str) -> StartFailed:
    return StartFailed("The engine's program could not be started.", detail=reason)


@contextlib.contextmanager
def _open_private(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


# Watch.


def inspect(inst: Instance) -> Inspection:
    """Return what is known of an instance. Cheap: two small files and a few entries of ``/proc``.

    Only where the keeper is dead and nothing was recorded about the end are processes searched for.
    """
    record = _read_record(inst)
    exit_found = _read_exit(inst)
    keeper_alive = record.keeper is not None and keeper.is_alive(record.keeper)
    living = {process for process in record.known if keeper.is_alive(process)}
    if not (living or keeper_alive or exit_found):
        living = _tree(inst, record)
    engine_alive = record.engine is not None and record.engine in living
    pids = tuple(sorted(process.pid for process in living))
    return Inspection(
        alive=bool(living) or (keeper_alive and exit_found is None),
        engine_pid=record.engine.pid if record.engine and engine_alive else None,
        keeper_alive=keeper_alive,
        exit=exit_found,
        pids=pids,
        rss_bytes=sum(map(rss_of, pids)),
    )


def tree(inst: Instance) -> tuple[int, ...]:
    """Return the pids of every living process of an instance. Searches all of ``/proc`` (10 ms)."""
    return tuple(sorted(process.pid for process in _tree(inst, _read_record(inst))))


def processes(inst: Instance) -> frozenset[Process]:
    """Return every process of an instance that lives or was last seen by its keeper. Searches ``/proc``."""
    record = _read_record(inst)
    main = {record.engine} if record.engine else set()
    return frozenset(_tree(inst, record) | record.known | main)


def rss_bytes(inst: Instance) -> int:
    """Return the resident memory of every living process of an instance, after a full search."""
    return sum(map(rss_of, tree(inst)))


def wait_exit(inst: Instance, timeout: float) -> ExitRecord | None:
    """Wait until an instance has ended and that is recorded; None if it lives on after ``timeout`` s.

    Does not poll: returns within milliseconds of the end. With a dead keeper the end of the main
    process is waited for, and the returned record knows no status.
    """
    deadline = time.monotonic() + timeout
    record = _read_record(inst)
    watched = [process for process in (record.keeper, record.engine) if process]
    for process in watched or _tree(inst, record):
        if ended := _read_exit(inst):
            return ended
        if not keeper.wait_gone([process], max(0.0, deadline - time.monotonic())):
            return _read_exit(inst)
    return _read_exit(inst) or ExitRecord(None, None, time.time(), False, 0)


def _tree(inst: Instance, record: _Record) -> set[Process]:
    return keeper.tree(
        inst.marker,
        known=record.known,
        leader=record.engine,
        keeper=record.keeper.pid if record.keeper and keeper.is_alive(record.keeper) else None,
    )


def rss_of(pid: int) -> int:
    """Return the resident memory of a process in bytes; 0 when it is gone."""
    fields = keeper.read_bytes(f"/proc/{pid}/statm").split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") if fields else 0


def _record_path(inst: Instance) -> Path:
    return inst.folder / "keeper.json"


def _read_record(inst: Instance, *, any_boot: bool = False) -> _Record:
    value = keeper.read_json(_record_path(inst)) or {}
    try:
        tmp = Path(value["tmp"]) if value["tmp"] else None
        if value["boot"] != keeper.boot_id():
            return _Record(tmp=tmp) if any_boot else _Record()
        return _Record(
            keeper=Process(*value["keeper"]),
            engine=Process(*value["engine"]) if value["engine"] else None,
            known=frozenset(Process(*item) for item in value["tree"]),
            tmp=tmp,
            shm=tuple(value["shm"].items()),
            stop_timeout=float(value["stop_timeout"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return _Record()


def _read_exit(inst: Instance) -> ExitRecord | None:
    value = keeper.read_json(inst.folder / "exit.json")
    if value is None:
        return None
    return ExitRecord(
        status=value.get("status"),
        signal=value.get("signal"),
        at=float(value.get("at") or 0.0),
        requested=bool(value.get("requested")),
        leftovers_killed=int(value.get("leftovers_killed") or 0),
        error=str(value.get("error") or ""),
    )


# Stop.


def stop(inst: Instance, *, grace: float, kill_wait: float = 5.0) -> Inspection:
    """End every process of an instance: TERM, ``grace`` s, KILL; return how it looks afterwards.

    Safe to call at any time, also on an instance that has ended or never began.

    Raises:
        StopFailed: processes are left, named by pid, after ``grace`` + ``kill_wait`` s and a margin.
    """
    with contextlib.suppress(OSError):  # the folder is gone: the defaults do
        keeper.write_json(inst.folder / "stop.json", {"grace": grace, "kill_wait": kill_wait})
    timeout = grace + kill_wait + KEEPER_MARGIN
    if not _stop_by_keeper(inst, timeout) and not _stop_directly(inst, grace, kill_wait):
        _stop_by_keeper(inst, timeout)  # one has come in between
    left = tree(inst)
    if left:
        pids = ", ".join(map(str, left))
        msg = f"{inst.backend} is not stopped: these processes cannot be ended: {pids}."
        raise StopFailed(msg)
    return inspect(inst)


def _stop_by_keeper(inst: Instance, timeout: float) -> bool:
    """Ask the keeper, and wait for it; False when there is none, or none that does it."""
    record = _read_record(inst)
    if record.keeper is None or not keeper.send(record.keeper, signal.SIGTERM):
        return False
    if keeper.wait_gone([record.keeper], timeout):
        return _read_exit(inst) is not None
    if _read_exit(inst):
        return True  # it has done what can be done, and stays with what is stuck in the kernel
    keeper.send(record.keeper, signal.SIGKILL)
    keeper.wait_gone([record.keeper], 1.0)
    return False


def _stop_directly(inst: Instance, grace: float, kill_wait: float) -> bool:
    """Do the keeper's work for an engine whose keeper is dead; False when it has a new one."""
    try:
        lock = keeper.take_lock(inst.folder)
    except OSError:
        lock = os.open(os.devnull, os.O_RDONLY)  # no folder, so no keeper either
    if lock is None:
        return False
    try:
        _end_and_record(inst, grace, kill_wait)
    finally:
        os.close(lock)
    return True


def _end_and_record(inst: Instance, grace: float, kill_wait: float) -> None:
    record = _read_record(inst)
    main = _main_process(_tree(inst, record), record)
    if main and keeper.send(main, signal.SIGTERM):
        keeper.wait_gone([main], grace)
    ended = keeper.end_tree(
        lambda: _tree(inst, record),
        spare=keeper.LEFTOVER_SPARE,
        term_wait=keeper.LEFTOVER_TERM_WAIT,
        kill_wait=kill_wait,
    )
    if ended.left:
        return
    keeper.remove_private_tmp(inst.folder, record.tmp)
    keeper.remove_shm(dict(record.shm))
    if main and _read_exit(inst) is None:
        killed = len(ended.signalled - {main})
        value = keeper.exit_record(at=time.time(), requested=True, leftovers_killed=killed)
        with contextlib.suppress(OSError):
            keeper.write_json(inst.folder / "exit.json", value)


# Logs.


def log_path(inst: Instance) -> Path:
    """Return the file the engine writes its output to."""
    return inst.folder / "engine.log"


def log_tail(inst: Instance, lines: int = 200) -> list[str]:
    """Return the last lines of the engine's output, without colours and overwritten progress bars.

    Reads at most the last 256 KiB, across a rotation.
    """
    path = log_path(inst)
    data = _read_end(path, LOG_TAIL_BYTES)
    if len(data) < LOG_TAIL_BYTES:
        data = _read_end(path.with_name(f"{path.name}.1"), LOG_TAIL_BYTES - len(data)) + data
    text = _ANSI_ESCAPE.sub("", data.decode(errors="replace").replace("\0", ""))
    found = [line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n")]
    if found and not found[-1]:
        found.pop()
    return found[-lines:] if lines > 0 else []


def log_lines(inst: Instance) -> Iterator[str]:
    """Yield every line of the engine's output that is kept, oldest first, without colours."""
    path = log_path(inst)
    for part in (path.with_name(f"{path.name}.1"), path):
        with contextlib.suppress(OSError), part.open(errors="replace", newline="\n") as file:
            for line in file:
                text = _ANSI_ESCAPE.sub("", line.replace("\0", "")).rstrip("\r\n")
                yield text.rpartition("\r")[2]


def _read_end(path: Path, size: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - size))
            return file.read(size)
    except OSError:
        return b""


# Ports.

#: Who keeps us from listening on a port: see ``backends.ports``.
port_holder = ports.port_holder


def owns_listener(inst: Instance, port: int) -> bool:
    """Say whether what listens on the port, on any address, belongs to our tree.

    False as soon as somebody else listens on the same address and port as well (``SO_REUSEPORT``),
    since a connection may then reach either.
    """
    listeners = ports.listeners(port)
    if not listeners:
        return False
    ours = ports.sockets(inspect(inst).pids)
    if not any(listener.inode in ours for listener in listeners):
        ours = ports.sockets(tree(inst))
    addresses = {listener.address for listener in listeners if listener.inode in ours}
    return bool(addresses) and all(
        listener.inode in ours for listener in listeners if listener.address in addresses
    )
