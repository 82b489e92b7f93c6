"""How much a worker holds of what it has fetched: a bound of its memory, however many partitions it has."""

from collections import deque
from typing import Protocol

TURNS = 4
"""Ranges that grow and are stored at once: what keeps two cores, and the engine, busy."""
WAITING_PART = 4
"""One part in so many of what is held is for loops that wait for a turn."""


class Holder(Protocol):
    """A loop that may have stopped fetching because too much is held."""

    def resume(self) -> None:
        """Fetch again, unless the loop has enough."""

    def take_turn(self) -> None:
        """Let the range in hand grow: it is the turn of the loop, which had asked."""


class HeldBytes:
    """Bytes of records that loops have fetched and not landed yet, all of them together.

    Each loop may have a range of its share in hand. What it fetches for the next one meanwhile is an
    extra, for as long as there is room. An insert has a price of its own, so shares must not become
    small where there are many loops: of more than `TURNS`, those whose range fills a small part take
    turns to let it grow. A range that is stored before it has filled that part needs no turn.

    Args:
        bytes_max: The bound. Fetches under way, and ranges that must be repeated whole, may go beyond.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._holders: set[Holder] = set()
        self._waiting: deque[Holder] = deque()
        self._turns = 0

    @property
    def share(self) -> int:
        """Bytes that a range of a loop may have that needs no turn, or has one."""
        if not self.has_turns:
            return self._bytes_max // max(len(self._holders), 1)
        return (self._bytes_max - self._bytes_max // WAITING_PART) // TURNS

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

    def leave(self, holder: Holder, held_bytes: int, turns: int) -> None:
        """Forget a loop, what it holds still, and the turns that it has."""
        self._holders.discard(holder)
        if holder in self._waiting:
            self._waiting.remove(holder)
        self.release(held_bytes)
        self.give_back(turns)

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

    def give_back(self, turns: int) -> None:
        """Let others have turns: what they were for has landed, or will not."""
        self._turns -= turns
        self._give_turns()

    def _give_turns(self) -> None:
        while self._waiting and self._turns < TURNS:
            self._turns += 1
            self._waiting.popleft().take_turn()
