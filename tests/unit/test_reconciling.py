"""The arithmetic of the checks: bounds, gaps, hashes, groups, spans; and the background's manners."""

import asyncio
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, NoReturn

import numpy as np
import pytest

from agents.reconcile_in_background import BackgroundReconciler, open_spans, recent_spans
from schemas.errors import SinkUnavailableError
from sinks.migrate import migrations
from sinks.reconciling import KEPT_MAX, Difference, Findings, month_bounds, settled
from sinks.reconciling_ids import StoredRow, events_of
from sinks.reconciling_offsets import gaps, hash_sum_of
from sinks.reconciling_rollups import Compared, Span
from sinks.rollups import MEASURES, ROLLUPS


def offsets(*numbers: int) -> Any:
    return np.array(numbers, np.uint64)


def test_the_hash_is_clickhouse_s() -> None:
    """Values of ``SELECT intHash64(toUInt64(...))``, and a sum that goes past 2^64."""
    assert hash_sum_of(offsets(5)) == 15228578409069794350
    assert hash_sum_of(offsets(123456789012)) == 735944198880760888
    assert hash_sum_of(offsets(5, 5)) == 2 * 15228578409069794350 - 2**64
    assert hash_sum_of(offsets()) == 0


def test_gaps_at_both_ends_and_between() -> None:
    """What is missing, as half-open ranges."""
    assert gaps(offsets(3, 4, 7), (2, 9)) == [(2, 3), (5, 7), (8, 9)]
    assert gaps(offsets(), (0, 2)) == [(0, 2)]
    assert gaps(offsets(0, 1), (0, 2)) == []


def sums(requests: int, tokens: int = 0) -> tuple[int, ...]:
    return (requests, tokens, *(0,) * (len(MEASURES) - 2))


@pytest.mark.parametrize(
    ("lower", "upper", "found", "faults"),
    [
        (sums(5), sums(5), sums(5), []),
        (sums(5), sums(5), sums(4), [("requests", 5, 4)]),
        (sums(5), sums(5), sums(6), [("requests", 5, 6)]),
        # Two rows in flight: the rollup may have none, one or both of them.
        (sums(5), sums(7), sums(6), []),
        (sums(5), sums(7), sums(4), [("requests", 5, 4)]),
        (sums(5), sums(7), sums(8), [("requests", 7, 8)]),
        (sums(5, 10), sums(5, 10), sums(5, 11), [("tokens_prompt", 10, 11)]),
    ],
)
def test_a_rollup_lies_between_what_is_settled_and_what_there_is(
    lower: tuple[int, ...],
    upper: tuple[int, ...],
    found: tuple[int, ...],
    faults: list[tuple[str, int, int]],
) -> None:
    """Outside the bounds is a fault, within them is not."""
    assert Compared(lower, upper, found).faults() == faults


def test_keys_are_judged_only_at_rest() -> None:
    """Hashes have no bounds: they are compared when nothing is in flight."""
    assert Compared(sums(5), sums(5), sums(5), 1, 2).faults() == [("keys", 5, 5)]
    assert Compared(sums(5), sums(6), sums(5), 1, 2).faults() == []


def stored(event_id: str, seconds: int, partition: int, offset: int) -> StoredRow:
    return StoredRow(partition, offset, seconds * 1000, "synthetic", event_id)


def test_rows_of_one_event_lie_within_the_window() -> None:
    """Same id within the window; another id, another offset of the same row and later ones do not count."""
    rows = [
        stored("a", 0, 0, 1),
        stored("a", 10, 1, 1),
        stored("a", 21, 0, 2),
        stored("b", 0, 0, 3),
        stored("b", 0, 0, 3),
        stored("c", 5, 0, 4),
    ]
    assert list(events_of(rows, 10)) == [rows[0:2]]
    assert list(events_of(rows, 11)) == [rows[0:3]]


def test_every_rollup_is_compared_by_every_column_it_has() -> None:
    """A column that a migration adds to a rollup has to be added to the check."""
    created = "\n".join(script.sql for script in migrations())
    for rollup in ROLLUPS:
        (body,) = re.findall(
            rf"CREATE TABLE IF NOT EXISTS {{database}}\.{rollup.name}\n\((.*?)\n\)", created, re.S
        )
        columns = re.findall(r"^    (\w+) ", body, re.M)
        assert set(columns) == {rollup.time, *rollup.keys, *rollup.measures}
        assert f"{{database}}.{rollup.view} TO {{database}}.{rollup.name} AS" in created
    changes = re.sub(r"MODIFY COLUMN \w+ CODEC\([^)]*\),?\s*", "", created)
    altered = re.findall(
        r"ALTER TABLE \{database\}\.(\w+)\s+(?!(?:MODIFY|RESET) SETTING)\w", changes
    )
    assert not set(altered) & {rollup.name for rollup in ROLLUPS}
    everything = set(re.findall(r"CREATE TABLE IF NOT EXISTS {database}\.(usage_\w+)\n", created))
    others = {"usage_events", "usage_duplicates", "usage_restated"}
    assert everything - others == {each.name for each in ROLLUPS}


