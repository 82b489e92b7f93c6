"""From windows to people: detected, explained, stored, delivered, resolved, and nothing twice."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import orjson
import pytest
from clickhouse_connect.driver.httpclient import HttpClient
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.structs import OffsetAndMetadata

from deploy.local.processes import Child, free_port
from schemas.share_alert import decode
from schemas.topics import SHARE_ALERTS_TOPIC, SHARES_TOPIC
from sinks.share_windows import ShareWindows
from sinks.usage_events import UsageEventWriter
from streams.detection import BIN_MS
from tests.conftest import ClickHouseAddress as Server
from tests.conftest import environment, http_answers, invoke_tokentide
from tests.e2e.alertmanager import NotBuiltError, alertmanager
from tests.integration.sinks_database import migrated, rows_of
from tests.made_market import SHARES, make_requests, rows, windows
from tests.usage_rows import as_table

# Building Alertmanager takes minutes on a busy machine, the first time.
pytestmark = pytest.mark.timeout(1800)
WAIT_SECONDS = 300.0
HISTORY_DAYS = 2
REQUESTS = 600
FALLEN = {**SHARES, "tiger": 0.12}


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + WAIT_SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {WAIT_SECONDS:.0f} s: {what}"
        time.sleep(0.1)
    return found


@dataclass
class Webhook:
    """A receiver of alerts, which may be down."""

    port: int = 0
    is_down: bool = False
    got: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def states(self, value: str = "tiger") -> list[str]:
        """Return what came of the vendor's own alert, in order."""
        found = [decode(body) for path, _, body in self.got if path == "/alerts"]
        return [each.state for each in found if (each.dimension, each.value) == ("vendor", value)]

    def notified(self) -> list[dict[str, Any]]:
        """Return the alerts of Alertmanager's notifications."""
        return [
            each
            for path, _, body in self.got
            if path == "/notify"
            for each in orjson.loads(body)["alerts"]
        ]


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    found = Webhook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if found.is_down:
                self.send_response(503)
            else:
                found.got.append((self.path, dict(self.headers), body))
                self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield found
        finally:
            server.shutdown()
            thread.join()


def window_key(window: dict[str, Any]) -> bytes:
    parts = (window["dimension"], window["window_seconds"], window["window_end_ms"])
    return "/".join(map(str, parts)).encode()


@dataclass
class Market:
    """What has happened so far, and how it is told to the agent."""

    client: HttpClient
    kafka: str
    end_ms: int
    offset: int = 0
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(5))

    @property
    def windows(self) -> ShareWindows:
        assert self.client.database is not None
        return ShareWindows(self.client, self.client.database)

    def remember(self, bins: int) -> None:
        """Let quiet time pass that nobody has watched."""
        found = []
        for _ in range(bins):
            self.end_ms += BIN_MS
            found += windows(make_requests(self.rng, REQUESTS), self.end_ms)
        self.windows.write(found)

    def live(self, bins: int, shares: dict[str, float] = SHARES, *, again: bool = False) -> None:
        """Let time pass: events are stored, windows closed, stored and published."""
        assert self.client.database is not None
        producer = KafkaProducer(bootstrap_servers=self.kafka, acks="all")
        for _ in range(bins):
            self.end_ms += BIN_MS
            made = make_requests(self.rng, REQUESTS, shares)
            UsageEventWriter(self.client, self.client.database).write(
                as_table(rows(made, self.end_ms, self.offset)), f"bin-{self.end_ms}"
            )
            self.offset += len(made)
            found = windows(made, self.end_ms)
            self.windows.write(found)
            for window in found * (2 if again else 1):
                producer.send(SHARES_TOPIC, orjson.dumps(window), key=window_key(window))
        producer.flush()
        producer.close()

    def alerts(self, value: str = "tiger") -> list[dict[str, Any]]:
        return rows_of(
            self.client,
            "SELECT * FROM share_alerts WHERE dimension = 'vendor' AND value = {value:String}"
            " ORDER BY recorded_at, version",
            value=value,
        )

    def judged(self) -> bool:
        found = rows_of(
            self.client, "SELECT toUnixTimestamp(max(bin_end)) AS end FROM share_detector_bins"
        )
        return bool(found[0]["end"] * 1000 == self.end_ms)


