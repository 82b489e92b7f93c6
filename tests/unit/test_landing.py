"""Cutting a block that is refused: the bad rows stand alone, the others land, at a bounded price."""

import math
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.landing import Piece, Refused, land
from schemas.errors import FatalError, RejectedBatchError

MONTH = 202611


class CrashError(Exception):
    """The worker dies."""


class Table:
    """A table that refuses some offsets and drops what comes again under a token.

    Attributes:
        crash_at: The call number that dies, after its rows have landed if they may.
    """

    def __init__(self, bad: set[int], crash_at: int | None = None) -> None:
        self.bad = bad
        self.tokens: dict[tuple[int, int], list[int]] = {}
        self.rows: list[int] = []
        self.calls = 0
        self.is_cut = False
        self.crash_at = crash_at

    async def insert(self, piece: Piece) -> None:
        self.calls += 1
        offsets = [int(each) for each in piece.offsets]
        is_refused = bool(self.bad & set(offsets))
        token = (piece.first_offset, piece.next_offset)
        if not is_refused and token not in self.tokens:
            self.rows += offsets
            self.tokens[token] = offsets
        if self.calls == self.crash_at:
            raise CrashError
        if is_refused:
            raise RejectedBatchError("clickhouse: code 469 VIOLATED_CONSTRAINT")
        assert sorted(self.tokens[token]) == sorted(offsets), "other rows under the same token"

    async def may_cut(self, piece: Piece) -> bool:
        self.is_cut = True
        return not set(self.rows) & {int(each) for each in piece.offsets}


def piece_of(offsets: Sequence[int]) -> Piece:
    rows = pa.table({"kafka_offset": pa.array(offsets, pa.uint64())})
    return Piece(min(offsets), max(offsets) + 1, MONTH, rows)


async def land_in(table: Table, offsets: Sequence[int]) -> list[int]:
    landed = np.array(sorted(table.rows), dtype=np.uint64)
    refused = await land(piece_of(offsets), landed, insert=table.insert, may_cut=table.may_cut)
    return [each.offset for each in refused]


@st.composite
def blocks(draw: st.DrawFn) -> tuple[list[int], set[int]]:
    """Offsets in any order, with gaps, and which of them are bad."""
    offsets = draw(st.lists(st.integers(0, 500), min_size=1, max_size=120, unique=True))
    return offsets, draw(st.sets(st.sampled_from(offsets), max_size=8))


@settings(deadline=None)
@given(blocks())
async def test_the_bad_rows_are_found_and_the_rest_lands(block: tuple[list[int], set[int]]) -> None:
    """Exactly k refused, at most 2 k ceil(log2 n) + 1 inserts."""
    offsets, bad = block
    table = Table(bad)
    assert await land_in(table, offsets) == sorted(bad)
    assert sorted(table.rows) == sorted(set(offsets) - bad)
    assert table.calls <= 2 * len(bad) * math.ceil(math.log2(len(offsets))) + 1
    assert table.is_cut == bool(bad)


@settings(deadline=None)
@given(blocks(), st.data())
async def test_a_crash_anywhere_and_a_repeat_land_the_same(
    block: tuple[list[int], set[int]], data: st.DataObject
) -> None:
    """Whichever insert the worker dies in, and again in the repeat: each row once, each bad row named."""
    offsets, bad = block
    table = Table(bad)
    await land_in(table, offsets)
    expected = sorted(table.rows)
    table = Table(bad)
    for _ in range(2):
        table.crash_at = table.calls + data.draw(st.integers(1, 40))
        try:
            await land_in(table, data.draw(st.permutations(offsets)))
        except CrashError:
            continue
    table.crash_at = None
    assert await land_in(table, offsets) == sorted(bad)
    assert sorted(table.rows) == expected


async def test_rows_that_only_a_view_refuses_stop_the_worker() -> None:
    """The table has them under their token: pieces under others would double them."""
    table = Table(set())

    async def insert(piece: Piece) -> None:
        table.rows += [int(each) for each in piece.offsets]
        raise RejectedBatchError("clickhouse: code 321 VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE")

    with pytest.raises(FatalError, match="a view of usage_events refuses rows"):
        await land(piece_of([1, 2]), np.array([], np.uint64), insert=insert, may_cut=table.may_cut)
    assert table.rows == [1, 2]
    with pytest.raises(FatalError, match="a view of usage_events"):
        await land(
            piece_of([1, 2]), np.array([1, 2], np.uint64), insert=insert, may_cut=table.may_cut
        )


async def test_a_refused_row_says_what_the_server_said() -> None:
    """One row alone needs no cut."""
    table = Table({7})
    (found,) = await land(
        piece_of([7]), np.array([], np.uint64), insert=table.insert, may_cut=table.may_cut
    )
    assert isinstance(found, Refused)
    assert (found.offset, str(found.error)) == (7, "clickhouse: code 469 VIOLATED_CONSTRAINT")
    assert table.calls == 1
