"""Workers, topics, clocks and catalogue that go wrong: some of the stories of ``make chaos``."""

import pytest

from tests.chaos.conftest import SEED
from tests.chaos.episodes import STORIES
from tests.chaos.stage import Stage


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "name",
    [
        "worker stopped past its session, continued",
        "second SIGTERM",
        "clock steps by an hour",
        "coordinator error",
        "token without its part",
        "retention takes unread records",
        "retention cuts a declared range",
        "catalogue changes in a repeated range",
    ],
)
def test_a_story_ends_well(calm: Stage, name: str) -> None:
    """See `tests.chaos.episodes`."""
    verdict = STORIES[name](calm, SEED, "")
    assert not verdict.differences, verdict.shown()
    assert verdict.records["stored"] > 1000
