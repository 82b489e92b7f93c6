"""Detection: a bin is judged once, a transition stored once, whatever dies in between."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest
from faust.types import TP

from agents import calling, detect_share_changes
from agents.detect_share_changes import SILENCE_MS, ShareChanges
from agents.detection_parts import Parts
from agents.rule_file import RuleFile
from schemas.errors import FatalError, SinkUnavailableError
from schemas.share_alert import Explanation, ShareAlert
from schemas.topics import SHARES_TOPIC
from sinks.explaining import Question
from streams.batches import Batch
from streams.detection import (
    BIN_MS,
    Bin,
    Kind,
    MarketDetector,
    Parameters,
    State,
    Transition,
)
from streams.health import SHARES_LAG, Progress
from streams.partitions import StoreRequest
from tests.alert_examples import EXPLANATION
from tests.inline import Inline
from tests.made_market import DIMENSIONS, SHARES, make_requests, windows
from tests.record_batch import record_batch

T0 = 1_764_000_000_000 // BIN_MS * BIN_MS
TOPIC = TP(SHARES_TOPIC, 0)
COLUMNS = pa.schema(
    [
        ("dimension", pa.string()),
        ("window_seconds", pa.uint32()),
        ("window_end_ms", pa.int64()),
        ("revision", pa.uint32()),
        ("is_complete", pa.bool_()),
        *((f"{name}_total", pa.uint64()) for name in ("requests", "tokens", "cost_nanousd")),
        ("values", pa.list_(pa.string())),
        *(
            (name, pa.list_(pa.uint64()))
            for name in (
                "requests",
                "tokens_prompt",
                "tokens_completion",
                "cost_nanousd",
                "errors",
                "tokens_capped",
                "tokens_capped_squared",
                "users",
            )
        ),
    ]
)


class DyingError(Exception):
    """The process ends here."""


@dataclass
class World:
    """What outlives a process: the tables; and what may go wrong."""

    windows: list[dict[str, Any]] = field(default_factory=list)
    alerts: list[ShareAlert] = field(default_factory=list)
    bins: list[int] = field(default_factory=list)
    stored_at: dict[int, int] = field(default_factory=dict)
    dies_before: str = ""
    failures: int = 0
    explain_error: Exception | None = None
    questions: list[Question] = field(default_factory=list)

    def _step(self, name: str) -> None:
        if self.failures:
            self.failures -= 1
            raise SinkUnavailableError("away")
        if self.dies_before == name:
            raise DyingError(name)

    def read(
        self, dimensions: Sequence[str], window_seconds: int, from_ms: int, to_ms: int
    ) -> pa.Table:
        self._step("read")
        found = [
            {name: window[name] for name in COLUMNS.names}
            for window in self.windows
            if window["dimension"] in dimensions
            and window["window_seconds"] == window_seconds
            and from_ms < window["window_end_ms"] <= to_ms
        ]
        found.sort(key=lambda window: (window["window_end_ms"], window["dimension"]))
        return pa.Table.from_pylist(found, schema=COLUMNS)

    def write(self, alert: ShareAlert, recorded_at_ms: int) -> None:
        self._step("write")
        assert recorded_at_ms
        if alert.idempotency_key not in [each.idempotency_key for each in self.alerts]:
            self.alerts.append(alert)

    def write_bin(self, bin_end_ms: int, **_: Any) -> None:
        self._step("write_bin")
        self.bins.append(bin_end_ms)
        self.stored_at[bin_end_ms] = len(self.alerts)

    def newest_bin_ms(self) -> int | None:
        return max(self.bins, default=None)

    def newest(self, at_from_ms: int) -> list[ShareAlert]:
        assert at_from_ms
        return list({each.alert_id: each for each in self.alerts}.values())

    def explain(self, question: Question) -> Explanation:
        self.questions.append(question)
        if self.explain_error is not None:
            raise self.explain_error
        return EXPLANATION


class Detector:
    """Says that tiger fell while its share of requests is below 0.2."""

    def __init__(self, told: Iterable[Transition]) -> None:
        self.told = {each.id: each for each in told}
        self.on: Transition | None = None
        self.seen: list[int] = []
        self.held: list[int] = []

    def observe(self, bins: Mapping[str, Bin]) -> list[Transition]:
        vendor = bins["vendor"]
        self.seen.append(vendor.end_ms)
        share = float(vendor.requests[vendor.values.index("tiger")] / vendor.requests.sum())
        if share < 0.2 and self.on is None:
            since_ms = vendor.end_ms - BIN_MS
            self.on = Transition(
                Kind.SHARE_CHANGE, State.FIRING, "vendor", "tiger", "down", since_ms, vendor.end_ms
            )
            self.on = replace(self.on, share_before=0.35, share_after=share)
            return [self.on]
        if share >= 0.2 and self.on is not None:
            over, self.on = replace(self.on, state=State.RESOLVED, at_ms=vendor.end_ms), None
            return [over]
        return []

    def hold(self, end_ms: int) -> list[Transition]:
        self.held.append(end_ms)
        if len(self.held) == 1:
            return [Transition(Kind.INGEST_LAG, State.FIRING, "", "", "", end_ms, end_ms)]
        return []

    def rebuild(self, history: Iterable[Mapping[str, Bin]]) -> list[Transition]:
        for bins in history:
            self.observe(bins)
        on = [self.on] if self.on else []
        gone = [each for each in self.told.values() if each.id not in {one.id for one in on}]
        return [replace(each, state=State.RESOLVED) for each in gone] + [
            each for each in on if each.id not in self.told
        ]


@dataclass
class Process:
    """One life of the agent."""

    world: World
    rules: Path | None = None
    is_real: bool = False
    detectors: list[Detector] = field(default_factory=list)
    wakes: int = 0
    confirms: int = 0

    def __post_init__(self) -> None:
        def new_detector(told: Sequence[Transition]) -> Detector | MarketDetector:
            if self.is_real:
                return MarketDetector(Parameters(), open_alerts=told)
            self.detectors.append(Detector(told))
            return self.detectors[-1]

        def on_stored() -> None:
            self.wakes += 1

        rules = RuleFile(self.rules)
        rules.load()
        self.changes = ShareChanges(
            Parts(
                new_detector=new_detector,
                parameters={"threshold": 5.5},
                parameters_version="p1",
                dimensions=frozenset(DIMENSIONS),
                history_days=2,
                bins=self.world,
                alerts=self.world,
                explainer=self.world,
                rules=rules,
                executor=Inline(),
                progress=Progress(30, lag=SHARES_LAG),
                retry_wait_seconds_max=0.01,
                on_stored=on_stored,
            )
        )

    async def store(self, records: Sequence[bytes | None]) -> None:
        async def confirm(*, is_urgent: bool = False) -> None:
            assert not is_urgent
            self.confirms += 1

        async def declare_cut() -> None:
            raise AssertionError

        batch = Batch.of(TOPIC, [record_batch(0, *records)])
        await self.changes.store(
            StoreRequest(
                batch, is_repeat=False, is_cut=False, confirm=confirm, declare_cut=declare_cut
            )
        )


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calling, "RETRY_WAIT_SECONDS_MIN", 0.001)


RNG = np.random.default_rng(3)
FALLEN = {**SHARES, "tiger": 0.05}


def bins(world: World, first: int, count: int, shares: Mapping[str, float] = SHARES) -> list[bytes]:
    """Return records of bins, which are in ClickHouse too."""
    found = []
    for number in range(first, first + count):
        found += windows(make_requests(RNG, 500, shares), T0 + number * BIN_MS)
    world.windows += found
    return [orjson.dumps(window) for window in found]


def states(world: World) -> list[tuple[str, int]]:
    return [(each.state, each.version) for each in world.alerts]


async def test_a_change_is_told_with_its_explanation() -> None:
    """Firing and its end are stored, in order, and delivery is woken for each."""
    world = World()
    process = Process(world)
    await process.store(bins(world, 1, 2) + bins(world, 3, 2, FALLEN) + bins(world, 5, 1))
    assert states(world) == [("firing", 1), ("resolved", 2)]
    fired, ended = world.alerts
    assert fired.explanation == EXPLANATION
    assert ended.explanation is None
    assert fired.parameters_version == "p1"
    assert process.wakes == 2
    (question,) = world.questions
    assert (question.dimension, question.value) == ("vendor", "tiger")
    assert question.since_ms == T0 + 2 * BIN_MS
    assert question.is_complete
    assert set(question.named) == set(SHARES)
    assert world.bins == [T0 + number * BIN_MS for number in range(1, 6)]
    # Noted as judged only when what it said is stored.
    assert list(world.stored_at.values()) == [0, 0, 1, 1, 2]


@pytest.mark.parametrize("step", ["write", "write_bin", "read"])
async def test_a_process_that_dies_anywhere_changes_nothing(step: str) -> None:
    """Whatever was stored of it, the next one stores the rest, once."""
    world = World()
    records = bins(world, 1, 2) + bins(world, 3, 2, FALLEN) + bins(world, 5, 2)
    world.dies_before = step
    with pytest.raises(DyingError):
        await Process(world).store(records)
    world.dies_before = ""
    await Process(world).store(records)
    assert states(world) == [("firing", 1), ("resolved", 2)]
    assert sorted(set(world.bins)) == [T0 + number * BIN_MS for number in range(1, 7)]


async def test_records_that_are_read_again_say_nothing_new() -> None:
    """By the same process, and by the next one, which has the history from ClickHouse."""
    world = World()
    records = bins(world, 1, 2) + bins(world, 3, 2, FALLEN)
    process = Process(world)
    await process.store(records)
    await process.store(records)
    successor = Process(world)
    await successor.store(records)
    await successor.store(bins(world, 5, 1, FALLEN))
    assert states(world) == [("firing", 1)]
    assert world.bins == [T0 + number * BIN_MS for number in range(1, 6)]
    (detector,) = successor.detectors
    assert [each.value for each in detector.told.values()] == ["tiger"]
    assert detector.seen == [T0 + number * BIN_MS for number in range(1, 6)]


async def test_bins_whose_records_were_committed_are_judged_by_the_next_owner() -> None:
    """An end of which only a part had come when its owner died is taken from ClickHouse."""
    world = World()
    await Process(world).store(bins(world, 1, 2))
    fallen = bins(world, 3, 1, FALLEN)
    late = [world.windows.pop() for _ in range(3)]
    await Process(world).store(fallen[:2])  # Committed, waiting for the other dimensions.
    assert states(world) == []
    world.windows += late
    await Process(world).store(bins(world, 4, 1, FALLEN))
    assert states(world) == [("firing", 1)]
    assert world.alerts[0].at_ms == T0 + 3 * BIN_MS


async def test_the_history_before_the_first_start_makes_no_alert_but_is_known() -> None:
    """A change that is over was nobody's alert; one that goes on is told."""
    world = World()
    bins(world, 1, 3)
    bins(world, 4, 2, FALLEN)
    bins(world, 6, 3)
    process = Process(world)
    await process.store(bins(world, 9, 1))
    assert states(world) == []
    assert len(process.detectors[0].seen) == 9


