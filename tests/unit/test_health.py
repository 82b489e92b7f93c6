"""Readiness is progress: lag and nothing landed is not ready, and says why."""

from streams.health import Progress


class Clock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def test_lag_without_progress_turns_it_red_and_progress_green_again() -> None:
    """Not ready after stall_seconds of lag with nothing landed; ready when a range lands."""
    clock = Clock()
    progress = Progress(stall_seconds=30, clock=clock)
    progress.assigned(2, 100)
    progress.fetched(2, 150)
    clock.seconds += 30
    assert progress.faults() == []
    clock.seconds += 1
    (fault,) = progress.faults()
    assert "partition 2" in fault
    assert "50 records" in fault
    progress.landed(2, 120)
    assert progress.faults() == []
    clock.seconds += 31
    assert "30 records" in progress.faults()[0]


def test_an_idle_partition_is_ready() -> None:
    """No traffic is no fault, and the first record after a quiet night is not late at once."""
    clock = Clock()
    progress = Progress(stall_seconds=30, clock=clock)
    progress.assigned(0, 100)
    clock.seconds += 3600
    assert progress.faults() == []
    progress.fetched(0, 101)
    assert progress.faults() == []


def test_a_failing_sink_is_named() -> None:
    """While inserts fail the reason is ClickHouse's own."""
    progress = Progress(stall_seconds=30, clock=Clock())
    progress.sink_error = "code 252 TOO_MANY_PARTS"
    assert progress.faults() == ["clickhouse: code 252 TOO_MANY_PARTS"]


def test_partitions_that_were_taken_away_do_not_count() -> None:
    """After a rebalance only what is owned can be late."""
    clock = Clock()
    progress = Progress(stall_seconds=30, clock=clock)
    progress.assigned(0, 0)
    progress.fetched(0, 10)
    clock.seconds += 60
    progress.clear()
    assert progress.faults() == []
