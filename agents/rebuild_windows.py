"""The state of rolling windows, made anew out of what is stored in ClickHouse.

An owner begins with it, and comes back to it when a range does not follow on what was counted. The
windows go on behind those that were given out; what was missed and what late events have changed is
made due. Everything below one offset of each partition is counted, and nothing else.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import structlog
from prometheus_client import Counter

from agents.calling import Call, in_thread
from agents.spans import SPAN_MS_MAX, Spans
from agents.window_parts import GivenWindow, Parts
from schemas.panes import PANE_MS, PANES
from streams.panes import NO_PANES, by_dimension
from streams.windows import (
    FIVE_MINUTES_MS,
    HOUR_MS,
    PANE_LENGTHS,
    SIZES,
    STORED_LENGTHS,
    Size,
    Windows,
    kept_ms,
    needed_ms,
    source_of,
)

log = structlog.get_logger()

REBUILDS = Counter("tokentide_window_rebuilds", "Times that windows were rebuilt from ClickHouse.")

CATCH_UP_MS = 86_400_000
"""Windows that ended longer ago are not given out any more."""
MISSED_MS = 3_600_000
"""Windows that were missed for longer are asked of ClickHouse piece by piece, to bound memory."""
END_OF_TIME_MS = 4_000_000_000_000
"""Later than any event: the broker's clock has bounded the event times of what is stored."""
LATE_KEPT_MS = 60_000
"""How much further back than needed short panes are loaded, for events that are late."""
TRUSTED_MS = 4 * HOUR_MS
"""Stored panes of ten seconds that are older may be gone: they are kept for a day of ClickHouse's
clock, and this is the worker's."""


@dataclass(frozen=True)
class Rebuilt:
    """State made anew.

    Attributes:
        windows: By dimension.
        below: Offsets of the usage partitions: everything below them is counted, and nothing else.
        is_noted: Whether it is noted in ClickHouse up to where windows hold what has landed.
    """

    windows: dict[str, Windows]
    below: Mapping[int, int]
    is_noted: bool


