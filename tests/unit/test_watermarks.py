"""The watermark: lowest of the partitions that hold it, and never back."""

from streams.watermarks import Watermarks

LATENESS_MS, STALLED_SECONDS = 100, 5


def watermarks(partitions: int = 2) -> Watermarks:
    made = Watermarks(LATENESS_MS, STALLED_SECONDS)
    for partition in range(partitions):
        made.expect(partition, now_seconds=0)
    return made


def test_it_is_not_known_until_all_partitions_were_heard() -> None:
    """One that is expected may hold older events."""
    made = watermarks()
    made.heard(0, 10_000, is_idle=False, now_seconds=0)
    assert made.advance(0) is None
    made.heard(1, 9_000, is_idle=False, now_seconds=0)
    assert made.advance(0) == 9_000 - LATENESS_MS
    assert made.is_complete


def test_it_never_goes_back() -> None:
    """Late events of a partition leave it where it is."""
    made = watermarks(1)
    made.heard(0, 10_000, is_idle=False, now_seconds=0)
    assert made.advance(0) == 9_900
    made.heard(0, 2_000, is_idle=False, now_seconds=0)
    assert made.advance(0) == 9_900
    made.expect(1, now_seconds=0)
    made.heard(1, 3_000, is_idle=False, now_seconds=0)
    assert made.advance(0) == 9_900


def test_an_idle_partition_holds_nothing_back() -> None:
    """While others have traffic it is passed over; when it has some again it holds."""
    made = watermarks()
    made.heard(0, 10_000, is_idle=False, now_seconds=0)
    made.heard(1, 8_000, is_idle=True, now_seconds=0)
    assert made.advance(0) == 9_900
    made.heard(0, 20_000, is_idle=False, now_seconds=0)
    made.heard(1, 12_000, is_idle=False, now_seconds=0)
    assert made.advance(0) == 11_900


def test_without_traffic_time_goes_on() -> None:
    """All partitions are idle: their owners' time counts."""
    made = watermarks()
    made.heard(0, 10_000, is_idle=True, now_seconds=0)
    made.heard(1, 12_000, is_idle=True, now_seconds=0)
    assert made.advance(0) == 9_900


def test_a_stalled_partition_makes_windows_incomplete() -> None:
    """Nothing was heard of it, not even that it is idle: it no longer holds, and that is said."""
    made = watermarks()
    made.heard(0, 10_000, is_idle=False, now_seconds=0)
    made.heard(1, 8_000, is_idle=False, now_seconds=0)
    assert made.advance(STALLED_SECONDS) == 7_900
    assert made.is_complete
    made.heard(0, 20_000, is_idle=False, now_seconds=STALLED_SECONDS + 1)
    assert made.advance(STALLED_SECONDS + 1) == 19_900
    assert not made.is_complete
    made.heard(1, 21_000, is_idle=False, now_seconds=STALLED_SECONDS + 2)
    made.advance(STALLED_SECONDS + 2)
    assert made.is_complete