async def test_clickhouse_that_is_away_is_waited_for() -> None:
    """Every call is tried again, and the broker asked each time whether the partition is ours."""
    world = World(failures=4)
    process = Process(world)
    await process.store(bins(world, 1, 1) + bins(world, 2, 1, FALLEN))
    assert states(world) == [("firing", 1)]
    assert process.confirms > 5


@pytest.mark.parametrize("error", [SinkUnavailableError("away"), FatalError("code 158")])
async def test_an_alert_without_an_explanation_is_better_than_none(error: Exception) -> None:
    """It is stored with the numbers of the detector alone."""
    world = World(explain_error=error)
    await Process(world).store(bins(world, 1, 1) + bins(world, 2, 1, FALLEN))
    (alert,) = world.alerts
    assert alert.explanation is None
    assert alert.sentence.startswith("Vendor tiger fell from 35.0 % to ")


async def test_revisions_and_what_is_no_window_are_passed_over() -> None:
    """A later revision of a judged bin, tombstones and broken records change nothing."""
    world = World()
    process = Process(world)
    await process.store(bins(world, 1, 2))
    revised = [
        orjson.dumps({**window, "revision": 1})
        for window in windows(make_requests(RNG, 500, FALLEN), T0 + 2 * BIN_MS)
    ]
    before = detect_share_changes.REFUSED._value.get()
    await process.store([*revised, None, b"no json", b"{}"])
    assert states(world) == []
    assert len(process.detectors[0].seen) == 2
    assert detect_share_changes.REFUSED._value.get() == before + 2


