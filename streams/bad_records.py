"""A guard against a topic that is mostly refused: stop, rather than drain it into the dead letters."""

from collections import Counter, deque
from collections.abc import Iterable

from schemas.errors import FatalError, Reason
from streams.dead_letters import Rejected

WINDOW_RECORDS = 10_000
RECORDS_MIN = 1_000
"""Fewer records than this say nothing about a producer."""


class BadRecords:
    """The ratio of refused records among the last `WINDOW_RECORDS` of one partition.

    Args:
        ratio_max: Above this the worker stops; 1 never does.
    """

    def __init__(self, partition: int, ratio_max: float) -> None:
        self._partition = partition
        self._ratio_max = ratio_max
        self._ranges: deque[tuple[int, Counter[tuple[Reason, str]]]] = deque()

    def check(self, records: int, rejected: Iterable[Rejected]) -> None:
        """Take in a range, before anything of it is written.

        Raises:
            FatalError: If too many records are refused; names the most frequent reason.
        """
        causes = Counter((each.reason, each.field) for each in rejected)
        self._ranges.append((records, causes))
        while sum(count for count, _ in self._ranges) - self._ranges[0][0] >= WINDOW_RECORDS:
            self._ranges.popleft()
        seen = sum(count for count, _ in self._ranges)
        refused: Counter[tuple[Reason, str]] = sum((each for _, each in self._ranges), Counter())
        if seen < RECORDS_MIN or refused.total() <= self._ratio_max * seen:
            return
        ((reason, field), _), *_ = refused.most_common(1)
        raise FatalError(
            f"{refused.total()} of the last {seen} records of partition {self._partition} are"
            f" refused, most for {reason}{f' of {field}' if field else ''}: nothing of this range"
            " was acknowledged; mend the producer, or let them pass to the dead letters with"
            f" TOKENTIDE_BAD_RECORDS_RATIO_MAX above {refused.total() / seen:.2f}"
        )
