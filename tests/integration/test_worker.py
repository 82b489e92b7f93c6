"""A worker process with a real broker and a real engine, as users start it."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import clickhouse_connect
import orjson
import pytest
from kafka import KafkaProducer

from deploy.kafka_admin import kafka_answers
from deploy.local.processes import Child
from schemas.topics import USAGE_TOPIC
from tests.conftest import (
    environment,
    free_port,
    http_answers,
    invoke_tokentide,
    run_tokentide,
    running,
    tokentide,
)

WAIT_SECONDS = 60.0


@dataclass
class Parts:
    """A broker, an engine and the settings that lead to them."""

    directory: Path
    kafka_port: int
    clickhouse_port: int
    worker_port: int
    kafka_child: Child | None = None

    @property
    def kafka(self) -> str:
        return f"127.0.0.1:{self.kafka_port}"

    def settings(self) -> dict[str, Any]:
        return {
            "kafka_bootstrap_servers": self.kafka,
            "clickhouse_port": self.clickhouse_port,
            "worker_port": self.worker_port,
            "clickhouse_request_timeout_seconds": 5,
            "stall_seconds": 5,
        }

    def clickhouse(self) -> Child:
        command = tokentide(
            "clickhouse",
            "--data-dir",
            str(self.directory),
            "--port",
            str(self.clickhouse_port),
        )
        return Child("clickhouse", command, self.directory / "clickhouse.out", environment())

    def worker(self) -> Child:
        log = self.directory / "worker.out"
        return Child("worker", tokentide("worker"), log, environment(**self.settings()))

    def query(self, sql: str) -> Any:
        client = clickhouse_connect.get_client(
            host="127.0.0.1", port=self.clickhouse_port, username="reader", database="tokentide"
        )
        try:
            return client.query(sql).result_rows
        finally:
            client.close()

    def readiness(self) -> tuple[int, list[str]]:
        try:
            with urlopen(f"http://127.0.0.1:{self.worker_port}/readyz", timeout=5) as answer:
                return int(answer.status), orjson.loads(answer.read())["reasons"]
        except HTTPError as error:
            return error.code, orjson.loads(error.read())["reasons"]
        except (URLError, OSError):
            return 0, []

    def metrics(self, *names: str) -> list[str]:
        """Return the lines of the page, or only those of some names."""
        only = urlencode([("name[]", name) for name in names])
        url = f"http://127.0.0.1:{self.worker_port}/metrics?{only}"
        with urlopen(url, timeout=5) as answer:
            return str(answer.read().decode()).splitlines()

    def metric(self, name: str) -> float:
        found = [line for line in self.metrics() if line.startswith(name)]
        return sum(float(line.split()[-1]) for line in found)

    def produce(self, first: int, count: int, **changes: object) -> None:
        producer = KafkaProducer(bootstrap_servers=self.kafka, acks="all")
        for number in range(first, first + count):
            producer.send(
                USAGE_TOPIC, orjson.dumps({**EVENT, "event_id": f"e-{number}", **changes})
            )
        producer.send(USAGE_TOPIC, b"no event")
        producer.flush()
        producer.close()


EVENT = {
    "schema_version": 1,
    "source": "synthetic",
    "occurred_at": "2026-05-28T20:26:39Z",
    "model_raw": "openai/gpt-4o",
    "tokens_prompt": 10,
    "tokens_completion": 5,
    "status": "ok",
}


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"not within {WAIT_SECONDS:.0f} s: {what}"
        time.sleep(0.1)


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    """Parts of one test alone: it stops and starts them."""
    found = Parts(tmp_path, free_port(), free_port(), free_port())
    kafka = tokentide("kafka", "--data-dir", str(tmp_path), "--port", str(found.kafka_port))
    log = tmp_path / "kafka.out"
    with running("kafka", kafka, log, lambda: kafka_answers(found.kafka)) as child:
        found.kafka_child = child
        yield found


@contextmanager
def working(parts: Parts) -> Iterator[tuple[Child, Child]]:
    """Yield a ready worker and its engine."""
    clickhouse, worker = parts.clickhouse(), parts.worker()
    clickhouse.start()
    try:
        ping = f"http://127.0.0.1:{parts.clickhouse_port}/ping"
        wait_for(lambda: http_answers(ping), "clickhouse")
        prepare(parts)
        worker.start()
        wait_for(lambda: parts.readiness()[0] == 200, "a ready worker")
        yield worker, clickhouse
    finally:
        worker.stop(20)
        clickhouse.stop(20)


def prepare(parts: Parts) -> None:
    for command in (("topics",), ("migrate",), ("catalogue", "publish")):
        done = invoke_tokentide(*command, **parts.settings())
        assert done.exit_code == 0, done.output


def test_clickhouse_away_costs_lag_and_nothing_else(parts: Parts) -> None:
    """While the engine is down nothing is acknowledged and /readyz says why; then all lands once."""
    with working(parts) as (_, clickhouse):
        parts.produce(0, 500)
        committed = "tokentide_records_committed_total"
        wait_for(lambda: parts.metric(committed) == 501, "the first records")
        clickhouse.stop(0)
        parts.produce(500, 500)
        wait_for(lambda: parts.readiness()[0] == 503, "a worker that is not ready")
        assert any("clickhouse" in reason for reason in parts.readiness()[1])
        assert parts.metric(committed) == 501
        clickhouse.start()
        wait_for(lambda: parts.readiness()[0] == 200, "a worker that is ready again")
        done = invoke_tokentide("status", "--wait", "--timeout", "60", **parts.settings())
        assert done.exit_code == 0, done.output
        assert parts.query("SELECT count(), uniqExact(event_id) FROM usage_events") == [
            (1000, 1000)
        ]
        assert parts.query("SELECT sum(requests) FROM usage_1m") == [(1000,)]
        assert parts.metric("tokentide_records_read_total") == 1002
        assert parts.metric("tokentide_records_stored_total") == 1000
        assert parts.metric("tokentide_records_dead_lettered_total") == 2
        assert parts.metric("tokentide_records_in_flight") == 0
        families = [
            line.split()[2] for line in parts.metrics(committed) if line.startswith("# TYPE")
        ]
        assert families == [committed]


def test_a_broker_that_hangs_is_told_and_survived(parts: Parts) -> None:
    """While Kafka does not answer /readyz says so; when it does again, the worker goes on."""
    assert parts.kafka_child is not None
    assert parts.kafka_child.process is not None
    broker = parts.kafka_child.process.pid
    with working(parts):
        parts.produce(0, 10)
        wait_for(lambda: parts.query("SELECT count() FROM usage_events") == [(10,)], "rows")
        os.kill(broker, signal.SIGSTOP)
        try:
            wait_for(
                lambda: any(
                    reason.startswith("kafka: no answer") for reason in parts.readiness()[1]
                ),
                "a reason that names kafka",
            )
            assert parts.readiness()[0] == 503
        finally:
            os.kill(broker, signal.SIGCONT)
        wait_for(lambda: parts.readiness()[0] == 200, "a worker that is ready again")
        parts.produce(10, 10)
        wait_for(lambda: parts.query("SELECT count() FROM usage_events") == [(20,)], "new rows")


def test_a_changed_model_is_used_without_a_restart(parts: Parts) -> None:
    """An edit of the catalogue counts from the next batch on; SIGTERM ends a worker cleanly."""
    with working(parts) as (worker, _):
        parts.produce(0, 1)
        wait_for(lambda: parts.query("SELECT count() FROM usage_events") == [(1,)], "a row")
        done = run_tokentide(
            "catalogue", "edit", "openai/gpt-4o", "vendor=renamed", **parts.settings()
        )
        assert done.returncode == 0, done.stderr
        wait_for(lambda: parts.metric("tokentide_catalogue_changes_total") == 1, "the change")
        parts.produce(1, 1)
        wait_for(lambda: parts.query("SELECT count() FROM usage_events") == [(2,)], "both rows")
        vendors = parts.query("SELECT vendor FROM usage_events ORDER BY kafka_partition, event_id")
        assert sorted(vendors) == [("openai",), ("renamed",)]
        assert worker.process is not None
        worker.process.send_signal(signal.SIGTERM)
        assert worker.process.wait(30) == 0


def test_a_worker_that_can_not_work_says_why_in_one_line(parts: Parts) -> None:
    """No ClickHouse, no schema, no catalogue, a busy port: one line, exit code 1."""

    def fault(**changes: object) -> str:
        done = run_tokentide("worker", **{**parts.settings(), **changes})
        assert done.returncode == 1
        lines = done.stderr.strip().splitlines()
        assert len(lines) == 1, done.stderr
        return lines[0]

    assert "clickhouse at 127.0.0.1" in fault()
    clickhouse = parts.clickhouse()
    clickhouse.start()
    ping = f"http://127.0.0.1:{parts.clickhouse_port}/ping"
    wait_for(lambda: http_answers(ping), "clickhouse")
    try:
        assert "tokentide migrate" in fault()
        assert invoke_tokentide("migrate", **parts.settings()).exit_code == 0
        assert "tokentide topics" in fault()
        assert invoke_tokentide("topics", **parts.settings()).exit_code == 0
        assert "tokentide catalogue publish" in fault()
        assert "TOKENTIDE_WORKER_PORT" in fault(worker_port=parts.kafka_port)
        assert "kafka at 127.0.0.1" in fault(kafka_bootstrap_servers="127.0.0.1:1")
    finally:
        clickhouse.stop(20)
