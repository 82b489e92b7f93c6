"""Ids of events as hashes in ascending order, with their event times: looked up and merged in lots."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streams.compiled import compiled_once

UInt64s = npt.NDArray[np.uint64]
UInt32s = npt.NDArray[np.uint32]
Int64s = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Ids:
    """Events by hash of source and event id, ascending; ``seconds`` is the event time of each."""

    hashes: UInt64s
    seconds: UInt32s

    @classmethod
    def none(cls) -> "Ids":
        """Return no events."""
        return cls(np.array([], dtype=np.uint64), np.array([], dtype=np.uint32))

    @classmethod
    def of(cls, hashes: UInt64s, seconds: UInt32s) -> "Ids":
        """Return events in any order, sorted."""
        order = np.argsort(hashes)
        return cls(hashes[order], seconds[order])

    def __len__(self) -> int:
        return len(self.hashes)

    def merged(self, other: "Ids") -> "Ids":
        """Return both together."""
        count = len(self) + len(other)
        both = Ids(np.empty(count, dtype=np.uint64), np.empty(count, dtype=np.uint32))
        _merge(self.hashes, self.seconds, other.hashes, other.seconds, both.hashes, both.seconds)
        return both

    def since(self, second: int) -> "Ids":
        """Return those whose event time is ``second`` or later."""
        kept = self.seconds >= second
        return Ids(self.hashes[kept], self.seconds[kept])

    def has(self, hashes: UInt64s, seconds: Int64s, tolerance: Int64s) -> Mask:
        """Return for each hash whether it is here with an event time within its tolerance.

        Several times faster if the hashes are ascending: then neighbours are looked up together.
        """
        found = np.zeros(len(hashes), dtype=np.bool_)
        if not len(self):
            return found
        at = np.searchsorted(self.hashes, hashes)
        open_ = np.flatnonzero(at < len(self))
        while len(open_):
            open_ = open_[self.hashes[at[open_]] == hashes[open_]]
            apart = np.abs(self.seconds[at[open_]].astype(np.int64) - seconds[open_])
            found[open_] |= apart <= tolerance[open_]
            at[open_] += 1  # The same id may be stored twice, at event times far apart.
            open_ = open_[~found[open_] & (at[open_] < len(self))]
        return found


@compiled_once
def _merge(
    a: UInt64s,
    a_seconds: UInt32s,
    b: UInt64s,
    b_seconds: UInt32s,
    hashes: UInt64s,
    seconds: UInt32s,
) -> None:
    """Fill ``hashes`` and ``seconds`` with both, in ascending order of hashes."""
    at, other = 0, 0
    for place in range(len(hashes)):
        if other == len(b) or (at < len(a) and a[at] <= b[other]):
            hashes[place], seconds[place] = a[at], a_seconds[at]
            at += 1
        else:
            hashes[place], seconds[place] = b[other], b_seconds[other]
            other += 1
