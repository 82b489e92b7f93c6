"""A worker that dies at every step: the short form of what ``make chaos`` does at random."""

from collections.abc import Sequence

import pytest

from tests.chaos.conftest import SEED
from tests.chaos.kills import IDLE_POINTS, POISON_POINTS, WINDOW_POINTS, kill_chain
from tests.chaos.ledger import Mix
from tests.chaos.orders import KILL_POINTS
from tests.chaos.stage import Stage

STARTING = ("before_assignment", "after_assignment", "before_decode", "after_decode")
REPEATING = (
    "before_repeat",
    "before_confirmation",
    "after_confirmation",
    "inside_repeat",
    "after_repeat",
)
WRITING = (
    "before_insert",
    "during_insert",
    "after_insert",
    "between_blocks",
    "before_duplicates",
    "after_duplicates",
    "before_dead_letters",
    "inside_dead_letters",
    "before_dead_letters_end",
    "after_dead_letters",
    "before_joint_commit",
    "after_joint_commit",
    "while_retrying",
    "while_stopping",
)
CHAINS: dict[str, tuple[Sequence[str], Mix, int]] = {
    "busy": ((*STARTING, *REPEATING, *WRITING), Mix(resent=0.02, refused=0.01), 4_000),
    "idle": (IDLE_POINTS, Mix(), 200),
    "poison": (POISON_POINTS, Mix(poison=0.006), 600),
}
"""Kind of load -> steps in an order in which each death leaves what the next needs, records, backlog.

With 4,000 records of ranges below 1,000 one of four partitions has two: it commits jointly.
"""


@pytest.mark.timeout(900)
@pytest.mark.parametrize("load", CHAINS)
def test_a_worker_dies_at_every_step(calm: Stage, load: str) -> None:
    """Killed at each step boundary, nothing is lost, doubled or unexpected; rollups are exact."""
    points, mix, backlog = CHAINS[load]
    verdict = kill_chain(calm, SEED, points, mix=mix, backlog=backlog)
    assert not verdict.differences, verdict.shown()


def test_every_step_is_somewhere() -> None:
    """The kill points of the three kinds of load are all there are."""
    named = [point for points, _, _ in CHAINS.values() for point in points]
    named += WINDOW_POINTS  # In test_windows.py.
    assert sorted(named) == sorted(KILL_POINTS)
