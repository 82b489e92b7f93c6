"""Panes of a landed range: sums per ten seconds of event time and value, in one pass per dimension."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.panes import (
    DIMENSIONS,
    MEASURES,
    PAIR_SEPARATOR,
    PANE_MS,
    PANES,
    RANK_BITS,
    REGISTERS,
    UNKNOWN,
)
from streams.compiled import compiled_once, pointer

Int64s = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]

ENTRY_BITS = 16
DENSE_MAX = 16
"""Ranks of all registers are kept in a table while it has at most so many cells per entry."""
HASH_BITS = 53
"""Of the mixed hash, behind the 11 lowest: what a double holds exactly."""


def load_compiled() -> None:
    """Compile what counts panes, or load what was compiled before."""
    none = np.zeros((0, len(MEASURES)), dtype=np.int64)
    _add(none, none, none)
    _raise_ranks(none, none[0:0, 0].copy(), np.zeros(0, dtype=np.uint8))


@dataclass(frozen=True, slots=True)
class Coded:
    """Values of a dimension: row ``i`` has ``values[codes[i]]``."""

    codes: Int64s
    values: pa.Array


class CountedRows:
    """Rows of a range, counted by every dimension.

    All dimensions are counted together: a range has some thousand rows, and what a step of numpy costs
    before its first row would be paid once per dimension.

    Args:
        rows: Rows of usage_events, all of which have landed; at least one.
        tokens_cap: More tokens of one request do not count as ``tokens_capped``.
    """

    def __init__(self, rows: pa.Table, *, tokens_cap: int) -> None:
        starts, pane_of = _panes_of(numbers(rows, "occurred_at"))
        columns = _Columns(rows)
        coded = [columns.coded(dimension) for dimension in DIMENSIONS]
        widths = np.array([len(each.values) for each in coded], dtype=np.int64)
        # Groups are numbered by dimension, pane and value.
        bases = np.concatenate([[0], np.cumsum(widths * len(starts))])
        group = np.stack(
            [
                pane_of * width + each.codes + base
                for each, width, base in zip(coded, widths, bases[:-1], strict=True)
            ]
        )
        if bases[-1] > 4 * group.size:
            groups, flat = np.unique(group, return_inverse=True)
            group = flat.reshape(group.shape)
        else:
            groups = np.arange(bases[-1], dtype=np.int64)
        measures = np.stack(_measures(rows, columns, tokens_cap), axis=1)
        sums = np.zeros((len(groups), len(MEASURES)), dtype=np.int64)
        _add(np.ascontiguousarray(group), measures, sums)
        entries, has_user = _user_entries(rows)
        users = _highest_entries(group[:, has_user], entries, len(groups))
        present = np.flatnonzero(sums[:, 0])
        dimension = np.searchsorted(bases, groups[present], side="right") - 1
        pane, self._code = np.divmod(groups[present] - bases[dimension], widths[dimension])
        self._values = [each.values for each in coded]
        self._pane_ms = starts[pane]
        self._sums = sums[present].T
        self._users = np.bincount(users >> ENTRY_BITS, minlength=len(groups))[present]
        self._entries = users & ((1 << ENTRY_BITS) - 1)
        self._ends = np.searchsorted(dimension, np.arange(len(DIMENSIONS)), side="right")
        self._entry_ends = np.concatenate([[0], np.cumsum(self._users)])

    def panes(self, dimensions: Sequence[str]) -> pa.Table:
        """Return the panes of some dimensions, in the form of `PANES`.

        Args:
            dimensions: Of `DIMENSIONS`; their panes follow each other, by pane and value.
        """
        places = [_PLACE[dimension] for dimension in dimensions]
        slices = [slice(self._ends[at - 1] if at else 0, self._ends[at]) for at in places]
        values = [self._values[at] for at in places]
        before = np.cumsum([0, *map(len, values)])[:-1]
        codes = [self._code[of] + shift for of, shift in zip(slices, before, strict=True)]
        sums = np.concatenate([self._sums[:, of] for of in slices], axis=1)
        users = np.concatenate([self._users[of] for of in slices])
        ends = self._entry_ends
        entries = [self._entries[ends[of.start] : ends[of.stop]] for of in slices]
        lengths = [of.stop - of.start for of in slices]
        columns = {
            "dimension": pa.DictionaryArray.from_arrays(
                pa.array(np.repeat(np.arange(len(places), dtype=np.int32), lengths)),
                pa.array(dimensions, pa.utf8()),
            ),
            "pane_ms": pa.array(np.concatenate([self._pane_ms[of] for of in slices])),
            "value": pa.DictionaryArray.from_arrays(
                pa.array(np.concatenate(codes).astype(np.int32)), pa.concat_arrays(values)
            ),
            **{name: pa.array(sums[at]) for at, name in enumerate(MEASURES)},
            "users": pa.ListArray.from_arrays(
                pa.array(np.concatenate([[0], np.cumsum(users)]).astype(np.int32)),
                pa.array(np.concatenate(entries).astype(np.uint16)),
            ),
        }
        return pa.table(columns, schema=PANES)


@compiled_once
def _add(group: Int64s, measures: Int64s, sums: Int64s) -> None:
    """Add each row to its group of each dimension; ``group`` has a row per dimension."""
    count, width = measures.shape
    groups, values, into = pointer(group), pointer(measures), pointer(sums)
    for at in range(group.size):
        target, source = groups[at] * width, at % count * width
        for measure in range(width):
            into[target + measure] += values[source + measure]


_PLACE = {dimension: place for place, dimension in enumerate(DIMENSIONS)}


class _Columns:
    """Text columns of rows as codes, each read once."""

    def __init__(self, rows: pa.Table) -> None:
        self._rows = rows
        self._read: dict[str, Coded] = {}

    def text(self, name: str) -> Coded:
        """Return a column."""
        if name not in self._read:
            column = self._rows[name].unify_dictionaries().combine_chunks()
            codes = column.indices.to_numpy(zero_copy_only=False).astype(np.int64)
            self._read[name] = Coded(codes, column.dictionary)
        return self._read[name]

    def equals(self, name: str, text: str) -> Int64s:
        """Return 1 for the rows in which a column has a value, else 0."""
        coded = self.text(name)
        return np.array([value == text for value in coded.values.to_pylist()], np.int64)[
            coded.codes
        ]

    def coded(self, dimension: str) -> Coded:
        """Return the values of a dimension; a pair with an unknown part is unknown."""
        names = DIMENSIONS[dimension]
        if len(names) == 1:
            return self.text(names[0])
        first, second = (self.text(name) for name in names)
        values = [
            pair_value(a, b) for a in first.values.to_pylist() for b in second.values.to_pylist()
        ]
        # Equal texts share a code: all that are unknown.
        code_of = {value: code for code, value in reversed(list(enumerate(values)))}
        shared = np.array([code_of[value] for value in values], dtype=np.int64)
        pairs = shared[first.codes * len(second.values) + second.codes]
        return Coded(pairs, pa.array(values, pa.utf8()))


@dataclass(frozen=True, slots=True)
class PaneRows:
    """Panes of one dimension as arrays, oldest first. A pane and value may come several times.

    Attributes:
        names: What ``code`` stands for.
        measures: Shape ``(n, len(MEASURES))``.
        users: How many of ``entries`` each row has, one row after the other.
    """

    start_ms: Int64s
    names: Sequence[str]
    code: Int64s
    measures: Int64s
    users: Int64s
    entries: Int64s


def by_dimension(panes: pa.Table) -> dict[str, PaneRows]:
    """Return the panes of each dimension, of a table in the form of `PANES`.

    All columns are read once: reading them anew for each of the dimensions cost most of what windows do.
    """
    dimensions = panes["dimension"].unify_dictionaries().combine_chunks()
    if not len(dimensions):
        return {}
    values = panes["value"].unify_dictionaries().combine_chunks()
    of_dimension, start_ms = dimensions.indices.to_numpy(), panes["pane_ms"].to_numpy()
    order = np.lexsort((start_ms, of_dimension))
    users = panes["users"].combine_chunks()
    counts = users.value_lengths().to_numpy().astype(np.int64)
    firsts = np.cumsum(counts) - counts
    counts, firsts = counts[order], firsts[order]
    ends = np.cumsum(counts)
    entry_order = np.repeat(firsts - (ends - counts), counts) + np.arange(ends[-1])
    entries = users.flatten().to_numpy().astype(np.int64)[entry_order]
    measures = np.stack([panes[name].to_numpy() for name in MEASURES], axis=1)[order]
    code, start_ms = values.indices.to_numpy().astype(np.int64)[order], start_ms[order]
    names = values.dictionary.to_pylist()
    bounds = np.searchsorted(of_dimension[order], np.arange(len(dimensions.dictionary) + 1))
    entry_bounds = np.concatenate([[0], ends])[bounds]
    found = {}
    for at, dimension in enumerate(dimensions.dictionary.to_pylist()):
        mine = slice(bounds[at], bounds[at + 1])
        found[dimension] = PaneRows(
            start_ms[mine],
            names,
            code[mine],
            measures[mine],
            counts[mine],
            entries[entry_bounds[at] : entry_bounds[at + 1]],
        )
    return found


_NOTHING = np.zeros(0, np.int64)
NO_PANES = PaneRows(
    _NOTHING, (), _NOTHING, np.zeros((0, len(MEASURES)), np.int64), _NOTHING, _NOTHING
)


def _panes_of(occurred_at_ms: Int64s) -> tuple[Int64s, Int64s]:
    """Return the starts of panes, and for each row which of them it is in."""
    panes = occurred_at_ms // PANE_MS
    first = int(panes.min())
    if int(panes.max()) - first < len(panes):
        starts = np.arange(first, int(panes.max()) + 1, dtype=np.int64)
        return starts * PANE_MS, panes - first
    starts, pane_of = np.unique(panes, return_inverse=True)
    return starts * PANE_MS, pane_of.astype(np.int64)


def _measures(rows: pa.Table, columns: _Columns, tokens_cap: int) -> list[Int64s]:
    """Return what each row adds to `MEASURES`."""
    prompt, completion = numbers(rows, "tokens_prompt"), numbers(rows, "tokens_completion")
    capped = np.minimum(prompt + completion, tokens_cap)
    return [
        np.ones(rows.num_rows, dtype=np.int64),
        prompt,
        completion,
        numbers(rows, "tokens_reasoning"),
        numbers(rows, "tokens_cached"),
        numbers(rows, "cost_nanousd"),
        columns.equals("tool_use", "called"),
        1 - columns.equals("status", "ok"),
        capped,
        capped * capped,
    ]


def numbers(rows: pa.Table, name: str) -> Int64s:
    """Return a column of integers or instants as integers, unknown as 0."""
    column = rows[name].combine_chunks()
    if pa.types.is_timestamp(column.type):
        column = column.view(pa.int64())
    if column.null_count:
        column = column.fill_null(0)
    return np.asarray(column.to_numpy().astype(np.int64, copy=False))


def pair_value(first: str, second: str) -> str:
    """Return the value of a dimension of two columns."""
    return UNKNOWN if UNKNOWN in (first, second) else f"{first}{PAIR_SEPARATOR}{second}"


def mixed(hashes: UInt64s) -> UInt64s:
    """Return hashes with their bits mixed: the same as ClickHouse's ``intHash64``.

    The finalizer of MurmurHash3 (public domain), behind ClickHouse's constant. Producers hash users
    in their own way; a sketch needs bits that are even.
    """
    bits = hashes ^ np.uint64(0x4CF2D2BAAE6DA887)
    bits ^= bits >> np.uint64(33)
    bits *= np.uint64(0xFF51AFD7ED558CCD)
    bits ^= bits >> np.uint64(33)
    bits *= np.uint64(0xC4CEB9FE1A85EC53)
    bits ^= bits >> np.uint64(33)
    return bits


def user_entries(hashes: UInt64s) -> Int64s:
    """Return the sketch entry of each user: register and rank, see `schemas.panes`."""
    bits = mixed(hashes)
    register = (bits & np.uint64(REGISTERS - 1)).astype(np.int64)
    lengths = np.frexp((bits >> np.uint64(64 - HASH_BITS)).astype(np.float64))[1]
    rank: Int64s = HASH_BITS + 1 - lengths.astype(np.int64)
    return register << RANK_BITS | rank


def _user_entries(rows: pa.Table) -> tuple[Int64s, npt.NDArray[np.bool_]]:
    users = rows["user_hash"].combine_chunks()
    has_user = users.is_valid().to_numpy(zero_copy_only=False)
    return user_entries(users.drop_null().to_numpy(zero_copy_only=False)), has_user


def _highest_entries(group: Int64s, entries: Int64s, groups: int) -> Int64s:
    """Return the highest entry of each register of each group, behind the group's number, ascending."""
    if groups * REGISTERS > DENSE_MAX * group.size:
        return highest_ranks(np.sort(group << ENTRY_BITS | entries, axis=1).ravel())
    ranks = np.zeros(groups * REGISTERS, dtype=np.uint8)
    _raise_ranks(np.ascontiguousarray(group), entries, ranks)
    seen = np.flatnonzero(ranks)
    found: Int64s = seen << RANK_BITS | ranks[seen]
    return found


@compiled_once
def _raise_ranks(group: Int64s, entries: Int64s, ranks: npt.NDArray[np.uint8]) -> None:
    count = len(entries)
    groups, entry, into = pointer(group), pointer(entries), pointer(ranks)
    for at in range(group.size):
        said = entry[at % count]
        register = groups[at] * REGISTERS + (said >> RANK_BITS)
        into[register] = max(into[register], said & (1 << RANK_BITS) - 1)


def highest_ranks(keys: Int64s) -> Int64s:
    """Return, of sorted keys that end in a rank, the highest of each register."""
    last = np.ones(len(keys), dtype=np.bool_)
    last[:-1] = np.diff(keys >> RANK_BITS) != 0
    return keys[last]
