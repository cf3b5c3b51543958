"""One whole site for all tests of faults that need one, and a worker that is a real process."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from django.conf import settings
from django.db import connection

from backends import selectors
from mhsite.home import REPOSITORY
from tests.backends.faults.whole_site import PLUGINS, WholeSite, until, whole_site

#: Seconds one test may take: a machine can be busy.
TEST_SECONDS = 240


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.faults)
            item.add_marker(pytest.mark.process)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(TEST_SECONDS))


@pytest.fixture(scope="session")
def running_site() -> Iterator[WholeSite]:
    with whole_site() as running:
        yield running


@pytest.fixture
def site(running_site: WholeSite) -> Iterator[WholeSite]:
    """The site, with two engines that are stopped and set to nothing special."""
    running_site.calm()
    yield running_site
    running_site.calm()


Worker = subprocess.Popen[bytes]


@pytest.fixture
def worker(transactional_db: None, broker: str) -> Iterator[Callable[[], Worker]]:
    """Start a worker of the test's own database, as a process that can be killed."""
    started: list[subprocess.Popen[bytes]] = []
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(Path.home()),
        "MH_HOME": str(settings.MH_HOME),
        "MH_NODE": settings.MH_NODE,
        "DATABASE_URL": f"sqlite:///{connection.settings_dict['NAME']}",
        "PYTHONPATH": os.pathsep.join(map(str, PLUGINS)),
    }

    def start() -> "subprocess.Popen[bytes]":
        with (settings.MH_HOME / "worker.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "mhsite.processes.child", "worker"],
                cwd=REPOSITORY,
                env=environment,
                stdout=log,
                stderr=log,
            )
        started.append(process)
        until(selectors.worker_alive, 60, "a worker")
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
