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

Int64s = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]

ENTRY_BITS = 16
HASH_BITS = 53
"""Of the mixed hash, behind the 11 lowest: what a double holds exactly."""


@dataclass(frozen=True, slots=True)
class Coded:
    """Values of a dimension: row ``i`` has ``values[codes[i]]``."""

    codes: Int64s
    values: Sequence[str]


class CountedRows:
    """Rows of a range, made ready to be counted by one dimension after the other.

    Args:
        rows: Rows of usage_events, all of which have landed; at least one.
        tokens_cap: More tokens of one request do not count as ``tokens_capped``.
    """

    def __init__(self, rows: pa.Table, *, tokens_cap: int) -> None:
        self._rows = rows
        self._starts, self._pane_of = _panes_of(numbers(rows, "occurred_at"))
        self._measures = _measures(rows, tokens_cap)
        self._entries, self._has_user = _user_entries(rows)

    def panes(self, dimensions: Sequence[str]) -> pa.Table:
        """Return the panes of some dimensions, in the form of `PANES`.

        Args:
            dimensions: Of `DIMENSIONS`; their panes follow each other, by pane and value.
        """
        counts = [self._counts(dimension) for dimension in dimensions]
        lengths = [len(each.pane_ms) for each in counts]
        values = [value for each in counts for value in each.values]
        before = np.cumsum([0, *(len(each.values) for each in counts)])[:-1]
        codes = np.concatenate([each.code + at for each, at in zip(counts, before, strict=True)])
        sums = np.concatenate([each.sums for each in counts], axis=1)
        users = np.cumsum([0, *np.concatenate([each.users for each in counts])])
        entries = np.concatenate([each.entries for each in counts])
        columns = {
            "dimension": pa.DictionaryArray.from_arrays(
                pa.array(np.repeat(np.arange(len(counts), dtype=np.int32), lengths)),
                pa.array(dimensions, pa.utf8()),
            ),
            "pane_ms": pa.array(np.concatenate([each.pane_ms for each in counts])),
            "value": pa.DictionaryArray.from_arrays(
                pa.array(codes.astype(np.int32)), pa.array(values, pa.utf8())
            ),
            **{name: pa.array(sums[at]) for at, name in enumerate(MEASURES)},
            "users": pa.ListArray.from_arrays(
                pa.array(users.astype(np.int32)), pa.array(entries.astype(np.uint16))
            ),
        }
        return pa.table(columns, schema=PANES)

    def _counts(self, dimension: str) -> "_Counts":
        coded = _coded(self._rows, dimension)
        group = self._pane_of * len(coded.values) + coded.codes
        size = len(self._starts) * len(coded.values)
        if size > 4 * len(group):
            groups, group = np.unique(group, return_inverse=True)
        else:
            groups = np.arange(size, dtype=np.int64)
        sums = np.zeros((len(MEASURES), len(groups)), dtype=np.int64)
        for into, values in zip(sums, self._measures, strict=True):
            np.add.at(into, group, values)
        users = highest_ranks(group[self._has_user] << ENTRY_BITS | self._entries)
        present = np.flatnonzero(sums[0])
        pane, code = np.divmod(groups[present], len(coded.values))
        return _Counts(
            self._starts[pane],
            code,
            coded.values,
            sums[:, present],
            np.bincount(users >> ENTRY_BITS, minlength=len(groups))[present],
            users & ((1 << ENTRY_BITS) - 1),
        )


@dataclass(frozen=True, slots=True)
class _Counts:
    """The panes of a dimension: arrays with one entry per pane.

    Attributes:
        code: Number of its value in ``values``.
        sums: Shape ``(len(MEASURES), panes)``.
        users: How many of ``entries`` each pane has, one pane after the other.
    """

    pane_ms: Int64s
    code: Int64s
    values: Sequence[str]
    sums: Int64s
    users: Int64s
    entries: Int64s


def by_dimension(panes: pa.Table) -> dict[str, pa.Table]:
    """Return the panes of each dimension, of a table in the form of `PANES`."""
    names = panes["dimension"].unify_dictionaries().combine_chunks()
    if not len(names):
        return {}
    codes = names.indices.to_numpy()
    return {
        name: panes.filter(pa.array(codes == code))
        for code, name in enumerate(names.dictionary.to_pylist())
    }


def _panes_of(occurred_at_ms: Int64s) -> tuple[Int64s, Int64s]:
    """Return the starts of panes, and for each row which of them it is in."""
    panes = occurred_at_ms // PANE_MS
    first = int(panes.min())
    if int(panes.max()) - first < len(panes):
        starts = np.arange(first, int(panes.max()) + 1, dtype=np.int64)
        return starts * PANE_MS, panes - first
    starts, pane_of = np.unique(panes, return_inverse=True)
    return starts * PANE_MS, pane_of.astype(np.int64)


def _measures(rows: pa.Table, tokens_cap: int) -> list[Int64s]:
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
        _equals(rows, "tool_use", "called"),
        1 - _equals(rows, "status", "ok"),
        capped,
        capped * capped,
    ]


def numbers(rows: pa.Table, name: str) -> Int64s:
    """Return a column as integers, unknown as 0."""
    column = rows[name].combine_chunks().cast(pa.int64()).fill_null(0)
    values: Int64s = column.to_numpy(zero_copy_only=False)
    return values


def _equals(rows: pa.Table, name: str, text: str) -> Int64s:
    coded = _text(rows, name)
    return np.array([value == text for value in coded.values], dtype=np.int64)[coded.codes]


def _text(rows: pa.Table, name: str) -> Coded:
    column = rows[name].unify_dictionaries().combine_chunks()
    codes = column.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return Coded(codes, column.dictionary.to_pylist())


def _coded(rows: pa.Table, dimension: str) -> Coded:
    """Return the values of a dimension; a pair with an unknown part is unknown."""
    names = DIMENSIONS[dimension]
    if len(names) == 1:
        return _text(rows, names[0])
    first, second = (_text(rows, name) for name in names)
    values = [pair_value(a, b) for a in first.values for b in second.values]
    # Equal texts share a code: all that are unknown.
    code_of = {value: code for code, value in reversed(list(enumerate(values)))}
    shared = np.array([code_of[value] for value in values], dtype=np.int64)
    return Coded(shared[first.codes * len(second.values) + second.codes], values)


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


def highest_ranks(keys: Int64s) -> Int64s:
    """Return, of keys that end in a rank, the highest of each register; sorted."""
    keys = np.sort(keys)
    last = np.ones(len(keys), dtype=np.bool_)
    last[:-1] = np.diff(keys >> RANK_BITS) != 0
    return keys[last]
