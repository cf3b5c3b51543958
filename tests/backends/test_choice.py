"""The auto-select rule and the start-up behaviours, as tables."""

import pytest

from backends.choice import Candidate, at_startup, auto


def candidates(words: str) -> list[Candidate]:
    """Read ``"ollama:running vllm:installed fake:"``."""
    found = []
    for word in words.split():
        name, _, state = word.partition(":")
        found.append(
            Candidate(name=name, installed=bool(state), running=state in {"running", "foreign"})
        )
    return found


@pytest.mark.parametrize(
    ("here", "picked"),
    [
        ("ollama:running vllm:running", "vllm"),
        ("ollama:running vllm:installed", "ollama"),
        ("ollama:installed vllm:installed", "vllm"),
        ("ollama:installed vllm:", "ollama"),
        ("ollama: vllm:", None),
        ("", None),
        ("abacus:running vllm:installed", "abacus"),
        ("abacus:installed zeus:running ollama:installed", "zeus"),
        ("zeus:installed abacus:installed", "abacus"),
    ],
)
def test_a_running_engine_is_picked_before_an_installed_one_and_vllm_before_ollama(
    here: str, picked: str | None
) -> None:
    assert auto(candidates(here)) == picked


@pytest.mark.parametrize(
    ("behavior", "here", "configured", "failed", "active"),
    [
        ("auto", "ollama:running vllm:installed", "vllm", "", "ollama"),
        ("ollama", "ollama: vllm:running", "vllm", "", "ollama"),
        ("vllm", "ollama:running vllm:", "ollama", "", "vllm"),
        ("vllm", "ollama:running", "ollama", "", None),
        ("fallback", "ollama:installed vllm:installed", "ollama", "", "ollama"),
        ("fallback", "ollama: vllm:installed", "ollama", "", "vllm"),
        ("fallback", "ollama:installed vllm:installed", "ollama", "ollama", "vllm"),
        ("fallback", "ollama:installed vllm:installed", "ollama", "ollama vllm", None),
        ("fallback", "ollama:installed vllm:installed", None, "", "vllm"),
        ("fallback", "ollama: vllm:", "ollama", "", None),
    ],
)
def test_the_start_up_behaviour_says_which_is_active(
    behavior: str, here: str, configured: str | None, failed: str, active: str | None
) -> None:
    found = at_startup(
        behavior, candidates(here), configured=configured, failed=frozenset(failed.split())
    )
    assert found == active
