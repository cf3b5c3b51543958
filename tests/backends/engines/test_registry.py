import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import uv
from django.conf import settings

from backends import plugins
from backends.engines import registry
from backends.engines.ollama import OllamaEngine
from backends.engines.vllm import VllmEngine
from backends.errors import UnknownBackend

FAKES = Path(__file__).resolve().parents[2] / "fakes"
LIST = "from backends.engines.registry import engines; print(*sorted(engines()))"

FAKE = "from mh_fake_engine import FakeEngine\n"
OPTIONS = f"{FAKE}from backends.engines.base import Options\nfrom pydantic import Field\n"
BROKEN = {
    "import_error": ("import nothing_of_this_name", "ModuleNotFoundError"),
    "exits": ("raise SystemExit('bye')", "SystemExit"),
    "no_such_class": ("", "AttributeError"),
    "not_a_class": ("Plugin = 3", "not a subclass"),
    "not_an_engine": ("class Plugin: name = 'not_an_engine'", "not a subclass"),
    "lacks_methods": (
        "from backends.engines.base import Engine\nclass Plugin(Engine): name = 'lacks_methods'",
        "it lacks detect",
    ),
    "other_name": (
        f"{FAKE}class Plugin(FakeEngine): name = 'somebody'",
        "it calls itself 'somebody'",
    ),
    "no_options": (
        f"{FAKE}class Plugin(FakeEngine): name = 'no_options'; Options = dict",
        "its Options are not",
    ),
    "options_without_defaults": (
        f"""{OPTIONS}
class O(Options): model: str
class Plugin(FakeEngine): name = 'options_without_defaults'; Options = O
""",
        "its Options do not work",
    ),
    "bad_default": (
        f"""{OPTIONS}
class O(Options): port: int = Field(default=0, ge=1)
class Plugin(FakeEngine): name = 'bad_default'; Options = O
""",
        "its Options do not work",
    ),
    "fails_when_made": (
        f"""{FAKE}
class Plugin(FakeEngine):
    name = 'fails_when_made'
    def __init__(self): 1 / 0
""",
        "ZeroDivisionError",
    ),
}


class Log:
    def __init__(self) -> None:
        self.errors: list[dict[str, Any]] = []

    def error(self, event: str, **facts: Any) -> None:
        self.errors.append(facts | {"event": event})


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[Log]:
    log = Log()
    monkeypatch.setattr(plugins, "log", log)
    registry.engines.cache_clear()
    yield log
    registry.engines.cache_clear()


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[EntryPoint]:
    """Every kind of broken plugin, as modules that can really be imported."""
    for name, (source, _) in BROKEN.items():
        (tmp_path / f"broken_{name}.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    return [
        EntryPoint(name=name, value=f"broken_{name}:Plugin", group=registry.GROUP)
        for name in BROKEN
    ]


def test_ours_are_found_even_where_the_project_is_not_installed(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugins, "entry_points", lambda group: ())
    assert isinstance(registry.engine("vllm"), VllmEngine)
    assert isinstance(registry.engine("ollama"), OllamaEngine)
    assert log.errors == []


def test_plugins_are_loaded_once(log: Log) -> None:
    assert registry.engines() is registry.engines()
    assert registry.engine("vllm") is registry.engine("vllm")


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UnknownBackend, match=r"no backend “vlm”\. There are: .*vllm"):
        registry.engine("vlm")


def test_a_broken_plugin_is_logged_once_by_name_and_the_others_work(
    log: Log, broken: list[EntryPoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugins, "entry_points", lambda group: broken)
    assert set(registry.engines()) == {"ollama", "vllm"}
    assert set(registry.engines()) == {"ollama", "vllm"}
    assert [facts["plugin"] for facts in log.errors] == list(BROKEN)
    for facts in log.errors:
        assert BROKEN[facts["plugin"]][1] in facts["reason"]


def test_a_package_cannot_take_the_name_of_ours(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    thief = EntryPoint(name="vllm", value="mh_fake_engine:FakeEngine", group=registry.GROUP)
    monkeypatch.setattr(plugins, "entry_points", lambda group: (thief,))
    assert isinstance(registry.engine("vllm"), VllmEngine)
    assert "taken" in log.errors[0]["reason"]


def _list_engines(*folders: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(str(folder) for folder in (*folders, settings.BASE_DIR))
    env = {**os.environ, "PYTHONPATH": path, "DJANGO_SETTINGS_MODULE": "mhsite.settings"}
    command = [sys.executable, "-c", LIST]
    return subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, check=True)


@pytest.mark.process
def test_an_installed_third_party_package_is_found_and_a_broken_one_beside_it_is_skipped(
    tmp_path: Path,
) -> None:
    source = tmp_path / "source"
    shutil.copytree(FAKES / "third_party_engine", source)
    target = tmp_path / "installed"
    install = [uv.find_uv_bin(), "pip", "install", "--quiet", "--offline", "--no-deps"]
    python = ["--no-build-isolation", "--python", sys.executable, "--target", str(target)]
    subprocess.run(
        [*install, *python, str(source)], check=True, env={**os.environ, "PATH": "/bin:/usr/bin"}
    )
    rotten = target / "rotten-1.0.dist-info"
    rotten.mkdir()
    (rotten / "METADATA").write_text("Metadata-Version: 2.1\nName: rotten\nVersion: 1.0\n")
    (rotten / "entry_points.txt").write_text(f"[{registry.GROUP}]\nrotten = rotten_engine:Plugin\n")

    done = _list_engines(target, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "echo ollama vllm"
    said = [line for line in (done.stdout + done.stderr).splitlines() if "skipped" in line]
    assert len(said) == 1
    assert "rotten" in said[0]
