"""Rolling windows of one dimension: panes in, closed windows with their shares out.

Pure: integer milliseconds, no clock, no I/O. Panes of ten seconds are kept for a while and merged
into longer ones as these close; every window is a few panes of the length of its slide:

    window   1 m   5 m   15 m   1 h   24 h   7 d
    slide   10 s  30 s    1 m   5 m    1 h   6 h

A pane that comes late is added to the panes of every length that are still kept, and the windows
that were given out without it are due again, with the next revision. Those that reach further back than
what is kept are made of panes asked of ClickHouse (`Windows.ask_for`).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.panes import MEASURES, OTHER, PANE_MS, PANES, RANK_BITS, REGISTERS, UNKNOWN
from streams.panes import PaneRows
from streams.shares import billionths
from streams.users import estimate

Int64s = npt.NDArray[np.int64]
Ranks = npt.NDArray[np.uint8]

HOUR_MS = 3_600_000
FIVE_MINUTES_MS = 300_000
STORED_LENGTHS = (PANE_MS, FIVE_MINUTES_MS, HOUR_MS)
"""Panes of these lengths are stored: a new owner need not count what they hold."""
LATE_MS = 15 * 60_000
"""A pane that comes so late at most is added to what is kept; an older one is asked for."""
HISTORY_MS = LATE_MS
"""How long the shares of a window are kept beyond the time that the window after it needs them."""
REVISIONS_MS = 25 * HOUR_MS
"""How long a revision is remembered: longer than the grace period of late events."""
LATE_HOURS_MS = 25 * HOUR_MS
"""The same for panes of an hour and more, of which there are few: longer than the grace period."""
VALUES_MAX = 5_000
"""Values of a dimension that are told apart; any further one is counted as `OTHER`."""


@dataclass(frozen=True, slots=True, order=True)
class Size:
    """A hopping window: its length, and how often one ends; milliseconds."""

    length_ms: int
    slide_ms: int

    def end_after(self, time_ms: int) -> int:
        """Return the end of the first window that ends later than a time."""
        return (time_ms // self.slide_ms + 1) * self.slide_ms


SIZES = tuple(
    Size(length * 1000, slide * 1000)
    for length, slide in (
        (60, 10),
        (300, 30),
        (900, 60),
        (3_600, 300),
        (86_400, 3_600),
        (604_800, 21_600),
    )
)
PANE_LENGTHS = tuple(size.slide_ms for size in SIZES)


def kept_ms(length_ms: int) -> int:
    """Return how long panes of a length are kept after their end."""
    return needed_ms(length_ms) + (LATE_MS if length_ms < HOUR_MS else LATE_HOURS_MS)


def needed_ms(length_ms: int) -> int:
    """Return how far back panes of a length are needed when no event is late."""
    size = SIZES[PANE_LENGTHS.index(length_ms)]
    longer = PANE_LENGTHS[PANE_LENGTHS.index(length_ms) + 1 :]
    return max([size.length_ms, *(each for each in longer if source_of(each) == length_ms)])


def source_of(length_ms: int) -> int:
    """Return the length of the panes that panes of a length are merged from.

    Those of ten seconds make all up to five minutes, these the hours, these the six hours.
    """
    if length_ms <= FIVE_MINUTES_MS:
        return PANE_MS
    return FIVE_MINUTES_MS if length_ms == HOUR_MS else HOUR_MS


@dataclass(slots=True)
class Pane:
    """Sums and user sketches of the values that a pane has.

    Attributes:
        values: Numbers of the values, ascending, shape ``(n,)``.
        measures: Shape ``(n, len(MEASURES))``.
        ranks: Highest rank per register, shape ``(n, REGISTERS)``.
    """

    values: Int64s
    measures: Int64s
    ranks: Ranks

    @classmethod
    def empty(cls) -> "Pane":
        """Return a pane without requests."""
        return cls(
            np.zeros(0, np.int64),
            np.zeros((0, len(MEASURES)), np.int64),
            np.zeros((0, REGISTERS), np.uint8),
        )

    def add(self, values: Int64s, measures: Int64s, registers: Int64s, ranks: Ranks) -> None:
        """Add to it.

        Args:
            values: Any order; a value may come twice.
            measures: A row per value.
            registers: ``position in values * REGISTERS + register``.
            ranks: The rank of each of these registers.
        """
        rows = self._rows(values)
        np.add.at(self.measures, rows, measures)
        at, register = np.divmod(registers, REGISTERS)
        np.maximum.at(self.ranks.reshape(-1), rows[at] * REGISTERS + register, ranks)

    def add_pane(self, other: "Pane") -> None:
        """Add all of another pane."""
        rows = self._rows(other.values)
        self.measures[rows] += other.measures
        self.ranks[rows] = np.maximum(self.ranks[rows], other.ranks)

    def _rows(self, values: Int64s) -> Int64s:
        """Return the row of each value, with new rows for new values."""
        known = np.union1d(self.values, values)
        if len(known) != len(self.values):
            rows = np.searchsorted(known, self.values)
            measures = np.zeros((len(known), len(MEASURES)), np.int64)
            ranks = np.zeros((len(known), REGISTERS), np.uint8)
            measures[rows], ranks[rows] = self.measures, self.ranks
            self.values, self.measures, self.ranks = known, measures, ranks
        return np.searchsorted(self.values, values)


Shares = Mapping[str, tuple[int, int, int]]
"""Shares of requests, tokens and cost by value, in billionths."""


@dataclass(frozen=True, slots=True)
class Window:
    """One closed window of a dimension. Arrays have one entry per value.

    Attributes:
        values: The first of them by tokens, then `OTHER` and `UNKNOWN` if they have requests.
        measures: Shape ``(n, len(MEASURES))``.
        users: Estimates of distinct users.
        shares: Of requests, tokens and cost, in billionths, shape ``(n, 3)``: each column sums to
            exactly 1,000,000,000, or is zero throughout when there is nothing to share.
        previous: The same of the window of equal length that ended where this one begins, -1 where
            the value had no row of its own; ``None`` if that window is not known.
        revision: 0 when first given out.
        is_complete: Whether no partition was missing when it was given out.
    """

    dimension: str
    size: Size
    end_ms: int
    revision: int
    is_complete: bool
    values: tuple[str, ...]
    measures: Int64s
    users: Int64s
    shares: Int64s
    previous: Int64s | None

    @property
    def totals(self) -> dict[str, int]:
        """The denominators: sums of requests, tokens and cost over all values."""
        return dict(zip(DENOMINATORS, map(int, shared(self.measures).sum(axis=0)), strict=True))


DENOMINATORS = ("requests", "tokens", "cost_nanousd")


def shared(measures: Int64s) -> Int64s:
    """Return what has a share, of rows of measures: requests, tokens and cost, shape ``(n, 3)``."""
    requests, prompt, completion, cost = (
        measures[:, MEASURES.index(name)]
        for name in ("requests", "tokens_prompt", "tokens_completion", "cost_nanousd")
    )
    return np.stack([requests, prompt + completion, cost], axis=1)


class Windows:
    """The rolling windows of one dimension.

    Args:
        dimension: Its name.
        top: How many values have rows of their own.
        given_ms: End of the last window of each size that was given out, whoever did it.
        revisions: Those above 0.
        history: Shares of windows that were given out, as far back as `previous` needs them.

    Attributes:
        ask_for: Windows that are due and reach further back than what is kept, and the revision
            that they will be.
        changed: Starts of panes of `STORED_LENGTHS` that were made or changed since they were last
            taken; of the shortest the open ones too.
        folded: How often a value was one too many, see `VALUES_MAX`.
    """

    def __init__(
        self,
        dimension: str,
        *,
        top: int,
        given_ms: Mapping[Size, int],
        revisions: Mapping[tuple[Size, int], int],
        history: Mapping[tuple[Size, int], Shares],
    ) -> None:
        self.dimension = dimension
        self.given_ms = dict(given_ms)
        self.ask_for: dict[tuple[Size, int], int] = {}
        self.changed: dict[int, set[int]] = {length_ms: set() for length_ms in STORED_LENGTHS}
        self.folded = 0
        self._top = top
        self._revisions = dict(revisions)
        self._history = dict(history)
        self._names = [OTHER, UNKNOWN]
        self._number_of = {OTHER: 0, UNKNOWN: 1}
        self._panes: dict[int, dict[int, Pane]] = {length: {} for length in PANE_LENGTHS}
        self._kept_from_ms = dict.fromkeys(PANE_LENGTHS, 0)
        self._due_again: set[tuple[Size, int]] = set()

    def load(self, length_ms: int, panes: PaneRows, from_ms: int) -> None:
        """Put panes in place: of ten seconds all there are, of others those that have closed.

        Args:
            length_ms: Of `PANE_LENGTHS`.
            panes: Of this dimension and length.
            from_ms: Where they begin, whether there are any or not.
        """
        closed_ms = self.given_ms[_size_of(length_ms)]
        self._panes[length_ms] = {
            start_ms: pane
            for start_ms, pane in self._made(panes)
            if length_ms == PANE_MS or start_ms + length_ms <= closed_ms
        }
        self._kept_from_ms[length_ms] = from_ms

    def skip_to(self, size: Size, end_ms: int) -> None:
        """Ask for the windows that end at or before a time, if they were not given out yet."""
        for missed_ms in range(self.given_ms[size] + size.slide_ms, end_ms + 1, size.slide_ms):
            self.ask_for[size, missed_ms] = 0
            self.given_ms[size] = missed_ms

    def merge(self, length_ms: int, starts_ms: Iterable[int]) -> None:
        """Make some closed panes of the shorter ones that were loaded."""
        for start_ms in starts_ms:
            self._merge(length_ms, start_ms)

    def merge_closed(self, length_ms: int, from_ms: int) -> None:
        """Make the panes of a length that have closed of the shorter ones that were loaded."""
        self._panes[length_ms] = {}
        self.merge(length_ms, range(from_ms, self.given_ms[_size_of(length_ms)], length_ms))
        self._kept_from_ms[length_ms] = from_ms

    def add(self, panes: PaneRows) -> None:
        """Add panes of ten seconds, of this dimension, whenever they come."""
        for start_ms, pane in self._made(panes):
            for length_ms in PANE_LENGTHS:
                self._add_to(length_ms, start_ms // length_ms * length_ms, pane)
            self.note_late([start_ms])

    def note_late(self, starts_ms: Iterable[int]) -> None:
        """Make windows due again that were given out and hold any of these panes."""
        for start_ms in starts_ms:
            for size in SIZES:
                last_ms = min(start_ms + size.length_ms, self.given_ms[size])
                for end_ms in range(size.end_after(start_ms), last_ms + 1, size.slide_ms):
                    self._due_again.add((size, end_ms))

    def _add_to(self, length_ms: int, start_ms: int, pane: Pane) -> None:
        # A longer pane that is still open is merged from shorter ones when it closes.
        is_open = start_ms + length_ms > self.given_ms[_size_of(length_ms)]
        if start_ms < self._kept_from_ms[length_ms] or (is_open and length_ms != PANE_MS):
            return
        self._panes[length_ms].setdefault(start_ms, Pane.empty()).add_pane(pane)
        if length_ms in self.changed:
            self.changed[length_ms].add(start_ms)

    def close(self, watermark_ms: int, *, is_complete: bool) -> Iterator[Window]:
        """Yield every window that ends at or before the watermark and was not given out yet."""
        for size in SIZES:
            first_ms = self.given_ms[size] + size.slide_ms
            for end_ms in range(first_ms, watermark_ms + 1, size.slide_ms):
                self._merge(size.slide_ms, end_ms - size.slide_ms)
                self.given_ms[size] = end_ms
                if self._is_kept(size, end_ms):
                    yield self._window(size, end_ms, 0, is_complete, self._panes[size.slide_ms])
                else:
                    self.ask_for[size, end_ms] = 0
        self._forget()

    def due_again(self, *, is_complete: bool) -> Iterator[Window]:
        """Yield the next revision of every window that late panes have changed."""
        due, self._due_again = self._due_again, set()
        for size, end_ms in sorted(due):
            if (size, end_ms) in self.ask_for:
                continue
            revision = self._revisions.get((size, end_ms), 0) + 1
            if self._is_kept(size, end_ms):
                panes = self._panes[size.slide_ms]
                yield self._window(size, end_ms, revision, is_complete, panes)
            else:
                self.ask_for[size, end_ms] = revision

    def answered(
        self, size: Size, ends_ms: Iterable[int], panes: PaneRows, *, is_complete: bool
    ) -> Iterator[Window]:
        """Yield windows that were asked for.

        Args:
            size: Their size.
            ends_ms: Some of those in `ask_for`.
            panes: All panes of the length of the slide that they are made of.
            is_complete: See `Window`.
        """
        made = dict(self._made(panes))
        for end_ms in ends_ms:
            revision = self.ask_for.pop((size, end_ms))
            yield self._window(size, end_ms, revision, is_complete, made)

    def panes(self, length_ms: int, starts_ms: Iterable[int]) -> pa.Table:
        """Return panes in the form of `schemas.panes.PANES`."""
        of_length = self._panes[length_ms]
        found = [(start_ms, of_length[start_ms]) for start_ms in starts_ms if start_ms in of_length]
        if not found:
            return PANES.empty_table()
        numbers = np.concatenate([pane.values for _, pane in found])
        measures = np.concatenate([pane.measures for _, pane in found])
        ranks = np.concatenate([pane.ranks for _, pane in found])
        row, register = np.nonzero(ranks)
        entries = register << RANK_BITS | ranks[row, register].astype(np.int64)
        ends = np.searchsorted(row, np.arange(len(numbers)), side="right")
        starts = np.repeat([start_ms for start_ms, _ in found], [len(p.values) for _, p in found])
        columns = {
            "dimension": pa.array([self.dimension] * len(numbers)).dictionary_encode(),
            "pane_ms": pa.array(starts, pa.int64()),
            "value": pa.array([self._names[number] for number in numbers]).dictionary_encode(),
            **{name: pa.array(measures[:, at]) for at, name in enumerate(MEASURES)},
            "users": pa.ListArray.from_arrays(
                pa.array(np.concatenate([[0], ends]).astype(np.int32)),
                pa.array(entries.astype(np.uint16)),
            ),
        }
        return pa.table(columns, schema=PANES)

    def _made(self, panes: PaneRows) -> Iterator[tuple[int, Pane]]:
        """Yield each pane with its start."""
        if not len(panes.start_ms):
            return
        codes, place = np.unique(panes.code, return_inverse=True)
        number = np.array([self._number(panes.names[code]) for code in codes])[place]
        register, rank = panes.entries >> RANK_BITS, panes.entries & ((1 << RANK_BITS) - 1)
        row_of_entry = np.repeat(np.arange(len(number)), panes.users)
        bounds = np.flatnonzero(np.diff(panes.start_ms, prepend=-1, append=-1))
        entry_bounds = np.searchsorted(row_of_entry, bounds)
        for (first, last), (low, high) in zip(
            pairwise(bounds), pairwise(entry_bounds), strict=True
        ):
            pane = Pane.empty()
            pane.add(
                number[first:last],
                panes.measures[first:last],
                (row_of_entry[low:high] - first) * REGISTERS + register[low:high],
                rank[low:high].astype(np.uint8),
            )
            yield int(panes.start_ms[first]), pane

    def _number(self, name: str) -> int:
        number = self._number_of.get(name)
        if number is None:
            if len(self._names) >= VALUES_MAX:
                self.folded += 1
                return self._number_of[OTHER]
            number = self._number_of[name] = len(self._names)
            self._names.append(name)
        return number

    def _merge(self, length_ms: int, start_ms: int) -> None:
        """Make a pane that closes of the shorter ones that it is made of."""
        if length_ms == PANE_MS:
            return
        shorter_ms = source_of(length_ms)
        merged = Pane.empty()
        for part_ms in range(start_ms, start_ms + length_ms, shorter_ms):
            part = self._panes[shorter_ms].get(part_ms)
            if part is not None:
                merged.add_pane(part)
        if len(merged.values):
            self._panes[length_ms][start_ms] = merged
        if length_ms in self.changed:
            self.changed[length_ms].add(start_ms)

    def _is_kept(self, size: Size, end_ms: int) -> bool:
        return end_ms - size.length_ms >= self._kept_from_ms[size.slide_ms]

    def _forget(self) -> None:
        for size in SIZES:
            given_ms = self.given_ms[size]
            kept_from_ms = (given_ms - kept_ms(size.slide_ms)) // size.slide_ms * size.slide_ms
            kept_from_ms = max(kept_from_ms, self._kept_from_ms[size.slide_ms])
            self._kept_from_ms[size.slide_ms] = kept_from_ms
            panes = self._panes[size.slide_ms]
            for start_ms in [each for each in panes if each < kept_from_ms]:
                del panes[start_ms]
        for key in [key for key in self._history if self._is_past(key, HISTORY_MS)]:
            del self._history[key]
        for key in [key for key in self._revisions if self._is_past(key, REVISIONS_MS)]:
            del self._revisions[key]

    def _is_past(self, key: tuple[Size, int], kept_for_ms: int) -> bool:
        size, end_ms = key
        return end_ms < self.given_ms[size] - size.length_ms - kept_for_ms

    def _window(
        self, size: Size, end_ms: int, revision: int, is_complete: bool, panes: Mapping[int, Pane]
    ) -> Window:
        measures = np.zeros((len(self._names), len(MEASURES)), dtype=np.int64)
        ranks = np.zeros((len(self._names), REGISTERS), dtype=np.uint8)
        for start_ms in range(end_ms - size.length_ms, end_ms, size.slide_ms):
            pane = panes.get(start_ms)
            if pane is not None:
                measures[pane.values] += pane.measures
                ranks[pane.values] = np.maximum(ranks[pane.values], pane.ranks)
        values, measures, ranks = self._ranked(measures, ranks)
        parts = shared(measures)
        shares = np.stack([billionths(part) for part in parts.T], axis=1)
        if revision:
            self._revisions[size, end_ms] = revision
        self._history[size, end_ms] = {
            value: (int(a), int(b), int(c)) for value, (a, b, c) in zip(values, shares, strict=True)
        }
        before = self._history.get((size, end_ms - size.length_ms))
        previous = None
        if before is not None:
            rows = [before.get(value, (-1, -1, -1)) for value in values]
            previous = np.array(rows, dtype=np.int64).reshape(len(values), len(DENOMINATORS))
        return Window(
            self.dimension,
            size,
            end_ms,
            revision,
            is_complete,
            values,
            measures,
            estimate(ranks),
            shares,
            previous,
        )

    def _ranked(self, measures: Int64s, ranks: Ranks) -> tuple[tuple[str, ...], Int64s, Ranks]:
        """Return the largest values by tokens, what is left, and what is unknown."""
        tokens = shared(measures)[:, 1]
        named = [int(n) for n in np.flatnonzero(measures[:, 0]) if n not in (0, 1)]
        named.sort(key=lambda n: (-int(tokens[n]), self._names[n]))
        rest = [0, *named[self._top :]]
        own = named[: self._top]
        names = [self._names[n] for n in own]
        rows, sketches = [measures[own]], [ranks[own]]
        for name, group in ((OTHER, rest), (UNKNOWN, [1])):
            total: Int64s = measures[group].sum(axis=0, keepdims=True)
            if total[0, 0]:
                names.append(name)
                rows.append(total)
                sketches.append(ranks[group].max(axis=0, keepdims=True))
        return tuple(names), np.concatenate(rows), np.concatenate(sketches)


def _size_of(length_ms: int) -> Size:
    """Return the window size whose panes have a length."""
    return SIZES[PANE_LENGTHS.index(length_ms)]
