from collections.abc import Iterator

import pytest
from django.core.cache import cache


@pytest.fixture(autouse=True)
def _no_memory_of_other_tests() -> Iterator[None]:
    """Limits on guessing and on records of strangers are kept in the cache."""
    cache.clear()
    yield
    cache.clear()
