"""Once, whatever comes: events sent again, rows that the engine refuses, topics full of rubbish."""

import os
import signal
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import clickhouse_connect
import orjson
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from schemas.topics import DEAD_LETTER_TOPIC, USAGE_TOPIC
from tests.integration.test_worker import EVENT, WAIT_SECONDS, Parts, parts, wait_for, working
from tests.rollups import OF_ALL

__all__ = ["parts"]


def event(number: int, **changes: object) -> bytes:
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    sampled = {"category": "programming"} if number % 2 else {}
    return orjson.dumps(
        {**EVENT, "event_id": f"e-{number}", "occurred_at": now, **sampled, **changes}
    )


def send(parts: Parts, values: list[bytes], partition: int = 0) -> None:
    producer = KafkaProducer(bootstrap_servers=parts.kafka, acks="all")
    for value in values:
        producer.send(USAGE_TOPIC, value, partition=partition)
    producer.flush()
    producer.close()


def dead_letters(parts: Parts, count: int) -> list[dict[str, bytes]]:
    """Return value and headers of the first ``count`` dead letters of partition 0."""
    consumer = KafkaConsumer(
        bootstrap_servers=parts.kafka,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
    )
    found: list[Any] = []
    try:
        consumer.assign([TopicPartition(DEAD_LETTER_TOPIC, 0)])

        def is_there() -> bool:
            for records in consumer.poll(timeout_ms=500).values():
                found.extend(records)
            return len(found) >= count

        wait_for(is_there, f"{count} dead letters")
    finally:
        consumer.close()
    return [{"value": each.value, **dict(each.headers)} for each in found]


def command(parts: Parts, sql: str) -> None:
    client = clickhouse_connect.get_client(
        host="127.0.0.1",
        port=parts.clickhouse_port,
        username="writer",
        password="writer-local",
        database="tokentide",
    )
    try:
        client.command(sql)
    finally:
        client.close()


def stored(parts: Parts) -> Callable[[int], bool]:
    return lambda rows: parts.query("SELECT count() FROM usage_events") == [(rows,)]


def in_rollup(parts: Parts, table: str, requests: int) -> Callable[[], bool]:
    """Rollups are filled after the table: a moment later they have the same."""
    return lambda: parts.query(f"SELECT sum(requests) FROM {table}") == [(requests,)]


def test_events_sent_again_are_set_aside_and_counted(parts: Parts) -> None:
    """In the same batch, in a later one, and to a worker that was killed and started again."""
    values = [event(number) for number in range(300)]
    with working(parts) as (worker, _):
        send(parts, values + values[:50])
        wait_for(lambda: stored(parts)(300), "the events")
        send(parts, values)
        duplicates = "tokentide_records_duplicate_total"
        wait_for(lambda: parts.metric(duplicates) == 350, "the re-sent ones")
        # Else they are read, and counted, once more.
        committed = "tokentide_records_committed_total"
        wait_for(lambda: parts.metric(committed) == 650, "their offsets")
        worker.stop(0)
        worker.start()
        send(parts, values)
        send(parts, [event(number) for number in range(300, 310)])
        wait_for(lambda: stored(parts)(310), "new events after old ones")
        wait_for(lambda: parts.metric(duplicates) == 300, "those sent again to the new worker")
        assert parts.query("SELECT count(), uniqExact(event_id) FROM usage_duplicates") == [
            (650, 300)
        ]
        assert parts.query(
            "SELECT count(), uniqExact(o), min(o), max(o) FROM (SELECT kafka_offset AS o FROM"
            " usage_events UNION ALL SELECT kafka_offset FROM usage_duplicates)"
        ) == [(960, 960, 0, 959)]
        for table in OF_ALL:
            assert parts.query(f"SELECT sum(requests) FROM {table}") == [(310,)], table
        assert parts.query("SELECT sum(requests) FROM usage_sampled_1d") == [(155,)]


def test_the_same_id_from_another_source_is_another_event(parts: Parts) -> None:
    """Ids are unique per source only."""
    with working(parts):
        send(parts, [event(1), event(1, source="litellm"), event(1, source="litellm")])
        wait_for(lambda: stored(parts)(2), "two events")