@pytest.fixture
def market(kafka_bootstrap: str, clickhouse: Server, fresh_database: str) -> Iterator[Market]:
    done = invoke_tokentide("topics", kafka_bootstrap_servers=kafka_bootstrap)
    assert done.exit_code == 0, done.output
    with migrated(clickhouse, fresh_database) as client:
        # The tables drop what is old; three hours ago, so that all that is live is in the past.
        start_ms = int(time.time() * 1000) // BIN_MS * BIN_MS - 4 * 3_600_000
        found = Market(client, kafka_bootstrap, start_ms - HISTORY_DAYS * 86_400_000)
        found.remember(HISTORY_DAYS * 288)
        yield found


@pytest.fixture
def worker(
    market: Market,
    clickhouse: Server,
    webhook: Webhook,
    fresh_group: str,
    tmp_path: Path,
) -> Iterator[Callable[..., Child]]:
    """Start a worker; each is stopped at the end."""
    pass_over(market.kafka, fresh_group)
    started: list[Child] = []
    port = free_port()

    def start(**settings: Any) -> Child:
        child = Child(
            "alerting",
            [sys.executable, "-m", "tests.e2e.alerting_worker"],
            tmp_path / f"worker-{len(started)}.log",
            environment(
                kafka_bootstrap_servers=market.kafka,
                consumer_group=fresh_group,
                worker_name="alerting",
                clickhouse_port=clickhouse.port,
                clickhouse_database=market.client.database,
                worker_port=port,
                alert_history_days=HISTORY_DAYS,
                alerts_webhook_url=f"{webhook.url}/alerts",
                alerts_webhook_secret="secret",
                alerts_resend_seconds=1,
                **settings,
            ),
        )
        started.append(child)
        child.start()
        wait_for(lambda: http_answers(f"http://127.0.0.1:{port}/readyz"), "a ready worker")
        return child

    yield start
    for child in started:
        child.stop(20)


def pass_over(kafka: str, group: str) -> None:
    """Let a group begin behind the windows of other tests: all share the topic."""
    consumer = KafkaConsumer(bootstrap_servers=kafka, group_id=group, enable_auto_commit=False)
    partition = TopicPartition(SHARES_TOPIC, 0)
    consumer.assign([partition])
    end = consumer.end_offsets([partition])[partition]
    consumer.commit({partition: OffsetAndMetadata(end, "", -1)})
    consumer.close()


def kill(child: Child) -> None:
    assert child.process is not None
    os.kill(child.process.pid, signal.SIGKILL)
    child.process.wait(30)


def on_topic(market: Market) -> list[tuple[str, int]]:
    """Return alert and version of every record about the vendor, of this market."""
    consumer = KafkaConsumer(
        SHARE_ALERTS_TOPIC,
        bootstrap_servers=market.kafka,
        auto_offset_reset="earliest",
        consumer_timeout_ms=3000,
    )
    known = {row["alert_id"] for row in market.alerts()}
    found = [decode(record.value) for record in consumer]
    consumer.close()
    return [(each.alert_id, each.version) for each in found if each.alert_id in known]


