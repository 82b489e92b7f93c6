"""Roll windows: panes of landed ranges in, closed windows to ClickHouse and ``llm-shares-v1`` out.

Guarantee, from ``llm-usage-panes-v1`` to windows: a range is counted once. What has been counted is
known per partition of the usage topic by offset; a range that is told again is passed over, and one
that does not follow on what was counted makes the state be rebuilt from ClickHouse, below the end of
that range. Windows go out at least once; a window that goes out again replaces itself.

A worker owns some partitions of the panes topic, hence some dimensions, each of them whole. Its state
is in memory only.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import orjson
import pyarrow as pa
import structlog
from prometheus_client import Counter, Gauge

from agents.store_usage import RETRY_WAIT_SECONDS_MIN, Result, in_thread
from schemas.errors import RecordError, SinkUnavailableError
from schemas.panes import PANE_MS, RangeOfPanes, decode
from schemas.topics import PANES_TOPIC
from streams.health import Progress
from streams.pane_topic import dimensions_of
from streams.partitions import Confirm, PartitionLoops, StoreRequest
from streams.publishing import Publisher
from streams.record_batches import App, Fetched, RecordBatchSchema
from streams.share_window import as_record, key
from streams.stages import stage
from streams.watermarks import Watermarks
from streams.windows import HOUR_MS, PANE_LENGTHS, SIZES, Size, Window, Windows, kept_ms, source_of

log = structlog.get_logger()

APPLIED = Counter("tokentide_pane_ranges", "Ranges counted in rolling windows.")
REPEATED = Counter("tokentide_pane_ranges_repeated", "Ranges told again, and passed over.")
REBUILDS = Counter("tokentide_window_rebuilds", "Times that windows were rebuilt from ClickHouse.")
REFUSED = Counter("tokentide_pane_records_refused", "Records of the panes topic that are no panes.")
GIVEN = Counter("tokentide_windows_given", "Windows given out.", ["window"])
REVISED = Counter("tokentide_windows_revised", "Windows given out again.", ["window"])
WATERMARK = Gauge(
    "tokentide_windows_watermark_timestamp_seconds", "Up to which event time windows are closed."
)

FETCHES_WAITING_MAX = 8
CATCH_UP_MS = 86_400_000
"""Windows that ended longer ago are not given out any more."""
MISSED_MS = 3_600_000
"""Windows that were missed for longer are asked of ClickHouse piece by piece, to bound memory."""
END_OF_TIME_MS = 4_000_000_000_000
"""Later than any event: the broker's clock has bounded the event times of what is stored."""
ASKED_SPAN_MS = 2 * 3_600_000
"""Longest time of which panes are asked of ClickHouse at once, beside that of one window."""
WRITTEN_TOGETHER_MAX = 500


class Panes(Protocol):
    """Panes made of what is stored."""

    def read(
        self,
        dimensions: Sequence[str],
        length_ms: int,
        from_ms: int,
        to_ms: int,
        *,
        above: Mapping[int, int] | None = None,
        below: Mapping[int, int] | None = None,
    ) -> pa.Table:
        """Return panes in the form of `schemas.panes.PANES`."""

    def late_panes_ms(
        self, since_ms: int, *, above: Mapping[int, int], below: Mapping[int, int]
    ) -> list[int]:
        """Return the starts of panes that have rows at offsets between these."""


class StoredHours(Protocol):
    """Hours that were stored; see `sinks.share_panes.StoredHours`."""

    @property
    def panes(self) -> pa.Table: ...
    @property
    def positions(self) -> Mapping[tuple[str, int], int]: ...


class Hours(Protocol):
    """Where hours are kept, so that a new owner need not count a week again."""

    def write(
        self, hours: Sequence[tuple[str, int]], panes: pa.Table, position: int, now_ms: int
    ) -> None: ...

    def read(self, dimensions: Sequence[str], from_ms: int, to_ms: int) -> StoredHours: ...


