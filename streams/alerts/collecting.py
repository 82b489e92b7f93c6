"""Five-minute bins put together: all dimensions of one end, in order of time, each end once."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from streams.detection import BIN_MS, Bin

WAIT_BINS = 2
"""An end whose dimensions are not all there is given out when one so many bins later has come."""


@dataclass(frozen=True)
class Collected:
    """The bins of one end.

    Attributes:
        is_whole: Every dimension has come.
    """

    end_ms: int
    bins: Mapping[str, Bin]
    is_whole: bool


@dataclass
class BinCollector:
    """Collects bins, which come in any order within a few bins of each other.

    Attributes:
        dimensions: Those that an end waits for; others are passed over.
        seen_ms: Newest end that was given out; bins of it and of earlier ones are too late.
        too_late: Bins that were.
    """

    dimensions: frozenset[str]
    seen_ms: int = 0
    too_late: int = 0
    _waiting: dict[int, dict[str, Bin]] = field(default_factory=dict)
    _newest_ms: int = 0

    def add(self, each: Bin) -> None:
        """Take a bin in. The first of an end and dimension counts."""
        if each.dimension not in self.dimensions:
            return
        if each.end_ms <= self.seen_ms:
            self.too_late += 1
            return
        self._waiting.setdefault(each.end_ms, {}).setdefault(each.dimension, each)
        self._newest_ms = max(self._newest_ms, each.end_ms)

    def pass_over(self, end_ms: int) -> None:
        """Wait no more for an end, nor for earlier ones: they have been given up."""
        self.seen_ms = max(self.seen_ms, end_ms)
        for each in [each for each in self._waiting if each <= end_ms]:
            del self._waiting[each]

    def due(self) -> Iterator[Collected]:
        """Yield the ends that are whole or have waited long enough, oldest first.

        An end is given out when it is taken from the iterator; what is left stays.
        """
        while self._waiting:
            end_ms = min(self._waiting)
            bins = self._waiting[end_ms]
            is_whole = bins.keys() == self.dimensions
            if not is_whole and self._newest_ms - end_ms < WAIT_BINS * BIN_MS:
                return
            del self._waiting[end_ms]
            self.seen_ms = end_ms
            yield Collected(end_ms, bins, is_whole)
