"""The agent that rolls windows: each range once, in whatever order it is told and by whoever."""

import copy
import random
from typing import Any

import pytest

from agents import calling
from agents.rebuild_windows import END_OF_TIME_MS
from agents.spans import SPAN_MS_FIRST
from schemas.errors import SinkUnavailableError
from schemas.panes import PANES, RangeOfPanes, encode
from streams.transport import PartitionLostError
from tests.window_world import SECOND_MS, VENDORS_AT, World


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calling, "RETRY_WAIT_SECONDS_MIN", 0.001)


async def test_a_range_is_counted_once_however_often_it_is_told() -> None:
    """In the same record batch, later, and by an owner that thinks it still owns the partition."""
    world = World()
    first = world.land(50)
    await world.tell(first, first)
    second = world.land(30)
    await world.tell(second)
    asked = len(world.asked)
    await world.tell(first, second)
    await world.pass_by(130)
    assert world.counted() == 80
    assert len(world.asked) == asked


async def test_a_range_that_was_missed_is_taken_from_what_is_stored() -> None:
    """A record was lost, or is none: what follows does not follow on, so ClickHouse is asked."""
    world = World()
    await world.tell(world.land(50))
    follows = world.land(20)
    world.land(40)
    await world.tell(follows, b"no panes", world.land(30))
    await world.pass_by(130)
    assert world.counted() == 140


async def test_a_range_whose_rows_were_not_at_hand_is_taken_from_what_is_stored() -> None:
    """Its panes say so."""
    world = World()
    await world.tell(world.land(50))
    world.land(40)
    told = RangeOfPanes(3, 50, 90, world.now_ms, is_whole=False)
    await world.tell(encode(PANES.empty_table(), told))
    await world.pass_by(130)
    assert world.counted() == 90


async def test_an_idle_partition_tells_what_was_missed() -> None:
    """Its offset is ahead of what was counted; an older word of it changes nothing."""
    world = World()
    before = world.idle()
    await world.tell(world.land(50))
    world.land(40)
    await world.tell(world.idle(), before)
    await world.pass_by(130)
    assert world.counted() == 90


@pytest.mark.parametrize("ahead_seconds", [3_600, -3_600])
async def test_a_clock_of_a_worker_that_is_wrong_from_the_start_changes_nothing(
    ahead_seconds: int,
) -> None:
    """Windows begin with the panes, and none closes before the broker's time."""
    world = World()
    world.ahead_ms = ahead_seconds * 1000
    world.new_owner()
    await world.tell(world.land(50))
    world.ahead_ms = max(
        world.ahead_ms, 0
    )  # One that is behind holds windows back, till it is right.
    for _ in range(13):
        await world.pass_by(10)
        ends = [window["window_end_ms"] for window in world.stored]
        assert max(ends, default=0) <= world.now_ms
    await world.tell(world.land(30))
    await world.pass_by(130)
    assert world.counted() == 80


async def test_a_clock_that_steps_back_delays_no_revision() -> None:
    """Between two rounds of revisions there are so many seconds, whatever time it is."""
    world = World()
    world.ahead_ms, world.revision_wait_seconds = 7_200_000, 30.0
    world.new_owner()
    await world.tell(world.land(50))
    await world.pass_by(70)
    world.ahead_ms = 0
    await world.tell(world.land(40, seconds_ago=60))
    await world.pass_by(31)
    assert max(window["revision"] for window in world.stored) == 1
    await world.pass_by(60)
    assert world.counted() == 90


async def test_a_new_owner_goes_on_where_the_old_one_was() -> None:
    """Its windows follow on; none is given out twice, none is left out."""
    world = World()
    await world.tell(world.land(50))
    await world.pass_by(70)
    await world.tell(world.land(40))
    await world.pass_by(5)
    world.new_owner()
    await world.pass_by(120)
    places = [
        (w["dimension"], w["window_seconds"], w["window_end_ms"], w["revision"])
        for w in world.stored
    ]
    assert len(places) == len(set(places))
    ends = [end for dimension, seconds, end, _ in places if (dimension, seconds) == ("vendor", 60)]
    assert sorted(set(ends)) == list(range(min(ends), max(ends) + 1, 10_000))
    assert world.counted() == 90


