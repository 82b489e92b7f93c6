"""A guarantee is broken on purpose, and the oracle of all chaos tests says so: they can fail."""

import pytest

from tests.chaos.conftest import SEED
from tests.chaos.episodes import BROKEN
from tests.chaos.orders import BREAKAGES, WINDOW_BREAKAGES
from tests.chaos.stage import Stage


@pytest.mark.timeout(900)
@pytest.mark.parametrize("breakage", BROKEN)
def test_what_is_broken_is_seen(calm: Stage, breakage: str) -> None:
    """The difference is of the kind that the breakage must make."""
    story, kind = BROKEN[breakage]
    verdict = story(calm, SEED, breakage)
    assert getattr(verdict, kind), f"{breakage}: {verdict.counts()}"


def test_every_breakage_is_somewhere() -> None:
    """Here, or in test_windows.py."""
    assert sorted((*BROKEN, *WINDOW_BREAKAGES)) == sorted(BREAKAGES)
