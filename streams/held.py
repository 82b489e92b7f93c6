"""How much a worker holds of what it has fetched: a bound of its memory, however many partitions it has."""

from collections import deque
from typing import Protocol

TURNS = 4
"""Ranges that may grow at once: what keeps two cores, and the engine, busy."""
WAITING_PART = 8
"""One part in so many of what is held is for loops that wait for a turn."""


class Holder(Protocol):
    """A loop that may have stopped fetching because too much is held."""

    def resume(self) -> None:
        """Fetch again, unless the loop has enough."""

    def take_turn(self, reserved_bytes: int) -> None:
        """Let the range in hand grow so far: it is the turn of the loop, which had asked."""


class HeldBytes:
    """Bytes that loops hold of records which have not landed yet, all of them together.

    Each loop may have a range of its share in hand. What it fetches for the next one meanwhile is an
    extra, for as long as there is room. An insert has a price of its own, so shares must not become
    small where there are many loops: of more than `TURNS`, those whose range fills a small part take
    turns to let it grow. A turn reserves what the range may take; once that is decoded, what is left
    of it until it has landed. A range that is stored before it has filled the small part needs no turn.

    Args:
        bytes_max: The bound. Fetches under way, and ranges that must be repeated whole, may go beyond.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._holders: set[Holder] = set()
        self._waiting: deque[Holder] = deque()
        self._reserved = 0

    @property
    def share(self) -> int:
        """Bytes that a range of a loop may have that needs no turn, or has one."""
        if not self.has_turns:
            return self._bytes_max // max(len(self._holders), 1)
        return self._reserved_max // TURNS

    @property
    def _reserved_max(self) -> int:
        return self._bytes_max - self._bytes_max // WAITING_PART

    @property
    def has_turns(self) -> bool:
        """Whether there are so many loops that a range must wait for a turn to have its share."""
        return len(self._holders) > TURNS

    @property
    def share_without_turn(self) -> int:
        """Bytes that a range of a loop may have before it waits for a turn."""
        return self._bytes_max // WAITING_PART // max(len(self._holders), 1)

    @property
    def is_full(self) -> bool:
        """Whether nothing should be fetched ahead."""
        return self._bytes >= self._bytes_max

    def join(self, holder: Holder) -> None:
        """Let a loop know when there is room again."""
        self._holders.add(holder)

    def leave(self, holder: Holder, held_bytes: int, reserved_bytes: int) -> None:
        """Forget a loop, what it holds still, and what is reserved for it."""
        self._holders.discard(holder)
        if holder in self._waiting:
            self._waiting.remove(holder)
        self.release(held_bytes)
        self.give_back(reserved_bytes)

    def take(self, count: int) -> None:
        """Count bytes that were fetched."""
        self._bytes += count

    def release(self, count: int) -> None:
        """Count bytes that have landed or were let go."""
        self._bytes -= count
        if not self.is_full:
            for holder in list(self._holders):
                holder.resume()

    def ask(self, holder: Holder) -> None:
        """Give a loop its turn, at once or when those before it have had theirs."""
        self._waiting.append(holder)
        self._give_turns()

    def give_back(self, reserved_bytes: int) -> None:
        """Let others have turns: so much of what was reserved is free."""
        self._reserved -= reserved_bytes
        self._give_turns()

    def _give_turns(self) -> None:
        while self._waiting:
            share = self.share
            if self.has_turns and self._reserved + share > self._reserved_max:
                return
            self._reserved += share
            self._waiting.popleft().take_turn(share)
