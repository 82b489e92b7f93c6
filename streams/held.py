"""How much a worker holds of what it has fetched: a bound of its memory, however many partitions it has."""

from typing import Protocol


class Holder(Protocol):
    """A loop that may have stopped fetching because too much is held."""

    def resume(self) -> None:
        """Fetch again, unless the loop has enough."""


class HeldBytes:
    """Bytes of records that loops have fetched and not landed yet, all of them together.

    Each loop may have a range of its share in hand. What it fetches for the next one meanwhile is an
    extra, for as long as there is room.

    Args:
        bytes_max: The bound. Fetches under way, and ranges that must be repeated whole, may go beyond.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._holders: set[Holder] = set()

    @property
    def share(self) -> int:
        """Bytes that a range of one loop may have."""
        return self._bytes_max // max(len(self._holders), 1)

    @property
    def is_full(self) -> bool:
        """Whether nothing should be fetched ahead."""
        return self._bytes >= self._bytes_max

    def join(self, holder: Holder) -> None:
        """Let a loop know when there is room again."""
        self._holders.add(holder)

    def leave(self, holder: Holder, held_bytes: int) -> None:
        """Forget a loop, and what it holds still."""
        self._holders.discard(holder)
        self.release(held_bytes)

    def take(self, count: int) -> None:
        """Count bytes that were fetched."""
        self._bytes += count

    def release(self, count: int) -> None:
        """Count bytes that have landed or were let go."""
        self._bytes -= count
        if not self.is_full:
            for holder in list(self._holders):
                holder.resume()
