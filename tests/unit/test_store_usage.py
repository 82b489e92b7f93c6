"""The agent: refused records go to the dead letters, rows to ClickHouse, and faults are waited out."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import orjson
import pyarrow as pa
import pytest
from faust.types import TP
from prometheus_client import REGISTRY

from agents import calling, store_usage
from agents.store_usage import DUPLICATE_COLUMNS, INSERTS_SINCE_MAX, Parts, UsageStore
from schemas.catalogue import Catalogue, Model
from schemas.errors import FatalError, Reason, RejectedBatchError, SinkUnavailableError
from sinks.usage_events import arrow_schema
from streams.batches import Batch
from streams.dead_letters import Rejected
from streams.health import Progress
from streams.pane_topic import Landed
from streams.partitions import Confirm, StoreRequest
from streams.transport import PartitionLostError
from tests.record_batch import fetched_batch, record_batch

USAGE = TP("llm-usage-v1", 1)
EVENT = {
    "schema_version": 1,
    "source": "synthetic",
    "model_raw": "vendor/model",
    "tokens_prompt": 10,
    "tokens_completion": 5,
    "status": "ok",
}


def event(number: int, occurred_at: str = "2026-05-28T20:26:39Z") -> bytes:
    return orjson.dumps({**EVENT, "event_id": f"e-{number}", "occurred_at": occurred_at})


class FakeClickHouse:
    """Fails as it is told to, then keeps what it is given; a token that returns adds nothing."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.written: list[tuple[str, pa.Table]] = []
        self.duplicates: list[tuple[str, pa.Table]] = []
        self.calls: list[str] = []
        self.inserts = 0
        self.made_good: list[str] = []

    def make_good(self, rows: pa.Table, token: str) -> int:
        assert rows.num_rows
        self.made_good.append(token)
        return 0

    make_duplicates_good = make_good

    def write(self, rows: pa.Table, token: str) -> None:
        self.calls.append(token)
        if self.failures:
            raise self.failures.pop(0)
        if token not in dict(self.written):
            self.written.append((token, rows))

    def write_duplicates(self, rows: pa.Table, token: str) -> None:
        self.duplicates.append((token, rows))

    def newest_second(self, partition: int) -> int | None:
        assert partition == USAGE.partition
        return None

    def ids(self, partition: int, **_: Any) -> pa.Table:
        raise AssertionError(f"partition {partition} is new: all its ids are in memory")

    def rows(
        self, partition: int, first_offset: int, next_offset: int, times_ms: tuple[int, int] | None
    ) -> pa.Table:
        assert partition == USAGE.partition
        nothing = pa.table({each.name: pa.array([], each.type) for each in arrow_schema()})
        found = pa.concat_tables([nothing, *(rows for _, rows in self.written)])
        offsets = found["kafka_offset"].to_numpy()
        inside = (offsets >= first_offset) & (offsets < next_offset)
        if times_ms is not None:
            occurred_at_ms = found["occurred_at"].cast(pa.int64()).to_numpy()
            inside &= (occurred_at_ms >= times_ms[0]) & (occurred_at_ms <= times_ms[1])
        return found.filter(pa.array(inside))

    def inserts_since(self, ingested_at_ms: int) -> int:
        assert ingested_at_ms > 0
        return self.inserts


class FakeDeadLetters:
    def __init__(self) -> None:
        self.sent: list[tuple[int, bool]] = []
        self.letters: list[Rejected] = []

    async def send(
        self, tp: object, rejected: Sequence[Rejected], *, is_repeat: bool, confirm: Confirm
    ) -> None:
        assert tp == USAGE
        await confirm(is_urgent=True)
        self.sent += [(each.offset, is_repeat) for each in rejected]
        self.letters += rejected


class FakePanes:
    def __init__(self) -> None:
        self.told: list[list[int] | None] = []

    async def publish(self, landed: Landed, confirm: Confirm) -> None:
        await confirm()
        rows = landed.rows
        self.told.append(None if rows is None else rows["kafka_offset"].to_pylist())


class FakeOwner:
    """The loop's side of a request."""

    def __init__(self) -> None:
        self.is_lost = False
        self.cuts = 0
        self.held: list[int] = []

    async def confirm(self, *, is_urgent: bool = False) -> None:
        if self.is_lost:
            raise PartitionLostError("lost", is_urgent)

    async def declare_cut(self) -> None:
        self.cuts += 1


