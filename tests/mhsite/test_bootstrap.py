"""``bin/mh``: what it installs, when, and what it says when it cannot."""

import fcntl
import importlib.machinery
import importlib.util
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType

import pytest

from mhsite.home import REPOSITORY
from tests.mhsite.test_up import until

LOCK = "uv==1.0 \\\n    --hash=sha256:aa\n    # via mh\nrich==2.0 ; python_version < '4' \\\n    --hash=sha256:bb\n"


class Clone:
    """A clone in a folder of its own, with every command it would run written down."""

    def __init__(self, root: Path) -> None:
        (root / "bin").mkdir()
        script = root / "bin" / "mh"
        script.write_text((REPOSITORY / "bin" / "mh").read_text())
        script.chmod(0o755)
        (root / "requirements.lock").write_text(LOCK)
        (root / "requirements-dev.lock").write_text(LOCK + "pytest==3.0 \\\n    --hash=sha256:cc\n")
        (root / "pyproject.toml").write_text("[project]\n")
        self.root = root
        self.module = load(script)
        self.commands: list[list[str]] = []
        self.failing: set[str] = set()
        self.output = ""
        self.module.run = self.run

    def run(self, command: list[str], environment: dict[str, str] | None = None) -> bool:
        self.commands.append(command)
        if command[1:3] == ["-m", "venv"]:
            python = Path(command[-1]) / "bin" / "python"
            python.parent.mkdir(parents=True, exist_ok=True)
            python.symlink_to(sys.executable)
        if any(word in " ".join(command) for word in self.failing):
            self.module.LOG.write_text(self.output)
            return False
        return True

    def ran(self, *words: str) -> bool:
        return any(set(words) <= set(command) for command in self.commands)

    def ensure(self, *, developer: bool = False) -> list[list[str]]:
        self.commands.clear()
        self.module.ensure(developer)
        return self.commands


def load(path: Path) -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("bootstrap", str(path))
    spec = importlib.util.spec_from_loader("bootstrap", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path)


def test_a_fresh_clone_is_installed_once(clone: Clone, capfd: pytest.CaptureFixture[str]) -> None:
    clone.ensure()
    assert clone.ran("-m", "venv")
    assert clone.ran("--require-hashes", str(clone.root / "requirements.lock"))
    assert clone.ran("--editable", str(clone.root))
    out, err = capfd.readouterr()
    assert out == "", "standard output belongs to the command"
    assert "Installing 2 packages…" in err
    assert clone.ensure() == []
    assert capfd.readouterr().err == ""


def test_a_changed_lock_is_installed_into_the_same_environment(clone: Clone) -> None:
    clone.ensure()
    (clone.root / "requirements.lock").write_text(LOCK.replace("2.0", "2.1"))
    clone.ensure()
    assert not clone.ran("-m", "venv")
    assert clone.ran("--require-hashes", str(clone.root / "requirements.lock"))


def test_a_changed_project_is_all_that_is_installed_again(clone: Clone) -> None:
    clone.ensure()
    (clone.root / "pyproject.toml").write_text("[project]\nname = 'mh'\n")
    clone.ensure()
    assert clone.ran("--editable")
    assert not clone.ran("--require-hashes")


def test_developer_tools_stay_once_they_are_there(clone: Clone) -> None:
    clone.ensure()
    clone.ensure(developer=True)
    assert clone.ran("--require-hashes", str(clone.root / "requirements-dev.lock"))
    assert clone.ensure() == []


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["test"], True),
        (["check", "--json"], True),
        (["up"], False),
        ([], False),
        (["--help"], False),
        (["vllm", "start", "test"], False),
    ],
)
def test_which_commands_need_developer_tools(
    clone: Clone, arguments: list[str], wanted: bool
) -> None:
    assert clone.module.wants_developer_tools(arguments) is wanted


def test_a_killed_installation_is_done_again_from_the_cache(clone: Clone) -> None:
    clone.failing = {"--editable"}
    with pytest.raises(clone.module.InstallFailed):
        clone.ensure()
    clone.failing = set()
    clone.ensure()
    assert clone.ran("--reinstall")
    assert clone.ensure() == []


def test_pip_steps_in_where_uv_does_not_work(clone: Clone) -> None:
    clone.failing = {"bin/uv"}
    clone.ensure()
    assert clone.ran("pip", "--require-hashes", str(clone.root / "requirements.lock"))


def test_a_moved_clone_gets_a_new_environment(clone: Clone) -> None:
    clone.ensure()
    stamp = json.loads(clone.module.STAMP.read_text())
    clone.module.STAMP.write_text(json.dumps({**stamp, "root": "/elsewhere"}))
    clone.ensure()
    assert clone.ran("-m", "venv")


def test_without_a_network_it_says_so(clone: Clone) -> None:
    clone.failing = {"--require-hashes"}
    clone.output = "ERROR: NewConnectionError: Temporary failure in name resolution"
    with pytest.raises(clone.module.InstallFailed, match="cannot be reached"):
        clone.ensure()


def test_without_pythons_venv_it_names_the_package_to_install(clone: Clone) -> None:
    clone.failing = {"venv", "import pip", "--python"}
    clone.output = "The virtual environment was not created: ensurepip is not available."
    with pytest.raises(clone.module.InstallFailed, match=r"apt-get install python3\.\d+-venv"):
        clone.ensure()
    assert not clone.module.VENV.exists()


def test_a_second_installation_waits_for_the_first(
    clone: Clone, capfd: pytest.CaptureFixture[str]
) -> None:
    with (clone.root / "bin" / "mh").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        second = threading.Thread(target=clone.ensure)
        second.start()
        said = ""

        def waiting() -> bool:
            nonlocal said
            said += capfd.readouterr().err
            return "waiting for it" in said

        until(waiting, 10, "a word of the second one")
        assert clone.commands == []
    second.join(10)
    assert clone.ran("--editable")


def test_an_old_python_is_told_in_a_sentence(clone: Clone, tmp_path: Path) -> None:
    script = "import sys, runpy; sys.version_info = (3, 8, 1); sys.argv = ['mh', 'version']; "
    script += f"runpy.run_path({str(clone.root / 'bin' / 'mh')!r}, run_name='__main__')"
    ended = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": str(tmp_path)},
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith("mh needs Python 3.11 or newer, and this is 3.8.1.")


def test_it_is_readable_by_old_pythons() -> None:
    import ast

    ast.parse((REPOSITORY / "bin" / "mh").read_text(), feature_version=(3, 7))
