"""``tokentide reconcile`` beside a worker that stores events, as users run it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import clickhouse_connect
import orjson
from click.testing import Result
from clickhouse_connect.driver.httpclient import HttpClient

from deploy.kafka_admin import kafka_answers
from tests.conftest import free_port, invoke_tokentide, run_tokentide, running, tokentide
from tests.integration.test_worker import Parts, wait_for, working


@contextmanager
def parts_in(directory: Path) -> Iterator[Parts]:
    found = Parts(directory, free_port(), free_port(), free_port())
    kafka = tokentide("kafka", "--data-dir", str(directory), "--port", str(found.kafka_port))
    with running("kafka", kafka, directory / "kafka.out", lambda: kafka_answers(found.kafka)):
        yield found


@contextmanager
def writer_of(parts: Parts) -> Iterator[HttpClient]:
    client = clickhouse_connect.get_client(
        host="127.0.0.1",
        port=parts.clickhouse_port,
        username="writer",
        password="writer-local",
        database="tokentide",
    )
    assert isinstance(client, HttpClient)
    try:
        yield client
    finally:
        client.close()


def run(parts: Parts, *options: str) -> Result:
    return invoke_tokentide("reconcile", *options, **parts.settings())


def reconciled(parts: Parts, *options: str) -> tuple[int, Any]:
    done = run(parts, "--format", "json", *options)
    assert done.stdout, done.output
    return done.exit_code, orjson.loads(done.stdout)


def test_what_a_worker_stores_is_checked_and_made_good(tmp_path: Path) -> None:
    """All agree beside a worker; lost records and a damaged rollup are found (exit code 1, table),
    repaired and proven; --rebuild says what it did; the wrong options are refused.
    """
    with parts_in(tmp_path) as parts, working(parts), writer_of(parts) as client:
        parts.produce(0, 500)
        parts.produce(100, 20)  # Sent again: duplicates, or another partition's rows.
        done = run_tokentide("status", "--wait", "--timeout", "60", **parts.settings())
        assert done.returncode == 0, done.stderr
        code, found = reconciled(parts, "--check", "offsets", "--check", "rollups", "--deep")
        assert (code, found["differences"]) == (0, 0), found
        assert found["checks"][0]["compared"] == 522

        ((partition, offset),) = client.query(
            "SELECT kafka_partition, kafka_offset FROM usage_events WHERE event_id = 'e-7'"
        ).result_rows
        client.command("DELETE FROM usage_events WHERE event_id = 'e-7'")
        told = run(parts)
        assert told.exit_code == 1
        assert f"partition {partition} offset {offset}" in told.stdout
        assert "lost" in told.stdout
        places = client.query(
            "SELECT DISTINCT place FROM reconcile_differences WHERE check = 'offsets'"
        ).result_rows
        assert list(places) == [(f"partition {partition} offset {offset}",)]

        code, found = reconciled(parts, "--repair")
        assert (code, found["differences"], found["records_sent_again"]) == (0, 0, 1), found
        wait_for(
            lambda: (
                parts.query("SELECT count() FROM usage_events WHERE event_id = 'e-7'") == [(1,)]
            ),
            "the record that was sent again",
        )
        states = client.query(
            "SELECT state, count() > 0 FROM reconcile_differences GROUP BY state ORDER BY state"
        ).result_rows
        assert list(states) == [("found", 1), ("repaired", 1)]
        code, found = reconciled(parts)
        assert (code, found["differences"]) == (0, 0), found
        assert parts.query("SELECT count(), uniqExact(event_id) FROM usage_events") == [(500, 500)]
        assert parts.query("SELECT sum(requests) FROM usage_1d") == [(500,)]

        told = run(parts, "--rebuild", "2026-05", "--table", "usage_1h")
        assert told.exit_code == 0
        assert "2026-05: usage_1h made anew from 500 rows and swapped in" in told.stdout
        for wrong in (["--table", "usage_1h"], ["--rebuild", "2026-13"]):
            assert run(parts, *wrong).exit_code == 2
    away = run_tokentide("reconcile", **parts.settings())
    assert (away.returncode, away.stderr[:18]) == (1, "Error: no kafka at")