async def test_what_is_stored_and_not_settled_is_counted_when_it_is_told() -> None:
    """Rows of ranges in flight are in ClickHouse before they are told of; never twice."""
    world = World()
    await world.tell(world.land(50))
    in_flight = world.land(40)
    world.settled[3] = 50
    world.new_owner()
    await world.tell(world.idle())
    world.settled[3] = 90
    await world.tell(in_flight)
    await world.pass_by(130)
    assert world.counted() == 90


async def test_a_new_owner_counts_only_what_came_since_panes_were_stored() -> None:
    """Whatever the traffic was before. The open panes are stored too."""
    world = World()
    for _ in range(30):
        await world.tell(world.land(20, seconds_ago=3))
        world.now_ms += 10_000
    world.land(9)
    world.rows_counted = 0
    world.new_owner()
    await world.tell(world.idle())
    # For panes of three lengths: two ranges since they were stored, at most, and what nobody told.
    assert world.rows_counted <= 3 * (2 * 20 + 9)
    await world.pass_by(130)
    assert world.counted() == 30 * 20 + 9


async def test_panes_that_closed_since_are_merged_of_shorter_ones() -> None:
    """Not counted: five minutes of events may be millions."""
    world = World()
    for _ in range(60):
        await world.tell(world.land(20, seconds_ago=3))
        world.now_ms += 10_000
    await world.tell(world.idle())
    world.kept = {place: kept for place, kept in world.kept.items() if place[0] != 300_000}
    world.rows_counted = 0
    world.new_owner()
    await world.tell(world.idle())
    assert world.rows_counted < 200
    await world.pass_by(600)
    hours = [w for w in world.stored if w["dimension"] == "vendor" and w["window_seconds"] == 3_600]
    assert max(hours, key=lambda w: w["window_end_ms"])["requests_total"] == 60 * 20


async def test_a_pane_that_is_open_in_one_dimension_is_not_stored_as_whole() -> None:
    """An owner died after it had stored the windows of one dimension, and not yet those of another."""
    world = World()
    for _ in range(60):
        await world.tell(world.land(20, seconds_ago=3))
        world.now_ms += 10_000
    await world.tell(world.idle())
    hour_ends = {w["window_end_ms"] for w in world.stored if w["window_seconds"] == 3_600}
    closed_ms = max(hour_ends)
    world.stored = [
        w
        for w in world.stored
        if (w["dimension"], w["window_seconds"], w["window_end_ms"])
        != ("size_class", 3_600, closed_ms)
    ]
    world.kept = {
        place: kept
        for place, kept in world.kept.items()
        if (place[0], place[2]) != (300_000, closed_ms - 300_000)
    }
    # This owner hears nothing of one partition until it has counted late events and stored panes.
    world.settled[4] = 0
    world.new_owner()
    await world.tell(world.idle())
    late_seconds = (world.now_ms - closed_ms) / 1000 + 60
    await world.tell(world.land(7, seconds_ago=late_seconds))
    world.now_ms += 16_000
    await world.tell(world.idle())
    del world.settled[4]
    told = RangeOfPanes(4, 0, 0, world.now_ms, is_idle=True)
    await world.tell(encode(PANES.empty_table(), told))
    world.new_owner()
    await world.pass_by(600)
    for dimension in ("vendor", "size_class"):
        hours = [
            w for w in world.stored if w["dimension"] == dimension and w["window_seconds"] == 3_600
        ]
        newest = max(hours, key=lambda w: w["window_end_ms"])
        assert newest["requests_total"] == 60 * 20 + 7, dimension


