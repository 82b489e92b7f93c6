"""Blocks of events ready to send, the same for the same arguments."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import polars as pl

from deploy.local.simulator.faults import MALFORMATIONS, FaultRatios, over_several_lines
from deploy.local.simulator.partitions import UInt32s
from deploy.local.simulator.population import Population, Sessions
from deploy.local.simulator.render import render
from deploy.local.simulator.requests import Draw, describe, draw_requests
from deploy.local.simulator.seasons import DAY_MS, HOUR_MS, Int64s
from deploy.local.simulator.world import UNKNOWN_NAMES, World

BLOCK_EVENTS = 20_000
# 1 January 2015: the earliest occurred_at that the schema takes.
_EARLIEST_MS = 1_420_070_400_000
_LATE_MS_MIN, _LATE_MS_MAX = HOUR_MS, 10 * DAY_MS

_FACTS = (
    "model",
    "tokens_prompt",
    "tokens_completion",
    "tokens_reasoning",
    "tokens_cached",
    "cost_nanousd",
)


@dataclass(frozen=True)
class Block:
    """Records in the order they are sent, and what is true of them.

    Attributes:
        values, keys, key_hashes: One per record; ``key_hashes`` are murmur2.
        facts: One row per valid record, in any order: model (row of the world), tokens and cost,
            null where the event has none, and ``again`` for a record sent a second time.
        faults: How many records have each fault.
        malformed: How many malformed records there are of each kind.
        times_ms: When each record is sent if time runs as it did; late events are sent late.
    """

    values: list[bytes]
    keys: list[bytes]
    key_hashes: UInt32s
    facts: pl.DataFrame
    times_ms: Int64s
    faults: dict[str, int] = field(default_factory=dict)
    malformed: dict[str, int] = field(default_factory=dict)

    def take(self, rows: list[int]) -> "Block":
        """Return only those records of a block without faults."""
        assert not self.faults
        assert not self.malformed
        return replace(
            self,
            values=[self.values[row] for row in rows],
            keys=[self.keys[row] for row in rows],
            key_hashes=self.key_hashes[rows],
            facts=self.facts[rows],
            times_ms=self.times_ms[rows],
        )


@dataclass(frozen=True)
class Simulator:
    """Makes blocks of simulated requests.

    Attributes:
        id_prefix: Start of every ``event_id``.
        reference_ms: When shares are those of the world, undrifted.
    """

    world: World
    population: Population
    seed: int
    id_prefix: str
    reference_ms: int
    faults: FaultRatios

    def blocks(self, batches: Iterator[tuple[int, Int64s]]) -> Iterator[Block]:
        """Yield a block per batch of event times; what is sent again comes a block later.

        Args:
            batches: First event number and sorted event times of each block. Numbers never repeat.
        """
        carried: Block | None = None
        for first_number, times_ms in batches:
            block, again = self._block(first_number, times_ms)
            yield _appended(block, carried) if carried else block
            carried = again
        if carried and carried.values:
            yield carried

    def _block(self, first_number: int, times_ms: Int64s) -> tuple[Block, Block]:
        rng = np.random.default_rng([self.seed, 4, first_number])
        numbers = np.arange(first_number, first_number + len(times_ms))
        sessions = self.population.choose(numbers, times_ms, rng)
        draw = draw_requests(self.world, sessions, times_ms, self.reference_ms, rng)
        fault = np.searchsorted(self.faults.cumulative, rng.random(len(numbers)), side="right")
        chosen = {
            name: np.flatnonzero(fault == place) for place, name in enumerate(self.faults.names)
        }
        draw, sent_ms = self._before_rendering(chosen, draw, times_ms, rng)
        frame = framed(self.world, sessions, draw, numbers, sent_ms, rng, all_ok=False)
        values = render(frame, self.id_prefix)
        for row in chosen["multiline"]:
            values[row] = over_several_lines(values[row])
        again = _selected(values, sessions, frame, chosen["duplicates"])
        malformed = _damage(values, chosen["malformed"], rng)
        valid = np.ones(len(numbers), np.bool_)
        valid[chosen["malformed"]] = False
        block = Block(
            values=values,
            keys=sessions.keys,
            key_hashes=sessions.key_hashes,
            facts=facts_of(frame.filter(pl.Series(valid))),
            times_ms=times_ms,
            faults={name: len(rows) for name, rows in chosen.items() if name != "duplicates"},
            malformed=malformed,
        )
        return block, again

    def _before_rendering(
        self, chosen: dict[str, Int64s], draw: Draw, times_ms: Int64s, rng: np.random.Generator
    ) -> tuple[Draw, Int64s]:
        model = draw.model.copy()
        unknown = chosen["unknown_model"]
        first_unknown = len(self.world.names) - len(UNKNOWN_NAMES)
        model[unknown] = first_unknown + rng.integers(len(UNKNOWN_NAMES), size=len(unknown))
        sent_ms = times_ms.copy()
        late = chosen["late"]
        earlier = np.exp(rng.uniform(np.log(_LATE_MS_MIN), np.log(_LATE_MS_MAX), len(late)))
        sent_ms[late] = np.maximum(sent_ms[late] - earlier.astype(np.int64), _EARLIEST_MS)
        return Draw(model, draw.tokens_prompt, draw.tokens_completion), sent_ms


def framed(
    world: World,
    sessions: Sessions,
    draw: Draw,
    numbers: Int64s,
    times_ms: Int64s,
    rng: np.random.Generator,
    *,
    all_ok: bool,
) -> pl.DataFrame:
    """Return the columns that ``render`` takes."""
    return describe(world, sessions, draw, rng, all_ok=all_ok).with_columns(
        pl.Series("number", numbers), pl.Series("time_ms", times_ms)
    )


def facts_of(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the facts of records sent for the first time."""
    return frame.select(*_FACTS, pl.lit(False).alias("again"))


def _selected(values: list[bytes], sessions: Sessions, frame: pl.DataFrame, rows: Int64s) -> Block:
    return Block(
        values=[values[row] for row in rows],
        keys=[sessions.keys[row] for row in rows],
        key_hashes=sessions.key_hashes[rows],
        facts=facts_of(frame[rows]).with_columns(again=True),
        times_ms=frame["time_ms"].to_numpy()[rows],
        faults={"duplicates": len(rows)},
    )


def _appended(block: Block, more: Block) -> Block:
    return Block(
        values=block.values + more.values,
        keys=block.keys + more.keys,
        key_hashes=np.concatenate([block.key_hashes, more.key_hashes]),
        facts=pl.concat([block.facts, more.facts]),
        times_ms=np.concatenate([block.times_ms, more.times_ms]),
        faults=block.faults | more.faults,
        malformed=block.malformed,
    )


def _damage(values: list[bytes], rows: Int64s, rng: np.random.Generator) -> dict[str, int]:
    """Damage those values in place; return how many of each kind."""
    counts: dict[str, int] = {}
    for row, kind in zip(rows, rng.integers(len(MALFORMATIONS), size=len(rows)), strict=True):
        malformation = MALFORMATIONS[kind]
        values[row] = malformation.damage(values[row])
        counts[malformation.kind] = counts.get(malformation.kind, 0) + 1
    return counts
