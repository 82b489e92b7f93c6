"""Every kind of alert from a market made up: real detector, real engine, real explanation."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from clickhouse_connect.driver.httpclient import HttpClient
from faust.types import TP

from agents.detect_share_changes import SILENCE_MS, ShareChanges
from agents.detection_parts import Parts
from agents.rule_file import RuleFile
from schemas.share_alert import ShareAlert
from schemas.topics import SHARES_TOPIC
from sinks.explaining import Explainer
from sinks.share_alerts import ShareAlerts
from sinks.share_bins import ShareBins
from sinks.share_windows import ShareWindows
from sinks.usage_events import UsageEventWriter
from streams.batches import Batch
from streams.detection import BIN_MS, MarketDetector, Parameters, Relations, Transition
from streams.health import SHARES_LAG, Progress
from streams.partitions import StoreRequest
from tests.conftest import ClickHouseAddress as Server
from tests.integration.sinks_database import migrated
from tests.made_market import DIMENSIONS, Request, make_requests, rows, windows
from tests.record_batch import record_batch
from tests.usage_rows import as_table

HISTORY_BINS = 2 * 288
REQUESTS = 400
START_MS = int(time.time() * 1000) // BIN_MS * BIN_MS - (HISTORY_BINS + 200) * BIN_MS
Change = Callable[[list[Request]], list[Request]]


@cache
def history() -> tuple[dict[str, Any], ...]:
    """Return two quiet days, made once."""
    rng = np.random.default_rng(9)
    return tuple(
        window
        for number in range(1, HISTORY_BINS + 1)
        for window in windows(make_requests(rng, REQUESTS), START_MS + number * BIN_MS)
    )


@dataclass
class Market:
    """A market whose events and windows are stored, and the agent that watches it."""

    client: HttpClient
    changes: ShareChanges
    end_ms: int = START_MS + HISTORY_BINS * BIN_MS
    offset: int = 0
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(21))

    async def live(self, bins: int, change: Change = lambda requests: requests) -> None:
        """Let time pass, five minutes at a time."""
        database = str(self.client.database)
        for _ in range(bins):
            self.end_ms += BIN_MS
            made = change(make_requests(self.rng, REQUESTS))
            UsageEventWriter(self.client, database).write(
                as_table(rows(made, self.end_ms, self.offset)), f"bin-{self.end_ms}"
            )
            self.offset += len(made)
            found = windows(made, self.end_ms)
            ShareWindows(self.client, database).write(found)
            await self.changes.store(request([orjson.dumps(each) for each in found]))

    def said(self, kind: str, state: str) -> list[ShareAlert]:
        """Return the transitions of a kind into a state."""
        stored = ShareAlerts(self.client, str(self.client.database)).undelivered(
            "nobody", 0, is_fired_only=False
        )
        return [each for each in stored if (each.kind, each.state) == (kind, state)]


def request(records: Sequence[bytes]) -> StoreRequest:
    async def confirm(*, is_urgent: bool = False) -> None:
        assert not is_urgent

    async def declare_cut() -> None:
        raise AssertionError

    batch = Batch.of(TP(SHARES_TOPIC, 0), [record_batch(0, *records)])
    return StoreRequest(
        batch, is_repeat=False, is_cut=False, confirm=confirm, declare_cut=declare_cut
    )


RULES = """
[[rule]]
name = "Chinese open models below 20 %"
dimension = "origin"
value = "chinese_open"
window_seconds = 300
below = 0.20
for_seconds = 600
"""


@pytest.fixture
def market(clickhouse: Server, fresh_database: str, tmp_path: Path) -> Iterator[Market]:
    rules = tmp_path / "rules.toml"
    rules.write_text(RULES)
    with migrated(clickhouse, fresh_database) as client:
        ShareWindows(client, fresh_database).write(history())

        def new_detector(told: Sequence[Transition]) -> MarketDetector:
            return MarketDetector(
                Parameters(),
                relations=Relations(lambda model: model.partition("/")[0]),
                open_alerts=told,
            )

        rule_file = RuleFile(rules)
        rule_file.load()
        parts = Parts(
            new_detector=new_detector,
            parameters=Parameters().as_dict(),
            parameters_version=Parameters().version,
            dimensions=frozenset(DIMENSIONS),
            history_days=2,
            bins=ShareBins(client, fresh_database),
            alerts=ShareAlerts(client, fresh_database),
            explainer=Explainer(client, fresh_database),
            rules=rule_file,
            executor=ThreadPoolExecutor(1),
            progress=Progress(30, lag=SHARES_LAG),
            retry_wait_seconds_max=1.0,
            on_stored=lambda: None,
        )
        yield Market(client, ShareChanges(parts))


def without(part: float, **which: str) -> Change:
    """Return a change that takes a part of some requests away."""

    def change(requests: list[Request]) -> list[Request]:
        return [
            each
            for number, each in enumerate(requests)
            if not all(getattr(each, name) == value for name, value in which.items())
            or number % 100 >= part * 100
        ]

    return change


async def test_a_share_change_its_cause_and_its_end(market: Market) -> None:
    """It names the region that made it; the models that follow from it are suppressed."""
    await market.live(3)
    await market.live(6, without(0.9, vendor="tiger", region="eu"))
    (fired,) = [
        each for each in market.said("share_change", "firing") if each.dimension == "vendor"
    ]
    assert fired.value == "tiger"
    assert fired.explanation is not None
    assert fired.explanation.cause == "own_volume"
    assert "of it in region eu" in fired.sentence
    assert "its own requests fell" in fired.sentence
    suppressed = market.said("share_change", "suppressed")
    assert ("model", "tiger/large") in {(each.dimension, each.value) for each in suppressed}
    await market.live(10)
    ended = [each for each in market.said("share_change", "resolved") if each.value == "tiger"]
    assert [each.alert_id for each in ended] == [fired.alert_id]


async def test_what_stays_is_the_new_normal(market: Market) -> None:
    """After six hours the alert ends as rebaselined."""
    await market.live(3)
    await market.live(80, without(0.6, vendor="tiger"))
    ended = market.said("share_change", "rebaselined")
    assert "tiger" in {each.value for each in ended}
    assert "that is the new normal" in ended[0].sentence


async def test_an_outage_of_a_provider(market: Market) -> None:
    """It is told as one, with requests and errors, and silences what follows."""
    await market.live(3)

    def failing(requests: list[Request]) -> list[Request]:
        left = without(0.9, provider="north")(requests)
        return [replace(each, is_error=each.provider == "north") for each in left]

    await market.live(4, failing)
    (fired,) = market.said("provider_outage", "firing")
    assert fired.value == "north"
    assert "errors 0 % before, 100 % now" in fired.sentence
    await market.live(8)
    assert market.said("provider_outage", "resolved")


async def test_all_traffic_drops_and_jumps(market: Market) -> None:
    """Both are told as traffic, not as shares."""
    await market.live(3)
    await market.live(4, lambda requests: requests[: len(requests) // 10])
    (drop,) = market.said("total_drop", "firing")
    assert "All traffic fell 9" in drop.sentence
    await market.live(8)
    assert market.said("total_drop", "resolved")
    await market.live(4, lambda requests: requests * 6)
    jumps = market.said("total_jump", "firing")
    assert jumps
    assert "All traffic grew" in jumps[0].sentence
    assert market.said("share_change", "firing") == []


async def test_a_new_model(market: Market) -> None:
    """One that takes a part of the market within an hour of its first request is told."""
    await market.live(3)

    def launched(requests: list[Request]) -> list[Request]:
        return [
            replace(each, name="next") if each.vendor == "acme" and number % 4 == 0 else each
            for number, each in enumerate(requests)
        ]

    await market.live(8, launched)
    fired = market.said("new_model", "firing")
    assert "acme/next" in {each.value for each in fired}
    assert fired[0].sentence.startswith("New model acme/next has ")


async def test_windows_that_do_not_come(market: Market) -> None:
    """Late data is an alert of its own, and ends when the data comes."""
    await market.live(3)
    market.changes._heard_seconds -= SILENCE_MS / 1000
    await market.changes.tell_silence(market.end_ms + 4 * BIN_MS + SILENCE_MS)
    (fired,) = market.said("ingest_lag", "firing")
    assert fired.sentence.startswith("Data is late or missing since ")
    market.end_ms += 4 * BIN_MS
    await market.live(1)
    assert len(market.said("ingest_lag", "resolved")) == 1


async def test_a_rule_by_hand(market: Market) -> None:
    """It fires when it has held for ten minutes, with an explanation like any other."""
    await market.live(2)
    await market.live(4, without(0.7, vendor="tiger"))
    (fired,) = market.said("rule", "firing")
    assert fired.sentence.startswith("Rule Chinese open models below 20 %: chinese open models at ")
    assert fired.explanation is not None
    await market.live(1)
    assert len(market.said("rule", "resolved")) == 1


@pytest.fixture(autouse=True)
def written_down(market: Market) -> Iterator[None]:
    """Print what was said: the sentences in the documents come from here (``-rP``)."""
    yield
    stored = ShareAlerts(market.client, str(market.client.database)).undelivered(
        "nobody", 0, is_fired_only=False
    )
    for each in stored:
        print(f"SAID {each.kind} {each.state} {each.dimension}: {each.sentence}")