async def test_panes_that_were_stored_before_the_progress_was_noted_are_counted_anew() -> None:
    """An owner died in between: they hold rows that are told again."""
    world = World()
    for _ in range(3):
        await world.tell(world.land(20, seconds_ago=3))
        world.now_ms += 10_000
    noted = copy.deepcopy(world.in_panes.offsets)
    for _ in range(3):
        await world.tell(world.land(20, seconds_ago=3))
        world.now_ms += 10_000
    assert world.in_panes.offsets != noted
    world.in_panes.offsets = noted
    world.new_owner()
    await world.tell(world.idle())
    await world.pass_by(130)
    assert world.counted() == 120


async def test_a_range_that_was_counted_and_is_not_committed_yet_is_counted_once() -> None:
    """It was told, counted and stored in panes; its own worker died before its commit."""
    world = World()
    await world.tell(world.land(20))
    committed = world.settled[3]
    world.now_ms += 20_000
    told = world.land(30)
    await world.tell(told)
    assert world.in_panes.offsets[VENDORS_AT] == {3: 50}
    world.settled[3] = committed
    world.new_owner()
    await world.tell(told)
    world.settled[3] = 50
    await world.pass_by(130)
    assert world.counted() == 50


async def test_without_stored_panes_all_are_counted() -> None:
    """As after an upgrade, when windows have a progress and panes have none."""
    world = World()
    for _ in range(6):
        await world.tell(world.land(20, seconds_ago=3))
        world.now_ms += 10_000
    world.in_panes.offsets.clear()
    world.kept = {place: kept for place, kept in world.kept.items() if place[0] > 10_000}
    # This owner hears nothing of one partition, so it gives nothing out before it dies.
    world.settled[4] = 0
    world.new_owner()
    await world.tell(world.idle())
    del world.settled[4]
    world.rows_counted = 0
    world.new_owner()
    await world.tell(world.idle())
    await world.pass_by(130)
    assert world.counted() == 120
    assert not world.rows_counted


async def test_hours_are_stored_and_a_new_owner_goes_on_with_them() -> None:
    """It counts what came since: late, while nobody rolled, and when the progress lags behind."""
    world = World()
    for _ in range(4):
        await world.tell(world.land(20))
        await world.pass_by(3_600)
    progresses = (world.in_windows, world.in_panes)
    lagging = [copy.deepcopy(each.offsets) for each in progresses]
    await world.tell(world.land(7, seconds_ago=2 * 3_600))
    await world.pass_by(3_600)
    hours = {
        start_ms
        for length_ms, dimension, start_ms in world.kept
        if (length_ms, dimension) == (3_600_000, "vendor")
    }
    assert len(hours) > 7 * 24
    world.land(5, seconds_ago=3 * 3_600)
    for noted in ([copy.deepcopy(each.offsets) for each in progresses], lagging):
        for progress, offsets in zip(progresses, noted, strict=True):
            progress.offsets = offsets
        world.asked.clear()
        world.new_owner()
        await world.pass_by(3_700)
        day = [
            w for w in world.stored if w["dimension"] == "vendor" and w["window_seconds"] == 86_400
        ]
        newest = max(day, key=lambda w: (w["window_end_ms"], w["revision"]))
        assert newest["requests_total"] == 4 * 20 + 7 + 5
        counted_ms = {
            length_ms: sum(to - start for length, start, to in world.asked if length == length_ms)
            for length_ms in (300_000, 3_600_000)
        }
        # A day of those that came since, and the hour in which nobody rolled; not a week.
        assert counted_ms[300_000] < 8 * 3_600_000
        assert counted_ms[3_600_000] < 50 * 3_600_000


async def test_times_without_rows_are_not_asked_about() -> None:
    """Not a week of nothing where the first event came just now, nor the future."""
    world = World()
    await world.tell(world.idle())
    assert not [each for each in world.asked if each[1] < each[2]]
    await world.tell(world.land(20))
    world.kept.clear()
    world.in_panes.offsets.clear()
    world.new_owner()
    await world.tell(world.idle())
    await world.pass_by(130)
    asked = [(start, to) for _, start, to in world.asked if start < to]
    times_ms = [round(row["occurred_at"].timestamp() * 1000) for row in world.rows]
    assert min(start for start, _ in asked) >= min(times_ms)
    assert max(to for _, to in asked) == max(times_ms) + 1
    assert world.counted() == 20