class Bench:
    """One partition's store with the parts around it."""

    def __init__(self, clickhouse: FakeClickHouse, **settings: Any) -> None:
        self.clickhouse = clickhouse
        self.dead_letters = FakeDeadLetters()
        self.panes = FakePanes()
        self.owner = FakeOwner()
        self.vendor = "vendor"
        self.progress = Progress(30)
        self.executor = ThreadPoolExecutor(1)
        self.settings = settings
        self.usage = self.new_owner()

    def new_owner(self) -> UsageStore:
        """A store without memory, as after a crash."""

        async def catalogue() -> Catalogue:
            return Catalogue.of([Model("vendor/model", vendor=self.vendor, open_weights=True)])

        parts = Parts(
            catalogue=catalogue,
            writer=self.clickhouse,
            stored=self.clickhouse,
            lost=self.clickhouse,
            dead_letters=self.dead_letters,
            panes=self.panes,
            preparing=self.executor,
            inserting=self.executor,
            progress=self.progress,
            retry_wait_seconds_max=0.01,
            **{
                "duplicate_window_ms": 400 * 86_400_000,
                "seen_ids_max": 10_000,
                "bad_records_ratio_max": 1.0,
                **self.settings,
            },
        )
        self.usage = UsageStore(USAGE.partition, parts)
        return self.usage

    async def store(
        self, *values: bytes, first: int = 40, is_repeat: bool = False, is_cut: bool = False
    ) -> None:
        batch = Batch.of(USAGE, [record_batch(first, *values)])
        await self.store_batch(batch, is_repeat=is_repeat, is_cut=is_cut)

    async def store_batch(
        self, batch: Batch, *, is_repeat: bool = False, is_cut: bool = False
    ) -> None:
        owner = self.owner
        await self.usage.store(
            StoreRequest(
                batch, is_repeat, is_cut, owner.confirm, owner.declare_cut, owner.held.append
            )
        )


async def store(
    clickhouse: FakeClickHouse, *values: bytes, is_repeat: bool = False
) -> FakeDeadLetters:
    """Store one range at the offsets from 40 on."""
    bench = Bench(clickhouse)
    await bench.store(*values, is_repeat=is_repeat)
    assert bench.progress.sink_error == ""
    return bench.dead_letters


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calling, "RETRY_WAIT_SECONDS_MIN", 0.001)


async def test_a_range_becomes_rows_and_dead_letters() -> None:
    """Valid records are written under the range's token, the others sent to the dead letters."""
    writer = FakeClickHouse()
    dead_letters = await store(writer, event(0), b"nonsense", event(2))
    ((token, rows),) = writer.written
    assert token == "llm-usage-v1:1:40-42:202605"
    assert list(zip(rows.schema.names, rows.schema.types, strict=True)) == list(
        zip(arrow_schema().names, arrow_schema().types, strict=True)
    )
    assert rows["kafka_offset"].to_pylist() == [40, 42]
    assert rows["model"].to_pylist() == ["vendor/model"] * 2
    assert rows["vendor_country"].to_pylist() == ["unknown"] * 2
    assert dead_letters.sent == [(41, False)]


async def test_each_month_is_a_block_with_its_own_token() -> None:
    """A block never spans two table partitions, so each insert is atomic."""
    writer = FakeClickHouse()
    await store(writer, event(0, "2026-04-30T23:59:59.999Z"), event(1, "2026-05-01T00:00:00Z"))
    assert [token for token, _ in writer.written] == [
        "llm-usage-v1:1:40-41:202604",
        "llm-usage-v1:1:40-41:202605",
    ]
    assert [rows["kafka_offset"].to_pylist() for _, rows in writer.written] == [[40], [41]]


async def test_an_unavailable_sink_is_tried_again_with_the_same_rows_and_token() -> None:
    """Whatever lasts a while is waited out; the block is not built anew."""
    writer = FakeClickHouse(*[SinkUnavailableError("away")] * 5)
    await store(writer, event(0))
    assert [token for token, _ in writer.written] == ["llm-usage-v1:1:40-40:202605"]


