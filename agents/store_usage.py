"""Store usage events: decode, enrich, write, acknowledge last.

Guarantee, from the usage topic to ClickHouse: every valid event is stored, every refused one is
dead-lettered, and only then is the range committed. A repeat of a range carries the same rows under
the same tokens, so ClickHouse drops what had landed.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Protocol, TypeVar

import pyarrow as pa
import structlog
from prometheus_client import Counter, Gauge, Histogram

from schemas.catalogue import Catalogue
from schemas.errors import SinkUnavailableError
from schemas.topics import USAGE_TOPIC
from streams import delivery
from streams.batches import Batch
from streams.dead_letters import Rejected
from streams.decoding import decode
from streams.enriching import Block, blocks_by_month, enrich
from streams.health import Progress
from streams.partitions import PartitionLoops, StoreRequest
from streams.record_batches import App, Fetched, RecordBatchSchema
from streams.stages import stage

log = structlog.get_logger()

STORED = Counter("tokentide_records_stored", "Rows inserted into usage_events.")
WATERMARK = Gauge(
    "tokentide_watermark_timestamp_seconds", "Newest event time stored.", ["partition"]
)
LATENCY = Histogram(
    "tokentide_end_to_end_latency_seconds",
    "From the broker's append time of a range's first record to its insert.",
    buckets=(0.1, 0.25, 0.5, 1, 1.5, 2, 3, 5, 10, 30, 60, 300, 3600),
)
RETRIES = Counter("tokentide_sink_retries", "Inserts repeated because ClickHouse was away.")

FETCHES_WAITING_MAX = 8
"""Fetches queued between the transport and the agent; each loop bounds the rest by rows."""
RETRY_WAIT_SECONDS_MIN = 0.25


class Writer(Protocol):
    """Where blocks of rows go."""

    def write(self, rows: pa.Table, token: str) -> None:
        """Insert; raises SinkUnavailableError when the same call may succeed later."""


class DeadLetterTopic(Protocol):
    """Where refused records go."""

    async def send(self, tp: object, rejected: Sequence[Rejected], *, is_repeat: bool) -> None:
        """Return when all replicas have them."""


@dataclass(frozen=True)
class Prepared:
    """A range, ready to write: one block a month, and what was refused."""

    blocks: tuple[Block, ...]
    rejected: tuple[Rejected, ...]


def prepare(batch: Batch, catalogue: Catalogue) -> Prepared:
    """Decode and enrich a range."""
    with stage("decode"):
        decoded = decode(batch.record_batches)
    with stage("enrich"):
        rows = enrich(
            decoded.events,
            catalogue,
            partition=batch.tp.partition,
            ingested_at_ms=time.time_ns() // 1_000_000,
        )
    with stage("build"):
        return Prepared(tuple(blocks_by_month(rows)), decoded.rejected)


Result = TypeVar("Result")


async def in_thread(
    executor: Executor, function: Callable[..., Result], *arguments: object
) -> Result:
    """Return what a function returns, called in a thread."""
    return await asyncio.get_running_loop().run_in_executor(executor, function, *arguments)


class UsageStore:
    """Stores one range at a time per partition; ranges of several partitions overlap.

    Args:
        catalogue: Returns the newest catalogue; waits until there is one.
        preparing: Threads for decoding: each holds a range several times over while it works.
        inserting: Threads for inserts, which mostly wait for their answer.
        retry_wait_seconds_max: Longest pause between two tries while ClickHouse is away.
    """

    def __init__(
        self,
        *,
        catalogue: Callable[[], Awaitable[Catalogue]],
        writer: Writer,
        dead_letters: DeadLetterTopic,
        preparing: Executor,
        inserting: Executor,
        progress: Progress,
        retry_wait_seconds_max: float,
    ) -> None:
        self._catalogue = catalogue
        self._writer = writer
        self._dead_letters = dead_letters
        self._preparing = preparing
        self._inserting = inserting
        self._progress = progress
        self._retry_wait_seconds_max = retry_wait_seconds_max
        self._watermark_ms: dict[int, int] = {}

    async def store(self, request: StoreRequest) -> None:
        """Store a range; returns when all of it has landed."""
        batch = request.batch
        prepared = await in_thread(self._preparing, prepare, batch, await self._catalogue())
        await self._dead_letters.send(batch.tp, prepared.rejected, is_repeat=request.is_repeat)
        for block in prepared.blocks:
            token = delivery.token(
                batch.tp.topic,
                batch.tp.partition,
                batch.first_offset,
                batch.next_offset,
                block.month,
            )
            await self._write(block, token)
            STORED.inc(block.rows.num_rows)
        if batch.count:
            self._observe(batch, prepared)

    async def _write(self, block: Block, token: str) -> None:
        """Insert a block, again and again while ClickHouse is away."""
        wait_seconds = RETRY_WAIT_SECONDS_MIN
        while True:
            try:
                await in_thread(self._inserting, self._write_once, block, token)
            except SinkUnavailableError as error:
                self._progress.sink_error = str(error)
                RETRIES.inc()
                log.warning("insert.failed", error=str(error), retry_seconds=wait_seconds)
                await asyncio.sleep(wait_seconds * random.uniform(0.75, 1.25))
                wait_seconds = min(wait_seconds * 2, self._retry_wait_seconds_max)
            else:
                self._progress.sink_error = ""
                return

    def _write_once(self, block: Block, token: str) -> None:
        with stage("insert"):
            self._writer.write(block.rows, token)

    def _observe(self, batch: Batch, prepared: Prepared) -> None:
        appended_ms = min(each.append_time_ms for each in batch.record_batches if each.count)
        LATENCY.observe(max(time.time() - appended_ms / 1000, 0))
        partition = batch.tp.partition
        newest_ms = max((block.newest_ms for block in prepared.blocks), default=0)
        # A range of late events does not move it back.
        newest_ms = max(newest_ms, self._watermark_ms.get(partition, 0))
        self._watermark_ms[partition] = newest_ms
        WATERMARK.labels(partition).set(newest_ms / 1000)
        log.debug(
            "batch.stored",
            partition=partition,
            rows=sum(block.rows.num_rows for block in prepared.blocks),
            rejected=len(prepared.rejected),
            offset_first=batch.first_offset,
            offset_last=batch.next_offset - 1,
        )


def register(app: App, loops: PartitionLoops) -> None:
    """Add the agent to the app."""
    topic = app.topic(USAGE_TOPIC, schema=RecordBatchSchema(), maxsize=FETCHES_WAITING_MAX)

    @app.agent(topic, name="store_usage")  # type: ignore[untyped-decorator]
    async def store_usage(stream: object) -> None:
        """Hand each fetch to the loop of its partition."""
        async for fetched in stream:  # type: ignore[attr-defined]
            assert isinstance(fetched, Fetched)
            await loops.deliver(fetched)
