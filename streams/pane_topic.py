"""Panes of landed ranges to ``llm-usage-panes-v1``, and the word that a partition is idle."""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from prometheus_client import Counter

from schemas.panes import DIMENSIONS, PANES, RangeOfPanes, encode
from schemas.topics import PANES_PARTITIONS
from streams.batches import Batch
from streams.health import Progress
from streams.panes import CountedRows, numbers
from streams.partitions import Confirm
from streams.publishing import Publisher
from streams.stages import stage

TOO_LATE = Counter(
    "tokentide_events_beyond_grace", "Events stored, but too late for any rolling window."
)

IDLE_SECONDS = 2.0
"""Between two words of an idle partition, and the time without a record that makes it idle."""

Record = tuple[int, bytes, bytes]


def dimensions_of(panes_partition: int) -> list[str]:
    """Return the dimensions that a partition of the panes topic has."""
    return list(DIMENSIONS)[panes_partition::PANES_PARTITIONS]


@dataclass(frozen=True)
class Landed:
    """What has landed of a range.

    Attributes:
        rows: Rows of usage_events; ``None`` when not all of them are at hand.
    """

    batch: Batch
    rows: pa.Table | None


class PaneTopic:
    """Publishes panes; each call returns when all replicas have them.

    Args:
        publisher: Of the panes topic.
        executor: Threads in which panes are counted.
        tokens_cap: See `schemas.panes.MEASURES`.
        grace_ms: Events that arrive later after their event time are in no pane.
    """

    def __init__(
        self, publisher: Publisher, executor: Executor, *, tokens_cap: int, grace_ms: int
    ) -> None:
        self._publisher = publisher
        self._executor = executor
        self._tokens_cap = tokens_cap
        self._grace_ms = grace_ms
        self._newest_ms: dict[int, int] = {}

    async def publish(self, landed: Landed, confirm: Confirm) -> None:
        """Tell of a range that has landed.

        Raises:
            PartitionLostError: The partition has another owner.
            FatalError: The topic can't take it.
        """
        loop = asyncio.get_running_loop()
        records = await loop.run_in_executor(self._executor, self._records, landed)
        await self._publisher.publish(records, confirm=confirm)

    async def publish_idle(self, partition: int, next_offset: int, now_ms: int) -> None:
        """Tell that nothing is unread in a partition: everything below an offset has landed."""
        told = RangeOfPanes(partition, next_offset, next_offset, now_ms, is_idle=True)
        await self._publisher.publish(_records(told))

    def _records(self, landed: Landed) -> list[Record]:
        batch, rows = landed.batch, landed.rows
        partition = batch.tp.partition
        arrived_ms = max((each.append_time_ms for each in batch.record_batches), default=0)
        counted: CountedRows | None = None
        is_idle = True
        if rows is not None and rows.num_rows:
            with stage("panes"):
                occurred_at_ms = numbers(rows, "occurred_at")
                keep = occurred_at_ms >= arrived_ms - self._grace_ms
                if not keep.all():
                    TOO_LATE.inc(int(np.count_nonzero(~keep)))
                    rows, occurred_at_ms = rows.filter(pa.array(keep)), occurred_at_ms[keep]
                if rows.num_rows:
                    counted = CountedRows(rows, tokens_cap=self._tokens_cap)
                    newest_ms = min(int(occurred_at_ms.max()), arrived_ms)
                    known_ms = self._newest_ms.get(partition, newest_ms)
                    self._newest_ms[partition] = max(known_ms, newest_ms)
                    is_idle = False
        told = RangeOfPanes(
            partition,
            batch.first_offset,
            batch.next_offset,
            arrived_ms if is_idle else self._newest_ms[partition],
            is_idle=is_idle,
            is_whole=rows is not None,
        )
        with stage("panes"):
            return _records(told, counted)


def _records(told: RangeOfPanes, counted: CountedRows | None = None) -> list[Record]:
    """Return a record for each partition of the panes topic, keyed by the usage partition."""
    key = str(told.partition).encode()
    return [
        (panes_partition, key, encode(_panes(counted, dimensions_of(panes_partition)), told))
        for panes_partition in range(PANES_PARTITIONS)
    ]


def _panes(counted: CountedRows | None, dimensions: Sequence[str]) -> pa.Table:
    return PANES.empty_table() if counted is None else counted.panes(dimensions)


async def tell_idle(topic: PaneTopic, progress: Progress, is_connected: Callable[[], bool]) -> None:
    """Tell of partitions of this worker that are idle, again and again, until cancelled."""
    while True:
        await asyncio.sleep(IDLE_SECONDS)
        if not is_connected():
            continue
        for partition, next_offset in _idle(progress):
            await topic.publish_idle(partition, next_offset, time.time_ns() // 1_000_000)


def _idle(progress: Progress) -> Sequence[tuple[int, int]]:
    now = progress.clock()
    return [
        (partition, each.committed)
        for partition, each in sorted(progress.partitions.items())
        if each.committed is not None
        and not each.lag_records
        and now - each.moved_seconds >= IDLE_SECONDS
    ]
