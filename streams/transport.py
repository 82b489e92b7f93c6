"""The transport: from the broker to the agent, one event per fetch and partition.

Stock Faust makes an object and four asyncio tasks of every record (65 to 90 us each). Here an
agent receives a `Fetched` with Kafka's own record batches, kept whole (`streams.record_batches`).

Guarantee: delivers every record at or after the committed offset of an assigned partition, in
offset order, at least once, but for those of aborted transactions. It never commits by itself: only
`commit_range` does, so an event that fails, or is still in flight, is never acknowledged by accident.

Defects of Faust 0.15.3 closed here, each with a test in tests/integration/test_transport.py:
offsets committed past records in flight (#606), a failing agent that acknowledges what it failed
on (#189), a worker that hangs after a coordinator error (#175), a fetch that waits 1.5 s on idle
partitions (#306), a start position that signals cannot change (`perform_seek`), an offset kept of
each event for as long as the worker lives.
"""

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import faust
import structlog
from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import FetchResult
from aiokafka.errors import CommitFailedError, ConsumerStoppedError, IllegalStateError
from aiokafka.structs import OffsetAndMetadata
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from faust.types.tuples import ConsumerMessage  # type: ignore[attr-defined,unused-ignore]
from mode import Service

from streams.record_batches import RecordBatch, unpack
from streams.stages import stage

log = structlog.get_logger()

FAUST_LOGGER = logging.getLogger("faust")
"""A mode service logs under the module of its class: keep Faust's lines under Faust's name."""

FETCH_WAIT_MS = 100
"""Longest wait of the broker for new records; Faust hard-codes 1,500."""
POLL_SECONDS = 0.1
WATCHDOG_SECONDS = 2.0
COORDINATOR_ERRORS_MAX = 5
"""Coordinator errors within a minute of each other before the worker stops."""


