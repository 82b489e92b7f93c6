"""A guarantee is broken on purpose, and the oracle of all chaos tests says so: they can fail."""

import pytest

from tests.chaos.conftest import SEED
from tests.chaos.episodes import BROKEN
from tests.chaos.orders import BREAKAGES
from tests.chaos.stage import Stage


@pytest.mark.timeout(900)
@pytest.mark.parametrize("breakage", BREAKAGES)
def test_what_is_broken_is_seen(calm: Stage, breakage: str) -> None:
    """The difference is of the kind that the breakage must make."""
    story, kind = BROKEN[breakage]
    verdict = story(calm, SEED, breakage)
    assert getattr(verdict, kind), f"{breakage}: {verdict.counts()}"
