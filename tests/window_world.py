"""A world for the agent that rolls windows: what is stored, published and noted, and its clock."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute
from faust.types import TP

from agents.rebuild_windows import END_OF_TIME_MS
from agents.roll_windows import WindowRoller
from agents.window_parts import Parts, Rules
from schemas.errors import SinkUnavailableError
from schemas.panes import PANE_MS, PANES, RangeOfPanes, encode
from sinks.share_panes import StoredPanes
from sinks.share_windows import Given
from streams.batches import Batch
from streams.health import PANES_LAG, Progress
from streams.pane_topic import dimensions_of
from streams.panes import CountedRows
from streams.partitions import Confirm, StoreRequest
from streams.transport import PartitionLostError
from tests.inline import Inline
from tests.record_batch import record_batch
from tests.usage_rows import Row, as_table, random_rows

NOW = datetime(2026, 11, 25, 12, 0, 3, tzinfo=UTC)
NOW_MS = int(NOW.timestamp() * 1000)
VENDORS_AT = 1
"""Partition of the panes topic that has the dimension vendor."""
CAP = 9_000
TP_PANES = TP("llm-usage-panes-v1", VENDORS_AT)
SECOND_MS = 1000


class World:
    """Stored rows, windows that were stored and published, and a clock.

    Attributes:
        now_ms: The broker's clock, which is right.
        ahead_ms: By how much the clock of the worker is ahead of it.
    """

    def __init__(self) -> None:
        self.now_ms = NOW_MS
        self.ahead_ms = 0
        self.rows: list[Row] = []
        self.settled: dict[int, int] = {3: 0}
        self.in_windows = FakeProgress()
        self.in_panes = FakeProgress()
        self.published: list[dict[str, Any]] = []
        self.stored: list[dict[str, Any]] = []
        self.kept: dict[tuple[int, str, int], tuple[pa.Table, int]] = {}
        self.faults: list[Exception] = []
        self.asked: list[tuple[int, int, int]] = []
        self.answered_ms_max = END_OF_TIME_MS
        self.rows_counted = 0
        self.is_lost = False
        self.revision_wait_seconds = 0.0
        self.roller = self.new_owner()

    def new_owner(self) -> WindowRoller:
        """An agent without state, as after a crash."""

        async def settled() -> Mapping[int, int]:
            return dict(self.settled)

        parts = Parts(
            panes=FakePanes(self),
            stored=FakePaneStore(self),
            panes_noted=self.in_panes,
            sink=FakeSink(self),
            windows_noted=self.in_windows,
            publisher=FakePublisher(self),  # type: ignore[arg-type]
            settled=settled,
            executor=Inline(),
            progress=Progress(30, lag=PANES_LAG),
            rules=Rules(
                top=2,
                lateness_ms=2_000,
                stalled_seconds=60,
                revision_wait_seconds=self.revision_wait_seconds,
                grace_ms=86_400_000,
            ),
            retry_wait_seconds_max=0.01,
            now_ms=lambda: self.now_ms + self.ahead_ms,
            clock=lambda: self.now_ms / 1000,
        )
        self.roller = WindowRoller(VENDORS_AT, parts)
        return self.roller

    async def confirm(self, *, is_urgent: bool = False) -> None:  # noqa: ARG002
        if self.is_lost:
            raise PartitionLostError

    async def tell(self, *values: bytes) -> None:
        batch = Batch.of(TP_PANES, [record_batch(0, *values, append_time_ms=self.now_ms)])

        async def declare_cut() -> None: ...

        await self.roller.store(StoreRequest(batch, False, False, self.confirm, declare_cut))

    def land(self, count: int, seconds_ago: float = 1, spread_seconds: float = 1) -> bytes:
        """Store a range; return the record that tells of it."""
        first = self.settled[3]
        start = datetime.fromtimestamp(self.now_ms / 1000 - seconds_ago, UTC)
        rows = random_rows(
            first, count, start, timedelta(seconds=spread_seconds), first_offset=first
        )
        self.rows += rows
        self.settled[3] = first + count
        panes = CountedRows(as_table(rows), tokens_cap=CAP).panes(dimensions_of(VENDORS_AT))
        newest_ms = max(round(row["occurred_at"].timestamp() * 1000) for row in rows)
        return encode(panes, RangeOfPanes(3, first, first + count, newest_ms))

    def idle(self) -> bytes:
        """Return the word that nothing is unread now."""
        at = self.settled[3]
        told = RangeOfPanes(3, at, at, self.now_ms + self.ahead_ms, is_idle=True)
        return encode(PANES.empty_table(), told)

    def counted(self) -> int:
        """Return the requests of the newest revision of one-minute windows, each ten apart."""
        newest = {
            window["window_end_ms"]: window["requests_total"]
            for window in self.stored
            if window["window_seconds"] == 60 and window["dimension"] == "vendor"
        }
        ends = [end for end in newest if (end - self.first_end_ms()) % 60_000 == 0]
        return sum(newest[end] for end in ends)

    def first_end_ms(self) -> int:
        return NOW_MS // 10_000 * 10_000 + 60_000

    async def pass_by(self, seconds: float) -> None:
        """Let time pass while nothing arrives."""
        self.now_ms += round(seconds * 1000)
        await self.tell(self.idle())


class FakePanes:
    def __init__(self, world: World) -> None:
        self._world = world

    def stored_ms(self) -> tuple[int, int]:
        times_ms = [round(row["occurred_at"].timestamp() * 1000) for row in self._world.rows]
        return (min(times_ms), max(times_ms) + 1) if times_ms else (0, 0)

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
        if self._world.faults:
            raise self._world.faults.pop(0)
        self._world.asked.append((length_ms, from_ms, to_ms))
        if to_ms - from_ms > self._world.answered_ms_max and to_ms < END_OF_TIME_MS:
            raise SinkUnavailableError("timed out")
        rows = [
            row
            for row in self._world.rows
            if from_ms <= row["occurred_at"].timestamp() * 1000 < to_ms
            and (below is None or row["kafka_offset"] < below.get(row["kafka_partition"], 0))
            and row["kafka_offset"] >= (above or {}).get(row["kafka_partition"], 0)
        ]
        self._world.rows_counted += len(rows)
        if not rows:
            return PANES.empty_table()
        panes = CountedRows(as_table(rows), tokens_cap=CAP).panes(dimensions)
        starts = panes["pane_ms"].to_numpy() // length_ms * length_ms
        return panes.set_column(1, "pane_ms", pa.array(starts))

    def late_panes_ms(
        self, from_ms: int, to_ms: int, *, above: Mapping[int, int], below: Mapping[int, int]
    ) -> list[int]:
        times_ms = (
            round(row["occurred_at"].timestamp() * 1000)
            for row in self._world.rows
            if above.get(3, 0) <= row["kafka_offset"] < below.get(3, 0)
        )
        starts = {ms // PANE_MS * PANE_MS for ms in times_ms if from_ms <= ms < to_ms}
        return sorted(starts)


class FakePaneStore:
    def __init__(self, world: World) -> None:
        self._world = world

    def write(
        self,
        length_ms: int,
        places: Sequence[tuple[str, int]],
        panes: pa.Table,
        position: int,
        now_ms: int,  # noqa: ARG002
    ) -> None:
        for dimension, start_ms in places:
            mine = panes.filter(
                pa.compute.and_(
                    pa.compute.equal(panes["dimension"].cast(pa.utf8()), dimension),
                    pa.compute.equal(panes["pane_ms"], start_ms),
                )
            )
            self._world.kept[length_ms, dimension, start_ms] = mine, position

    def read(
        self, length_ms: int, dimensions: Sequence[str], from_ms: int, to_ms: int
    ) -> StoredPanes:
        found = {
            (dimension, start_ms): kept
            for (length, dimension, start_ms), kept in self._world.kept.items()
            if length == length_ms and dimension in dimensions and from_ms <= start_ms < to_ms
        }
        panes = pa.concat_tables([PANES.empty_table(), *(panes for panes, _ in found.values())])
        return StoredPanes(panes, {place: position for place, (_, position) in found.items()})


class FakeProgress:
    def __init__(self) -> None:
        self.offsets: dict[int, dict[int, int]] = {}

    def write(
        self,
        panes_partition: int,
        offsets: Mapping[int, int],
        now_ms: int,  # noqa: ARG002
    ) -> None:
        self.offsets[panes_partition] = dict(offsets)

    def read(self, panes_partition: int) -> dict[int, int] | None:
        return self.offsets.get(panes_partition)


class FakeSink:
    def __init__(self, world: World) -> None:
        self._world = world

    def write(self, windows: Sequence[Mapping[str, Any]]) -> None:
        if self._world.faults:
            raise self._world.faults.pop(0)
        keys = {(w["dimension"], w["window_seconds"], w["window_end_ms"]) for w in windows}
        told = {
            (w["dimension"], w["window_seconds"], w["window_end_ms"]) for w in self._world.published
        }
        assert keys <= told, "stored before it was published"
        self._world.stored += map(dict, windows)

    def last_ends_ms(
        self,
        dimensions: Sequence[str],  # noqa: ARG002
    ) -> dict[tuple[str, int], int]:
        ends: dict[tuple[str, int], int] = {}
        for window in self._world.stored:
            place = window["dimension"], window["window_seconds"]
            ends[place] = max(ends.get(place, 0), window["window_end_ms"])
        return ends

    def given(
        self,
        dimensions: Sequence[str],  # noqa: ARG002
        since_ms: Mapping[int, int],  # noqa: ARG002
        *,
        revised_since_ms: int,  # noqa: ARG002
    ) -> list[Given]:
        return [
            Given(w["dimension"], w["window_seconds"], w["window_end_ms"], w["revision"], {})
            for w in self._world.stored
        ]


class FakePublisher:
    def __init__(self, world: World) -> None:
        self._world = world

    async def publish(
        self, records: Sequence[tuple[int, bytes, bytes]], *, confirm: Confirm
    ) -> None:
        await confirm()
        self._world.published += [orjson.loads(value) for _, _, value in records]
