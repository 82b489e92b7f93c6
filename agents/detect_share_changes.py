"""Detect sudden changes of shares in closed windows, explain them and store what was found.

Guarantee, from topic llm-shares-v1 to ``share_alerts``: every bin of five minutes is judged once, and
a transition is stored once, whatever is read again. A bin counts as judged when its transitions are
stored and it is noted in ``share_detector_bins``; only later bins can make new ones. What had been
judged before is fed to a new detector with its transitions ignored.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import structlog
from prometheus_client import Counter, Gauge

from agents.calling import RETRY_WAIT_SECONDS_MIN, Caller, Result, in_thread
from agents.detection_parts import Bins, Detector, Parts
from schemas.errors import FatalError, RecordError, SinkUnavailableError
from schemas.share_alert import Explanation, ShareAlert
from schemas.topics import SHARES_TOPIC
from sinks.explaining import Question
from streams.alerts.building import build, transition_of
from streams.alerts.collecting import BinCollector, Collected
from streams.alerts.ledger import Ledger
from streams.alerts.rules import Rule, RuleWatch, removed
from streams.alerts.share_window import (
    BIN_SECONDS,
    ShareWindow,
    as_bin,
    bins_of,
    decode_window,
    windows_of,
)
from streams.detection import BIN_MS, Bin, Kind, State, Transition
from streams.partitions import PartitionLoops, StoreRequest
from streams.transport import App, Fetched

log = structlog.get_logger()

BINS = Counter("tokentide_detector_bins", "Ends of five-minute bins that were judged.")
BINS_PARTIAL = Counter(
    "tokentide_detector_bins_partial", "Of those, ends at which a dimension was missing."
)
SILENT = Counter(
    "tokentide_detector_bins_missing", "Ends of bins that had not come long after they should have."
)
REVISIONS = Counter(
    "tokentide_detector_revisions", "Later revisions of windows, which the detector passes over."
)
REFUSED = Counter("tokentide_detector_records_refused", "Records that are no window.")
TRANSITIONS = Counter(
    "tokentide_alert_transitions", "Transitions of alerts that were stored.", ["kind", "state"]
)
UNEXPLAINED = Counter("tokentide_alerts_unexplained", "Alerts stored without an explanation.")
FIRING = Gauge("tokentide_alerts_firing", "Alerts that fire now.")
NEWEST_BIN = Gauge(
    "tokentide_detector_bin_timestamp_seconds", "End of the newest bin that was judged."
)

DAY_MS = 86_400_000
SILENCE_MS = 2 * BIN_MS
"""Without a bin for so long, those whose end is as long ago are told to the detector as missing."""
SILENCE_POLL_SECONDS = 30.0
EXPLAIN_TRIES_MAX = 2
"""ClickHouse is asked for an explanation so often: an alert without one is better than a late one."""
KNOWN_DAYS = 35
"""Alerts are known to the ledger for so long after their end; longer than the history is read."""
WAITING_DAYS_MAX = 40
"""Bins are kept so long: those of them that were not judged are judged after a rebuild."""
FETCHES_WAITING_MAX = 8
EXPLAINED_KINDS = frozenset(
    {
        Kind.SHARE_CHANGE,
        Kind.PROVIDER_OUTAGE,
        Kind.TOTAL_DROP,
        Kind.TOTAL_JUMP,
        Kind.NEW_MODEL,
        Kind.RULE,
    }
)
KINDS_OF_REQUESTS = frozenset(
    {Kind.PROVIDER_OUTAGE, Kind.TOTAL_DROP, Kind.TOTAL_JUMP, Kind.NEW_MODEL}
)


class ShareChanges:
    """Judges the windows of one assignment of the topic."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._caller = Caller(parts.retry_wait_seconds_max, parts.progress)
        self._ledger = Ledger()
        self._collector = BinCollector(parts.dimensions)
        self._watch = RuleWatch()
        self._detector: Detector | None = None
        self._is_loaded = False
        self._confirm: Callable[[], Awaitable[None]] = _sure
        self._lock = asyncio.Lock()
        self._heard_seconds = time.monotonic()

    async def store(self, request: StoreRequest) -> None:
        """Judge the windows of a range; returns when all that was found is stored.

        Raises:
            PartitionLostError: Another worker owns the partition.
            FatalError: A person is needed.
        """
        async with self._lock:
            self._confirm = request.confirm
            await self._store(request)

    async def _store(self, request: StoreRequest) -> None:
        windows = decode_windows(request)
        if not self._is_loaded:
            await self._load_ledger()
        await self._apply_rules(windows)
        bins = [as_bin(window) for window in windows if window.is_bin]
        bins = [each for each in bins if each.dimension in self._parts.dimensions]
        if not bins:
            return
        self._heard_seconds = time.monotonic()
        if self._detector is None:
            self._detector = await self._rebuild(min(each.end_ms for each in bins))
        for each in bins:
            self._collector.add(each)
        for collected in self._collector.due():
            await self._judge(self._detector, collected)

    async def tell_silence(self, now_ms: int) -> None:
        """Tell the detector of bins that should have come long ago, while none comes at all.

        Those that come later all the same are too late to be judged. Nothing is told when the newest
        bin is older than a day: what was judged is no live traffic.

        Args:
            now_ms: The wall clock, epoch milliseconds.

        Raises:
            FatalError: A person is needed.
        """
        if time.monotonic() - self._heard_seconds < SILENCE_MS / 1000:
            return
        async with self._lock:
            self._confirm = _sure  # No range is in hand; a token makes each insert one.
            if not self._is_loaded:
                await self._load_ledger()
            if self._detector is None:
                judged_ms = await self._call(self._parts.alerts.newest_bin_ms)
                if judged_ms is None or now_ms - judged_ms > DAY_MS:
                    return
                self._detector = await self._rebuild(judged_ms + BIN_MS)
            seen_ms = self._collector.seen_ms
            due_ms = (now_ms - SILENCE_MS) // BIN_MS * BIN_MS
            if now_ms - seen_ms > DAY_MS:
                return
            for end_ms in range(seen_ms + BIN_MS, due_ms + 1, BIN_MS):
                await self._hold(self._detector, end_ms)

    async def _hold(self, detector: Detector, end_ms: int) -> None:
        transitions = await in_thread(self._parts.executor, detector.hold, end_ms)
        for transition in transitions:
            await self._record(transition, {})
        await self._write_bin(end_ms, {}, len(transitions))
        self._collector.pass_over(end_ms)
        SILENT.inc()

    async def _load_ledger(self) -> None:
        alerts = self._parts.alerts
        now_ms = time.time_ns() // 1_000_000
        self._ledger.load(await self._call(alerts.newest, now_ms - KNOWN_DAYS * DAY_MS))
        self._is_loaded = True
        self._show()

    async def _rebuild(self, first_end_ms: int) -> Detector:
        """Return a detector that knows all bins that were judged before.

        Bins of ClickHouse that were not are collected: their records may be committed already.
        """
        started = time.monotonic()
        parts = self._parts
        judged_ms = await self._call(parts.alerts.newest_bin_ms)
        if judged_ms is None:
            judged_ms = first_end_ms - BIN_MS
        told = [transition_of(alert) for alert in self._ledger.on() if alert.kind != "rule"]
        detector, said = await self._call(self._rebuilt, told, judged_ms)
        for transition in self._ledger.agree(said):
            await self._record(transition, {})
        self._collector.seen_ms = judged_ms
        table = await self._call(
            parts.bins.read,
            sorted(parts.dimensions),
            BIN_SECONDS,
            judged_ms,
            judged_ms + WAITING_DAYS_MAX * DAY_MS,
        )
        for each in bins_of(table):
            if each.end_ms % BIN_MS == 0:
                self._collector.add(each)
        log.info(
            "detector.rebuilt",
            judged_through_ms=judged_ms,
            waiting=table.num_rows,
            duration_seconds=round(time.monotonic() - started, 1),
        )
        return detector

    def _rebuilt(
        self, told: Sequence[Transition], judged_ms: int
    ) -> tuple[Detector, list[Transition]]:
        """Return a detector that has seen the history, and what it has still to tell."""
        parts = self._parts
        detector = parts.new_detector(told)
        from_ms = judged_ms - parts.history_days * DAY_MS
        history = read_history(parts.bins, parts.dimensions, from_ms, judged_ms)
        return detector, detector.rebuild(_and_silence(history, judged_ms))

    async def _judge(self, detector: Detector, collected: Collected) -> None:
        parts = self._parts
        transitions = await in_thread(parts.executor, detector.observe, collected.bins)
        for transition in transitions:
            await self._record(transition, collected.bins)
        await self._write_bin(collected.end_ms, collected.bins, len(transitions))
        BINS.inc()
        NEWEST_BIN.set(collected.end_ms / 1000)
        if not collected.is_whole:
            BINS_PARTIAL.inc()
            missing = sorted(parts.dimensions - collected.bins.keys())
            log.warning("bin.partial", end_ms=collected.end_ms, missing=missing)

    async def _write_bin(self, end_ms: int, bins: Mapping[str, Bin], transitions: int) -> None:
        parts = self._parts
        await self._call(
            partial(
                parts.alerts.write_bin,
                end_ms,
                observed_at_ms=time.time_ns() // 1_000_000,
                dimensions=len(bins),
                is_complete=bool(bins) and all(each.is_complete for each in bins.values()),
                transitions=transitions,
                parameters_version=parts.parameters_version,
            )
        )

    async def _record(
        self,
        transition: Transition,
        bins: Mapping[str, Bin],
        rule: Rule | None = None,
    ) -> None:
        """Store a transition, unless it says nothing new."""
        rule_name = rule.name if rule else ""
        named = self._ledger.name(transition, rule_name)
        if named is None:
            return
        explanation = None
        if transition.state is State.FIRING and transition.kind in EXPLAINED_KINDS:
            explanation = await self._explain(transition, named.since_ms, bins)
        alert = build(
            transition,
            named,
            parameters_version=rule.version if rule else self._parts.parameters_version,
            parameters=rule.as_dict() if rule else self._parts.parameters,
            explanation=explanation,
            rule=rule_name,
        )
        await self._store_alert(alert)

    async def _store_alert(self, alert: ShareAlert) -> None:
        await self._call(self._parts.alerts.write, alert, time.time_ns() // 1_000_000)
        self._ledger.record(alert)
        TRANSITIONS.labels(alert.kind, alert.state).inc()
        self._show()
        log.info(
            f"alert.{alert.state}",
            alert_id=alert.alert_id,
            version=alert.version,
            kind=alert.kind,
            sentence=alert.sentence,
        )
        self._parts.on_stored()

    def _show(self) -> None:
        FIRING.set(sum(1 for alert in self._ledger.on() if alert.state == "firing"))

    async def _explain(
        self,
        transition: Transition,
        since_ms: int,
        bins: Mapping[str, Bin],
    ) -> Explanation | None:
        question = question_of(transition, since_ms, bins)
        for _ in range(EXPLAIN_TRIES_MAX):
            await self._confirm()
            try:
                return await in_thread(
                    self._parts.executor, self._parts.explainer.explain, question
                )
            except SinkUnavailableError as error:
                log.warning("explanation.failed", error=str(error))
                await asyncio.sleep(RETRY_WAIT_SECONDS_MIN)
            except FatalError as error:
                log.warning("explanation.failed", error=str(error))
                break
        UNEXPLAINED.inc()
        return None

    async def _apply_rules(self, windows: Iterable[ShareWindow]) -> None:
        rules = self._parts.rules.current()
        self._watch.keep(rules)
        newest_ms = 0
        for window in windows:
            newest_ms = max(newest_ms, window.window_end_ms)
            for rule in rules:
                if (rule.dimension, rule.window_seconds) == (
                    window.dimension,
                    window.window_seconds,
                ):
                    await self._apply_rule(rule, window)
        if newest_ms:
            await self._end_removed({rule.name for rule in rules}, newest_ms)

    async def _apply_rule(self, rule: Rule, window: ShareWindow) -> None:
        if not self._watch.knows(rule):
            await self._look_back(rule, window.window_end_ms)
        transition = self._watch.observe(rule, window)
        if transition is not None:
            await self._record(transition, {window.dimension: as_bin(window)}, rule)

    async def _look_back(self, rule: Rule, end_ms: int) -> None:
        """Tell the watch since when a rule holds that it has not seen."""
        from_ms = end_ms - (rule.for_seconds + rule.window_seconds) * 1000
        table = await self._call(
            self._parts.bins.read,
            [rule.dimension],
            rule.window_seconds,
            from_ms,
            end_ms - 1,
        )
        for window in windows_of(table):
            if window.window_end_ms < end_ms:
                self._watch.observe(rule, window)

    async def _end_removed(self, names: set[str], at_ms: int) -> None:
        for alert in list(self._ledger.on()):
            if alert.kind == "rule" and alert.rule not in names:
                transition = removed(alert.dimension, alert.value, alert.direction, at_ms)
                named = self._ledger.name(transition, alert.rule)
                if named is not None:
                    ended = build(
                        transition,
                        named,
                        parameters_version=alert.parameters_version,
                        parameters=alert.parameters,
                        rule=alert.rule,
                    )
                    await self._store_alert(ended)

    async def _call(self, function: Callable[..., Result], *arguments: object) -> Result:
        return await self._caller.call(self._parts.executor, self._confirm, function, *arguments)


async def _sure() -> None:
    """Ask nobody whether the partition is ours."""


def decode_windows(request: StoreRequest) -> list[ShareWindow]:
    """Return the windows of a range; what is none is counted and passed over."""
    windows = []
    for record_batch in request.batch.record_batches:
        for position, value in enumerate(record_batch.values()):
            if not value:
                continue  # A tombstone: the window has left the compacted topic.
            try:
                window = decode_window(value)
            except RecordError as error:
                REFUSED.inc()
                log.warning(
                    "window.refused", offset=record_batch.offset_of(position), error=str(error)
                )
                continue
            # A later revision of what was judged is passed over by the collector and the rules. It
            # is taken where the first one is gone: the topic is compacted.
            REVISIONS.inc(window.revision > 0)
            windows.append(window)
    return windows


def question_of(transition: Transition, since_ms: int, bins: Mapping[str, Bin]) -> Question:
    """Return what to ask of a transition; ``bins`` are those that made it."""
    own = bins.get(transition.dimension)
    return Question(
        transition.dimension,
        transition.value,
        min(since_ms, transition.at_ms - BIN_MS),
        transition.at_ms,
        is_complete=all(each.is_complete for each in bins.values()),
        is_of_requests=transition.kind in KINDS_OF_REQUESTS,
        named=own.values if own is not None else (),
    )


def read_history(
    bins: Bins, dimensions: Iterable[str], from_ms: int, to_ms: int
) -> Iterator[dict[str, Bin]]:
    """Yield the bins that end in ``(from_ms, to_ms]``, an end at a time, in order; reads day by day.

    Raises:
        SinkUnavailableError: Not now.
    """
    wanted = sorted(dimensions)
    while from_ms < to_ms:
        next_ms = min(from_ms + DAY_MS, to_ms)
        table = bins.read(wanted, BIN_SECONDS, from_ms, next_ms)
        by_end: dict[int, dict[str, Bin]] = {}
        for each in bins_of(table):
            if each.end_ms % BIN_MS == 0:
                by_end.setdefault(each.end_ms, {})[each.dimension] = each
        yield from (by_end[end_ms] for end_ms in sorted(by_end))
        from_ms = next_ms


def _and_silence(history: Iterable[dict[str, Bin]], judged_ms: int) -> Iterator[dict[str, Bin]]:
    """Yield a history, and after it the ends that were judged as missing: incomplete and empty."""
    last_ms = judged_ms
    for bins in history:
        last_ms = max(each.end_ms for each in bins.values())
        yield bins
    none = np.array([], dtype=np.float64)
    for end_ms in range(last_ms + BIN_MS, judged_ms + 1, BIN_MS):
        yield {
            "": Bin("", end_ms, (), none, none, none, none, none, none, is_complete=False),
        }


def register(app: App, loops: PartitionLoops) -> None:
    """Add the agent to the app."""
    topic = app.fetches(SHARES_TOPIC, waiting_max=FETCHES_WAITING_MAX)

    @app.agent(topic, name="detect_share_changes")  # type: ignore[untyped-decorator]
    async def detect_share_changes(stream: object) -> None:
        """Hand each fetch to the loop of the partition."""
        async for fetched in stream:  # type: ignore[attr-defined]
            assert isinstance(fetched, Fetched)
            await loops.deliver(fetched)