async def test_blocks_whose_insert_was_repeated_are_looked_for() -> None:
    """By the same owner or the next; not those that were taken at once."""
    token = "llm-usage-v1:1:40-40:202605"
    at_once = FakeClickHouse()
    await store(at_once, event(0))
    assert at_once.made_good == []
    again = FakeClickHouse(SinkUnavailableError("away"))
    await store(again, event(0))
    assert again.made_good == [token]
    next_owner = FakeClickHouse()
    await store(next_owner, event(0), event(0), is_repeat=True)
    assert next_owner.made_good == ["llm-usage-v1:1:40-41:202605"] * 2  # The row, the duplicate.


async def test_what_needs_a_person_is_not_tried_again() -> None:
    """A missing table, say, ends the store with its error."""
    writer = FakeClickHouse(FatalError("table is gone"))
    with pytest.raises(FatalError, match="table is gone"):
        await store(writer, event(0))
    assert writer.written == []


async def test_a_repeat_is_told_to_the_dead_letters() -> None:
    """So that those which an earlier owner has sent are not sent twice."""
    dead_letters = await store(FakeClickHouse(), b"nonsense", is_repeat=True)
    assert dead_letters.sent == [(40, True)]


async def test_a_range_of_refused_records_writes_nothing() -> None:
    """No empty insert."""
    writer = FakeClickHouse()
    await store(writer, b"nonsense")
    assert writer.written == []


async def test_windows_are_told_what_landed_and_nothing_else() -> None:
    """Neither refused records nor those sent again; a range without a row is told of too."""
    bench = Bench(FakeClickHouse())
    await bench.store(event(0), event(0), b"nonsense", event(3))
    await bench.store(b"nonsense", first=44)
    assert bench.panes.told == [[40, 43], []]


async def test_windows_are_told_after_it_has_landed() -> None:
    """What ClickHouse does not have is in no window."""
    bench = Bench(FakeClickHouse(FatalError("table is gone")))
    with pytest.raises(FatalError, match="table is gone"):
        await bench.store(event(0))
    assert bench.panes.told == []


async def test_the_watermark_does_not_go_back() -> None:
    """A range of late events leaves the newest event time where it was."""
    bench = Bench(FakeClickHouse())
    await bench.store(event(0, "2026-05-28T20:26:39Z"))
    await bench.store(event(1, "2026-05-01T00:00:00Z"), first=41)
    value = REGISTRY.get_sample_value("tokentide_watermark_timestamp_seconds", {"partition": "1"})
    assert value == datetime(2026, 5, 28, 20, 26, 39, tzinfo=UTC).timestamp()


async def test_what_is_sent_again_is_set_aside_and_accounted_for() -> None:
    """Within a range and across ranges: one row in usage_duplicates, none in usage_events."""
    bench = Bench(FakeClickHouse())
    await bench.store(event(0), event(0), event(1))
    await bench.store(event(2), event(1), first=43)
    rows = [row["kafka_offset"].to_pylist() for _, row in bench.clickhouse.written]
    assert rows == [[40, 42], [43]]
    aside = [(token, row["kafka_offset"].to_pylist()) for token, row in bench.clickhouse.duplicates]
    assert aside == [
        ("llm-usage-v1:1:40-42:202605", [41]),
        ("llm-usage-v1:1:43-44:202605", [44]),
    ]
    assert tuple(bench.clickhouse.duplicates[0][1].schema.names) == DUPLICATE_COLUMNS


async def test_a_repeat_inserts_what_has_landed_as_it_landed() -> None:
    """A model that changed in between changes nothing: the rollups must say what the table says."""
    bench = Bench(FakeClickHouse())
    await bench.store(event(0), event(1))
    bench.vendor = "renamed"
    bench.new_owner()
    seen: list[pa.Table] = []
    write = bench.clickhouse.write

    def spy(rows: pa.Table, token: str) -> None:
        seen.append(rows)
        write(rows, token)

    bench.clickhouse.write = spy  # type: ignore[method-assign]
    await bench.store(event(0), event(1), is_repeat=True)
    assert seen[0]["vendor"].to_pylist() == ["vendor"] * 2
    assert seen[0].to_pylist() == bench.clickhouse.written[0][1].to_pylist()
    assert set(bench.clickhouse.calls) == {"llm-usage-v1:1:40-41:202605"}


