"""Faults of ClickHouse, of the way to it and of Kafka: a handful of those of ``make chaos``."""

import random

import pytest

from tests.chaos import faults
from tests.chaos.conftest import SEED
from tests.chaos.episodes import FIRST, SECOND, only
from tests.chaos.ledger import Mix
from tests.chaos.rounds import running_round
from tests.chaos.stage import Stage

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
RATE, RECORDS = 600, 2_000
"""Records per second during a fault, and how many: for three seconds there is something to insert."""


@pytest.mark.timeout(900)
def test_faults_are_told_and_survived(calm: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each turns /readyz red with its reason within 30 s, then green again; the books are exact."""
    # An answer that is held is told when the request times out.
    monkeypatch.setitem(calm.settings, "clickhouse_request_timeout_seconds", 10)
    slots = (FIRST, SECOND)
    only(calm, *slots)
    told: list[faults.Told] = []
    with running_round(calm, SEED, mix=Mix(), rate=RATE, waits=True) as round_:
        for fault in FAULTS:
            round_.production.more(RECORDS)
            told.append(faults.suffer(calm, fault, slots))
    assert not round_.verdict.differences, round_.verdict.shown()
    assert max(each.red_seconds for each in told) < faults.RED_SECONDS_MAX


def test_faults_of_the_long_form() -> None:
    """It knows every code that ClickHouse may send for something that will pass."""
    names = [fault.name for fault in faults.quick(random.Random(SEED))]
    assert len(set(names)) == len(names)
    assert sum(name.startswith("clickhouse answers") for name in names) >= 30
