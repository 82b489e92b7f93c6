"""Rolling windows equal a plain recount, whatever comes late and whoever dies."""

import hashlib
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import clickhouse_connect
import orjson
import pytest
from clickhouse_connect.driver.client import Client
from kafka import KafkaProducer

from schemas.topics import USAGE_TOPIC
from tests.conftest import running_stack, stack_addresses, stack_pids
from tests.e2e.windows import differences, given_windows

TOP = 3
TOKENS_CAP = 4_000
SETTINGS = {
    "allowed_lateness_seconds": 1,
    "revision_wait_seconds": 2,
    "windows_top": TOP,
    "tokens_cap": TOKENS_CAP,
    "batch_wait_seconds": 0.2,
    "session_timeout_seconds": 6,
}
WAIT_SECONDS = 240.0
VENDORS = ("openai/gpt-4o", "anthropic/claude-sonnet-4", "deepseek/deepseek-chat", "nobody/knows")


class Traffic:
    """Usage events around now, some of them late."""

    def __init__(self, producer: KafkaProducer, seed: int) -> None:
        self._producer = producer
        self._random = random.Random(seed)
        self.sent = 0

    def send(self, count: int, late_seconds_max: float) -> None:
        """Send events that happened up to so long ago, most of them just now."""
        for _ in range(count):
            late = self._random.random() ** 6 * late_seconds_max
            at = datetime.fromtimestamp(time.time() - late, UTC)
            self._producer.send(USAGE_TOPIC, orjson.dumps(self._event(at)))
        self._producer.flush()

    def _event(self, at: datetime) -> dict[str, Any]:
        self.sent += 1
        return {
            "schema_version": 1,
            "source": "synthetic",
            "event_id": f"w-{self.sent}",
            "occurred_at": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "model_raw": self._random.choices(VENDORS, weights=[5, 3, 2, 1])[0],
            "tokens_prompt": self._random.randrange(6_000),
            "tokens_completion": self._random.randrange(900),
            "app_id": f"app-{self._random.randrange(6)}",
            "region": self._random.choice(["eu-west", "us-east"]),
            "status": self._random.choice(["ok", "ok", "error"]),
            "user_hash": hashlib.sha256(b"%d" % self._random.randrange(60)).hexdigest(),
        }


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Path]:
    """Two workers share the partitions of both topics."""
    with running_stack(tmp_path, "--no-simulator", "--workers", "2", **SETTINGS):
        yield tmp_path


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"not within {WAIT_SECONDS:.0f} s: {what}"
        time.sleep(0.5)


@pytest.mark.timeout(900)
def test_windows_equal_a_recount_though_workers_are_killed(stack: Path) -> None:
    """Late events revise, a repeat changes nothing, a new owner goes on where the old one was."""
    addresses = stack_addresses(stack)
    host, port = addresses["clickhouse"].removeprefix("http://").split(":")
    with (
        clickhouse_connect.get_client(
            host=host, port=int(port), username="reader", database="tokentide"
        ) as client,
        KafkaProducer(bootstrap_servers=addresses["kafka"], acks="all") as producer,
    ):
        kill_workers(stack, client, Traffic(producer, seed=5))


def kill_workers(stack: Path, client: Client, traffic: Traffic) -> None:
    """Send traffic, kill workers, and compare every window with a recount."""

    def newest_end_ms() -> int:
        ends = [each["end_ms"] for each in given_windows(client) if each["window_seconds"] == 60]
        return max(ends, default=0)

    traffic.send(500, 0)
    wait_for(lambda: newest_end_ms() > 0, "the first window")
    for round_ in range(6):
        for _ in range(8):
            traffic.send(120, 240)
            time.sleep(0.4)
        name = f"worker-{round_ % 2}"
        os.kill(stack_pids(stack)[name], signal.SIGKILL)
    # Two hours late: further back than what is kept, so ClickHouse is asked.
    traffic.send(200, 7_200)
    last_ms = int(time.time() * 1000)
    wait_for(lambda: newest_end_ms() > last_ms, "windows of all events")
    found: list[str] = []

    def is_settled() -> bool:
        found[:] = list(differences(client, top=TOP, tokens_cap=TOKENS_CAP))
        return not found

    stored = client.query("SELECT count() FROM usage_events").result_rows[0][0]
    assert stored == traffic.sent
    deadline = time.monotonic() + WAIT_SECONDS
    while not is_settled() and time.monotonic() < deadline:
        time.sleep(1)
    assert not found, "\n".join(found[:5])
    windows = given_windows(client)
    assert {each["window_seconds"] for each in windows} >= {60, 300}
    assert any(each["revision"] for each in windows)
    assert len({each["dimension"] for each in windows}) == 13