async def test_a_bin_whose_first_revision_is_gone_is_judged_by_its_next() -> None:
    """The topic is compacted: a slow reader sees the newest revision only."""
    world = World()
    process = Process(world)
    await process.store(bins(world, 1, 1))
    late = [
        {**window, "revision": 2}
        for window in windows(make_requests(RNG, 500, FALLEN), T0 + 2 * BIN_MS)
    ]
    await process.store([orjson.dumps(window) for window in late])
    assert states(world) == [("firing", 1)]


RULE = """
[[rule]]
name = "tiger"
dimension = "vendor"
value = "tiger"
window_seconds = 300
below = 0.2
for_seconds = 600
measure = "request_share"
"""


async def test_a_rule_goes_on_where_the_last_process_was(tmp_path: Path) -> None:
    """Since when it holds is read from ClickHouse; its alert is one over restarts."""
    path = tmp_path / "rules.toml"
    path.write_text(RULE)
    world = World()

    def of_rules() -> list[tuple[str, int]]:
        return [(each.state, each.version) for each in world.alerts if each.rule]

    await Process(world, path).store(bins(world, 1, 1) + bins(world, 2, 2, FALLEN))
    assert of_rules() == []
    await Process(world, path).store(bins(world, 4, 1, FALLEN))
    assert of_rules() == [("firing", 1)]
    fired = next(each for each in world.alerts if each.rule)
    assert fired.since_ms == T0 + BIN_MS
    assert fired.parameters["below"] == 0.2
    last = Process(world, path)
    await last.store(bins(world, 5, 1, FALLEN))
    assert of_rules() == [("firing", 1)]
    path.write_text("")
    await last.store(bins(world, 6, 1, FALLEN))
    assert of_rules() == [("firing", 1), ("resolved", 2)]