async def test_what_had_not_landed_is_built_anew_in_a_repeat() -> None:
    """The month that landed stays as it is, the other one takes what is known now."""
    bench = Bench(FakeClickHouse())
    values = event(0, "2026-04-30T23:59:59Z"), event(1, "2026-05-01T00:00:00Z")
    await bench.store(*values)
    del bench.clickhouse.written[1]
    bench.vendor = "renamed"
    bench.new_owner()
    await bench.store(*values, is_repeat=True)
    vendors = [rows["vendor"].to_pylist() for _, rows in bench.clickhouse.written]
    assert vendors == [["vendor"], ["renamed"]]


async def test_a_repeat_may_decide_otherwise_on_what_was_sent_again() -> None:
    """The window was set in between: what landed is not set aside, what did not is not added."""
    bench = Bench(FakeClickHouse(), duplicate_window_ms=0)
    await bench.store(event(0), event(0))
    bench.settings["duplicate_window_ms"] = 400 * 86_400_000
    bench.new_owner()
    await bench.store(event(0), event(0), is_repeat=True)
    assert bench.clickhouse.duplicates == []
    assert len(bench.clickhouse.written) == 1

    bench = Bench(FakeClickHouse())
    await bench.store(event(0), event(0))
    bench.settings["duplicate_window_ms"] = 0
    bench.new_owner()
    await bench.store(event(0), event(0), is_repeat=True)
    assert len(bench.clickhouse.written) == 1
    offsets = [rows["kafka_offset"].to_pylist() for _, rows in bench.clickhouse.duplicates]
    assert offsets == [[41], [41]]


async def test_a_range_that_landed_long_ago_is_not_sent_again() -> None:
    """ClickHouse may have forgotten its token; what is missing of it lands under one of its own."""
    bench = Bench(FakeClickHouse())
    values = event(0, "2026-04-30T23:59:59Z"), event(1, "2026-05-01T00:00:00Z")
    await bench.store(*values)
    del bench.clickhouse.written[1]
    bench.clickhouse.inserts = INSERTS_SINCE_MAX
    bench.clickhouse.calls.clear()
    bench.new_owner()
    await bench.store(*values, is_repeat=True)
    assert bench.clickhouse.calls == ["llm-usage-v1:1:41-41:202605"]
    # Its rows are not at hand, so windows are made of what is stored.
    assert bench.panes.told == [[40, 41], None]


async def test_a_range_that_retention_has_cut_keeps_what_landed() -> None:
    """The records are gone but their rows are there: nothing is doubled, the rest is stored."""
    bench = Bench(FakeClickHouse())
    await bench.store(event(0), event(1))
    bench.new_owner()
    bench.clickhouse.calls.clear()
    left = Batch(USAGE, [record_batch(41, event(1))], 40, 42)
    await bench.store_batch(left, is_repeat=True)
    await bench.store_batch(Batch(USAGE, [], 40, 42), is_repeat=True)
    assert bench.clickhouse.calls == []
    assert len(bench.clickhouse.written) == 1


async def test_a_refused_row_is_dead_lettered_with_its_reason_and_the_rest_lands() -> None:
    """The range is declared as cut before its first piece, and the id is free for a better event."""

    class Refusing(FakeClickHouse):
        is_strict = True

        def write(self, rows: pa.Table, token: str) -> None:
            if self.is_strict and 41 in rows["kafka_offset"].to_pylist():
                assert bench.owner.cuts or not self.written
                raise RejectedBatchError("clickhouse: code 469 VIOLATED_CONSTRAINT")
            super().write(rows, token)

    clickhouse = Refusing()
    bench = Bench(clickhouse)
    values = [event(number) for number in range(4)]
    batch = Batch.of(USAGE, [fetched_batch(40, *values, b"nonsense")])
    fetched_bytes = batch.bytes
    await bench.store_batch(batch)
    assert batch.bytes < fetched_bytes, "its values had been let go of"
    assert bench.owner.cuts > 0
    landed = [
        offset for _, rows in clickhouse.written for offset in rows["kafka_offset"].to_pylist()
    ]
    assert sorted(landed) == [40, 42, 43]
    assert bench.panes.told == [[40, 42, 43]]
    first, second = sorted(bench.dead_letters.letters, key=lambda each: each.offset)
    assert (first.offset, first.value, first.reason, first.field, first.stage) == (
        41,
        values[1],
        Reason.REFUSED_BY_CLICKHOUSE,
        "VIOLATED_CONSTRAINT",
        "insert",
    )
    assert (second.offset, second.stage) == (44, "decode")
    clickhouse.is_strict = False
    await bench.store(event(1), first=45)
    assert clickhouse.written[-1][1]["kafka_offset"].to_pylist() == [45]
    assert clickhouse.duplicates == []


