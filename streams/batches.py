"""Batches: contiguous offset ranges of one partition, cut by rows, bytes or time."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from faust.types import TP

from streams.record_batches import RecordBatch


@dataclass(frozen=True, slots=True)
class Batch:
    """Records of one partition at the offsets ``[first_offset, next_offset)``.

    Attributes:
        record_batches: Without gaps up to ``next_offset``. Of a range that an earlier owner declared
            the first ones, or all, may be missing: retention has removed them since.
    """

    tp: TP
    record_batches: list[RecordBatch]
    first_offset: int
    next_offset: int

    @classmethod
    def of(cls, tp: TP, record_batches: Sequence[RecordBatch]) -> Self:
        """Return the range of record batches, at least one."""
        bounds = record_batches[0].first_offset, record_batches[-1].next_offset
        return cls(tp, list(record_batches), *bounds)

    @property
    def count(self) -> int:
        """Number of records, at least 0."""
        return sum(each.count for each in self.record_batches)

    @property
    def bytes(self) -> int:
        """Bytes that it holds, as the cutter counts them."""
        return sum(each.held_bytes for each in self.record_batches)

    def let_go_in_pieces(self, piece_bytes: int) -> Iterator[list[RecordBatch]]:
        """Yield the record batches, so many bytes at a time, and let go of those yielded before."""
        begin, size = 0, 0
        for end, each in enumerate(self.record_batches):
            if size and size + each.held_bytes > piece_bytes:
                yield self.record_batches[begin:end]
                self._let_go(begin, end)
                begin, size = end, 0
            size += each.held_bytes
        yield self.record_batches[begin:]
        self._let_go(begin, len(self.record_batches))

    def _let_go(self, begin: int, end: int) -> None:
        for at in range(begin, end):
            self.record_batches[at] = self.record_batches[at].let_go()

    @property
    def is_whole(self) -> bool:
        """Whether no record batch of the range is missing."""
        return bool(self.record_batches) and (
            self.record_batches[0].first_offset == self.first_offset
        )


@dataclass(frozen=True, slots=True)
class Gap:
    """Offsets that the broker no longer has: retention removed them while nobody read."""

    first_offset: int
    next_offset: int


class RangeCutter:
    """Joins the record batches of one partition and cuts them into ranges.

    Cuts fall between Kafka's own record batches, so that a range that was declared can be rebuilt
    exactly. A range is due when it holds ``rows_max`` records or ``bytes_max`` bytes, or when its
    first record has waited ``wait_ms``; one record batch alone may exceed the limits.

    Args:
        declared_next_offset: End of a range that an earlier owner declared: it is the first one
            cut, whatever the limits.
        next_offset: Where the next record batch must begin, if known.
    """

    def __init__(
        self,
        tp: TP,
        *,
        rows_max: int,
        bytes_max: int,
        wait_ms: int,
        next_offset: int | None = None,
        declared_next_offset: int | None = None,
    ) -> None:
        self._tp = tp
        self._rows_max = rows_max
        self.bytes_max = bytes_max
        self._wait_ms = wait_ms
        self._declared = declared_next_offset
        self._declared_first_offset = next_offset
        self._next_offset = next_offset
        self._waiting: deque[RecordBatch] = deque()
        self._since_ms = 0
        self.rows = 0
        self.bytes = 0

    @property
    def is_full(self) -> bool:
        """Whether a range is due by its size: fetching more would only fill memory."""
        if self._declared is not None:
            return False  # Needed whole, and an earlier owner's limits bound it.
        return self.rows >= self._rows_max or self.bytes >= self.bytes_max

    @property
    def is_full_of_bytes(self) -> bool:
        """Whether a range is due by its bytes, and might hold more records."""
        return self.is_full and self.rows < self._rows_max

    def wait_anew(self, now_ms: int) -> None:
        """Begin the wait again, of a range that may be larger from now on."""
        self._since_ms = now_ms

    def add(self, record_batches: Iterable[RecordBatch], now_ms: int) -> list[Gap]:
        """Take record batches in; return the offsets that are missing before them.

        What was taken before is passed over: a seek back to the committed offset repeats it.
        """
        gaps: list[Gap] = []
        for each in record_batches:
            if self._next_offset is not None:
                if each.next_offset <= self._next_offset:
                    continue
                if each.first_offset < self._next_offset:
                    each = each.split_at(self._next_offset)[1]
                elif each.first_offset > self._next_offset:
                    gaps.append(Gap(self._next_offset, each.first_offset))
            if not self._waiting:
                self._since_ms = now_ms
            self._append(each)
        return gaps

    def _append(self, record_batch: RecordBatch) -> None:
        self._waiting.append(record_batch)
        self._next_offset = record_batch.next_offset
        self.rows += record_batch.count
        self.bytes += record_batch.held_bytes

    def due_ms(self) -> int | None:
        """Return when the range in hand is due by time, or ``None`` when it never is."""
        if not self._waiting or self._declared is not None:
            return None
        return self._since_ms + self._wait_ms

    def cut(self, now_ms: int) -> Batch | None:
        """Return the next range if one is due, else ``None``."""
        if self._declared is not None:
            return self._cut_declared()
        due_ms = self.due_ms()
        if due_ms is None or (now_ms < due_ms and not self.is_full):
            return None
        taken: list[RecordBatch] = []
        rows = size = 0
        while self._waiting:
            head = self._waiting[0]
            rows, size = rows + head.count, size + head.held_bytes
            if taken and (rows > self._rows_max or size > self.bytes_max):
                break
            taken.append(self._take())
        self._since_ms = now_ms
        return Batch.of(self._tp, taken)

    def _cut_declared(self) -> Batch | None:
        assert self._declared is not None
        assert self._declared_first_offset is not None
        if self._next_offset is None or self._next_offset < self._declared:
            return None
        end, self._declared = self._declared, None
        taken: list[RecordBatch] = []
        while self._waiting and self._waiting[0].first_offset < end:
            head = self._take()
            if head.next_offset > end:
                head, rest = head.split_at(end)
                self._waiting.appendleft(rest)
                self.rows += rest.count
                self.bytes += rest.held_bytes
            taken.append(head)
        # What retention has removed since may have landed, in part or whole: the range is the same.
        return Batch(self._tp, taken, self._declared_first_offset, end)

    def _take(self) -> RecordBatch:
        head = self._waiting.popleft()
        self.rows -= head.count
        self.bytes -= head.held_bytes
        return head
