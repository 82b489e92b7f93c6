"""One loop per assigned partition: cut a range, declare it, store it, commit it.

Guarantee, from the usage topic to what `store` does: a range is declared before it is stored and
committed after it, so it is stored at least once, and each repeat is of exactly the same range. Who
has lost the partition is told by the broker, before it stores anything new.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import structlog
from faust.types import TP
from prometheus_client import Counter, Gauge

from schemas.errors import FatalError
from streams import delivery
from streams.batches import Batch, RangeCutter
from streams.health import Progress
from streams.held import HeldBytes
from streams.transport import Committed, Fetched, PartitionLostError

log = structlog.get_logger()


@dataclass(frozen=True)
class Meter:
    """What loops count."""

    read: Counter
    lost: Counter
    committed: Counter
    in_flight: Gauge


USAGE_METER = Meter(
    Counter("tokentide_records_read", "Records taken from the usage topic."),
    Counter("tokentide_records_lost", "Offsets that retention removed before they were read."),
    Counter("tokentide_records_committed", "Records stored or dead-lettered, and committed."),
    Gauge("tokentide_records_in_flight", "Records read and not yet committed."),
)
DERIVED_METER = Meter(
    Counter("tokentide_derived_records_read", "Records taken from topics that workers write."),
    Counter("tokentide_derived_records_lost", "Offsets of them that retention removed unread."),
    Counter("tokentide_derived_records_committed", "Of those read, applied and committed."),
    Gauge("tokentide_derived_records_in_flight", "Of those read, not yet committed."),
)

STOP_WAIT_SECONDS = 10.0
"""Longest wait for a range in flight when partitions are taken away or the worker stops."""
CONFIRM_SECONDS = 5.0
"""A commit proves ownership for so long: less than the shortest session, after which others may own
the partition. A process that was stopped in between asks again before it writes."""


@dataclass(frozen=True)
class Limits:
    """When a range is due; see `RangeCutter`."""

    rows_max: int
    bytes_max: int
    wait_ms: int


class Commits(Protocol):
    """What a loop needs of the consumer."""

    committed: dict[TP, Committed]

    async def commit_range(self, tp: TP, offset: int, metadata: str) -> None:
        """Commit; raises PartitionLostError if the partition has another owner."""

    def pause_partitions(self, tps: set[TP]) -> None:
        """Stop fetching from partitions."""

    def resume_partitions(self, tps: set[TP]) -> None:
        """Fetch from partitions again."""


class Confirm(Protocol):
    """Asks the broker whether the partition is still ours."""

    async def __call__(self, *, is_urgent: bool = False) -> None:
        """Return if it is; unless urgent, a commit of the last `CONFIRM_SECONDS` is answer enough.

        Raises:
            PartitionLostError: If another worker owns it.
        """


@dataclass(frozen=True)
class StoreRequest:
    """A range to store.

    Attributes:
        is_repeat: An earlier owner declared it: all or some of it may have been stored.
        is_cut: It also declared that it was cutting the range because rows were refused.
        confirm: Asked before anything is written.
        declare_cut: Declares that the range is being cut, before its first piece is written.
        now_holds: Told the bytes that are held in place of the records, once these are let go of.
    """

    batch: Batch
    is_repeat: bool
    is_cut: bool
    confirm: Confirm
    declare_cut: Callable[[], Awaitable[None]]
    now_holds: Callable[[int], None] = lambda _: None


Store = Callable[[StoreRequest], Awaitable[None]]


def now_ms() -> int:
    """Return the monotonic clock in milliseconds."""
    return time.monotonic_ns() // 1_000_000


class _StoppingError(Exception):
    """The loop was asked to stop between two ranges."""


class PartitionLoop:
    """The ranges of one partition, one after the other, in one generation of the group."""

    def __init__(
        self,
        tp: TP,
        *,
        consumer: Commits,
        store: Store,
        limits: Limits,
        progress: Progress,
        held: HeldBytes,
        meter: Meter = USAGE_METER,
    ) -> None:
        self._tp = tp
        self._consumer = consumer
        self._store = store
        self._progress = progress
        self._held = held
        self._bytes_max = limits.bytes_max
        self._meter = meter
        committed = consumer.committed.get(tp, Committed(-1, ""))
        progress.assigned(tp.partition, committed.offset)
        declared = delivery.declared(committed.metadata, committed.offset)
        self._repeats_first = declared
        self._cutter = RangeCutter(
            tp,
            rows_max=limits.rows_max,
            bytes_max=limits.bytes_max,
            wait_ms=limits.wait_ms,
            next_offset=committed.offset if committed.offset >= 0 else None,
            declared_next_offset=declared.next_offset if declared else None,
        )
        self._changed = asyncio.Event()
        self._is_paused = False
        self._is_stopping = False
        self._has_ended = False
        self._in_flight = 0
        self._held_bytes = 0
        self._is_waiting_for_turn = False
        self._reserved_growing = 0
        self._reserved_storing = 0
        self._committed_offset = committed.offset
        self._last_commit: tuple[int, str] = (committed.offset, committed.metadata)
        self._last_commit_seconds = float("-inf")

    def stop(self) -> None:
        """End after the range in flight."""
        self._is_stopping = True
        self._changed.set()

    def deliver(self, fetched: Fetched) -> None:
        """Take in what was fetched; stop fetching when a whole range waits already.

        Raises:
            FatalError: If the partition ends before what is committed: its offsets begin anew.
        """
        if fetched.high_watermark < self._committed_offset:
            raise FatalError(
                f"{self._tp.topic}/{self._tp.partition} ends at {fetched.high_watermark}, but"
                f" {self._committed_offset} is committed: the topic was deleted and created again;"
                " use another topic, or another consumer group and database (see tokentide doctor)"
            )
        if self._has_ended:
            return  # Another worker has the partition, and the rebalance is still to come.
        rows, size = self._cutter.rows, self._cutter.bytes
        for gap in self._cutter.add(fetched.batches, now_ms()):
            self._meter.lost.inc(gap.next_offset - gap.first_offset)
            log.error(
                "records.lost",
                partition=self._tp.partition,
                offset_first=gap.first_offset,
                offset_last=gap.next_offset - 1,
                reason="retention removed them before they were read",
            )
        self._count(self._cutter.rows - rows, self._cutter.bytes - size)
        self._progress.fetched(self._tp.partition, fetched.high_watermark)
        self._keep_to_share()
        if self._has_enough and not self._is_paused:
            self._is_paused = True
            self._consumer.pause_partitions({self._tp})
        self._changed.set()

    async def run(self) -> None:
        """Store range after range until cancelled or the partition has another owner."""
        self._held.join(self)
        try:
            batch = await self._next()
            repeated = self._repeats_first
            if repeated is None:
                await self._declare(batch)
            while True:
                await self._store(
                    StoreRequest(
                        batch,
                        is_repeat=repeated is not None,
                        is_cut=repeated is not None and repeated.is_cut,
                        confirm=self._confirm,
                        declare_cut=self._declare_cut,
                        now_holds=partial(self._now_holds, batch),
                    )
                )
                reserved, self._reserved_storing = self._reserved_storing, 0
                self._held.give_back(reserved)
                following = None if self._is_stopping else self._cut()
                batch = await self._advance(batch, following)
                repeated = None
        except PartitionLostError:
            log.warning("partition.lost", partition=self._tp.partition)
        except _StoppingError:
            log.debug("partition.stopped", partition=self._tp.partition)
        finally:
            self._has_ended = True
            self._meter.in_flight.dec(self._in_flight)
            self._in_flight = 0
            reserved = self._reserved_growing + self._reserved_storing
            self._held.leave(self, self._held_bytes, reserved)
            self._held_bytes = self._reserved_growing = self._reserved_storing = 0

    async def _advance(self, batch: Batch, following: Batch | None) -> Batch:
        """Commit ``batch``; return the range after it, declared."""
        is_next = following is not None and following.first_offset == batch.next_offset
        metadata = delivery.declare(following.next_offset) if following and is_next else ""
        await self._commit(batch.next_offset, metadata)
        self._committed_offset = batch.next_offset
        self._meter.committed.inc(batch.count)
        self._meter.in_flight.dec(batch.count)
        self._in_flight -= batch.count
        # What a split range had is not exactly what its parts have.
        left = self._cutter.bytes + (following.bytes if following else 0)
        landed, self._held_bytes = self._held_bytes - left, left
        self._held.release(landed)
        self._progress.landed(self._tp.partition, batch.next_offset)
        if following is None:
            following = await self._next()
        if not metadata:
            await self._declare(following)
        return following

    async def _declare(self, batch: Batch) -> None:
        await self._commit(batch.first_offset, delivery.declare(batch.next_offset))

    async def _declare_cut(self) -> None:
        offset, metadata = self._last_commit
        declared = delivery.declared(metadata, offset)
        assert declared is not None, "cut outside a range"
        if not declared.is_cut:
            await self._commit(offset, delivery.declare(declared.next_offset, is_cut=True))

    async def _commit(self, offset: int, metadata: str) -> None:
        await self._consumer.commit_range(self._tp, offset, metadata)
        self._last_commit = offset, metadata
        self._last_commit_seconds = time.monotonic()

    async def _confirm(self, *, is_urgent: bool = False) -> None:
        """Commit what is committed already, which the broker refuses whoever has lost the partition."""
        if is_urgent or time.monotonic() - self._last_commit_seconds > CONFIRM_SECONDS:
            await self._commit(*self._last_commit)

    async def _next(self) -> Batch:
        while self._is_stopping or (batch := self._cut()) is None:
            if self._is_stopping:
                raise _StoppingError
            self._changed.clear()
            due_ms = None if self._is_waiting_for_turn else self._cutter.due_ms()
            wait_seconds = None if due_ms is None else max(due_ms - now_ms(), 0) / 1000 + 0.001
            try:
                await asyncio.wait_for(self._changed.wait(), wait_seconds)
            except TimeoutError:
                continue
        return batch

    def _cut(self) -> Batch | None:
        self._keep_to_share()
        if self._is_paused and not self._cutter.is_full:
            # There is more to fetch, for which the range before this one left no room.
            self._cutter.wait_anew(now_ms())
        batch = None if self._is_waiting_for_turn else self._cutter.cut(now_ms())
        if batch is not None:
            self._reserved_storing, self._reserved_growing = self._reserved_growing, 0
            self._keep_to_share()
        self.resume()
        return batch

    @property
    def _has_enough(self) -> bool:
        """Whether fetching more would only fill memory."""
        is_storing = self._held_bytes > self._cutter.bytes
        return self._cutter.is_full or (is_storing and self._held.is_full)

    def _keep_to_share(self) -> None:
        """Let the range in hand have what it may have now; ask for a turn when that is too little."""
        cutter, held = self._cutter, self._held
        needs_turn = held.has_turns and not self._reserved_growing
        cutter.bytes_max = min(
            self._bytes_max, held.share_without_turn if needs_turn else held.share
        )
        if needs_turn and cutter.is_full_of_bytes and not self._is_waiting_for_turn:
            self._is_waiting_for_turn = True
            held.ask(self)

    def take_turn(self, reserved_bytes: int) -> None:
        """Let the range in hand grow."""
        self._is_waiting_for_turn = False
        self._reserved_growing = reserved_bytes
        self._cutter.wait_anew(now_ms())
        self._keep_to_share()
        self.resume()
        self._changed.set()

    def resume(self) -> None:
        """Fetch again if the loop had stopped and has not enough any more."""
        if self._is_paused and not self._has_enough:
            self._is_paused = False
            self._consumer.resume_partitions({self._tp})

    def _now_holds(self, batch: Batch, row_bytes: int) -> None:
        """Let others have what the range in flight does not need any more."""
        if self._has_ended:
            return
        stored = batch.bytes + row_bytes
        before, self._held_bytes = self._held_bytes, self._cutter.bytes + stored
        reserved, self._reserved_storing = (
            self._reserved_storing,
            min(self._reserved_storing, stored),
        )
        self._held.give_back(reserved - self._reserved_storing)
        self._held.release(before - self._held_bytes)

    def _count(self, records: int, size: int) -> None:
        self._meter.read.inc(records)
        self._meter.in_flight.inc(records)
        self._in_flight += records
        self._held_bytes += size
        self._held.take(size)


class PartitionLoops:
    """The loops of the partitions that this worker owns now.

    Args:
        crash: Stops the worker; called with the error that a loop died of.
    """

    def __init__(
        self,
        new_loop: Callable[[TP], PartitionLoop],
        crash: Callable[[BaseException], Awaitable[None]],
        progress: Progress,
    ) -> None:
        self._new_loop = new_loop
        self._crash = crash
        self._progress = progress
        self._loops: dict[TP, PartitionLoop] = {}
        self._tasks: dict[TP, asyncio.Task[None]] = {}
        self._crashes: set[asyncio.Task[None]] = set()

    async def deliver(self, fetched: Fetched) -> None:
        """Hand over what was fetched, starting the partition's loop if it is new."""
        if fetched.tp not in self._loops:
            try:
                loop = self._loops[fetched.tp] = self._new_loop(fetched.tp)
            except Exception as error:
                await self._crash(error)
                return
            task = asyncio.create_task(loop.run())
            task.add_done_callback(self._on_done)
            self._tasks[fetched.tp] = task
        try:
            self._loops[fetched.tp].deliver(fetched)
        except FatalError as error:
            await self._crash(error)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            crash = asyncio.ensure_future(self._crash(error))
            self._crashes.add(crash)
            crash.add_done_callback(self._crashes.discard)

    async def stop(self) -> None:
        """End every loop after its range in flight, or cut it short after a bounded wait.

        A range cut short stays declared, and its next owner repeats it.
        """
        tasks = list(self._tasks.values())
        for loop in self._loops.values():
            loop.stop()
        self._loops.clear()
        self._tasks.clear()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=STOP_WAIT_SECONDS)
            for task in late:
                task.cancel()
        self._progress.clear()
