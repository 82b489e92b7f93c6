"""The agent: refused records go to the dead letters, rows to ClickHouse, and faults are waited out."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import orjson
import pyarrow as pa
import pytest
from faust.types import TP
from prometheus_client import REGISTRY

from agents import store_usage
from agents.store_usage import UsageStore
from schemas.catalogue import Catalogue, Model
from schemas.errors import FatalError, SinkUnavailableError
from sinks.usage_events import arrow_schema
from streams.batches import Batch
from streams.dead_letters import Rejected
from streams.health import Progress
from streams.partitions import StoreRequest
from tests.record_batch import record_batch

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


class FakeWriter:
    """Fails as it is told to, then keeps what it is given."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.written: list[tuple[str, pa.Table]] = []

    def write(self, rows: pa.Table, token: str) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.written.append((token, rows))


class FakeDeadLetters:
    def __init__(self) -> None:
        self.sent: list[tuple[int, bool]] = []

    async def send(self, tp: object, rejected: Sequence[Rejected], *, is_repeat: bool) -> None:
        assert tp == USAGE
        self.sent += [(each.offset, is_repeat) for each in rejected]


async def store(writer: FakeWriter, *values: bytes, is_repeat: bool = False) -> FakeDeadLetters:
    """Store one range at the offsets from 40 on."""
    return await store_ranges(writer, values, is_repeat=is_repeat)


async def store_ranges(
    writer: FakeWriter, *ranges: Sequence[bytes], is_repeat: bool = False
) -> FakeDeadLetters:
    """Store one range after the other."""
    dead_letters = FakeDeadLetters()
    progress = Progress(30)

    async def catalogue() -> Catalogue:
        return Catalogue.of([Model("vendor/model", vendor="vendor", open_weights=True)])

    with ThreadPoolExecutor(1) as executor:
        usage = UsageStore(
            catalogue=catalogue,
            writer=writer,
            dead_letters=dead_letters,
            preparing=executor,
            inserting=executor,
            progress=progress,
            retry_wait_seconds_max=0.01,
        )
        for values in ranges:
            await usage.store(StoreRequest(Batch(USAGE, (record_batch(40, *values),)), is_repeat))
    assert progress.sink_error == ""
    return dead_letters


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_usage, "RETRY_WAIT_SECONDS_MIN", 0.001)


async def test_a_range_becomes_rows_and_dead_letters() -> None:
    """Valid records are written under the range's token, the others sent to the dead letters."""
    writer = FakeWriter()
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
    writer = FakeWriter()
    await store(writer, event(0, "2026-04-30T23:59:59.999Z"), event(1, "2026-05-01T00:00:00Z"))
    assert [token for token, _ in writer.written] == [
        "llm-usage-v1:1:40-41:202604",
        "llm-usage-v1:1:40-41:202605",
    ]
    assert [rows["kafka_offset"].to_pylist() for _, rows in writer.written] == [[40], [41]]


async def test_an_unavailable_sink_is_tried_again_with_the_same_rows_and_token() -> None:
    """Whatever lasts a while is waited out; the block is not built anew."""
    writer = FakeWriter(*[SinkUnavailableError("away")] * 5)
    await store(writer, event(0))
    assert [token for token, _ in writer.written] == ["llm-usage-v1:1:40-40:202605"]


async def test_what_needs_a_person_is_not_tried_again() -> None:
    """A missing table, say, ends the store with its error."""
    writer = FakeWriter(FatalError("table is gone"))
    with pytest.raises(FatalError, match="table is gone"):
        await store(writer, event(0))
    assert writer.written == []


async def test_a_repeat_is_told_to_the_dead_letters() -> None:
    """So that those which an earlier owner has sent are not sent twice."""
    dead_letters = await store(FakeWriter(), b"nonsense", is_repeat=True)
    assert dead_letters.sent == [(40, True)]


async def test_a_range_of_refused_records_writes_nothing() -> None:
    """No empty insert."""
    writer = FakeWriter()
    await store(writer, b"nonsense")
    assert writer.written == []


async def test_the_watermark_does_not_go_back() -> None:
    """A range of late events leaves the newest event time where it was."""
    await store_ranges(
        FakeWriter(), [event(0, "2026-05-28T20:26:39Z")], [event(1, "2026-05-01T00:00:00Z")]
    )
    value = REGISTRY.get_sample_value("tokentide_watermark_timestamp_seconds", {"partition": "1"})
    assert value == datetime(2026, 5, 28, 20, 26, 39, tzinfo=UTC).timestamp()