async def test_pieces_of_a_range_are_one_insert(monkeypatch: pytest.MonkeyPatch) -> None:
    """However it is decoded: fast or singly, refused, sent again; and what it holds is told."""
    monkeypatch.setattr(store_usage, "DECODED_BYTES", 1)
    pieces = [
        (event(1), b"nonsense", event(2)),
        (event(3).replace(b'"event_id"', b' "event_id"'), event(1)),
        (event(4).replace(b"vendor/model", b"another/model"), None, b"x" * 100_000),
    ]
    batches, first = [], 40
    for piece in pieces:
        batches.append(fetched_batch(first, *piece))
        first += len(piece)
    bench = Bench(FakeClickHouse())
    await bench.store_batch(Batch.of(USAGE, batches))
    ((_, rows),) = bench.clickhouse.written
    ((_, again),) = bench.clickhouse.duplicates
    whole = Bench(FakeClickHouse())
    values = [value for piece in pieces for value in piece]
    await whole.store_batch(Batch.of(USAGE, [record_batch(40, *values)]))
    ((_, expected),) = whole.clickhouse.written
    by_offset = [("kafka_offset", "ascending")]
    columns = [name for name in rows.column_names if name != "ingested_at"]
    assert rows.select(columns).sort_by(by_offset).to_pylist() == (
        expected.select(columns).sort_by(by_offset).to_pylist()
    )
    assert again["kafka_offset"].to_pylist() == [44]
    assert [each.value for each in bench.dead_letters.letters] == [
        b"nonsense",
        None,
        b"x" * 100_000,
    ]
    (held,) = bench.owner.held
    assert held >= rows.nbytes + again.nbytes + 100_000


async def test_a_repeat_of_a_cut_range_lands_the_same_pieces() -> None:
    """After a crash between two pieces the rows that landed are not doubled, the others land."""

    class Dying(FakeClickHouse):
        pieces_max = 1

        def write(self, rows: pa.Table, token: str) -> None:
            if 41 in rows["kafka_offset"].to_pylist():
                raise RejectedBatchError("clickhouse: code 469 VIOLATED_CONSTRAINT")
            if len(self.written) == self.pieces_max:
                raise FatalError("died")
            super().write(rows, token)

    clickhouse = Dying()
    bench = Bench(clickhouse)
    values = [event(number) for number in range(8)]
    with pytest.raises(FatalError, match="died"):
        await bench.store(*values)
    assert len(clickhouse.written) == 1
    clickhouse.pieces_max = 100
    bench.new_owner()
    await bench.store(*values, is_repeat=True, is_cut=True)
    landed = [
        offset for _, rows in clickhouse.written for offset in rows["kafka_offset"].to_pylist()
    ]
    assert sorted(landed) == [40, *range(42, 48)]
    assert bench.dead_letters.sent == [(41, True)]


async def test_who_has_lost_the_partition_writes_nothing() -> None:
    """A process that was stopped for long finds out before its first write."""
    bench = Bench(FakeClickHouse())
    bench.owner.is_lost = True
    with pytest.raises(PartitionLostError):
        await bench.store(event(0), b"nonsense")
    assert bench.clickhouse.calls == []
    assert bench.dead_letters.sent == []


async def test_a_topic_that_is_mostly_refused_stops_the_worker_before_it_writes() -> None:
    """Neither rows nor dead letters of the range are written."""
    bench = Bench(FakeClickHouse(), bad_records_ratio_max=0.5)
    with pytest.raises(FatalError, match="TOKENTIDE_BAD_RECORDS_RATIO_MAX"):
        await bench.store(*[event(number) for number in range(400)], *[b"nonsense"] * 700)
    assert bench.clickhouse.calls == []
    assert bench.dead_letters.sent == []