class Rebuilding:
    """One rebuild of the dimensions of a partition of the panes topic; use `run` once.

    Args:
        partition: Of the panes topic.
        dimensions: It has these.
        parts: Where panes and windows are stored.
        call: Calls ClickHouse.
        spans: How much it is asked about at once of what is not known to be little.
        below: Offsets of the usage partitions: what is below them has landed.
    """

    def __init__(
        self,
        partition: int,
        dimensions: Sequence[str],
        parts: Parts,
        call: Call,
        spans: Spans,
        below: Mapping[int, int],
    ) -> None:
        self._partition = partition
        self._dimensions = dimensions
        self._parts = parts
        self._call = call
        self._spans = spans
        self._below = dict(below)
        self._now_ms = parts.now_ms()
        self._stored_ms = 0, 0
        self._windows: dict[str, Windows] = {}
        self._loaded_from_ms: dict[int, int] = {}
        self._last_end_ms: dict[int, int] = {}
        """By slide: up to where windows were given out in every dimension."""
        # What came since is little, however long ago it happened.
        self._spans_since = Spans(parts.clock, SPAN_MS_MAX)

    async def run(self, append_time_ms: int) -> Rebuilt:
        """Return the state.

        Args:
            append_time_ms: The broker's time of the record that is being counted.

        Raises:
            PartitionLostError: Another worker owns the partition.
            FatalError: A person is needed.
        """
        REBUILDS.inc()
        parts, started = self._parts, self._parts.clock()
        in_windows = await self._call(parts.windows_noted.read, self._partition)
        in_panes = await self._call(parts.panes_noted.read, self._partition)
        for noted in (in_windows or {}, in_panes or {}):
            # An owner counted it when it was told, which is after it had landed.
            for partition, offset in noted.items():
                self._below[partition] = max(offset, self._below.get(partition, 0))
        self._stored_ms = await self._call(parts.panes.stored_ms)
        self._windows = await self._given_windows(append_time_ms)
        await self._load_shortest(in_panes)
        for length_ms in PANE_LENGTHS[1:]:
            if length_ms in STORED_LENGTHS:
                # Before panes had a progress of their own they were stored before that of windows.
                await self._load_stored(length_ms, in_panes or in_windows or {})
            else:
                for windows in self._windows.values():
                    windows.merge_closed(length_ms, self._kept(length_ms)[0])
        if in_windows is not None:
            await self._find_owed(in_windows)
        log.info(
            "windows.rebuilt",
            dimensions=self._dimensions,
            duration_seconds=round(parts.clock() - started, 3),
        )
        return Rebuilt(self._windows, self._below, in_windows is not None)

    def _kept(self, length_ms: int) -> tuple[int, int]:
        """Return from when panes of a length are needed, and where the closed ones end.

        Of short ones those that only late events could need are left out: windows that reach
        further back are asked for one by one.
        """

        def ends(length_ms: int) -> list[int]:
            size = SIZES[PANE_LENGTHS.index(length_ms)]
            return [windows.given_ms[size] for windows in self._windows.values()]

        # Longer ones that are merged from them may have closed less far.
        made = [each for each in PANE_LENGTHS if source_of(each) == length_ms]
        first_ms = min(end_ms for each in (length_ms, *made) for end_ms in ends(each))
        is_long = length_ms >= FIVE_MINUTES_MS
        back_ms = kept_ms(length_ms) if is_long else needed_ms(length_ms) + LATE_KEPT_MS
        return (first_ms - back_ms) // length_ms * length_ms, max(ends(length_ms))

    async def _load_shortest(self, noted: Mapping[int, int] | None) -> None:
        """Load panes of ten seconds, the open ones too, as they were stored and what came since.

        Args:
            noted: Offsets below which everything is in the stored panes. A pane that is not stored has
                no rows below them.
        """
        made = [each for each in PANE_LENGTHS if source_of(each) == PANE_MS]
        # What was missed, and what longer panes of five minutes are still to be merged from, too.
        from_ms = min(self._kept(each)[0] for each in made if each < FIVE_MINUTES_MS)
        read, call = self._parts.stored.read, self._call
        stored = await call(read, PANE_MS, self._dimensions, from_ms, END_OF_TIME_MS)
        is_trusted = bool(stored.positions) and from_ms >= self._now_ms - TRUSTED_MS
        if noted is None or not is_trusted:
            loaded = PANES.empty_table()
            counted = [await self._count_all(from_ms, None)]
            changed: set[int] = set()
        else:
            # One that was written after the progress was noted may hold some rows and not others.
            newest = sum(noted.values())
            changed = {start_ms for (_, start_ms), at in stored.positions.items() if at > newest}
            again = sorted(changed)
            loaded = _without(stored.panes, again)
            counted = [_without(await self._count_all(from_ms, noted), again)]
            for first_ms, last_ms in _runs(again, PANE_MS):
                counted.append(await self._count(PANE_MS, first_ms, last_ms + PANE_MS))
        panes = pa.concat_tables([loaded, *counted])
        await in_thread(self._parts.executor, self._load, PANE_MS, panes, from_ms)
        changed.update(start_ms for each in counted for start_ms in each["pane_ms"].to_pylist())
        for windows in self._windows.values():
            windows.changed[PANE_MS].update(changed)

    async def _count_all(self, from_ms: int, above: Mapping[int, int] | None) -> pa.Table:
        """Count panes of ten seconds from a time on, the open ones too."""
        now_ms = max(self._now_ms // PANE_MS * PANE_MS, from_ms)
        until_now = await self._count(PANE_MS, from_ms, now_ms, above)
        # Little is newer than now, unless this clock is behind.
        ahead = await self._call(
            self._parts.panes.read,
            self._dimensions,
            PANE_MS,
            *self._within(now_ms, END_OF_TIME_MS),
            above=above,
            below=self._below,
        )
        return pa.concat_tables([until_now, ahead])

    async def _count(
        self, length_ms: int, from_ms: int, to_ms: int, above: Mapping[int, int] | None = None
    ) -> pa.Table:
        def count(from_ms: int, to_ms: int) -> pa.Table:
            return self._parts.panes.read(
                self._dimensions, length_ms, from_ms, to_ms, above=above, below=self._below
            )

        spans = self._spans_since if above else self._spans
        found = await spans.ask(self._call, count, *self._within(from_ms, to_ms))
        return pa.concat_tables([PANES.empty_table(), *found])

    def _within(self, from_ms: int, to_ms: int) -> tuple[int, int]:
        """Return what of ``[from_ms, to_ms)`` has rows: the rest need not be asked about."""
        first_ms, end_ms = self._stored_ms
        return max(from_ms, first_ms), min(to_ms, end_ms)

    async def _load_stored(self, length_ms: int, told: Mapping[int, int]) -> None:
        """Load panes as they were stored, and count those rows that came since.

        Args:
            length_ms: Of the longer ones of `STORED_LENGTHS`.
            told: Offsets below which everything is in the stored panes.
        """
        parts = self._parts
        from_ms, to_ms = self._kept(length_ms)
        if length_ms == HOUR_MS:
            from_ms = self._kept(PANE_LENGTHS[-1])[0]
        stored = await self._call(parts.stored.read, length_ms, self._dimensions, from_ms, to_ms)
        newest = sum(told.values())
        # What shorter panes have in full is merged of them, as when a pane closes. The last ones before
        # the newest window are never taken as they were stored: an owner that died before it had stored
        # that window of every dimension leaves them open again, and open panes are not kept up.
        merged_from_ms = self._loaded_from_ms[source_of(length_ms)]
        doubtful_from_ms = self._last_end_ms[length_ms] - length_ms - FIVE_MINUTES_MS
        # One that was written after the progress was noted may hold some rows and not others.
        again = [
            start_ms
            for start_ms in range(from_ms, to_ms, length_ms)
            if start_ms >= min(merged_from_ms, doubtful_from_ms)
            or any(
                stored.positions.get((dimension, start_ms), newest + 1) > newest
                for dimension in self._dimensions
            )
        ]
        found = [_without(stored.panes, again)]
        changed = set(again)
        if told:
            # Older events have been too late when they came, and are in no pane.
            grace_from_ms = (self._now_ms - parts.rules.grace_ms) // length_ms * length_ms
            since_ms = max(from_ms, grace_from_ms - length_ms)
            since = await self._count(length_ms, since_ms, to_ms, told)
            found.append(_without(since, again))
            changed.update(since["pane_ms"].to_pylist())
        counted = [start_ms for start_ms in again if start_ms < merged_from_ms]
        for first_ms, last_ms in _runs(counted, length_ms):
            found.append(await self._count(length_ms, first_ms, last_ms + length_ms))
        await in_thread(parts.executor, self._load, length_ms, pa.concat_tables(found), from_ms)
        size = SIZES[PANE_LENGTHS.index(length_ms)]
        for windows in self._windows.values():
            # One that is still open in this dimension gets rows until it closes: stored now, it would
            # pass for whole.
            last_ms = windows.given_ms[size] - length_ms
            windows.merge(length_ms, (each for each in again[len(counted) :] if each <= last_ms))
            windows.changed[length_ms].update(each for each in changed if each <= last_ms)

    def _load(self, length_ms: int, panes: pa.Table, from_ms: int) -> None:
        self._loaded_from_ms[length_ms] = from_ms
        mine = by_dimension(panes)
        for dimension, windows in self._windows.items():
            windows.load(length_ms, mine.get(dimension, NO_PANES), from_ms)

    async def _given_windows(self, append_time_ms: int) -> dict[str, Windows]:
        """Return windows without panes, that go on behind those that were given out."""
        parts, now_ms = self._parts, self._now_ms
        # Where none was given out yet they begin with the panes, whatever the worker's clock says.
        first_ms = min(now_ms, append_time_ms)
        last_ms = await self._call(parts.sink.last_ends_ms, self._dimensions)
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
        self._last_end_ms = {
            size.slide_ms: min(each[size] for each in given_ms.values()) for size in SIZES
        }
        since_ms = {
            size.length_ms // 1000: min(each[size] for each in given_ms.values()) - size.length_ms
            for size in SIZES
        }
        given = await self._call(
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

    async def _find_owed(self, told: Mapping[int, int]) -> None:
        """Make those windows due that an earlier owner had given out and not yet revised."""

        def find(from_ms: int, to_ms: int) -> list[int]:
            return self._parts.panes.late_panes_ms(from_ms, to_ms, above=told, below=self._below)

        since_ms = self._now_ms - self._parts.rules.grace_ms
        until_now = self._within(since_ms, self._now_ms)
        found = await self._spans_since.ask(self._call, find, *until_now)
        found.append(await self._call(find, *self._within(self._now_ms, END_OF_TIME_MS)))
        late = {start_ms for starts_ms in found for start_ms in starts_ms}
        for windows in self._windows.values():
            windows.note_late(sorted(late))


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
