"""Watermarks: up to which event time everything has probably arrived.

The watermark of a partition is its newest event time less the allowed lateness; that of all is the
lowest of those that hold it. It never goes back. A partition does not hold it while its owner says
that nothing is unread (idle), nor when nothing was heard of it for a while (stalled): what is given
out meanwhile is incomplete.
"""

from dataclasses import dataclass, field


@dataclass
class Partition:
    """What is known of one partition of the usage topic; ``heard_seconds`` is of a steady clock."""

    newest_ms: int | None = None
    is_idle: bool = False
    heard_seconds: float = 0.0


@dataclass
class Watermarks:
    """The watermark over partitions, as event time in epoch milliseconds.

    Args:
        lateness_ms: How much later than the newest event others may come and still be in time.
        stalled_seconds: A partition that was not heard of for so long holds nothing any more.
    """

    lateness_ms: int
    stalled_seconds: float
    low_ms: int | None = None
    is_complete: bool = False
    partitions: dict[int, Partition] = field(default_factory=dict)

    def expect(self, partition: int, now_seconds: float) -> None:
        """Wait for a partition: until it is heard of it holds the watermark."""
        self.partitions.setdefault(partition, Partition(heard_seconds=now_seconds))

    def heard(self, partition: int, newest_ms: int, *, is_idle: bool, now_seconds: float) -> None:
        """Note the newest event time of a partition, or the time at which nothing was unread."""
        found = self.partitions.setdefault(partition, Partition())
        found.newest_ms = max(found.newest_ms or newest_ms, newest_ms)
        found.is_idle = is_idle
        found.heard_seconds = now_seconds

    def advance(self, now_seconds: float) -> int | None:
        """Return the watermark, moved on as far as the partitions allow; ``None`` is not known yet."""
        stalled = [
            p
            for p in self.partitions.values()
            if now_seconds - p.heard_seconds > self.stalled_seconds
        ]
        heard = [p for p in self.partitions.values() if p not in stalled]
        # Without traffic in any of them, time goes on as their owners tell it.
        holding = [p for p in heard if not p.is_idle] or heard
        times = [p.newest_ms for p in holding]
        known = [time for time in times if time is not None]
        if known and len(known) == len(times):
            low_ms = min(known) - self.lateness_ms
            if self.low_ms is None or low_ms > self.low_ms:
                self.low_ms = low_ms
        self.is_complete = not stalled
        return self.low_ms