def test_findings_are_counted_beyond_what_is_kept() -> None:
    """Millions of differences take no memory."""
    findings = Findings()
    for number in range(KEPT_MAX + 5):
        findings.add(Difference("offsets", str(number), 1, 0))
    result = findings.result("offsets", 1, "offsets")
    assert (result.count, len(result.differences)) == (KEPT_MAX + 5, KEPT_MAX)


def test_no_commit_means_nothing_is_settled() -> None:
    """An empty group makes a condition that no row meets."""
    assert settled({}) == "kafka_offset < toUInt64(0)"


def test_a_month_ends_where_the_next_begins() -> None:
    """December too."""
    assert month_bounds(202612) == (
        datetime(2026, 12, 1, tzinfo=UTC),
        datetime(2027, 1, 1, tzinfo=UTC),
    )


def at(text: str) -> datetime:
    return datetime.fromisoformat(f"2026-08-{text}").replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("last", "now", "spans"),
    [
        # At first: the hour before, and yesterday.
        (None, "05T10:20", [("05T09:00", "05T11:20"), ("04T00:00", "05T00:00")]),
        # Every five minutes: the last hour again.
        ("05T10:15", "05T10:20", [("05T09:00", "05T11:20")]),
        # Over midnight: the day that has ended.
        ("04T23:58", "05T00:03", [("04T22:00", "05T01:03"), ("04T00:00", "05T00:00")]),
        # After a week: a day is looked back, not more.
        ("01T10:00", "05T10:20", [("04T10:00", "05T11:20"), ("04T00:00", "05T00:00")]),
    ],
)
def test_the_background_compares_what_is_new(
    last: str | None, now: str, spans: list[tuple[str, str]]
) -> None:
    """Recent hours, and each day once it has ended."""
    found = recent_spans(at(last) if last else None, at(now))
    assert found == [Span(at(start), at(end)) for start, end in spans]


def test_a_bucket_that_differed_is_compared_again() -> None:
    """An hour or a day, as the place says; other checks' places are no buckets."""
    differing = [
        Difference("offsets", "partition 0 offset 7", 1, 0),
        Difference("rollups", "usage_1d 2026-08-03 00:00 keys", 1, 1),
        Difference("rollups", "usage_1m 2026-08-04 10:00 requests", 2, 1),
    ]
    assert open_spans(differing) == [
        Span(at("03T00:00"), at("04T00:00")),
        Span(at("04T10:00"), at("04T11:00")),
    ]


class Turns:
    """Says whose turn it is, and ends the test at the last one."""

    def __init__(self, *mine: bool) -> None:
        self._mine: Iterator[bool] = iter(mine)
        self.over = asyncio.Event()

    def __call__(self) -> bool:
        try:
            return next(self._mine)
        except StopIteration:
            self.over.set()
            return False


async def test_a_background_run_that_fails_is_tried_again() -> None:
    """ClickHouse away, or a defect of the check itself: the task goes on, and only where it is its turn."""
    tries: list[str] = []

    def connect() -> NoReturn:
        tries.append("")
        raise SinkUnavailableError("away") if len(tries) == 1 else KeyError("a defect")

    turns = Turns(True, False, True)
    background = BackgroundReconciler(
        connect=connect,
        open_log=lambda: pytest.fail("connect comes first"),
        database="x",
        window_seconds=60,
        interval_seconds=0.001,
        is_mine=turns,
    )
    task = asyncio.create_task(background.run())
    await turns.over.wait()
    assert not task.done()
    assert len(tries) == 2
    task.cancel()


async def test_an_interval_of_0_is_off() -> None:
    """The task ends at once."""
    background = BackgroundReconciler(
        connect=lambda: pytest.fail("off"),
        open_log=lambda: pytest.fail("off"),
        database="x",
        window_seconds=60,
        interval_seconds=0,
        is_mine=lambda: True,
    )
    await background.run()
