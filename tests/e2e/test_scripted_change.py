"""A share changes on the usage topic; someone is told, once, and told when it is over.

The whole path: events, Kafka, the worker, ClickHouse, panes, windows, the detector, its explanation and
a webhook and a real Alertmanager. Two days of history are put into ClickHouse as the windows that a worker would have stored;
the last two hours are a backlog of events, so that they pass as fast as they are stored.
"""

import hashlib
import random
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import clickhouse_connect
import orjson
import pytest
from kafka import KafkaProducer

from deploy.kafka_admin import kafka_answers
from deploy.local.processes import Child
from schemas.panes import DIMENSIONS, MEASURES
from schemas.topics import USAGE_TOPIC
from sinks.share_alerts import ShareAlerts
from sinks.share_windows import ShareWindows
from tests.conftest import environment, free_port, http_answers, running, tokentide
from tests.e2e.alertmanager import NotBuiltError, alertmanager
from tests.e2e.test_alerting import Webhook, wait_for, webhook  # noqa: F401
from tests.integration.test_worker import Parts, prepare

BIN_MS = 300_000
HISTORY_BINS = 2 * 288
LIVE_BINS = 24
REQUESTS = 600
TOKENS = 1_200
SHARES = {"openai": 0.4, "anthropic": 0.3, "deepseek": 0.2, "google": 0.1}
MODELS = {
    "openai": "openai/gpt-4o",
    "anthropic": "anthropic/claude-3.5-haiku",
    "deepseek": "deepseek/deepseek-chat",
    "google": "google/gemini-2.5-flash",
}
CHANGED = range(8, 15)
"""Bins of the last two hours in which one vendor has nearly three times its requests."""
FACTOR = 2.7
FOUND_MS = 30 * 60_000


class AlertParts(Parts):
    """A worker that watches vendors."""

    url = ""
    alertmanager = ""

    def worker(self) -> Child:
        own = {
            "allowed_lateness_seconds": 1,
            "alert_dimensions": "vendor",
            "alert_history_days": 3,
            "alerts_webhook_url": f"{self.url}/alerts",
            "alertmanager_urls": self.alertmanager,
            "alerts_resend_seconds": 1,
            "worker_name": "worker-0",
            "session_timeout_seconds": 6,
        }
        log = self.directory / "worker.out"
        return Child("worker", tokentide("worker"), log, environment(**{**self.settings(), **own}))


def drawn(rng: random.Random, expected: float) -> int:
    """Return a number of requests near an expected one."""
    return max(0, round(rng.gauss(expected, expected**0.5)))