def test_an_alert_fires_once_and_is_resolved_though_the_worker_is_killed(
    market: Market, worker: Callable[..., Child], webhook: Webhook
) -> None:
    """Killed before it could deliver, and again before the change ends: one alert, told in order."""
    first = worker()
    market.live(3)
    wait_for(market.judged, "quiet bins judged")
    assert market.alerts() == []
    webhook.is_down = True
    market.live(5, FALLEN, again=True)
    wait_for(market.judged, "the change judged")
    (fired,) = market.alerts()
    assert fired["state"] == "firing"
    assert fired["at"].timestamp() * 1000 <= market.end_ms - 2 * BIN_MS
    assert fired["explanation"] != "null"
    assert fired["sentence"].startswith("Vendor tiger fell from 3")
    kill(first)
    webhook.is_down = False
    second = worker()
    wait_for(lambda: webhook.states() == ["firing"], "the alert, from the next worker")
    market.live(2, FALLEN)
    wait_for(market.judged, "more of the change")
    kill(second)
    worker()
    market.live(14)
    wait_for(market.judged, "quiet again")
    wait_for(lambda: webhook.states() == ["firing", "resolved"], "the end")
    stored = market.alerts()
    assert [(row["state"], row["version"]) for row in stored] == [("firing", 1), ("resolved", 2)]
    assert len({row["alert_id"] for row in stored}) == 1
    keys = [headers["webhook-id"] for path, headers, _ in webhook.got if path == "/alerts"]
    assert len(keys) == len(set(keys))
    expected = [(row["alert_id"], row["version"]) for row in stored]
    wait_for(lambda: on_topic(market) == expected, "both on the topic, once")


def test_a_real_alertmanager_is_told(
    market: Market,
    worker: Callable[..., Child],
    webhook: Webhook,
    tmp_path: Path,
) -> None:
    """It knows the alert as active, hears of it again and again, and of its end."""
    with ExitStack() as stack:
        try:
            url = stack.enter_context(alertmanager(tmp_path, webhook.url))
        except NotBuiltError as error:
            pytest.skip(str(error))
        worker(alertmanager_urls=f"{url}, http://127.0.0.1:{free_port()}")

        def active() -> list[dict[str, Any]]:
            with urlopen(f"{url}/api/v2/alerts?filter=series=tiger") as answer:
                found: list[dict[str, Any]] = orjson.loads(answer.read())
            return [each for each in found if each["labels"]["dimension"] == "vendor"]

        market.live(3)
        market.live(5, FALLEN)
        (told,) = wait_for(active, "an active alert")
        assert told["labels"]["alertname"] == "ShareChange"
        assert told["labels"]["direction"] == "down"
        assert told["annotations"]["summary"] == market.alerts()[0]["sentence"]
        wait_for(lambda: active()[0]["endsAt"] > told["endsAt"], "the alert again")
        market.live(14)
        wait_for(lambda: not active(), "no active alert")

        def notified(status: str) -> list[dict[str, Any]]:
            return [
                each
                for each in webhook.notified()
                if each["status"] == status
                and (each["labels"]["dimension"], each["labels"].get("series"))
                == ("vendor", "tiger")
            ]

        wait_for(lambda: notified("resolved"), "a notification of the end")
        fingerprints = {
            each["fingerprint"] for each in webhook.notified() if each in notified("firing")
        }
        assert len(fingerprints) == 1


def test_a_rule_fires_and_ends_and_its_file_may_change(
    market: Market, worker: Callable[..., Child], webhook: Webhook, tmp_path: Path
) -> None:
    """A rule by hand on a window; a broken file keeps it; taking it away ends its alert."""
    path = tmp_path / "rules.toml"
    text = (
        '[[rule]]\nname = "tiger below 20 %"\ndimension = "vendor"\nvalue = "tiger"\n'
        "window_seconds = 300\nbelow = 0.20\nfor_seconds = 300\n"
    )
    path.write_text(text)
    worker(alert_rules_file=path)

    def states() -> list[tuple[str, str]]:
        found = [decode(body) for where, _, body in webhook.got if where == "/alerts"]
        return [(each.rule, each.state) for each in found if each.kind == "rule"]

    market.live(1)
    market.live(2, FALLEN)
    wait_for(lambda: states() == [("tiger below 20 %", "firing")], "the rule's alert")
    path.write_text("[[rule]]\nname = 1\n")
    market.live(1, FALLEN)
    wait_for(market.judged, "a window under a broken file")
    assert len(states()) == 1
    path.write_text("")
    market.live(1, FALLEN)
    wait_for(lambda: len(states()) == 2, "the end of a rule that is gone")
    assert states()[1] == ("tiger below 20 %", "resolved")