class GivenWindow(Protocol):
    """A window that was given out."""

    @property
    def dimension(self) -> str: ...
    @property
    def window_seconds(self) -> int: ...
    @property
    def window_end_ms(self) -> int: ...
    @property
    def revision(self) -> int: ...
    @property
    def shares(self) -> Mapping[str, tuple[int, int, int]]: ...


class Sink(Protocol):
    """Where windows are kept."""

    def write(self, windows: Sequence[Mapping[str, Any]]) -> None: ...

    def write_progress(
        self, panes_partition: int, offsets: Mapping[int, int], now_ms: int
    ) -> None: ...

    def progress(self, panes_partition: int) -> dict[int, int] | None: ...

    def last_ends_ms(self, dimensions: Sequence[str]) -> dict[tuple[str, int], int]: ...

    def given(
        self, dimensions: Sequence[str], since_ms: Mapping[int, int], *, revised_since_ms: int
    ) -> Sequence[GivenWindow]: ...


@dataclass(frozen=True)
class Rules:
    """When windows are given out.

    Attributes:
        top: Values with a row of their own.
        lateness_ms: See `Watermarks`.
        stalled_seconds: See `Watermarks`.
        revision_wait_seconds: Between two rounds of revisions.
        grace_ms: Later events revise nothing.
    """

    top: int
    lateness_ms: int
    stalled_seconds: float
    revision_wait_seconds: float
    grace_ms: int


