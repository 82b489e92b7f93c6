"""Visit every state of the model, breadth first, and tell the shortest way to a fault."""

import argparse
import time
from dataclasses import dataclass

from tests.model.protocol import Bounds, Move, Protocol, State

Way = tuple[Move, ...]


@dataclass(frozen=True)
class Explored:
    """What was found.

    Attributes:
        came_from: How each state was reached first; the start's is None.
        moves: Number of moves between states, each counted once.
        done: Number of states in which all of the log is committed.
        fault: The first fault met, with the shortest way there.
        stuck: States without a move before all is committed.
    """

    came_from: dict[State, tuple[State, Move] | None]
    moves: int
    done: int
    fault: tuple[str, State] | None
    stuck: list[State]

    def way(self, state: State) -> Way:
        """Return the shortest way from the start to a state."""
        back: list[Move] = []
        step = self.came_from[state]
        while step is not None:
            back.append(step[1])
            step = self.came_from[step[0]]
        return tuple(reversed(back))


def explore(protocol: Protocol, *watched: str) -> Explored:
    """Return every reachable state, or those up to the first fault that holds a ``watched`` word."""
    start = State()
    came_from: dict[State, tuple[State, Move] | None] = {start: None}
    stuck: list[State] = []
    moves = done = 0
    layer = [start]
    while layer:
        following: list[State] = []
        for state in layer:
            for fault in protocol.faults(state):
                if any(word in fault for word in watched):
                    return Explored(came_from, moves, done, (fault, state), stuck)
            before = moves
            for move, after in protocol.moves(state):
                moves += 1
                if after not in came_from:
                    came_from[after] = state, move
                    following.append(after)
            if protocol.is_done(state):
                done += 1
            elif moves == before:
                stuck.append(state)
        layer = following
    return Explored(came_from, moves, done, None, stuck)


def main() -> None:
    """Explore with bounds from the command line and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--log", default=Bounds.log, help="a letter per record; x is refused")
    parser.add_argument("--generations", type=int, default=Bounds.generations)
    parser.add_argument("--requests", type=int, default=Bounds.requests)
    parser.add_argument("--overlap", action="store_true", help="see Bounds.former_inserts_overlap")
    parser.add_argument("--watch", nargs="+", default=["lost", "doubled", "differs"])
    options = parser.parse_args()
    bounds = Bounds(
        options.log,
        options.generations,
        options.requests,
        catalogue_changes="differs" in options.watch,
        former_inserts_overlap=options.overlap,
    )
    begin = time.monotonic()
    explored = explore(Protocol(bounds), *options.watch)
    print(
        f"{bounds}: {len(explored.came_from):,} states, {explored.moves:,} moves,"
        f" {explored.done:,} with all committed, {len(explored.stuck)} stuck,"
        f" {time.monotonic() - begin:.1f} s"
    )
    if explored.fault:
        fault, state = explored.fault
        print(fault, state, *explored.way(state), sep="\n  ")
        raise SystemExit(1)


if __name__ == "__main__":
    main()
