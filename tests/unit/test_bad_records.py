"""The guard that stops a worker before it drains a topic into the dead letters."""

import pytest

from schemas.errors import FatalError, Reason
from streams.bad_records import RECORDS_MIN, WINDOW_RECORDS, BadRecords
from streams.dead_letters import Rejected


def refused(count: int, field: str = "") -> list[Rejected]:
    return [Rejected(at, 0, b"", Reason.WRONG_TYPE, field) for at in range(count)]


def test_more_than_the_ratio_stops_and_says_why() -> None:
    """The message names the partition, the most frequent reason and the setting."""
    guard = BadRecords(3, 0.5)
    with pytest.raises(FatalError) as stopped:
        guard.check(RECORDS_MIN, [*refused(200), *refused(301, "tokens_prompt")])
    assert str(stopped.value).startswith(
        "501 of the last 1000 records of partition 3 are refused, most for wrong_type of tokens_prompt"
    )
    assert "TOKENTIDE_BAD_RECORDS_RATIO_MAX" in str(stopped.value)


def test_few_records_and_ratios_up_to_the_limit_pass() -> None:
    """Neither a handful of bad records nor exactly the ratio stops a worker."""
    BadRecords(0, 0.5).check(RECORDS_MIN - 1, refused(RECORDS_MIN - 1))
    BadRecords(0, 0.5).check(RECORDS_MIN, refused(RECORDS_MIN // 2))
    BadRecords(0, 1).check(RECORDS_MIN, refused(RECORDS_MIN))


def test_ranges_add_up_and_are_forgotten() -> None:
    """Small ranges count together; what is older than the window does not count."""
    guard = BadRecords(0, 0.5)
    for _ in range(9):
        guard.check(100, refused(100))
    with pytest.raises(FatalError, match="1000 of the last 1000"):
        guard.check(100, refused(100))
    guard = BadRecords(0, 0.5)
    guard.check(WINDOW_RECORDS, refused(WINDOW_RECORDS // 2))
    guard.check(WINDOW_RECORDS, [])
    guard.check(WINDOW_RECORDS, refused(WINDOW_RECORDS // 2))
