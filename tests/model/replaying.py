"""Take a way through the model with the real code, and compare both after every move.

``make test`` takes some ways; all of them: ``python -m tests.model.replaying --log ax``.
"""

import argparse
import asyncio
from collections.abc import Iterable, Sequence
from random import Random

import structlog
from rich.progress import track

from streams import delivery
from tests.model.exploring import Explored, Way, explore
from tests.model.protocol import REFUSED, Bounds, Move, Protocol, State
from tests.model.world import USAGE, Call, Owner, Request, World, event, in_memory

MONTHS = {"a": 202610, "b": 202611}
CALLS = {
    "fence": "fence",
    "confirm": "commit",
    "declare": "commit",
    "make": "make",
    "read_back": "read_back",
    "insert": "insert",
    "read_dead_letters": "read_dead_letters",
    "send": "send",
    "commit": "commit",
}


def world_of(log: str) -> World:
    """Return a world whose usage topic is the model's."""
    return World(
        [
            b"nonsense" if letter == REFUSED else event(letter, number)
            for number, letter in enumerate(log)
        ]
    )


class Replay:
    """The model and the real code, side by side."""

    def __init__(self, protocol: Protocol, way: Sequence[Move]) -> None:
        self._protocol = protocol
        self._way = way
        self._at = 0
        self.state = State()
        self.world = world_of(protocol.bounds.log)

    async def run(self) -> None:
        """Take every move; assert that the code asks for it, and that the outcome is the model's."""
        for at, move in enumerate(self._way):
            self._at = at
            await self._take(move)
            self.state = dict(self._protocol.moves(self.state))[move]
            self._compare()

    async def _take(self, move: Move) -> None:
        if move.name == "assign":
            owner = self.world.assign()
            if self.state.declared >= 0:
                owner.deliver(self.state.declared)
                self._deliver_following(owner)
                # It asks first whether the range is its own: an answer that comes later only stops it.
                self.world.give(await self._call(owner, "commit"))
        elif move.name == "change_catalogue":
            self.world.catalogue = 1
        elif move.name in ("fill", "die", "answer", "give_up"):
            getattr(self.world, move.name)(self._request(move.value))
        else:
            await self._take_step(move, self.world.owners[move.generation - 1])

    async def _take_step(self, move: Move, owner: Owner) -> None:
        if move.name == "declare":
            owner.deliver(move.value)
        call = await self._call(owner, CALLS[move.name])
        if move.name in ("declare", "commit"):
            declared = delivery.declare(move.value) if move.value >= 0 else ""
            first = self.state.owners[move.generation - 1]
            offset = first.first if move.name == "declare" else first.end
            assert call.details[1:] == (offset, declared)
        is_fenced = move.name == "send" and call.details[1] is not self.world.producer
        self.world.give(call)
        if is_fenced:
            # The model's owner asks in the same move whether it may try again.
            self.world.give(await self._call(owner, "commit"))
        if move.name == "declare" or (move.name == "commit" and move.value >= 0):
            self._deliver_following(owner)

    def _deliver_following(self, owner: Owner) -> None:
        """Deliver the range that the next commit will declare, which the loop cuts before it."""
        for move in self._way[self._at + 1 :]:
            if move.generation == owner.generation and move.name == "commit":
                owner.deliver(move.value)
                return

    async def _call(self, owner: Owner, name: str) -> Call:
        await self.world.settle()
        assert owner.call is not None, f"waits for nothing, not for {name}: {owner.task}"
        assert owner.call.name == name
        return owner.call

    def _request(self, index: int) -> Request:
        wanted = self.state.requests[index]
        for each in self.world.requests:
            if (
                each.owner.generation == wanted.generation
                and each.token
                == self._token(wanted.insert.first, wanted.insert.end, wanted.insert.month)
                and (each.call is not None) == wanted.is_awaited
                and each.filled == wanted.filled
            ):
                return each
        raise AssertionError(f"no such request: {wanted}")

    def _token(self, first: int, end: int, month: str) -> str:
        return delivery.token(USAGE.topic, USAGE.partition, first, end, MONTHS[month])

    def _compare(self) -> None:
        world, state = self.world, self.state
        declared = delivery.declared(world.committed.metadata, world.committed.offset)
        assert max(world.committed.offset, 0) == state.committed
        assert (declared.next_offset if declared else -1) == state.declared
        assert [offset for offset, _, _ in world.letters] == list(state.dead_letters)
        for table, expected in zip(world.tables, state.tables, strict=True):
            found = sorted((token, rows["vendor"].to_pylist()) for token, rows in table)
            assert found == sorted(
                (
                    self._token(each.first, each.end, each.month),
                    [f"catalogue-{each.version}"]
                    * self._protocol.bounds.log[each.first : each.end].count(each.month),
                )
                for each in expected
            )


def longest_ways(explored: Explored) -> list[State]:
    """Return the states from which no other was reached first: the ways there lead through all states."""
    passed = {step[0] for step in explored.came_from.values() if step is not None}
    return [state for state in explored.came_from if state not in passed]


async def replay(protocol: Protocol, ways: Iterable[Way]) -> int:
    """Take ways; return the number of moves."""
    moves = 0
    for way in ways:
        one = Replay(protocol, way)
        try:
            await one.run()
        except BaseException as error:
            error.add_note(f"way: {way}")
            raise
        finally:
            await one.world.end()
        moves += len(way)
    return moves


def main() -> None:
    """Replay every way of a model with bounds from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--log", default="ax", help="a letter per record; x is refused")
    parser.add_argument("--generations", type=int, default=Bounds.generations)
    parser.add_argument("--ways", type=int, help="only so many, drawn at random")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    protocol = Protocol(Bounds(options.log, options.generations))
    explored = explore(protocol, "lost", "doubled")
    ends = longest_ways(explored)
    Random(options.seed).shuffle(ends)
    ends = ends[: options.ways]
    with in_memory():
        moves = asyncio.run(replay(protocol, (explored.way(end) for end in track(ends, "ways"))))
    print(f"{protocol.bounds}: {len(ends):,} ways, {moves:,} moves of the real code as the model's")


if __name__ == "__main__":
    main()
