"""The short form (``make chaostest``): each kill point, a handful of other faults, and each breakage seen failing.

``make chaos`` is the long form (run.py), with the same parts.
"""

import random
from collections.abc import Iterator, Sequence

import pytest

from tests.chaos import faults
from tests.chaos.episodes import BROKEN, FIRST, SECOND, STORIES, only
from tests.chaos.kills import BUSY_POINTS, IDLE_POINTS, IDLE_RATE, POISON_POINTS, kill_round
from tests.chaos.ledger import Mix
from tests.chaos.orders import BREAKAGES, KILL_POINTS
from tests.chaos.rounds import running_round
from tests.chaos.stage import Stage, stage

SEED = 4
TRIES_MAX = 4
"""A process may be killed before it comes to its point, on a machine that is busy."""
FAULTS = (
    faults.refused_with(252),
    faults.refused_with(243),
    faults.refused_with(0),
    faults.cut_request(0.5),
    faults.cut_answer(0.0),
    faults.NOBODY_LISTENS,
    faults.ANSWER_HELD,
    faults.engine_killed(0.01),
    faults.BROKER_PAUSED,
)
SHORT_STORIES = (
    "worker stopped past its session, continued",
    "second SIGTERM",
    "clock steps by an hour",
    "coordinator error",
    "retention takes unread records",
    "retention cuts a declared range",
    "catalogue changes in a repeated range",
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """One broker and one engine for all tests of this file."""
    with stage(tmp_path_factory.mktemp("chaos")) as found:
        found.settings["batch_rows_max"] = 600
        yield found


@pytest.fixture
def calm(shared: Stage) -> Stage:
    """The stage with no fault in force and nothing waiting, whatever the test before left."""
    shared.proxy.lift()
    shared.skip_to_end()
    return shared


@pytest.mark.parametrize(
    ("points", "rate"),
    [(BUSY_POINTS, 1_500), (IDLE_POINTS, IDLE_RATE), (POISON_POINTS, 800)],
    ids=["busy", "idle", "poison"],
)
def test_a_worker_dies_at_every_step(calm: Stage, points: Sequence[str], rate: float) -> None:
    """Killed at each step boundary, nothing is lost, doubled or unexpected; rollups are exact."""
    died: set[str] = set()
    for attempt in range(TRIES_MAX):
        left = [point for point in points if point not in died]
        if not left:
            return
        outcome = kill_round(calm, SEED + attempt, left, rate=rate)
        assert not outcome.verdict.differences, outcome.verdict.shown()
        died |= set(outcome.kills)
    assert not set(points) - died, f"nobody died at {set(points) - died}"


def test_every_step_is_somewhere() -> None:
    """The kill points of the three kinds of load are all there are."""
    assert sorted([*BUSY_POINTS, *IDLE_POINTS, *POISON_POINTS]) == sorted(KILL_POINTS)


def test_faults_are_told_and_survived(calm: Stage) -> None:
    """Each turns /readyz red with its reason within 30 s, then green again; the books are exact."""
    slots = (FIRST, SECOND)
    only(calm, *slots)
    with running_round(calm, SEED, mix=Mix(), rate=1_500) as round_:
        told = [faults.suffer(calm, fault, slots) for fault in FAULTS]
    assert not round_.verdict.differences, round_.verdict.shown()
    assert max(each.red_seconds for each in told) < faults.RED_SECONDS_MAX


@pytest.mark.parametrize("name", SHORT_STORIES)
def test_a_story_ends_well(calm: Stage, name: str) -> None:
    """See `tests.chaos.episodes`."""
    verdict = STORIES[name](calm, SEED, "")
    assert not verdict.differences, verdict.shown()
    assert verdict.records["stored"] > 1000


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_what_is_broken_is_seen(calm: Stage, breakage: str) -> None:
    """With a guarantee broken on purpose the oracle says so: these tests can fail."""
    story, kind = BROKEN[breakage]
    verdict = story(calm, SEED, breakage)
    assert getattr(verdict, kind), f"{breakage}: {verdict.counts()}"


def test_faults_of_the_long_form() -> None:
    """It knows every code that ClickHouse may send for something that will pass."""
    names = [fault.name for fault in faults.quick(random.Random(SEED))]
    assert len(set(names)) == len(names)
    assert sum(name.startswith("clickhouse answers") for name in names) >= 30
