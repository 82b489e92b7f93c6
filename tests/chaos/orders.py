"""What a worker under test is told to do wrong: where to die, and which guarantee to break."""

import os
import signal
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

VARIABLE = "CHAOS_ORDERS"
COORDINATOR_FAULT = signal.SIGRTMIN + 1
"""Signal that makes the worker's group coordinator fail once; Faust uses the common ones."""

KILL_POINTS = {
    "before_assignment": "partitions are given, their committed offsets not read yet",
    "after_assignment": "committed offsets and declarations are read, nothing fetched yet",
    "before_declaration": "a range is cut, not declared",
    "after_declaration": "a range is declared on its own, nothing else done",
    "before_confirmation": "before the broker is asked whose the partition is",
    "after_confirmation": "the broker has said that the partition is ours",
    "before_decode": "before a range is decoded",
    "after_decode": "a range is decoded and enriched, nothing written",
    "before_repeat": "the declared range of an earlier owner is rebuilt, not repeated",
    "inside_repeat": "before the first insert of a repeated range",
    "after_repeat": "a repeated range is stored, not committed",
    "before_insert": "before the first insert of a range",
    "during_insert": "0 to 20 ms after an insert was sent",
    "after_insert": "ClickHouse has the block, the worker has not seen the answer",
    "between_blocks": "a month of the range has landed, the next has not",
    "before_duplicates": "before the records that were sent again are written",
    "after_duplicates": "the records that were sent again have landed, the answer is lost",
    "inside_bisection": "ClickHouse has refused a block, its rows are not tried apart",
    "before_cut_declaration": "a block was refused, that it is being cut is not declared",
    "after_cut_declaration": "that a refused block is being cut is declared, no piece has landed",
    "between_pieces": "a piece of a refused block has landed",
    "before_dead_letters": "before the dead letters of a range are sent",
    "inside_dead_letters": "a dead letter is sent, its transaction is open",
    "before_dead_letters_end": "all dead letters are sent, their transaction is not committed",
    "after_dead_letters": "the dead letters are there, the range is not committed",
    "before_commit": "a range has landed; no other is cut",
    "after_commit": "a range is committed, the next one not declared",
    "before_joint_commit": "a range has landed; its commit declares the next one",
    "after_joint_commit": "a commit has declared the next range as well",
    "while_retrying": "ClickHouse was away at the last insert",
    "before_panes": "a range has landed, rolling windows are not told of it",
    "after_panes": "rolling windows are told of a range, it is not committed",
    "before_windows": "windows have closed, none is published",
    "between_windows": "windows are published, none of them is stored",
    "after_windows": "windows are stored, the panes they come from are not committed",
    "after_rebuild": "the state of the windows is rebuilt, nothing is counted on top",
    "while_stopping": "the partitions are taken away or the worker was asked to stop",
}
"""Step boundary -> state of the range when the worker dies there."""

BREAKAGES = {
    "random_tokens": "each insert has a token of its own",
    "no_declaration": "commits declare nothing",
    "cut_anew": "a declared range is not repeated, ranges are cut as they come",
    "skip_repeat": "a declared range counts as stored",
    "commit_first": "a range is committed before it is stored",
    "zombie": "refused commits and the loss of partitions are ignored",
    "acknowledge_refused": "an insert that ClickHouse could not take counts as stored",
    "drop_poison": "rows that ClickHouse refuses count as stored",
    "dead_letters_again": "dead letters of a repeated range are sent without looking",
    "no_dead_letters": "refused records go nowhere",
    "no_duplicate_check": "what a producer sends again is stored again",
    "fresh_repeat": "a repeat is made anew, with the catalogue of the moment",
    "silent_gap": "offsets that retention took are passed over",
    "no_window": "a rollup remembers no tokens",
    "trust_tokens": "a repeat that ClickHouse has acknowledged counts as stored",
    "panes_again": "panes of a range that is told again are counted again",
    "rebuild_all": "windows are rebuilt from all that is stored, in flight or not",
}
"""Switch -> what is broken."""
WINDOW_BREAKAGES = ("panes_again", "rebuild_all")
"""Of these what only rolling windows show."""


@dataclass(frozen=True)
class Orders:
    """Orders for one process.

    Attributes:
        kill_point: Of `KILL_POINTS`; ``""`` for none.
        crossing: At which crossing of it, from 1.
        breakage: Of `BREAKAGES`; ``""`` for none.
        hangs: It stops at the point (SIGSTOP) instead of dying.
        marks: File that gets a line before the process kills itself.
        clock: File that holds seconds by which the process's clock is wrong; may change.
    """

    kill_point: str = ""
    crossing: int = 1
    breakage: str = ""
    hangs: bool = False
    marks: Path = Path(os.devnull)
    clock: Path = Path(os.devnull)

    def __post_init__(self) -> None:
        assert self.kill_point in ("", *KILL_POINTS), self.kill_point
        assert self.breakage in ("", *BREAKAGES), self.breakage

    def encode(self) -> str:
        """Return the text of the environment variable `VARIABLE`."""
        return orjson.dumps(asdict(self), default=str).decode()

    @classmethod
    def load(cls) -> "Orders":
        """Read the environment; no orders if there are none."""
        members: dict[str, Any] = orjson.loads(os.environ.get(VARIABLE, "{}"))
        for name in {"marks", "clock"} & members.keys():
            members[name] = Path(members[name])
        return cls(**members)
