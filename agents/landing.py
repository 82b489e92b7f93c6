"""How the rows of a range land in ClickHouse: once, and without those that it refuses.

A block that is refused is cut in two, and again, until the rows at fault stand alone: ``k`` of ``n``
rows cost at most ``2 k ceil(log2 n) + 1`` inserts. Each piece has a token of its own, made of its
offsets, and the cuts depend on the rows alone; that a range is being cut is declared first. So a repeat
after a crash in the middle makes the same pieces, and knows by the stored offsets which have landed.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.errors import FatalError, RejectedBatchError

Offsets = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows of one month of a range, at the offsets ``[first_offset, next_offset)``."""

    first_offset: int
    next_offset: int
    month: int
    rows: pa.Table

    @property
    def offsets(self) -> Offsets:
        """Kafka offset of each row."""
        found: Offsets = self.rows["kafka_offset"].to_numpy()
        return found

    @property
    def times_ms(self) -> tuple[int, int]:
        """Oldest and newest event time, epoch milliseconds."""
        times: npt.NDArray[np.int64] = self.rows["occurred_at"].cast(pa.int64()).to_numpy()
        return int(times.min()), int(times.max())

    def halves(self) -> tuple["Piece", "Piece"]:
        """Return the rows of the lower and of the higher offsets; one more or as many in the second."""
        ordered = self.rows.sort_by("kafka_offset")
        half = ordered.num_rows // 2
        middle = ordered["kafka_offset"][half].as_py()
        return (
            Piece(self.first_offset, middle, self.month, ordered.slice(0, half)),
            Piece(middle, self.next_offset, self.month, ordered.slice(half)),
        )


@dataclass(frozen=True, slots=True)
class Refused:
    """A row that ClickHouse refuses, and how it says so."""

    offset: int
    error: RejectedBatchError


async def land(
    piece: Piece,
    landed: Offsets,
    *,
    insert: Callable[[Piece], Awaitable[None]],
    may_cut: Callable[[Piece], Awaitable[bool]],
) -> list[Refused]:
    """Insert the rows of a piece; return those that are refused, in offset order.

    Args:
        landed: Offsets of which rows are stored already, by an earlier attempt at the same range.
        insert: Inserts a piece under its token; waits out what will pass.
        may_cut: Says whether nothing of a refused piece is stored, and declares that it is cut.

    Raises:
        FatalError: If rows land in the table but one of its views refuses them.
    """
    there = int(np.isin(piece.offsets, landed).sum()) if len(landed) else 0
    # Landed in part: an earlier attempt was refused as a whole and had begun to cut.
    if there in (0, piece.rows.num_rows):
        try:
            await insert(piece)
        except RejectedBatchError as error:
            if there or not await may_cut(piece):
                raise FatalError(
                    f"a view of usage_events refuses rows that the table has taken ({error}): mend"
                    " or drop the view; then the worker goes on where it stopped"
                ) from error
            if piece.rows.num_rows == 1:
                return [Refused(int(piece.offsets[0]), error)]
        else:
            return []
    first, second = piece.halves()
    return [
        refused
        for half in (first, second)
        for refused in await land(half, landed, insert=insert, may_cut=may_cut)
    ]
