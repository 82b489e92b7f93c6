"""Rolling windows equal a recount though their worker dies at each of their steps."""

from collections.abc import Iterator

import pytest

from tests.chaos.conftest import SEED
from tests.chaos.kills import WINDOW_POINTS, kill_chain
from tests.chaos.ledger import Mix
from tests.chaos.oracle import unequal_windows
from tests.chaos.orders import WINDOW_BREAKAGES
from tests.chaos.stage import Stage, stage, until

RECORDS = 600
SETTLE_SECONDS_MAX = 300.0
DEADLY = ("before_panes", "after_panes")
"""Deaths after which a range is told again, or is counted before it is told."""


@pytest.fixture
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A stage without rows that were doubled on purpose."""
    with stage(tmp_path_factory.mktemp("windows")) as found:
        found.skip_to_end()
        yield found


def unequal(found: Stage) -> list[str]:
    with found.client() as client:
        return unequal_windows(client, 0)


def newest_end(found: Stage) -> object:
    ((end,),) = found.sql(
        "SELECT max(window_end) FROM share_window_revisions WHERE window_seconds = 60"
    )
    return end


def settle(found: Stage) -> None:
    """Wait until windows have closed and been revised twice after all that has happened."""
    for _ in range(2):
        before = newest_end(found)
        until(lambda: newest_end(found) != before, "windows that close", SETTLE_SECONDS_MAX)  # noqa: B023


@pytest.mark.timeout(900)
def test_windows_survive_the_death_of_their_worker(alone: Stage) -> None:
    """Told and not committed, closed and not published, published and not stored, ..."""
    verdict = kill_chain(alone, SEED, WINDOW_POINTS, mix=Mix(), backlog=RECORDS, is_now=True)
    assert not verdict.differences, verdict.shown()
    until(lambda: not unequal(alone), "windows that equal a recount", SETTLE_SECONDS_MAX)
    assert newest_end(alone)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("breakage", WINDOW_BREAKAGES)
def test_what_breaks_windows_is_seen(alone: Stage, breakage: str) -> None:
    """A test that cannot fail is worth nothing."""
    verdict = kill_chain(
        alone, SEED, DEADLY, mix=Mix(), backlog=RECORDS, is_now=True, breakage=breakage
    )
    assert not verdict.differences, verdict.shown()
    settle(alone)
    assert unequal(alone)
