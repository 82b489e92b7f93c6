"""Roll windows: panes of landed ranges in, closed windows to ClickHouse and ``llm-shares-v1`` out.

Guarantee, from ``llm-usage-panes-v1`` to windows: a range is counted once. What has been counted is
known per partition of the usage topic by offset; a range that is told again is passed over, and one
that does not follow on what was counted makes the state be rebuilt from ClickHouse, below the end of
that range. Windows go out at least once; a window that goes out again replaces itself.

A worker owns some partitions of the panes topic, hence some dimensions, each of them whole. Its state
is in memory only.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import orjson
import pyarrow as pa
import structlog
from prometheus_client import Counter, Gauge

from agents.calling import Caller, Result, in_thread
from agents.rebuild_windows import Rebuilding
from agents.spans import Spans
from agents.window_parts import Parts
from schemas.errors import RecordError
from schemas.panes import RangeOfPanes, decode
from schemas.topics import PANES_TOPIC
from streams.pane_topic import dimensions_of
from streams.panes import NO_PANES, by_dimension
from streams.partitions import Confirm, PartitionLoops, StoreRequest
from streams.share_window import as_record, key
from streams.stages import stage
from streams.transport import App, Fetched
from streams.watermarks import Watermarks
from streams.windows import SIZES, STORED_LENGTHS, Size, Window, Windows

log = structlog.get_logger()

APPLIED = Counter("tokentide_pane_ranges", "Ranges counted in rolling windows.")
REPEATED = Counter("tokentide_pane_ranges_repeated", "Ranges told again, and passed over.")
REFUSED = Counter("tokentide_pane_records_refused", "Records of the panes topic that are no panes.")
GIVEN = Counter("tokentide_windows_given", "Windows given out.", ["window"])
REVISED = Counter("tokentide_windows_revised", "Windows given out again.", ["window"])
WATERMARK = Gauge(
    "tokentide_windows_watermark_timestamp_seconds", "Up to which event time windows are closed."
)

FETCHES_WAITING_MAX = 8
PANES_NOTED_SECONDS = 15.0
"""Between two writings of the panes: the longest that a new owner must count of each dimension."""
ASKED_SPAN_MS = 2 * 3_600_000
"""Longest time of which panes are asked of ClickHouse at once, beside that of one window."""
WRITTEN_TOGETHER_MAX = 500


Told = tuple[pa.Table, RangeOfPanes]


class WindowRoller:
    """The windows of the dimensions of one partition of the panes topic."""

    def __init__(self, partition: int, parts: Parts) -> None:
        self._partition = partition
        self._parts = parts
        self._caller = Caller(parts.retry_wait_seconds_max, parts.progress)
        self._dimensions = dimensions_of(partition)
        self._windows: dict[str, Windows] = {}
        self._counted: dict[int, int] = {}
        """By partition of the usage topic: everything below this offset is counted, nothing else."""
        self._waiting: list[pa.Table] = []
        """Panes of ranges that are counted and not added yet."""
        self._watermarks = Watermarks(parts.rules.lateness_ms, parts.rules.stalled_seconds)
        self._revised_seconds = parts.clock()
        self._panes_noted_seconds = parts.clock()
        self._spans = Spans(parts.clock)

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
        await self._add_waiting()
        await self._give_out(confirm)
        if self._parts.clock() - self._panes_noted_seconds >= PANES_NOTED_SECONDS:
            await self._note_panes(confirm)

    async def _add_waiting(self) -> None:
        """Add what is counted, together: an addition costs as much for one range as for several."""
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            await in_thread(self._parts.executor, self._add, waiting)

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
            for dimension, mine in by_dimension(pa.concat_tables(panes)).items():
                if dimension in self._windows:
                    self._windows[dimension].add(mine)

    async def _rebuild(
        self, confirm: Confirm, counted: Mapping[int, int], append_time_ms: int
    ) -> None:
        """Make the state anew; ``counted``: offsets below which all has landed, as was just told."""
        self._waiting.clear()  # What is counted is read again.
        settled = await self._parts.settled()
        for partition in settled:
            self._watermarks.expect(partition, self._parts.clock())
        known = (settled, self._counted, counted)
        partitions = {partition for offsets in known for partition in offsets}
        below = {p: max(offsets.get(p, 0) for offsets in known) for p in partitions}
        rebuilding = Rebuilding(
            self._partition,
            self._dimensions,
            self._parts,
            partial(self._call, confirm),
            self._spans,
            below,
        )
        rebuilt = await rebuilding.run(append_time_ms)
        self._windows, self._counted = rebuilt.windows, dict(rebuilt.below)
        # At once: should this owner die soon, the next one need not count the same again.
        await self._note_panes(confirm)
        if not rebuilt.is_noted:
            await self._note_windows(confirm)

    async def _give_out(self, confirm: Confirm) -> None:
        now_seconds = self._parts.clock()
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
            await self._note_windows(confirm)

    async def _note_windows(self, confirm: Confirm) -> None:
        """Store up to where everything is in the windows that were given out."""
        write = self._parts.windows_noted.write
        await self._call(confirm, write, self._partition, self._counted, self._parts.now_ms())

    async def _note_panes(self, confirm: Confirm) -> None:
        """Store the panes that have changed, then up to where everything is in stored panes."""
        self._panes_noted_seconds = self._parts.clock()
        now_ms = self._parts.now_ms()
        counted = dict(self._counted)
        position = sum(counted.values())
        for length_ms in STORED_LENGTHS:
            places, panes = await in_thread(self._parts.executor, self._changed, length_ms)
            write = self._parts.stored.write
            await self._call(confirm, write, length_ms, places, panes, position, now_ms)
            for dimension, start_ms in places:
                self._windows[dimension].changed[length_ms].discard(start_ms)
        write_noted = self._parts.panes_noted.write
        await self._call(confirm, write_noted, self._partition, counted, now_ms)

    def _changed(self, length_ms: int) -> tuple[list[tuple[str, int]], pa.Table]:
        """Return places and panes of a length that have changed since they were stored."""
        with stage("windows"):
            changed = {
                name: sorted(windows.changed[length_ms]) for name, windows in self._windows.items()
            }
            tables = [
                self._windows[name].panes(length_ms, starts_ms)
                for name, starts_ms in changed.items()
            ]
            places = [(name, start) for name, starts_ms in changed.items() for start in starts_ms]
            return places, pa.concat_tables(tables)

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

        Those that were missed wait for the watermark too: of a backlog not all is stored yet. A
        revision does not: its window was given out, and once progress is noted nobody owes it.
        """
        for size in SIZES:
            ends = {
                end_ms
                for windows in self._windows.values()
                for (asked, end_ms), revision in windows.ask_for.items()
                if asked == size
                and (revision > 0) == is_revision
                and (is_revision or end_ms <= watermark_ms)
            }
            for chunk in _chunks(sorted(ends), size):
                read = partial(self._parts.panes.read, self._dimensions, size.slide_ms)
                call = partial(self._call, confirm)
                found = await self._spans.ask(call, read, chunk[0] - size.length_ms, chunk[-1])
                panes = pa.concat_tables(found)
                answered = await in_thread(self._parts.executor, self._answered, size, chunk, panes)
                await self._send(confirm, answered, watermark_ms)

    def _answered(self, size: Size, ends_ms: Sequence[int], panes: pa.Table) -> list[Window]:
        parts = by_dimension(panes)
        with stage("windows"):
            return [
                window
                for dimension, windows in self._windows.items()
                for window in windows.answered(
                    size,
                    [end_ms for end_ms in ends_ms if (size, end_ms) in windows.ask_for],
                    parts.get(dimension, NO_PANES),
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

    async def _call(
        self, confirm: Confirm, function: Callable[..., Result], *arguments: object, **named: object
    ) -> Result:
        return await self._caller.call(self._parts.executor, confirm, function, *arguments, **named)


def _decoded(value: bytes | None) -> Told | None:
    try:
        return decode(value or b"")
    except RecordError as error:
        # What it may have told is missed, so the next range makes the state be rebuilt.
        REFUSED.inc()
        log.error("panes.refused", reason=error.reason.value, field=error.field)
        return None


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
    topic = app.fetches(PANES_TOPIC, waiting_max=FETCHES_WAITING_MAX)

    @app.agent(topic, name="roll_windows")  # type: ignore[untyped-decorator]
    async def roll_windows(stream: object) -> None:
        """Hand each fetch to the loop of its partition."""
        async for fetched in stream:  # type: ignore[attr-defined]
            assert isinstance(fetched, Fetched)
            await loops.deliver(fetched)
