"""Record batches that are odd or damaged, and a real worker."""

import orjson
import pytest

from schemas.topics import USAGE_TOPIC
from tests.conftest import http_answers, run_tokentide
from tests.fuzz.corrupting import damage, segment
from tests.fuzz.raw_batches import LZ4, odd, produce, record_batch
from tests.integration.test_worker import EVENT, Parts, parts, prepare, wait_for, working

assert parts, "a fixture"
VALUES = [orjson.dumps({**EVENT, "event_id": f"e-{number}"}) for number in range(30)]


async def test_odd_batches_are_stored(parts: Parts) -> None:
    """What a broker takes and aiokafka does not read stops nobody."""
    with working(parts) as (worker, _):
        batches = [*odd(VALUES).values(), record_batch(LZ4, VALUES)]
        assert await produce(parts.kafka, USAGE_TOPIC, batches) == [0] * len(batches)
        count = len(batches) * len(VALUES)
        found = "tokentide_records_stored_total", "tokentide_records_duplicate_total"
        wait_for(lambda: sum(map(parts.metric, found)) == count, "all are stored or sent again")
        assert worker.exit_code is None


@pytest.mark.parametrize("records", [None, b"garbage"], ids=["checksum", "records"])
async def test_a_damaged_log_stops_the_worker_with_its_place(
    parts: Parts, records: bytes | None
) -> None:
    """Nothing behind the damage is committed, and one line says where it is."""
    ping = f"http://127.0.0.1:{parts.clickhouse_port}/ping"
    clickhouse = parts.clickhouse()
    clickhouse.start()
    try:
        wait_for(lambda: http_answers(ping), "clickhouse")
        prepare(parts)
        await produce(parts.kafka, USAGE_TOPIC, [record_batch(LZ4, VALUES)] * 3)
        damage(segment(parts.directory, USAGE_TOPIC, 0), 1, records)
        stopped = run_tokentide("worker", **parts.settings())
        assert stopped.returncode == 1
        last = stopped.stderr.strip().splitlines()[-1]
        assert "record batch at offset 30 of llm-usage-v1/0 can't be read" in last, stopped.stderr
        rows = parts.query("SELECT max(kafka_offset) FROM usage_events")
        assert rows[0][0] < 30
    finally:
        clickhouse.stop(20)
