"""Store usage events: decode, drop what was sent again, enrich, write, acknowledge last.

Guarantee, from the usage topic to ClickHouse: every valid event is stored once, every record that was
sent again is counted in ``usage_duplicates`` instead, every refused one is dead-lettered, and only
then is the range committed. A repeat of a range carries the same rows under the same tokens, and
ClickHouse drops those it has. What has landed is read back for it, so that a model that changed in
between can't tell the rollups something else than the table.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
import structlog
from faust.types import TP
from prometheus_client import Counter, Gauge, Histogram

from agents.calling import Caller, Result, in_thread
from agents.landing import Offsets, Piece, Refused, land
from schemas.catalogue import Catalogue
from schemas.errors import Reason
from schemas.topics import USAGE_TOPIC
from streams import delivery
from streams.bad_records import BadRecords
from streams.batches import Batch
from streams.dead_letters import STAGE_INSERT, Rejected
from streams.decoding import Decoded, decode, join_decoded
from streams.enriching import blocks_by_month, enrich
from streams.health import Progress
from streams.pane_topic import Landed
from streams.partitions import Confirm, PartitionLoops, StoreRequest
from streams.seen_ids import Checked, SeenIds, StoredIds
from streams.sorted_ids import Mask
from streams.stages import stage
from streams.transport import App, Fetched

log = structlog.get_logger()

STORED = Counter("tokentide_records_stored", "Rows inserted into usage_events.")
DUPLICATES = Counter(
    "tokentide_records_duplicate", "Records dropped because their event was stored already."
)
LANDED_LONG_AGO = Counter(
    "tokentide_ranges_landed_long_ago",
    "Repeated ranges whose rollups could not be completed: run tokentide reconcile.",
)
WATERMARK = Gauge(
    "tokentide_watermark_timestamp_seconds", "Newest event time stored.", ["partition"]
)
LATENCY = Histogram(
    "tokentide_end_to_end_latency_seconds",
    "From the broker's append time of a range's first record to its insert.",
    buckets=(0.1, 0.25, 0.5, 1, 1.5, 2, 3, 5, 10, 30, 60, 300, 3600),
)

FETCHES_WAITING_MAX = 4
"""Fetches queued between the transport and the agent; each loop bounds the rest by rows."""
DECODED_BYTES = 16 << 20
"""Decoded at a time: the columns of a pass take half as much again as its text."""
INSERTS_SINCE_MAX = 5_000
"""Tokens are remembered for 10,000 inserts; half of it leaves room for those not counted."""
DUPLICATE_COLUMNS = (
    "kafka_partition",
    "kafka_offset",
    "event_id",
    "source",
    "occurred_at",
    "ingested_at",
)


class Writer(Protocol):
    """Where rows go. Both raise SinkUnavailableError when the same call may succeed later."""

    def write(self, rows: pa.Table, token: str) -> None:
        """Insert into usage_events; raises RejectedBatchError if rows of it are refused."""

    def write_duplicates(self, rows: pa.Table, token: str) -> None:
        """Insert into usage_duplicates."""


class Stored(StoredIds, Protocol):
    """What has been stored. All raise SinkUnavailableError when they may succeed later."""

    def rows(
        self, partition: int, first_offset: int, next_offset: int, times_ms: tuple[int, int] | None
    ) -> pa.Table:
        """Return the stored rows of a range of offsets, in the form of an insert."""

    def inserts_since(self, ingested_at_ms: int) -> int:
        """Return how many inserts came after one."""


class LostBlocks(Protocol):
    """Makes sure of blocks whose insert was repeated; see `sinks.lost_blocks`.

    Both return how many rows were missing, and raise SinkUnavailableError when the same call may
    succeed later.
    """

    def make_good(self, rows: pa.Table, token: str) -> int: ...

    def make_duplicates_good(self, rows: pa.Table, token: str) -> int: ...


class DeadLetterTopic(Protocol):
    """Where refused records go."""

    async def send(
        self, tp: TP, rejected: Sequence[Rejected], *, is_repeat: bool, confirm: Confirm
    ) -> None:
        """Return when all replicas have them."""


class PaneTopic(Protocol):
    """Where it is told what has landed, for rolling windows."""

    async def publish(self, landed: Landed, confirm: Confirm) -> None:
        """Return when all replicas have it."""


@dataclass(frozen=True)
class Parts:
    """What all partitions of a worker share.

    Attributes:
        catalogue: Returns the newest catalogue; waits until there is one.
        preparing: Threads for decoding: each holds a range several times over while it works.
        inserting: Threads for calls to ClickHouse, which mostly wait for their answer.
        retry_wait_seconds_max: Longest pause between two tries while ClickHouse is away.
        duplicate_window_ms: See `SeenIds`.
        seen_ids_max: Ids kept in memory, per partition.
        bad_records_ratio_max: See `BadRecords`.
    """

    catalogue: Callable[[], Awaitable[Catalogue]]
    writer: Writer
    stored: Stored
    lost: LostBlocks
    dead_letters: DeadLetterTopic
    panes: PaneTopic
    preparing: Executor
    inserting: Executor
    progress: Progress
    retry_wait_seconds_max: float
    duplicate_window_ms: int
    seen_ids_max: int
    bad_records_ratio_max: float


@dataclass(frozen=True)
class Rows:
    """The valid records of a range as rows of usage_events: to be stored, and those sent again.

    Attributes:
        landed: Offsets of rows that an earlier attempt at the range has stored.
        first_offset: Where the tokens say that the range begins.
        is_all: Whether ``fresh`` has all rows of the range, those that have landed before too.
    """

    fresh: pa.Table
    duplicates: pa.Table
    landed: Offsets
    first_offset: int
    is_all: bool = True


def build(batch: Batch, decoded: Decoded, is_duplicate: Mask, catalogue: Catalogue) -> Rows:
    """Enrich the events of a range and set those aside that were sent again."""
    with stage("enrich"):
        rows = enrich(
            decoded.events,
            catalogue,
            partition=batch.tp.partition,
            ingested_at_ms=time.time_ns() // 1_000_000,
        )
    with stage("build"):
        nothing_landed = np.array([], dtype=np.uint64)
        if not is_duplicate.any():
            return Rows(rows, rows.slice(0, 0), nothing_landed, batch.first_offset)
        mask = pa.array(is_duplicate)
        fresh = rows.filter(pa.array(~is_duplicate))
        return Rows(fresh, rows.filter(mask), nothing_landed, batch.first_offset)


def with_landed(rows: Rows, stored: pa.Table, *, is_cut: bool) -> Rows:
    """Return the rows of a repeat: what is stored as it is stored, the rest as it is built.

    A month of a range lands as a whole unless the declaration says that it was being cut, so other
    rows of a month that has landed were set aside as sent again, whatever would be decided now.
    """
    landed: Offsets = stored["kafka_offset"].to_numpy()
    duplicates = _without(rows.duplicates, landed)
    missing = _without(rows.fresh, landed)
    if not is_cut:
        months = {block.month for block in blocks_by_month(stored)}
        blocks = list(blocks_by_month(missing))
        aside = [block.rows for block in blocks if block.month in months]
        duplicates = pa.concat_tables([duplicates, *aside])
        missing = pa.concat_tables(
            [missing.slice(0, 0), *(block.rows for block in blocks if block.month not in months)]
        )
    return Rows(pa.concat_tables([stored, missing]), duplicates, landed, rows.first_offset)


def without_landed(rows: Rows) -> Rows:
    """Return the rows of a repeat that have not landed, under tokens of their own."""
    fresh = _without(rows.fresh, rows.landed)
    first_offset = int(fresh["kafka_offset"].to_numpy().min()) if fresh.num_rows else 0
    nothing_landed = np.array([], dtype=np.uint64)
    return Rows(fresh, rows.duplicates, nothing_landed, first_offset, is_all=False)


def _without(rows: pa.Table, offsets: Offsets) -> pa.Table:
    return rows.filter(pa.array(~np.isin(rows["kafka_offset"].to_numpy(), offsets)))


def refused_records(batch: Batch, refused: Sequence[Refused]) -> list[Rejected]:
    """Return the records of rows that ClickHouse refuses, as the producer sent them."""
    waiting = {each.offset: each.error for each in refused}
    found = []
    for record_batch in batch.record_batches if refused else ():
        for position, value in enumerate(record_batch.values()):
            offset = record_batch.offset_of(position)
            error = waiting.get(offset)
            if error is not None:
                log.warning("row.refused", offset=offset, error=str(error))
                found.append(
                    Rejected(
                        offset,
                        record_batch.append_time_ms,
                        value,
                        Reason.REFUSED_BY_CLICKHOUSE,
                        str(error).rpartition(" ")[2],
                        STAGE_INSERT,
                    )
                )
    return found


class UsageStore:
    """Stores the ranges of one partition, one at a time, from its assignment to its end."""

    def __init__(self, partition: int, parts: Parts) -> None:
        self._parts = parts
        self._caller = Caller(parts.retry_wait_seconds_max, parts.progress)
        self._seen = SeenIds(
            partition,
            parts.stored,
            ids_max=parts.seen_ids_max,
            window_ms=parts.duplicate_window_ms,
        )
        self._bad_records = BadRecords(partition, parts.bad_records_ratio_max)
        self._watermark_ms = 0

    async def store(self, request: StoreRequest) -> None:
        """Store a range; returns when all of it has landed.

        Raises:
            PartitionLostError: Another worker owns the partition.
            FatalError: A person is needed.
        """
        batch = request.batch
        decoded = await in_thread(self._parts.preparing, _decode, batch)
        self._bad_records.check(batch.count, decoded.rejected)
        checked = await self._call(request, self._parts.preparing, self._check, decoded, batch)
        rows = await in_thread(
            self._parts.preparing,
            build,
            batch,
            decoded,
            checked.is_duplicate,
            await self._parts.catalogue(),
        )
        if request.is_repeat:
            rows = await self._as_landed(request, decoded, rows)
        rejected = list(decoded.rejected)
        del decoded  # Its columns would be held for as long as the inserts take.
        kept = sum(len(each.value or b"") for each in rejected)
        request.now_holds(rows.fresh.nbytes + rows.duplicates.nbytes + kept)
        refused = await self._land(request, rows)
        await self._land_duplicates(request, rows)
        self._seen.remember(checked, [each.offset for each in refused])
        rejected += refused_records(batch, refused)
        await self._parts.dead_letters.send(
            batch.tp, rejected, is_repeat=request.is_repeat, confirm=request.confirm
        )
        await self._parts.panes.publish(_landed(batch, rows, refused), request.confirm)
        if batch.count:
            self._observe(batch, rows, len(rejected))

    def _check(self, decoded: Decoded, batch: Batch) -> Checked:
        with stage("check"):
            return self._seen.check(decoded.events, batch)

    async def _as_landed(self, request: StoreRequest, decoded: Decoded, rows: Rows) -> Rows:
        """Return the rows of a repeat as far as they have landed, and the rest as it is built."""
        batch = request.batch
        times_ms = None
        if batch.is_whole:
            occurred_at_ms = decoded.events.occurred_at_ms
            if not len(occurred_at_ms):
                return rows
            times_ms = int(occurred_at_ms.min()), int(occurred_at_ms.max())
        stored = await self._call(
            request,
            self._parts.inserting,
            self._parts.stored.rows,
            batch.tp.partition,
            batch.first_offset,
            batch.next_offset,
            times_ms,
        )
        if not stored.num_rows:
            return rows
        newest_ms = int(stored["ingested_at"].cast(pa.int64()).to_numpy().max())
        inserts = await self._call(
            request, self._parts.inserting, self._parts.stored.inserts_since, newest_ms
        )
        log.info(
            "range.had_landed",
            partition=batch.tp.partition,
            offset_first=batch.first_offset,
            offset_last=batch.next_offset - 1,
            rows=stored.num_rows,
            inserts_since=inserts,
        )
        rows = with_landed(rows, stored, is_cut=request.is_cut)
        if batch.is_whole and inserts < INSERTS_SINCE_MAX:
            return rows
        # Its tokens may be forgotten, or could not be made again: what is stored must not be sent.
        LANDED_LONG_AGO.inc()
        log.error("range.landed_long_ago", partition=batch.tp.partition, next="tokentide reconcile")
        return without_landed(rows)

    async def _land(self, request: StoreRequest, rows: Rows) -> list[Refused]:
        batch = request.batch
        refused: list[Refused] = []

        async def insert(piece: Piece) -> None:
            token = _token(batch, piece.first_offset, piece.next_offset, piece.month)
            await self._insert(request, self._write, self._parts.lost.make_good, piece.rows, token)

        async def may_cut(piece: Piece) -> bool:
            found = await self._call(
                request,
                self._parts.inserting,
                self._parts.stored.rows,
                batch.tp.partition,
                piece.first_offset,
                piece.next_offset,
                piece.times_ms,
            )
            # Some of them: a former owner of the range is landing the same pieces just now.
            if found.num_rows == piece.rows.num_rows:
                return False
            await request.declare_cut()
            return True

        for block in blocks_by_month(rows.fresh):
            whole = Piece(rows.first_offset, batch.next_offset, block.month, block.rows)
            found = await land(whole, rows.landed, insert=insert, may_cut=may_cut)
            STORED.inc(block.rows.num_rows - len(found))
            refused += found
        return refused

    async def _land_duplicates(self, request: StoreRequest, rows: Rows) -> None:
        batch = request.batch
        for block in blocks_by_month(rows.duplicates):
            await self._insert(
                request,
                self._parts.writer.write_duplicates,
                self._parts.lost.make_duplicates_good,
                block.rows.select(DUPLICATE_COLUMNS),
                _token(batch, batch.first_offset, batch.next_offset, block.month),
            )
        if rows.duplicates.num_rows:
            DUPLICATES.inc(rows.duplicates.num_rows)
            log.info(
                "records.duplicate",
                partition=batch.tp.partition,
                records=rows.duplicates.num_rows,
                offset_first=batch.first_offset,
                offset_last=batch.next_offset - 1,
            )

    async def _insert(
        self,
        request: StoreRequest,
        write: Callable[[pa.Table, str], None],
        make_good: Callable[[pa.Table, str], int],
        rows: pa.Table,
        token: str,
    ) -> None:
        """Insert a block; a repeat that is acknowledged is looked for: its token may be all there is."""
        tries = 0

        def attempt() -> None:
            nonlocal tries
            tries += 1
            write(rows, token)

        await self._call(request, self._parts.inserting, attempt)
        if tries > 1 or request.is_repeat:
            await self._call(request, self._parts.inserting, make_good, rows, token)

    async def _call(
        self,
        request: StoreRequest,
        executor: Executor,
        function: Callable[..., Result],
        *arguments: object,
    ) -> Result:
        return await self._caller.call(executor, request.confirm, function, *arguments)

    def _write(self, rows: pa.Table, token: str) -> None:
        with stage("insert"):
            self._parts.writer.write(rows, token)

    def _observe(self, batch: Batch, rows: Rows, rejected: int) -> None:
        appended_ms = min(each.append_time_ms for each in batch.record_batches if each.count)
        LATENCY.observe(max(time.time() - appended_ms / 1000, 0))
        partition = batch.tp.partition
        if rows.fresh.num_rows:
            newest = rows.fresh["occurred_at"].cast(pa.int64()).to_numpy().max()
            # A range of late events does not move it back.
            self._watermark_ms = max(int(newest), self._watermark_ms)
            WATERMARK.labels(partition).set(self._watermark_ms / 1000)
        log.debug(
            "batch.stored",
            partition=partition,
            rows=rows.fresh.num_rows,
            duplicates=rows.duplicates.num_rows,
            rejected=rejected,
            offset_first=batch.first_offset,
            offset_last=batch.next_offset - 1,
        )


def _landed(batch: Batch, rows: Rows, refused: Sequence[Refused]) -> Landed:
    """Return what has landed of a range: all but the rows that ClickHouse refuses."""
    if not rows.is_all:
        return Landed(batch, None)
    offsets = np.array([each.offset for each in refused], dtype=np.uint64)
    return Landed(batch, _without(rows.fresh, offsets) if refused else rows.fresh)


def _decode(batch: Batch) -> Decoded:
    with stage("decode"):
        pieces = batch.let_go_in_pieces(DECODED_BYTES)
        return join_decoded([decode(record_batches) for record_batches in pieces])


def _token(batch: Batch, first_offset: int, next_offset: int, month: int) -> str:
    return delivery.token(batch.tp.topic, batch.tp.partition, first_offset, next_offset, month)


def register(app: App, loops: PartitionLoops) -> None:
    """Add the agent to the app."""
    topic = app.fetches(USAGE_TOPIC, waiting_max=FETCHES_WAITING_MAX)

    @app.agent(topic, name="store_usage")  # type: ignore[untyped-decorator]
    async def store_usage(stream: object) -> None:
        """Hand each fetch to the loop of its partition."""
        async for fetched in stream:  # type: ignore[attr-defined]
            assert isinstance(fetched, Fetched)
            await loops.deliver(fetched)