def test_rows_that_the_engine_refuses_are_dead_lettered_and_the_rest_lands(parts: Parts) -> None:
    """A constraint of the table refuses three of a thousand rows: exactly these become dead letters."""
    values = [
        event(number, tokens_prompt=666 if number in (3, 500, 501) else 10)
        for number in range(1000)
    ]
    with working(parts):
        command(parts, "ALTER TABLE usage_events ADD CONSTRAINT mild CHECK tokens_prompt != 666")
        send(parts, [*values, b"no event"])
        letters = dead_letters(parts, 4)
        wait_for(lambda: stored(parts)(997), "all other rows")
        assert [each["value"] for each in letters] == [
            values[3],
            values[500],
            values[501],
            b"no event",
        ]
        assert [
            (each["origin_offset"], each["stage"], each["reason"], each["field"])
            for each in letters
        ] == [
            (b"3", b"insert", b"refused_by_clickhouse", b"VIOLATED_CONSTRAINT"),
            (b"500", b"insert", b"refused_by_clickhouse", b"VIOLATED_CONSTRAINT"),
            (b"501", b"insert", b"refused_by_clickhouse", b"VIOLATED_CONSTRAINT"),
            (b"1000", b"decode", b"invalid_json", b""),
        ]
        wait_for(in_rollup(parts, "usage_1m", 997), "the same in a rollup")
        command(parts, "ALTER TABLE usage_events DROP CONSTRAINT mild")
        send(parts, [values[3]])
        wait_for(lambda: stored(parts)(998), "the event, sent again when it is welcome")


def test_a_view_that_refuses_rows_stops_the_worker_and_costs_nothing(parts: Parts) -> None:
    """The table has taken the rows: the worker says what to mend, and then completes the view."""
    with working(parts) as (worker, _):
        command(
            parts,
            "CREATE TABLE picky (n UInt8) ENGINE = MergeTree ORDER BY n"
            " SETTINGS non_replicated_deduplication_window = 1000",
        )
        command(
            parts,
            "CREATE MATERIALIZED VIEW to_picky TO picky AS SELECT"
            " CAST(if(tokens_prompt = 666, 'bad', '1'), 'UInt8') AS n FROM usage_events",
        )
        send(parts, [event(number, tokens_prompt=666) for number in range(3)])
        wait_for(lambda: worker.exit_code is not None, "a worker that stops")
        assert worker.exit_code == 1
        log = (parts.directory / "worker.out").read_text()
        assert "a view of usage_events refuses rows that the table has taken" in log
        command(parts, "DROP VIEW to_picky")
        worker.start()
        send(parts, [event(7)])
        wait_for(lambda: stored(parts)(4), "the rows once and the next")
        for table in OF_ALL:
            wait_for(in_rollup(parts, table, 4), f"the same in {table}")
        wait_for(in_rollup(parts, "usage_sampled_1d", 2), "the sampled ones")


def test_a_topic_full_of_rubbish_stops_the_worker(parts: Parts) -> None:
    """Nothing of it is acknowledged; with the limit lifted everything passes to the dead letters."""
    with working(parts) as (worker, _):
        send(parts, [b"rubbish"] * 1500)
        wait_for(lambda: worker.exit_code is not None, "a worker that stops")
        assert worker.exit_code == 1
        log = Path(parts.directory / "worker.out").read_text()
        assert "1500 of the last 1500 records of partition 0 are refused" in log
        worker.environment = {**worker.environment, "TOKENTIDE_BAD_RECORDS_RATIO_MAX": "1"}
        worker.start()
        assert len(dead_letters(parts, 1500)) == 1500


def test_a_second_signal_ends_a_worker_at_once_and_loses_nothing(parts: Parts) -> None:
    """While ClickHouse hangs the first SIGTERM waits for the range in flight, the second does not."""
    with working(parts) as (worker, clickhouse):
        send(parts, [event(number) for number in range(10)])
        wait_for(lambda: stored(parts)(10), "the first events")
        assert worker.process is not None
        assert clickhouse.process is not None
        os.kill(clickhouse.process.pid, signal.SIGSTOP)
        try:
            send(parts, [event(number) for number in range(10, 20)])
            # A first fetch may hold fewer than all that was sent.
            wait_for(lambda: parts.metric("tokentide_records_in_flight") > 0, "a range in flight")
            worker.process.send_signal(signal.SIGTERM)
            log = parts.directory / "worker.out"
            wait_for(lambda: "worker.stopping" in log.read_text(), "the first signal taken")
            worker.process.send_signal(signal.SIGTERM)
            assert worker.process.wait(WAIT_SECONDS) == 1
            assert "worker.aborted" in log.read_text(), "it has not waited"
        finally:
            os.kill(clickhouse.process.pid, signal.SIGCONT)
        worker.start()
        wait_for(lambda: stored(parts)(20), "the range that was cut short")
        wait_for(in_rollup(parts, "usage_1m", 20), "the same in a rollup")
