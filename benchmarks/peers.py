"""Other proxies, each in an environment of its own in the cache folder, made from its lock when first needed."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import uv

from backends.ports import free_port
from benchmarks.engine import MODEL
from benchmarks.site import ROOT
from mhsite import home

LOCKS = Path(__file__).parent / "locks"
READY_SECONDS = 120.0
INSTALL_SECONDS = 900.0


class NotHereError(Exception):
    """It cannot be measured on this machine; the message says why."""


@dataclass(frozen=True)
class Peer:
    """A proxy that runs."""

    url: str
    process: psutil.Process
    version: str


def environment(name: str) -> Path:
    """Return the virtual environment of a Python package, made if it is not there.

    Raises:
        NotHereError: it cannot be installed.
    """
    lock = LOCKS / f"{name}.lock"
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    digest = hashlib.sha256(lock.read_bytes() + python.encode()).hexdigest()[:12]
    folder = home.cache() / "bench" / f"{name}-{digest}"
    if (folder / "complete").is_file():
        return folder
    print(f"installing {name} into the cache…", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    program = uv.find_uv_bin()
    _run(name, [program, "venv", "-q", "--no-project", "--python", sys.executable, str(folder)])
    into = ["--python", str(folder / "bin" / "python")]
    _run(name, [program, "pip", "install", "-q", "--no-deps", *into, "-r", str(lock)])
    (folder / "complete").touch()
    return folder


def _run(name: str, command: list[str]) -> None:
    try:
        ended = subprocess.run(
            command, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise NotHereError(f"{name} was not installed within {INSTALL_SECONDS:.0f} s") from None
    if ended.returncode:
        reason = (ended.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise NotHereError(f"{name} cannot be installed: {reason[:200]}")


def pinned(name: str) -> str:
    """Return the version of ``name`` that its lock pins."""
    for line in (LOCKS / f"{name}.lock").read_text().splitlines():
        package, _, version = line.partition("==")
        if package == name:
            return version.split()[0]
    raise SystemExit(f"{name} is not in its own lock")


@contextmanager
def nginx(engine: str) -> Iterator[Peer]:
    """Start nginx as one would put it in front of an engine: unbuffered, connections kept, no access log."""
    program = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    if program is None:
        raise NotHereError("nginx is not installed (Debian: apt-get install nginx-light)")
    port = free_port()
    said = subprocess.run([program, "-v"], capture_output=True, text=True, check=True).stderr
    with tempfile.TemporaryDirectory(prefix="mhb-") as folder:
        # As root the workers run as somebody else, who has to reach the folder.
        Path(folder).chmod(0o755)
        config = Path(folder) / "nginx.conf"
        config.write_text(_NGINX.format(port=port, engine=engine.removeprefix("http://")))
        command = [program, "-p", folder, "-c", str(config), "-e", f"{folder}/error.log"]
        with _started(command, Path(folder), f"http://127.0.0.1:{port}", "/health") as process:
            yield Peer(f"http://127.0.0.1:{port}", process, said.strip().rpartition("/")[2])


_NGINX = """
daemon off;
worker_processes 1;
pid nginx.pid;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    upstream engine {{ server {engine}; keepalive 512; }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        keepalive_requests 1000000;
        location / {{
            proxy_pass http://engine;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
        }}
    }}
}}
"""


@contextmanager
def vllm_router(engine: str) -> Iterator[Peer]:
    """Start vLLM's own router, in Rust, with one engine behind it."""
    folder = environment("vllm-router")
    port, metrics = free_port(), free_port()
    command = [
        str(folder / "bin" / "vllm-router"),
        *("--host", "127.0.0.1", "--port", str(port), "--worker-urls", engine),
        *("--policy", "round_robin", "--log-level", "error", "--prometheus-port", str(metrics)),
    ]
    with tempfile.TemporaryDirectory(prefix="mhb-") as work:
        url = f"http://127.0.0.1:{port}"
        with _started(command, Path(work), url, "/health") as process:
            yield Peer(url, process, pinned("vllm-router"))


@contextmanager
def floor(engine: str) -> Iterator[Peer]:
    """Start ``floor.py``, in our own environment."""
    port = free_port()
    command = [
        *(sys.executable, "-m", "uvicorn", "benchmarks.floor:application"),
        *("--host", "127.0.0.1", "--port", str(port), "--loop", "uvloop", "--http", "httptools"),
        *("--no-access-log", "--log-level", "error", "--app-dir", str(ROOT)),
    ]
    with tempfile.TemporaryDirectory(prefix="mhb-") as work:
        url = f"http://127.0.0.1:{port}"
        env = {**os.environ, "MH_FLOOR_ENGINE": engine}
        with _started(command, Path(work), url, "/health", env) as process:
            yield Peer(url, process, "")


@contextmanager
def litellm(engine: str) -> Iterator[Peer]:
    """Start LiteLLM's proxy: a key, no database, its log at errors only."""
    folder = environment("litellm")
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="mhb-") as work:
        config = Path(work) / "config.yaml"
        config.write_text(_LITELLM.format(model=MODEL, engine=engine, key=LITELLM_KEY))
        command = [
            str(folder / "bin" / "litellm"),
            *("--config", str(config), "--host", "127.0.0.1", "--port", str(port)),
            *("--num_workers", "1", "--telemetry", "False"),
        ]
        more = {
            "LITELLM_LOG": "ERROR",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_MODE": "PRODUCTION",
        }
        url = f"http://127.0.0.1:{port}"
        path = f"{folder / 'bin'}:/usr/local/bin:/usr/bin:/bin"
        with _started(
            command, Path(work), url, "/health/liveliness", {"PATH": path, "HOME": work, **more}
        ) as process:
            yield Peer(url, process, pinned("litellm"))


LITELLM_KEY = "sk-benchmark"
_LITELLM = """
model_list:
  - model_name: {model}
    litellm_params: {{model: hosted_vllm/{model}, api_base: {engine}/v1, api_key: none}}
general_settings: {{master_key: {key}}}
litellm_settings: {{set_verbose: false, num_retries: 0}}
"""


@contextmanager
def _started(
    command: list[str], folder: Path, url: str, path: str, env: dict[str, str] | None = None
) -> Iterator[psutil.Process]:
    """Run ``command`` while the body runs; raises ``NotHereError`` when it does not come up."""
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=folder, env=env)
    try:
        _wait(
            lambda: process.poll() is None,
            url + path,
            lambda: log.read_text(errors="replace")[-600:],
        )
        yield psutil.Process(process.pid)
    finally:
        children = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        _, alive = psutil.wait_procs(children, timeout=5)
        for child in alive:
            child.kill()


def _wait(lives: Callable[[], bool], url: str, said: Callable[[], str]) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and lives():
        try:
            if httpx.get(url, trust_env=False, timeout=2).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    raise NotHereError(f"it did not come up: {said()}")