class PartitionLostError(Exception):
    """The broker refused a commit: another worker owns the partition now."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """What one fetch brought from one partition: the value of an event.

    Attributes:
        tp: Topic and partition.
        generation: Consumer group generation it was fetched in.
        batches: Record batches in offset order; a batch may hold no record. There are none in the
            first event of a partition that was assigned and holds nothing unread.
        high_watermark: End offset of the partition when it was fetched.
    """

    tp: TP
    generation: int
    batches: tuple[RecordBatch, ...]
    high_watermark: int


@dataclass(frozen=True, slots=True)
class Committed:
    """What the group has committed for a partition; ``offset`` -1 is nothing yet."""

    offset: int
    metadata: str


class ConsumerThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]
    """The thread that owns the aiokafka consumer: fetches, unpacks, commits."""

    logger = FAUST_LOGGER

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = FETCH_WAIT_MS
        # What a producer's transaction took back did not happen. Faust reads it all the same.
        consumer._isolation_level = "read_committed"
        return consumer

    async def _fetch_records(
        self,
        consumer: Any,
        active_partitions: set[TP],
        timeout: float = 0.0,  # noqa: ASYNC109 - Faust's own signature
        **_: Any,
    ) -> dict[TP, Fetched]:
        """Return the record batches at hand, waiting up to ``timeout`` seconds for some."""
        fetcher = consumer._fetcher
        deadline = time.monotonic() + timeout
        while self.consumer.flow_active:
            if consumer._closed or fetcher._closed:
                raise ConsumerStoppedError
            with fetcher._subscriptions.fetch_context():
                if fetcher._subscriptions.reassignment_in_progress:
                    return {}
                drained = self._drain(consumer, fetcher, active_partitions)
                left = deadline - time.monotonic()
                if drained or left <= 0:
                    return drained
                waiter = fetcher._create_fetch_waiter()
                if not (await asyncio.wait([waiter], timeout=left))[0]:
                    waiter.cancel()
        return {}

    def _drain(self, consumer: Any, fetcher: Any, active_partitions: set[TP]) -> dict[TP, Fetched]:
        # Taken here, not by the caller: what is drained after a rebalance belongs to it.
        generation = self.app.consumer_generation_id
        drained: dict[TP, Fetched] = {}
        for tp in list(fetcher._records):
            if tp not in active_partitions:
                if not fetcher._subscriptions.is_assigned(tp):
                    del fetcher._records[tp]
                continue
            result = fetcher._records[tp]
            if type(result) is not FetchResult and drained:
                return drained  # The error is raised by the next call.
            del fetcher._records[tp]
            fetcher._notify(fetcher._wait_consume_future)
            if type(result) is not FetchResult:
                result.check_raise()
            elif result.check_assignment(tp) and result.has_more():
                with stage("fetch"):
                    batches = unpack(result._partition_records)
                result._update_position()
                if batches:
                    key = TP(tp.topic, tp.partition)
                    high_watermark = consumer.highwater(tp) or 0
                    drained[key] = Fetched(key, generation, tuple(batches), high_watermark)
        return drained

    async def fetch_committed(self) -> dict[TP, Committed]:
        """Return what the group has committed for each assigned partition."""
        return await self._in_thread(self._fetch_committed())  # type: ignore[no-any-return]

    async def _fetch_committed(self) -> dict[TP, Committed]:
        consumer = self._ensure_consumer()
        tps = list(consumer.assignment())
        found = await consumer._coordinator.fetch_committed_offsets(tps)
        return {
            TP(tp.topic, tp.partition): Committed(found[tp].offset, found[tp].metadata or "")
            if tp in found
            else Committed(-1, "")
            for tp in tps
        }

    async def seek_all(self, offsets: Mapping[TP, int]) -> None:
        """Read each partition from its offset on; -1 leaves it to ``auto_offset_reset``."""
        await self._in_thread(self._seek_all(offsets))

    async def _seek_all(self, offsets: Mapping[TP, int]) -> None:
        consumer = self._ensure_consumer()
        for tp, offset in offsets.items():
            if offset >= 0:
                consumer.seek(TopicPartition(tp.topic, tp.partition), offset)

    def partition_states(self) -> Any:
        """Return aiokafka's state of the partitions that are assigned now, if any are."""
        subscription = self._consumer._subscription.subscription if self._consumer else None
        return subscription.assignment if subscription is not None else None

    async def commit_range(self, tp: TP, offset: int, metadata: str) -> None:
        """Commit ``offset`` with ``metadata``.

        Raises:
            PartitionLostError: If the broker refuses it: the generation is an old one.
        """
        await self._in_thread(self._commit_range(tp, offset, metadata))

    async def _commit_range(self, tp: TP, offset: int, metadata: str) -> None:
        consumer = self._ensure_consumer()
        position = OffsetAndMetadata(offset, metadata)
        try:
            await consumer.commit({TopicPartition(tp.topic, tp.partition): position})
        except (CommitFailedError, IllegalStateError) as error:
            # Refused by the broker, or by the client, which knows that it has been taken away.
            raise PartitionLostError(f"commit refused for {tp.topic}/{tp.partition}") from error

    async def check_coordinator(self) -> None:
        """Raise the coordinator's pending error and let aiokafka join the group again.

        aiokafka parks its coordination task until somebody looks at the error, which it does only
        inside calls that Faust bypasses: without this the worker hangs for ever, silently.
        """
        await self._in_thread(self._check_coordinator())

    async def _check_coordinator(self) -> None:
        coordinator = self._ensure_consumer()._coordinator
        # It is a NoGroupCoordinator until the first subscription.
        if getattr(coordinator, "_error_consumed_fut", None) is not None or (
            hasattr(coordinator, "_coordination_task") and coordinator._coordination_task.done()
        ):
            coordinator.check_errors()

    async def _in_thread(self, coroutine: Any) -> Any:
        # Not `call_thread`: its two workers would let one commit and one fetch block all else.
        return await asyncio.wrap_future(
            asyncio.run_coroutine_threadsafe(coroutine, self.thread_loop)
        )

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Do nothing: Faust compares a wall clock with a monotonic one here."""


class Consumer(driver.Consumer):  # type: ignore[misc]
    """Delivers one event per fetch and partition, and commits only what it is told to.

    Attributes:
        committed: What the group had committed when the partitions were last assigned.
    """

    logger = FAUST_LOGGER

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.committed: dict[TP, Committed] = {}
        self._silent: set[TP] = set()
        """Assigned partitions of which no event has been delivered since."""
        self._resumed = asyncio.Event()

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    def silent_seconds(self) -> float:
        """Return how long no fetch has been answered; 0 while nothing is asked for.

        The broker answers at least every `FETCH_WAIT_MS`, new records or not.
        """
        assignment = self._thread.partition_states()
        if assignment is None or not self._get_active_partitions():
            return 0.0
        stamps_ms = [assignment.state_value(tp).timestamp or 0 for tp in assignment.tps]
        newest_ms = max(stamps_ms, default=0)
        return max(time.time() - newest_ms / 1000, 0.0) if newest_ms else 0.0

    async def commit_range(self, tp: TP, offset: int, metadata: str) -> None:
        """See `ConsumerThread.commit_range`."""
        await self._thread.commit_range(tp, offset, metadata)

    def _new_offset(self, tp: TP) -> int | None:
        """Return nothing: acknowledged events never move an offset, `commit_range` does."""

    async def perform_seek(self) -> None:
        """Start each assigned partition at its committed offset, and keep its metadata."""
        self._silent.clear()
        self.committed = await self._thread.fetch_committed()
        await self._thread.seek_all({tp: each.offset for tp, each in self.committed.items()})
        self._silent = set(self.committed)

    def resume_partitions(self, tps: Any) -> None:
        super().resume_partitions(tps)
        self._resumed.set()

    def on_buffer_drop(self, tp: TP) -> None:
        super().on_buffer_drop(tp)
        self._resumed.set()

    async def _drain_messages(self, fetcher: Any) -> None:
        try:
            while not (self.should_stop or fetcher.should_stop):
                await self._deliver_next()
        except (ConsumerStoppedError, asyncio.CancelledError):
            if not self.app.should_stop:
                raise

    async def _deliver_next(self) -> None:
        if not self.flow_active:
            await self.wait(self.can_resume_flow)
            return
        active = set(self._get_active_partitions())
        if not active:
            self._resumed.clear()
            await self.wait_first(self._resumed.wait(), timeout=POLL_SECONDS)
            return
        generation = self.app.consumer_generation_id
        fetched = await self._thread.getmany(active, timeout=POLL_SECONDS)
        for event in (*fetched.values(), *self._read_to_the_end(active, generation)):
            if not self.flow_active or self.app.consumer_generation_id != event.generation:
                # A rebalance is under way: perform_seek moves back before the flow resumes.
                return
            self._silent.discard(event.tp)
            await self.wait_first(self.callback(self._message(event)), self.suspend_flow.wait())

    def _read_to_the_end(self, active: set[TP], generation: int) -> list[Fetched]:
        """Return an event for each new partition that holds nothing after what is committed.

        Without it the owner of a partition that nobody writes to would not know that it is one.
        """
        assignment = self._thread.partition_states()
        ended = []
        for tp in self._silent & active:
            partition = TopicPartition(tp.topic, tp.partition)
            if assignment is not None and partition in assignment.tps:
                # None until the broker has answered the first fetch.
                end = assignment.state_value(partition).highwater
                if end == max(self.committed[tp].offset, 0):
                    ended.append(Fetched(tp, generation, (), end))
        return ended

    def _message(self, fetched: Fetched) -> Any:
        last = fetched.batches[-1] if fetched.batches else None
        return ConsumerMessage(
            fetched.tp.topic,
            fetched.tp.partition,
            fetched.high_watermark - 1 if last is None else last.next_offset - 1,
            time.time() if last is None else last.append_time_ms / 1000,
            1,
            [],
            None,
            fetched,
            None,
            tp=fetched.tp,
            generation_id=fetched.generation,
        )

    @Service.task  # type: ignore[untyped-decorator,unused-ignore]
    async def _watch_coordinator(self) -> None:
        errors, last_seconds = 0, 0.0
        while not self.should_stop:
            await self.sleep(WATCHDOG_SECONDS)
            if self.should_stop or self.app.should_stop or self._thread._consumer is None:
                continue
            try:
                await self._thread.check_coordinator()
            except Exception as error:
                now = time.monotonic()
                errors = errors + 1 if now - last_seconds < 60 else 1
                last_seconds = now
                log.error("coordinator.failed", error=repr(error), errors=errors)
                if errors >= COORDINATOR_ERRORS_MAX:
                    await self.app.crash(error)
                    return


class Transport(driver.Transport):  # type: ignore[misc]
    """Faust's aiokafka transport with the consumer above."""

    Consumer = Consumer


class RecordBatchSchema(faust.Schema):  # type: ignore[misc]
    """Hands the agent the `Fetched` as it is: decoding happens once per batch, in the agent."""

    def loads_key(self, app: Any, message: Any, **_: Any) -> None:
        """Return nothing: keys only place records in partitions."""

    def loads_value(self, app: Any, message: Any, **_: Any) -> Fetched:  # noqa: ARG002
        """Return the event's value, a `Fetched`."""
        value = message.value
        assert isinstance(value, Fetched)
        return value


class App(faust.App):  # type: ignore[misc]
    """A Faust app on this transport. Every topic it consumes must be one of `fetches`."""

    logger = FAUST_LOGGER

    def fetches(self, name: str, *, waiting_max: int) -> Any:
        """Return a topic whose events are fetches, of which so many may wait for their agent.

        Without acknowledgements: they never move an offset here, and Faust keeps the offset of each
        until they do.
        """
        return self.topic(name, schema=RecordBatchSchema(), acks=False, maxsize=waiting_max)

    def _create_directories(self) -> None:
        """Make none: only Faust's tables need one, and there are none."""

    def _new_transport(self) -> Any:
        return Transport(self.conf.broker_consumer, self)