def as_window(end_ms: int, counts: dict[str, int]) -> dict[str, Any]:
    """Return the window of five minutes that a worker would have stored."""
    values = sorted(counts, key=lambda value: -counts[value])
    requests = [counts[value] for value in values]
    per_request = dict.fromkeys(MEASURES, 0) | {
        "requests": 1,
        "tokens_prompt": 1_000,
        "tokens_completion": 200,
        "tokens_capped": TOKENS,
        "tokens_capped_squared": TOKENS**2,
    }
    total = sum(requests)
    ends = [sum(requests[: at + 1]) * 10**9 // total for at in range(len(requests))]
    shares = [end - begin for begin, end in zip([0, *ends[:-1]], ends, strict=True)]
    return {
        "dimension": "vendor",
        "window_seconds": 300,
        "window_end_ms": end_ms,
        "revision": 0,
        "is_complete": True,
        "watermark_ms": end_ms + 1_000,
        "given_ms": end_ms + 2_000,
        "requests_total": total,
        "tokens_total": total * TOKENS,
        "cost_nanousd_total": 0,
        "values": values,
        **{name: [each * n for n in requests] for name, each in per_request.items()},
        "users": requests,
        "share_requests_billionths": shares,
        "share_tokens_billionths": shares,
        "share_cost_billionths": [0] * len(values),
        **{f"previous_{name}_billionths": [] for name in ("requests", "tokens", "cost")},
    }


def write_history(parts: Parts, until_ms: int, rng: random.Random) -> None:
    """Store two quiet days of windows, and that the detector has judged them."""
    client = clickhouse_connect.get_client(
        host="127.0.0.1",
        port=parts.clickhouse_port,
        username="writer",
        password="writer-local",
        database="tokentide",
    )
    windows = [
        as_window(
            until_ms - BIN_MS * back,
            {vendor: drawn(rng, REQUESTS * share) for vendor, share in SHARES.items()},
        )
        for back in reversed(range(HISTORY_BINS))
    ]
    ShareWindows(client, "tokentide").write(windows)
    # The other dimensions go on from there too.
    others = [
        {**windows[-1], "dimension": dimension} for dimension in DIMENSIONS if dimension != "vendor"
    ]
    ShareWindows(client, "tokentide").write(others)
    ShareAlerts(client, "tokentide").write_bin(
        until_ms,
        observed_at_ms=until_ms,
        dimensions=1,
        is_complete=True,
        transitions=0,
        parameters_version="history",
    )
    client.close()


def events_of(bin_start_ms: int, number: int, rng: random.Random) -> list[bytes]:
    """Return the events of a bin in the order of their times."""
    made = []
    for vendor, share in SHARES.items():
        factor = FACTOR if vendor == "deepseek" and number in CHANGED else 1
        made += [
            (bin_start_ms + rng.randrange(BIN_MS), vendor)
            for _ in range(drawn(rng, REQUESTS * share * factor))
        ]
    return [
        orjson.dumps(
            {
                "schema_version": 1,
                "source": "synthetic",
                "event_id": f"s-{at_ms}-{place}",
                "occurred_at": datetime.fromtimestamp(at_ms / 1000, UTC)
                .isoformat(timespec="milliseconds")
                .replace("+00:00", "Z"),
                "model_raw": MODELS[vendor],
                "tokens_prompt": 1_000,
                "tokens_completion": 200,
                "status": "ok",
                "user_hash": hashlib.sha256(b"%d" % rng.randrange(200)).hexdigest(),
            }
        )
        for place, (at_ms, vendor) in enumerate(sorted(made))
    ]


def produce(kafka: str, values: list[bytes]) -> None:
    producer = KafkaProducer(bootstrap_servers=kafka, acks="all")
    for number, value in enumerate(values):
        producer.send(USAGE_TOPIC, value, partition=number % 4)
    producer.flush()
    producer.close()


@pytest.fixture
def parts(tmp_path: Path, webhook: Webhook) -> Iterator[AlertParts]:  # noqa: F811
    """A broker and an engine that are ready for a worker, and an Alertmanager if Go can build it."""
    found = AlertParts(tmp_path, free_port(), free_port(), free_port())
    found.url = webhook.url
    kafka = tokentide("kafka", "--data-dir", str(tmp_path), "--port", str(found.kafka_port))
    clickhouse = found.clickhouse()
    with ExitStack() as stack:
        with suppress(NotBuiltError):
            found.alertmanager = stack.enter_context(alertmanager(tmp_path, webhook.url))
        log = tmp_path / "kafka.out"
        stack.enter_context(running("kafka", kafka, log, lambda: kafka_answers(found.kafka)))
        stack.callback(clickhouse.stop, 20)
        clickhouse.start()
        ping = f"http://127.0.0.1:{found.clickhouse_port}/ping"
        wait_for(lambda: http_answers(ping), "clickhouse")
        prepare(found)
        yield found


@contextmanager
def worker_of(parts: Parts) -> Iterator[Child]:
    worker = parts.worker()
    worker.start()
    try:
        yield worker
    finally:
        worker.stop(20)


def notified(webhook: Webhook) -> list[str]:  # noqa: F811
    """Return what Alertmanager has said of the vendor, in order."""
    return [
        each["status"]
        for each in webhook.notified()
        if (each["labels"]["dimension"], each["labels"]["series"]) == ("vendor", "deepseek")
    ]


@pytest.mark.timeout(900)
def test_a_change_is_told_once_with_its_cause_and_its_end(
    parts: AlertParts,
    webhook: Webhook,  # noqa: F811
) -> None:
    """Within half an hour of event time, though the worker is killed while it fires."""
    rng = random.Random(11)
    until_ms = (int(time.time() * 1000) // BIN_MS - LIVE_BINS) * BIN_MS
    write_history(parts, until_ms, rng)
    bins = [events_of(until_ms + BIN_MS * n, n, rng) for n in range(LIVE_BINS)]
    changed_ms = until_ms + BIN_MS * CHANGED[0]
    # All at once: while nothing comes time goes on, and there would be bins without requests.
    produce(parts.kafka, [value for each in bins for value in each])
    states = ["firing", "resolved"]

    def is_notified(state: str) -> bool:
        return not parts.alertmanager or state in notified(webhook)

    with worker_of(parts) as worker:
        wait_for(lambda: webhook.states("deepseek"), "the alert")
        wait_for(lambda: is_notified("firing"), "Alertmanager's notification")
        worker.stop(0)
    with worker_of(parts):
        wait_for(lambda: "resolved" in webhook.states("deepseek"), "the end of the alert")
        wait_for(lambda: is_notified("resolved"), "Alertmanager's notification of the end")
    assert notified(webhook) == (states if parts.alertmanager else [])
    assert webhook.states("deepseek") == states
    alerts = [orjson.loads(body) for path, _, body in webhook.got if path == "/alerts"]
    assert {each["value"] for each in alerts} == {"deepseek"}, [each["sentence"] for each in alerts]
    first = alerts[0]
    assert first["sentence"].startswith("Vendor deepseek rose from ")
    at = datetime.fromisoformat(first["at"].replace("Z", "+00:00"))
    assert changed_ms < at.timestamp() * 1000 <= changed_ms + FOUND_MS
