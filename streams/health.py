"""Health is progress, not a living process: what has been read and what has landed."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from prometheus_client import Gauge

LAG = Gauge("tokentide_consumer_lag_records", "End offset minus committed offset.", ["partition"])
PANES_LAG = Gauge("tokentide_panes_lag_records", "The same for the panes topic.", ["partition"])
SHARES_LAG = Gauge("tokentide_shares_lag_records", "The same for the shares topic.", ["partition"])


@dataclass
class PartitionProgress:
    """How far one partition is; times are seconds of the monotonic clock."""

    high_watermark: int = 0
    committed: int | None = None
    moved_seconds: float = 0.0

    @property
    def lag_records(self) -> int:
        """Records of the partition that have not landed."""
        return max(self.high_watermark - self.committed, 0) if self.committed is not None else 0


@dataclass
class Progress:
    """Progress of the partitions that this worker owns.

    Attributes:
        stall_seconds: Longest time without a landed range while there is lag.
        sink_error: Why the last insert failed, or ``""`` while inserts succeed.
        lag: Shows the lag of each partition.
    """

    stall_seconds: float
    lag: Gauge = LAG
    clock: Callable[[], float] = time.monotonic
    sink_error: str = ""
    partitions: dict[int, PartitionProgress] = field(default_factory=dict)

    def assigned(self, partition: int, committed: int) -> None:
        """Note that a partition is owned from ``committed`` on."""
        self.partitions[partition] = PartitionProgress(
            committed=max(committed, 0), moved_seconds=self.clock()
        )
        self.lag.labels(partition).set(0)

    def fetched(self, partition: int, high_watermark: int) -> None:
        """Note the end offset of a partition."""
        progress = self.partitions[partition]
        if not progress.lag_records:
            progress.moved_seconds = self.clock()
        progress.high_watermark = high_watermark
        self.lag.labels(partition).set(progress.lag_records)

    def landed(self, partition: int, committed: int) -> None:
        """Note that everything before ``committed`` has landed."""
        progress = self.partitions.get(partition)
        if progress is None:
            return
        progress.committed = committed
        progress.high_watermark = max(progress.high_watermark, committed)
        progress.moved_seconds = self.clock()
        self.lag.labels(partition).set(progress.lag_records)

    def clear(self) -> None:
        """Forget partitions that were taken away."""
        for partition in self.partitions:
            self.lag.remove(partition)
        self.partitions.clear()

    def faults(self) -> list[str]:
        """Return why the worker is not ready, in words; empty when it is."""
        now = self.clock()
        faults = [f"clickhouse: {self.sink_error}"] if self.sink_error else []
        for partition, progress in sorted(self.partitions.items()):
            idle_seconds = now - progress.moved_seconds
            if progress.lag_records and idle_seconds > self.stall_seconds:
                faults.append(
                    f"partition {partition}: {progress.lag_records} records of lag and nothing"
                    f" landed for {idle_seconds:.0f} s"
                )
        return faults
