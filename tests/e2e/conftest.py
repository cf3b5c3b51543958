"""One site for all end-to-end tests; vLLM stays up between them wherever the test allows."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.e2e.browsing import chromium
from tests.e2e.site import Site, artifacts, running_site

#: Seconds one test may take: it may have to start vLLM on a busy machine.
TEST_SECONDS = 600


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """End-to-end tests need longer than the rest, and never a database of pytest's."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(TEST_SECONDS))


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    home = Path(tempfile.mkdtemp(prefix="mhe-"))
    try:
        with running_site(home) as running:
            yield running
    finally:
        logs = artifacts() / "site"
        shutil.rmtree(logs, ignore_errors=True)
        shutil.copytree(home / "logs", logs, ignore_dangling_symlinks=True)
        shutil.copy(home / "up.log", logs)
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running