@pytest.mark.parametrize("answered_seconds_max", [90, 1_000])
async def test_what_clickhouse_cannot_answer_in_time_is_asked_in_pieces(
    answered_seconds_max: int,
) -> None:
    """Half as much until it is answered, also of one pane; then more again. Nothing is left out."""
    world = World()
    for _ in range(10):
        await world.tell(world.land(20))
        world.now_ms += 150_000
    world.kept = {place: kept for place, kept in world.kept.items() if place[0] > 300_000}
    world.in_panes.offsets.clear()
    world.asked.clear()
    world.answered_ms_max = answered_seconds_max * 1000
    world.new_owner()
    await world.tell(world.idle())
    spans_ms = [to - start for _, start, to in world.asked if to < END_OF_TIME_MS]
    assert max(spans_ms) > world.answered_ms_max
    assert sorted(spans_ms)[len(spans_ms) // 2] * 4 > min(world.answered_ms_max, SPAN_MS_FIRST)
    # Windows that late events have changed are asked for in the same way.
    await world.tell(world.land(5, seconds_ago=500))
    await world.pass_by(130)
    assert world.counted() == 205


async def test_late_events_in_flight_are_in_an_hour_once() -> None:
    """Stored and not settled when the hours are loaded, told afterwards."""
    world = World()
    await world.tell(world.land(20))
    await world.pass_by(3 * 3_600)
    settled = world.settled[3]
    in_flight = world.land(7, seconds_ago=2 * 3_600)
    world.settled[3] = settled
    world.new_owner()
    await world.tell(world.idle())
    world.settled[3] = settled + 7
    await world.tell(in_flight)
    await world.pass_by(3_700)
    day = [w for w in world.stored if w["dimension"] == "vendor" and w["window_seconds"] == 86_400]
    newest = max(day, key=lambda w: (w["window_end_ms"], w["revision"]))
    assert newest["requests_total"] == 27


async def test_windows_missed_while_nobody_rolled_are_given_out_oldest_first() -> None:
    """Hours without a worker: they reach back further than what is kept."""
    world = World()
    await world.tell(world.land(50))
    await world.pass_by(70)
    for _ in range(60):
        world.now_ms += 150_000
        world.land(1)
    world.new_owner()
    await world.pass_by(130)
    assert world.counted() == 110
    ends = [
        w["window_end_ms"]
        for w in world.stored
        if (w["dimension"], w["window_seconds"], w["revision"]) == ("vendor", 60, 0)
    ]
    assert ends == sorted(ends)
    assert ends == list(range(min(ends), max(ends) + 1, 10_000))


async def test_a_size_that_was_given_out_less_far_is_made_of_all_its_panes() -> None:
    """Only windows of five minutes are stored: the others begin now, their panes reach back."""
    world = World()
    await world.tell(world.land(50))
    await world.pass_by(400)
    world.stored = [window for window in world.stored if window["window_seconds"] == 300]
    for _ in range(50):
        world.now_ms += 60_000
        world.land(2)
    world.new_owner()
    await world.pass_by(130)
    newest = {
        window["window_end_ms"]: window
        for window in world.stored
        if window["dimension"] == "vendor" and window["window_seconds"] == 300
    }
    assert len(newest) > 90
    for end_ms, window in newest.items():
        times = [row["occurred_at"].timestamp() * 1000 for row in world.rows]
        counted = sum(end_ms - 300_000 <= time < end_ms for time in times)
        assert window["requests_total"] == counted


async def test_missed_windows_wait_for_the_backlog_to_be_stored() -> None:
    """Nothing was stored for hours: a window whose events are still to come is not given out."""
    world = World()
    await world.tell(world.land(50))
    await world.pass_by(70)
    began_ms, before = world.now_ms, len(world.stored)
    world.now_ms += 4 * 3_600_000
    world.new_owner()
    for minutes in range(3, 240, 3):
        seconds_ago = (world.now_ms - began_ms) / 1000 - 60 * minutes
        await world.tell(world.land(1, seconds_ago=seconds_ago, spread_seconds=0.001))
        newest_ms = began_ms + 60_000 * minutes + SECOND_MS
        fresh = [window for window in world.stored[before:] if not window["revision"]]
        assert all(window["window_end_ms"] <= newest_ms for window in fresh)
    await world.pass_by(130)
    assert world.counted() == 50 + 79
    assert not [w for w in world.stored[before:] if w["revision"] and w["window_seconds"] == 60]


@pytest.mark.parametrize("late_seconds", [40, 3_000, 30_000])
async def test_late_events_revise_windows(late_seconds: int) -> None:
    """Near, further than what is kept, and hours late: the newest revision holds them."""
    world = World()
    for _ in range(12):
        await world.tell(world.land(5))
        await world.pass_by(late_seconds / 10)
    await world.tell(world.land(7, seconds_ago=late_seconds, spread_seconds=1))
    late_ms = world.now_ms - late_seconds * 1000
    held = [
        w
        for w in world.stored
        if w["window_seconds"] == 60
        and w["dimension"] == "vendor"
        and late_ms + SECOND_MS <= w["window_end_ms"]
        and w["window_end_ms"] - 60_000 <= late_ms
        and w["revision"] == 1
    ]
    assert held
    for window in held:
        end_ms = window["window_end_ms"]
        rows = [
            row
            for row in world.rows
            if end_ms - 60_000 <= row["occurred_at"].timestamp() * 1000 < end_ms
        ]
        assert window["requests_total"] == len(rows)


async def test_revisions_that_an_owner_owed_are_made_by_the_next() -> None:
    """It had counted late events and died before it gave their windows out again."""
    world = World()
    await world.tell(world.land(50))
    await world.pass_by(70)
    assert world.counted() == 50
    world.land(9, seconds_ago=65)
    world.new_owner()
    await world.pass_by(1)
    assert world.counted() == 59


async def test_clickhouse_away_is_waited_out() -> None:
    """While asked and while written to; nothing is counted twice."""
    world = World()
    world.faults = [SinkUnavailableError("away")] * 3
    await world.tell(world.land(50))
    world.faults = [SinkUnavailableError("away")] * 3
    await world.pass_by(130)
    assert world.counted() == 50


async def test_who_has_lost_the_partition_gives_nothing_out() -> None:
    """The windows of its successor stay as they are."""
    world = World()
    await world.tell(world.land(50))
    world.is_lost = True
    before = len(world.published), len(world.stored)
    with pytest.raises(PartitionLostError):
        await world.pass_by(130)
    assert (len(world.published), len(world.stored)) == before


async def test_any_mix_of_what_may_happen_counts_each_range_once() -> None:
    """Ranges told once, twice, never, old ones again, and owners that come and go."""
    for seed in range(12):
        rng = random.Random(seed)
        world, told = World(), [b"no panes"]
        for _ in range(25):
            record = world.land(rng.randrange(1, 9), seconds_ago=rng.choice([1, 1, 25, 300]))
            told.append(record)
            if rng.random() < 0.8:
                await world.tell(*[record] * rng.randrange(1, 3), rng.choice(told))
            if rng.random() < 0.2:
                world.new_owner()
            world.now_ms += rng.randrange(12_000)
        await world.pass_by(10)
        await world.pass_by(130)
        newest: dict[tuple[int, int], dict[str, Any]] = {}
        for window in world.stored:
            if window["dimension"] == "vendor":
                newest[window["window_seconds"], window["window_end_ms"]] = window
        assert newest
        for (seconds, end_ms), window in newest.items():
            start_ms = end_ms - seconds * 1000
            rows = [
                r for r in world.rows if start_ms <= r["occurred_at"].timestamp() * 1000 < end_ms
            ]
            assert window["requests_total"] == len(rows), (seed, seconds, end_ms)
