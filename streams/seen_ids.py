"""Which events of a partition have been stored already: what producers send again is dropped once known.

A record is a *duplicate* when an earlier record of the same partition has the same source and event
id, is stored, and has its event time in the same second; or, for a record that arrived within
`FRESH_SECONDS` of its event time, less than `TOLERANCE_SECONDS` away. Records that arrived later than
the window after their event time are not checked. Nothing but the partition's own log decides, so a
repeat of a range decides the same.

Ids are kept in memory as 64-bit hashes with their second, 12 bytes each, newest event times first;
what is older than memory is asked of ClickHouse, by second and id. An event is compared with those of
two minutes, so that one of 2^64 / (120 s x rate of the partition) is dropped for a hash it shares: at
20,000 events/s over 4 partitions one event in fifty years.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa

from streams.batches import Batch
from streams.columns import Coded
from streams.decoding import Events
from streams.sorted_ids import Ids, Int64s, Mask, UInt64s
from streams.text_hashes import text_hashes

Ranges = Sequence[tuple[int, int]]
"""Event times in seconds since the epoch, ``[from, to)`` each, ascending and apart."""

FRESH_SECONDS = 300
TOLERANCE_SECONDS = 60
"""A gateway that stamps the time anew when it retries is caught if it does so within this time."""
MERGE_IDS = 200_000
"""New ids are merged into the large arrays in lots of this size: a merge copies them all."""
ASK_BY_ID_MAX = 2_000
"""Up to so many ids are named in a question to ClickHouse; more are compared here."""
ASK_RANGES_MAX = 200


class StoredIds(Protocol):
    """The stored events of a partition, as ClickHouse knows them."""

    def newest_second(self, partition: int) -> int | None:
        """Return the newest event time, seconds since the epoch, or ``None`` without events."""

    def ids(
        self,
        partition: int,
        *,
        before_offset: int,
        ranges: Ranges,
        event_ids: Sequence[str] | None = None,
        newest_max: int | None = None,
    ) -> pa.Table:
        """Return ``event_id``, ``source`` (text) and ``second`` (uint32) of stored events.

        Args:
            before_offset: Only events at lower offsets.
            ranges: Only event times in these.
            event_ids: Only these ids, or all.
            newest_max: At most so many, newest event times first, or all.
        """


def hashes_of(event_id: pa.Array, source: Coded) -> UInt64s:
    """Return one hash per event, of its source and id."""
    sources = pa.array([value or "" for value in source.values], pa.string())
    of_sources = text_hashes(sources, np.zeros(len(sources), dtype=np.uint64))
    return text_hashes(event_id, source.pick(of_sources.tolist(), 0, np.uint64))


@dataclass(frozen=True, slots=True)
class Candidates:
    """The events of a range as the check needs them: by hash, equal ones in offset order.

    Attributes:
        order: Their places in the columns they were made from.
        is_checked: Whether the window covers them.
        is_remembered: Whether a later record may be compared with them.
        tolerance: Largest distance of event times, seconds.
    """

    order: Int64s
    offsets: Int64s
    hashes: UInt64s
    seconds: Int64s
    is_checked: Mask
    is_remembered: Mask
    tolerance: Int64s


@dataclass(frozen=True, slots=True)
class Checked:
    """Which events of a range are duplicates: by candidate, and in the order they were given."""

    candidates: Candidates
    by_candidate: Mask
    is_duplicate: Mask


def candidates(events: Events, batch: Batch, window_ms: int) -> Candidates:
    """Return what the check needs of the events of a range."""
    hashes = hashes_of(events.arrays["event_id"], events.text["source"])
    order = np.argsort(hashes)
    if (hashes[order][1:] == hashes[order][:-1]).any():
        order = np.lexsort((events.offsets, hashes))
    occurred_at_ms = events.occurred_at_ms[order]
    age_ms = _append_times_ms(batch, events.offsets[order]) - occurred_at_ms
    is_fresh = age_ms <= FRESH_SECONDS * 1000
    return Candidates(
        order,
        events.offsets[order],
        hashes[order],
        occurred_at_ms // 1000,
        (age_ms <= window_ms) & (window_ms > 0),
        # A record of the same second may be checked although this one, a little older, is not.
        age_ms <= window_ms + 1000,
        np.where(is_fresh, TOLERANCE_SECONDS - 1, 0),
    )


def _append_times_ms(batch: Batch, offsets: Int64s) -> Int64s:
    firsts = np.array([each.first_offset for each in batch.record_batches], dtype=np.int64)
    times = np.array([each.append_time_ms for each in batch.record_batches], dtype=np.int64)
    found: Int64s = times[np.searchsorted(firsts, offsets, side="right") - 1]
    return found


class SeenIds:
    """The ids that one partition has stored, from its assignment on. Not safe for threads.

    Args:
        ids_max: Returns how many ids to keep at most.
        window_ms: Records that arrived later than this after their event time are not checked.
    """

    def __init__(self, partition: int, stored: StoredIds, *, ids_max: int, window_ms: int) -> None:
        self._partition = partition
        self._stored = stored
        self._ids_max = ids_max
        self._window_ms = window_ms
        self._all = Ids.none()
        self._recent = Ids.none()
        self._complete_from: int | None = None
        """Every stored event from this second on is in memory; ``None`` before the first check."""

    def __len__(self) -> int:
        return len(self._all) + len(self._recent)

    def check(self, events: Events, batch: Batch) -> Checked:
        """Return which events of a range are duplicates.

        Raises:
            SinkUnavailableError: ClickHouse can't be asked now; the same call may succeed later.
        """
        mine = candidates(events, batch, self._window_ms)
        duplicate = np.zeros(len(mine.order), dtype=np.bool_)
        if mine.is_checked.any():
            if self._complete_from is None:
                self._load(batch.first_offset)
            assert self._complete_from is not None
            for known in (self._all, self._recent):
                duplicate |= known.has(mine.hashes, mine.seconds, mine.tolerance)
            duplicate &= mine.is_checked
            is_beyond = mine.seconds - mine.tolerance < self._complete_from
            open_ = np.flatnonzero(mine.is_checked & is_beyond & ~duplicate)
            if len(open_):
                duplicate[open_] = self._ask(events, mine, open_, batch.first_offset)
            _mark_within(mine, duplicate)
        in_given_order = np.zeros(len(mine.order), dtype=np.bool_)
        in_given_order[mine.order] = duplicate
        return Checked(mine, duplicate, in_given_order)

    def remember(self, checked: Checked, refused_offsets: Collection[int] = ()) -> None:
        """Take the events of a range that has landed, but for those that ClickHouse refused."""
        mine = checked.candidates
        kept = mine.is_remembered & ~checked.by_candidate
        if refused_offsets:
            kept &= ~np.isin(mine.offsets, list(refused_offsets))
        fresh = Ids(mine.hashes[kept], mine.seconds[kept].astype(np.uint32))
        self._recent = self._recent.merged(fresh)
        if len(self._recent) >= MERGE_IDS or len(self) > self._ids_max:
            self._all = self._all.merged(self._recent)
            self._recent = Ids.none()
        if len(self._all) > self._ids_max:
            self._forget(self._ids_max * 3 // 4)

    def _forget(self, ids_max: int) -> None:
        """Keep the newest ids; what has their oldest second is not complete any more."""
        at = len(self._all) - ids_max
        cut = int(np.partition(self._all.seconds, at)[at]) + 1
        self._all = self._all.since(cut)
        self._complete_from = max(self._complete_from or 0, cut)

    def _load(self, before_offset: int) -> None:
        """Fill the memory with what fresh events are compared with first."""
        newest = self._stored.newest_second(self._partition)
        if newest is None:
            self._complete_from = 0
            return
        oldest = newest - FRESH_SECONDS - TOLERANCE_SECONDS
        newest_max = self._ids_max // 2
        stored = self._stored.ids(
            self._partition,
            before_offset=before_offset,
            ranges=((oldest, newest + 1),),
            newest_max=newest_max,
        )
        loaded = _ids_of(stored)
        if len(loaded) == newest_max:
            oldest = int(loaded.seconds.min()) + 1
        self._all = loaded.since(oldest)
        self._complete_from = oldest

    def _ask(self, events: Events, mine: Candidates, rows: Int64s, before_offset: int) -> Mask:
        """Return which of ``rows`` are stored, as ClickHouse knows it."""
        found = np.zeros(len(rows), dtype=np.bool_)
        by_id = len(rows) <= ASK_BY_ID_MAX
        for part in _parts(mine, rows):
            chosen = rows[part]
            ids = None
            if by_id:
                places = pa.array(mine.order[chosen])
                ids = tuple(events.arrays["event_id"].take(places).to_pylist())
            ranges = _ranges(mine.seconds[chosen], mine.tolerance[chosen])
            stored = self._stored.ids(
                self._partition, before_offset=before_offset, ranges=ranges, event_ids=ids
            )
            found[part] = _ids_of(stored).has(
                mine.hashes[chosen], mine.seconds[chosen], mine.tolerance[chosen]
            )
        return found


def _ids_of(stored: pa.Table) -> Ids:
    stored = stored.combine_chunks()
    if not stored.num_rows:
        return Ids.none()
    source = stored["source"].chunk(0).dictionary_encode()
    coded = Coded(source.indices.to_numpy().astype(np.int32), tuple(source.dictionary.to_pylist()))
    return Ids.of(
        hashes_of(stored["event_id"].chunk(0), coded),
        stored["second"].chunk(0).to_numpy().astype(np.uint32),
    )


def _parts(mine: Candidates, rows: Int64s) -> Iterator[Int64s]:
    """Split ``rows`` by event time so that each part is one question of bounded length."""
    by_time = np.argsort(mine.seconds[rows], kind="stable")
    seconds, tolerance = mine.seconds[rows][by_time], mine.tolerance[rows][by_time]
    begins = np.r_[True, seconds[1:] - tolerance[1:] > seconds[:-1] + tolerance[:-1] + 1]
    part_of = (np.cumsum(begins) - 1) // ASK_RANGES_MAX
    for number in range(int(part_of[-1]) + 1):
        yield by_time[part_of == number]


def _ranges(seconds: Int64s, tolerance: Int64s) -> tuple[tuple[int, int], ...]:
    """Return the ranges of event time that matter, ``[from, to)``, joined where they meet."""
    joined: list[tuple[int, int]] = []
    pairs = np.unique(np.stack([seconds - tolerance, seconds + tolerance + 1], axis=1), axis=0)
    for begin, end in pairs.tolist():
        if joined and begin <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((begin, end))
    return tuple(joined)


def _mark_within(mine: Candidates, duplicate: Mask) -> None:
    """Mark what is sent twice within the range: all but the first, in offset order."""
    same = mine.hashes[1:] == mine.hashes[:-1]
    if not same.any():
        return
    begins = np.flatnonzero(np.r_[True, ~same])
    ends = np.r_[begins[1:], len(mine.hashes)]
    for begin, end in zip(begins[ends - begins > 1], ends[ends - begins > 1], strict=True):
        stored: list[int] = []
        for row in range(begin, end):
            second, tolerance = int(mine.seconds[row]), int(mine.tolerance[row])
            again = any(abs(second - each) <= tolerance for each in stored)
            if mine.is_checked[row] and again:
                duplicate[row] = True
            if not duplicate[row]:
                stored.append(second)