async def test_silence_is_told() -> None:
    """Bins that should have come long ago are told as missing, once each, and only of live traffic."""
    world = World()
    process = Process(world)
    await process.store(bins(world, 1, 3))
    now_ms = T0 + 3 * BIN_MS + SILENCE_MS + 2 * BIN_MS + 1
    await process.changes.tell_silence(now_ms)
    assert world.alerts == []  # A bin has come just now: others may be on their way.
    process.changes._heard_seconds -= SILENCE_MS / 1000
    await process.changes.tell_silence(now_ms + 86_400_000)
    assert world.alerts == []
    await process.changes.tell_silence(now_ms)
    await process.changes.tell_silence(now_ms)
    (detector,) = process.detectors
    assert detector.held == [T0 + 4 * BIN_MS, T0 + 5 * BIN_MS]
    assert [each.kind for each in world.alerts] == ["ingest_lag"]
    assert world.bins[-2:] == detector.held
    # One that comes now is too late, the next ones are judged.
    await process.store(bins(world, 5, 2))
    assert detector.seen[-1] == T0 + 6 * BIN_MS
    assert T0 + 5 * BIN_MS not in detector.seen


async def test_a_new_process_in_a_silence_knows_its_alert() -> None:
    """With the real detector: the alert goes on, and ends with the next bin."""
    world = World()
    first = Process(world, is_real=True)
    await first.store(bins(world, 1, 3))
    first.changes._heard_seconds -= SILENCE_MS / 1000
    await first.changes.tell_silence(T0 + 3 * BIN_MS + SILENCE_MS + 3 * BIN_MS)
    assert [(each.kind, each.state) for each in world.alerts] == [("ingest_lag", "firing")]
    second = Process(world, is_real=True)
    second.changes._heard_seconds -= SILENCE_MS / 1000
    await second.changes.tell_silence(T0 + 3 * BIN_MS + SILENCE_MS + 4 * BIN_MS)
    assert len(world.alerts) == 1
    await second.store(bins(world, 8, 1))
    assert states(world) == [("firing", 1), ("resolved", 2)]