@dataclass(frozen=True)
class Parts:
    """What all partitions of the panes topic share.

    Attributes:
        settled: Returns the committed offset of each partition of the usage topic, its first offset
            if nothing is committed: everything below has landed.
        executor: Threads for counting and for calls to ClickHouse.
        now_ms: Wall-clock time, epoch milliseconds. It may be wrong and step: it stamps what is given
            out, and says how far back a new owner looks.
        clock: Seconds that never step.
    """

    panes: Panes
    hours: Hours
    sink: Sink
    publisher: Publisher
    settled: Callable[[], Awaitable[Mapping[int, int]]]
    executor: Executor
    progress: Progress
    rules: Rules
    retry_wait_seconds_max: float
    now_ms: Callable[[], int] = field(default=lambda: time.time_ns() // 1_000_000)
    clock: Callable[[], float] = field(default=time.monotonic)


Told = tuple[pa.Table, RangeOfPanes]


class WindowRoller:
    """The windows of the dimensions of one partition of the panes topic."""

    def __init__(self, partition: int, parts: Parts) -> None:
        self._partition = partition
        self._parts = parts
        self._dimensions = dimensions_of(partition)
        self._windows: dict[str, Windows] = {}
        self._counted: dict[int, int] = {}
        """By partition of the usage topic: everything below this offset is counted, nothing else."""
        self._waiting: list[pa.Table] = []
        """Panes of ranges that are counted and not added yet."""
        self._watermarks = Watermarks(parts.rules.lateness_ms, parts.rules.stalled_seconds)
        self._revised_seconds = parts.clock()

    async def store(self, request: StoreRequest) -> None:
        """Count the ranges of some records and give out what is due; returns when it is stored.

        Raises:
            PartitionLostError: Another worker owns the partition.
            FatalError: A person is needed.
        """
        confirm = request.confirm
        for record_batch in request.batch.record_batches:
            if not self._windows:
                await self._rebuild(confirm, {}, record_batch.append_time_ms)
            for value in record_batch.values():
                told = _decoded(value)
                if told is not None:
                    await self._count(confirm, *told, record_batch.append_time_ms)
        await self._give_out(confirm)

    async def _count(
        self, confirm: Confirm, panes: pa.Table, told: RangeOfPanes, append_time_ms: int
    ) -> None:
        counted = self._counted.get(told.partition, 0)
        if told.next_offset > counted:
            if told.first_offset == counted and told.is_whole:
                self._waiting.append(panes)
                self._counted[told.partition] = told.next_offset
            else:
                log.info(
                    "windows.behind",
                    partition=told.partition,
                    offset_counted=counted,
                    offset_first=told.first_offset,
                )
                await self._rebuild(confirm, {told.partition: told.next_offset}, append_time_ms)
            APPLIED.inc()
        elif not told.is_idle:
            REPEATED.inc()
        if told.next_offset >= counted:
            # No clock of a worker runs ahead of the broker's.
            newest_ms = min(told.newest_ms, append_time_ms)
            self._watermarks.heard(
                told.partition, newest_ms, is_idle=told.is_idle, now_seconds=self._parts.clock()
            )

    def _add(self, panes: Sequence[pa.Table]) -> None:
        with stage("windows"):
            for dimension, mine in _by_dimension(pa.concat_tables(panes)).items():
                if dimension in self._windows:
                    self._windows[dimension].add(mine)

    async def _give_out(self, confirm: Confirm) -> None:
        now_seconds = self._parts.clock()
        if self._waiting:
            # Together: an addition costs as much for one range as for several.
            waiting, self._waiting = self._waiting, []
            await in_thread(self._parts.executor, self._add, waiting)
        watermark_ms = self._watermarks.advance(now_seconds)
        if watermark_ms is None:
            return
        WATERMARK.set(watermark_ms / 1000)
        closed = await in_thread(self._parts.executor, self._close, watermark_ms)
        # Oldest first: the newest one in ClickHouse tells where a new owner goes on.
        await self._answer(confirm, watermark_ms, is_revision=False)
        await self._send(confirm, closed, watermark_ms)
        if now_seconds - self._revised_seconds >= self._parts.rules.revision_wait_seconds:
            self._revised_seconds = now_seconds
            again = await in_thread(self._parts.executor, self._due_again)
            await self._send(confirm, again, watermark_ms)
            await self._answer(confirm, watermark_ms, is_revision=True)
            await self._note_progress(confirm)

    async def _note_progress(self, confirm: Confirm) -> None:
        """Store the hours that have changed, then up to where everything is stored."""
        now_ms = self._parts.now_ms()
        counted = dict(self._counted)
        hours, panes = await in_thread(self._parts.executor, self._changed_hours)
        position = sum(counted.values())
        await self._call(confirm, self._parts.hours.write, hours, panes, position, now_ms)
        await self._call(confirm, self._parts.sink.write_progress, self._partition, counted, now_ms)
        for dimension, start_ms in hours:
            self._windows[dimension].changed_hours.discard(start_ms)

    def _changed_hours(self) -> tuple[list[tuple[str, int]], pa.Table]:
        changed = {name: sorted(each.changed_hours) for name, each in self._windows.items()}
        tables = [self._windows[name].hours(starts_ms) for name, starts_ms in changed.items()]
        hours = [(name, start_ms) for name, starts_ms in changed.items() for start_ms in starts_ms]
        return hours, pa.concat_tables(tables)

    def _close(self, watermark_ms: int) -> list[Window]:
        with stage("windows"):
            return [
                window
                for windows in self._windows.values()
                for window in windows.close(watermark_ms, is_complete=self._watermarks.is_complete)
            ]

    def _due_again(self) -> list[Window]:
        with stage("windows"):
            return [
                window
                for windows in self._windows.values()
                for window in windows.due_again(is_complete=self._watermarks.is_complete)
            ]

    async def _answer(self, confirm: Confirm, watermark_ms: int, *, is_revision: bool) -> None:
        """Give out windows that reach further back than what is kept, from what is stored.

        Those that were missed wait for the watermark too: of a backlog not all is stored yet.
        """
        for size in SIZES:
            ends = {
                end_ms
                for windows in self._windows.values()
                for (asked, end_ms), revision in windows.ask_for.items()
                if asked == size and (revision > 0) == is_revision and end_ms <= watermark_ms
            }
            for chunk in _chunks(sorted(ends), size):
                panes = await self._call(
                    confirm,
                    self._parts.panes.read,
                    self._dimensions,
                    size.slide_ms,
                    chunk[0] - size.length_ms,
                    chunk[-1],
                )
                answered = await in_thread(self._parts.executor, self._answered, size, chunk, panes)
                await self._send(confirm, answered, watermark_ms)

    def _answered(self, size: Size, ends_ms: Sequence[int], panes: pa.Table) -> list[Window]:
        parts = _by_dimension(panes)
        with stage("windows"):
            return [
                window
                for dimension, windows in self._windows.items()
                for window in windows.answered(
                    size,
                    [end_ms for end_ms in ends_ms if (size, end_ms) in windows.ask_for],
                    parts.get(dimension, panes.slice(0, 0)),
                    is_complete=self._watermarks.is_complete,
                )
            ]

    async def _send(self, confirm: Confirm, windows: Sequence[Window], watermark_ms: int) -> None:
        """Publish windows, then store them: what is stored has been published."""
        for start in range(0, len(windows), WRITTEN_TOGETHER_MAX):
            some = windows[start : start + WRITTEN_TOGETHER_MAX]
            given_ms = self._parts.now_ms()
            records = [
                as_record(window, watermark_ms=watermark_ms, given_ms=given_ms) for window in some
            ]
            await self._parts.publisher.publish(
                [(0, key(w), orjson.dumps(r)) for w, r in zip(some, records, strict=True)],
                confirm=confirm,
            )
            await self._call(confirm, self._parts.sink.write, records)
            for window in some:
                counter = REVISED if window.revision else GIVEN
                counter.labels(window.size.length_ms // 1000).inc()

    async def _rebuild(
        self, confirm: Confirm, counted: Mapping[int, int], append_time_ms: int
    ) -> None:
        """Make the state anew out of what is stored.

        Args:
            confirm: Asks whether the partition is ours.
            counted: Offsets below which everything has landed, as has been told just now.
            append_time_ms: The broker's time of the record that is being counted.
        """
        REBUILDS.inc()
        self._waiting.clear()  # What is counted is read again.
        parts, now_ms = self._parts, self._parts.now_ms()
        settled = await parts.settled()
        below = {**settled, **self._counted, **counted}
        for partition in settled:
            self._watermarks.expect(partition, parts.clock())
            known = (settled.get(partition, 0), self._counted.get(partition, 0))
            below[partition] = max(*known, counted.get(partition, 0))
        told = await self._call(confirm, parts.sink.progress, self._partition)
        self._windows = await self._given_windows(confirm, now_ms, append_time_ms)
        for length_ms in PANE_LENGTHS:
            if length_ms < HOUR_MS:
                is_shortest = length_ms == PANE_MS
                from_ms, to_ms = self._kept(length_ms)
                if is_shortest:
                    to_ms = END_OF_TIME_MS
                panes = await self._call(
                    confirm,
                    parts.panes.read,
                    self._dimensions,
                    length_ms,
                    from_ms,
                    to_ms,
                    below=below,
                )
                await in_thread(parts.executor, self._load, length_ms, panes, from_ms)
        await self._load_hours(confirm, told or {}, below)
        self._counted = below
        if told is None:
            await self._note_progress(confirm)
        else:
            await self._find_owed(confirm, told, now_ms)
        log.info(
            "windows.rebuilt",
            dimensions=self._dimensions,
            seconds=round((parts.now_ms() - now_ms) / 1000, 3),
        )

    def _kept(self, length_ms: int) -> tuple[int, int]:
        """Return from when panes of a length are needed, and where the closed ones end."""

        def ends(length_ms: int) -> list[int]:
            size = SIZES[PANE_LENGTHS.index(length_ms)]
            return [windows.given_ms[size] for windows in self._windows.values()]

        # Longer ones that are merged from them may have closed less far.
        made = [each for each in PANE_LENGTHS if source_of(each) == length_ms]
        first_ms = min(end_ms for each in (length_ms, *made) for end_ms in ends(each))
        from_ms = (first_ms - kept_ms(length_ms)) // length_ms * length_ms
        return from_ms, max(ends(length_ms))

    async def _load_hours(
        self, confirm: Confirm, told: Mapping[int, int], below: Mapping[int, int]
    ) -> None:
        """Load hours as they were stored, and count those rows that came since.

        Args:
            confirm: Asks whether the partition is ours.
            told: Offsets below which everything is in the stored hours.
            below: Offsets below which rows are counted now.
        """
        parts = self._parts
        from_ms, to_ms = self._kept(PANE_LENGTHS[-1])[0], self._kept(HOUR_MS)[1]
        stored = await self._call(confirm, parts.hours.read, self._dimensions, from_ms, to_ms)
        newest = sum(told.values())
        # An hour that was written after the progress was noted may hold some rows and not others.
        again = [
            start_ms
            for start_ms in range(from_ms, to_ms, HOUR_MS)
            if any(
                stored.positions.get((dimension, start_ms), newest + 1) > newest
                for dimension in self._dimensions
            )
        ]
        found = [_without(stored.panes, again)]
        changed = set(again)
        if told:
            since = await self._call(
                confirm,
                parts.panes.read,
                self._dimensions,
                HOUR_MS,
                from_ms,
                to_ms,
                above=told,
                below=below,
            )
            found.append(_without(since, again))
            changed.update(since["pane_ms"].to_pylist())
        for first_ms, last_ms in _runs(again, HOUR_MS):
            read = parts.panes.read
            span = first_ms, last_ms + HOUR_MS
            found.append(
                await self._call(confirm, read, self._dimensions, HOUR_MS, *span, below=below)
            )
        await in_thread(parts.executor, self._load, HOUR_MS, pa.concat_tables(found), from_ms)
        for windows in self._windows.values():
            windows.merge_closed(PANE_LENGTHS[-1], from_ms)
            windows.changed_hours.update(changed)

    def _load(self, length_ms: int, panes: pa.Table, from_ms: int) -> None:
        mine = _by_dimension(panes)
        for dimension, windows in self._windows.items():
            windows.load(length_ms, mine.get(dimension, panes.slice(0, 0)), from_ms)

    async def _given_windows(
        self, confirm: Confirm, now_ms: int, append_time_ms: int
    ) -> dict[str, Windows]:
        """Return windows without panes, that go on behind those that were given out."""
        parts = self._parts
        # Where none was given out yet they begin with the panes, whatever the worker's clock says.
        first_ms = min(now_ms, append_time_ms)
        last_ms = await self._call(confirm, parts.sink.last_ends_ms, self._dimensions)
        given_ms = {
            dimension: {
                size: _aligned(
                    max(
                        last_ms.get((dimension, size.length_ms // 1000), first_ms),
                        now_ms - CATCH_UP_MS,
                    ),
                    size,
                )
                for size in SIZES
            }
            for dimension in self._dimensions
        }
        since_ms = {
            size.length_ms // 1000: min(each[size] for each in given_ms.values()) - size.length_ms
            for size in SIZES
        }
        given = await self._call(
            confirm,
            lambda: parts.sink.given(
                self._dimensions, since_ms, revised_since_ms=now_ms - parts.rules.grace_ms
            ),
        )
        of = {dimension: [g for g in given if g.dimension == dimension] for dimension in given_ms}
        windows = {
            dimension: Windows(
                dimension,
                top=parts.rules.top,
                given_ms=given_ms[dimension],
                revisions={_place(g): g.revision for g in of[dimension] if g.revision},
                history={_place(g): g.shares for g in of[dimension]},
            )
            for dimension in self._dimensions
        }
        for size in SIZES:
            if size.slide_ms < HOUR_MS:
                for each in windows.values():
                    each.skip_to(size, _aligned(now_ms - MISSED_MS, size))
        return windows

    async def _find_owed(self, confirm: Confirm, told: Mapping[int, int], now_ms: int) -> None:
        """Make those windows due that an earlier owner had given out and not yet revised."""
        late = await self._call(
            confirm,
            self._parts.panes.late_panes_ms,
            now_ms - self._parts.rules.grace_ms,
            above=told,
            below=self._counted,
        )
        for windows in self._windows.values():
            windows.note_late(late)

    async def _call(
        self, confirm: Confirm, function: Callable[..., Result], *arguments: object, **named: object
    ) -> Result:
        """Call ClickHouse while the partition is ours, again and again while ClickHouse is away."""
        wait_seconds = RETRY_WAIT_SECONDS_MIN
        while True:
            await confirm()
            try:
                result = await in_thread(
                    self._parts.executor, lambda: function(*arguments, **named)
                )
            except SinkUnavailableError as error:
                self._parts.progress.sink_error = str(error)
                log.warning("sink.failed", error=str(error), retry_seconds=wait_seconds)
                await asyncio.sleep(wait_seconds * random.uniform(0.75, 1.25))
                wait_seconds = min(wait_seconds * 2, self._parts.retry_wait_seconds_max)
            else:
                self._parts.progress.sink_error = ""
                return result


def _decoded(value: bytes | None) -> Told | None:
    try:
        return decode(value or b"")
    except RecordError as error:
        # What it may have told is missed, so the next range makes the state be rebuilt.
        REFUSED.inc()
        log.error("panes.refused", reason=error.reason.value, field=error.field)
        return None


def _by_dimension(panes: pa.Table) -> dict[str, pa.Table]:
    names = panes["dimension"].unify_dictionaries().combine_chunks()
    if not len(names):
        return {}
    codes = names.indices.to_numpy()
    return {
        name: panes.filter(pa.array(codes == code))
        for code, name in enumerate(names.dictionary.to_pylist())
    }


def _aligned(time_ms: int, size: Size) -> int:
    return time_ms // size.slide_ms * size.slide_ms


def _without(panes: pa.Table, starts_ms: Sequence[int]) -> pa.Table:
    return panes.filter(pa.array(~np.isin(panes["pane_ms"].to_numpy(), starts_ms)))


def _runs(starts_ms: Sequence[int], length_ms: int) -> Iterable[tuple[int, int]]:
    """Yield the first and the last start of panes that touch each other."""
    run: list[int] = []
    for start_ms in starts_ms:
        if run and start_ms != run[-1] + length_ms:
            yield run[0], run[-1]
            run = []
        run.append(start_ms)
    if run:
        yield run[0], run[-1]


def _place(given: GivenWindow) -> tuple[Size, int]:
    seconds = given.window_seconds
    size = next(size for size in SIZES if size.length_ms == seconds * 1000)
    return size, given.window_end_ms


def _chunks(ends_ms: Sequence[int], size: Size) -> Iterable[Sequence[int]]:
    """Yield ends that are near each other together."""
    chunk: list[int] = []
    for end_ms in ends_ms:
        is_far = chunk and end_ms - chunk[-1] > size.length_ms
        if is_far or (chunk and end_ms - chunk[0] > max(ASKED_SPAN_MS, size.length_ms)):
            yield chunk
            chunk = []
        chunk.append(end_ms)
    if chunk:
        yield chunk


def register(app: App, loops: PartitionLoops) -> None:
    """Add the agent to the app."""
    topic = app.topic(PANES_TOPIC, schema=RecordBatchSchema(), maxsize=FETCHES_WAITING_MAX)

    @app.agent(topic, name="roll_windows")  # type: ignore[untyped-decorator]
    async def roll_windows(stream: object) -> None:
        """Hand each fetch to the loop of its partition."""
        async for fetched in stream:  # type: ignore[attr-defined]
            assert isinstance(fetched, Fetched)
            await loops.deliver(fetched)
