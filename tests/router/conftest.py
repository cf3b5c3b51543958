"""One whole site, shared by the tests of this folder that need real sockets."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.router.live import Site, live_site
from tests.router.ollama_live import FakeOllamaServer, ollama_in


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One of several workers takes all tests of the whole site, and starts it once."""
    for item in items:
        is_here = Path(__file__).parent in item.path.parents
        if is_here and "running_site" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("live site"))


@pytest.fixture(scope="session")
def running_site() -> Iterator[Site]:
    # All three servers must do: MH_TEST_ASGI=granian or daphne runs these tests on another one.
    with live_site(os.environ.get("MH_TEST_ASGI", "uvicorn")) as site:
        yield site


@pytest.fixture
def site(running_site: Site) -> Iterator[Site]:
    """The site, with a well-behaved engine that nobody is using."""
    running_site.engine.behave()
    yield running_site
    running_site.engine.behave()
    running_site.engine.await_running(0)


@pytest.fixture(scope="module")
def running_ollama(running_site: Site) -> Iterator[FakeOllamaServer]:
    with ollama_in(running_site) as server:
        yield server


@pytest.fixture
def ollama(running_ollama: FakeOllamaServer) -> Iterator[FakeOllamaServer]:
    """A well-behaved Ollama beside the site's vLLM; ask for ``site`` too."""
    running_ollama.habits()
    yield running_ollama
    running_ollama.habits()
