"""Run the real code through a random life: zombies, kills, requests that die or answer late.

Longer than the model's ways, and with what the model leaves out: events sent again, rows that
ClickHouse refuses, ranges of many records, several at a time.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random

import pyarrow as pa

from tests.model.world import Owner, World, event

REFUSED = b"nonsense %d"
STEPS_MAX = 20_000


@dataclass(frozen=True)
class Life:
    """What happens in it.

    Attributes:
        records: Length of the usage topic.
        steps: Random ones, before everything comes to an end undisturbed.
        generations: Assignments among them, at most.
        zombies: Former owners and their requests live on; else a new owner comes after their end.
    """

    records: int = 30
    steps: int = 150
    generations: int = 5
    zombies: bool = True


def world_of(life: Life, random: Random) -> World:
    """Return a world: valid events of two months, one in five not an event, some sent again or poisoned."""
    log: list[bytes] = []
    poison = set()
    for offset in range(life.records):
        kind = random.random()
        if kind < 0.2:
            log.append(REFUSED % offset)
        elif kind < 0.35 and offset:
            log.append(random.choice(log))
        else:
            log.append(event(random.choice("ab"), offset))
            if kind > 0.92:
                poison.add(offset)
    return World(log, frozenset(poison), {"duplicate_window_ms": 400 * 86_400_000})


class Simulation:
    """One life; see `run`."""

    def __init__(self, life: Life, random: Random) -> None:
        self._life = life
        self._random = random
        self.world = world_of(life, random)

    async def run(self) -> None:
        """Live, then let a last owner store the rest; assert that the books balance all the time."""
        self._assign()
        for _ in range(self._life.steps):
            await self.world.settle()
            self._step()
            self.check()
        self._assign()
        for _ in range(STEPS_MAX):
            await self.world.settle()
            if self.world.committed.offset == len(self.world.log) and not self.world.requests:
                break
            self._step_ahead()
            self.check()
        else:
            raise AssertionError(f"stuck at {self.world.committed}")
        self.check()
        self.check_balance()

    def _assign(self) -> None:
        if not self._life.zombies:
            for owner in self._living():
                owner.kill()
            for request in list(self.world.requests):
                self.world.die(request)
        self.world.assign(rows_max=self._random.choice((1, 3, 10, 1000)))

    def _living(self) -> list[Owner]:
        return [each for each in self.world.owners if not each.task.done()]

    def _step(self) -> None:
        chance = self._random.random()
        if chance < 0.03 and len(self.world.owners) < self._life.generations:
            self._assign()
        elif chance < 0.05 and (living := self._living()):
            self._random.choice(living).kill()
        elif chance < 0.1:
            self.world.catalogue += 1
        elif chance < 0.25 and (living := self._living()):
            self._deliver(self._random.choice(living))
        elif chance < 0.5 and self.world.requests:
            request = self._random.choice(self.world.requests)
            if self._random.random() < 0.3:
                self.world.die(request)
            elif request.call:
                self.world.give_up(request)
        else:
            self._step_ahead()

    def _step_ahead(self) -> None:
        """Let somebody come one step nearer to the end; a worker that stopped is started again."""
        world = self.world
        if world.owners[-1].task.done():
            self._assign()
            return
        for owner in self._living()[-1:]:
            self._deliver(owner)
        ahead: list[Callable[[], None]] = [
            partial(world.give, each.call) for each in self._living() if each.call
        ]
        for request in world.requests:
            is_filled = request.filled == len(world.tables)
            ahead.append(partial(world.answer if is_filled else world.fill, request))
        if ahead:
            self._random.choice(ahead)()

    def _deliver(self, owner: Owner) -> None:
        owner.deliver(
            min(owner.delivered + self._random.choice((1, 2, 5, 20)), len(self.world.log))
        )

    # --- What must hold --------------------------------------------------------------------------

    def check(self) -> None:
        """Nothing is doubled, and nothing is committed that is not stored."""
        world = self.world
        tables = [offsets(table) for table in world.tables]
        letters = Counter(offset for offset, _, _ in world.letters)
        aside = offsets(world.duplicates)
        for found in (*tables, letters, aside):
            assert max(found.values(), default=1) == 1, f"doubled: {found}"
        for offset in range(world.committed.offset):
            at = [offset in found for found in (*tables, letters, aside)]
            expected = [[True] * len(tables) + [False, False]]
            expected += [[False] * len(tables) + each for each in ([True, False], [False, True])]
            assert at in expected, f"offset {offset} is lost or in two places: {at}"

    def check_balance(self) -> None:
        """Each record is where it belongs, as it was sent."""
        world = self.world
        assert {offset: value for offset, _, value in world.letters} == {
            offset: value
            for offset, value in enumerate(world.log)
            if value.startswith(b"nonsense") or offset in self.poison()
        }
        stored = [world.log[offset] for offset in offsets(world.tables[0])]
        assert Counter(stored) == Counter(set(stored)), "an event is stored twice"
        assert [offset for offset, _, _ in world.letters] == sorted(
            offset for offset, _, _ in world.letters
        )
        ended = [each.task for each in world.owners if each.task.done()]
        assert [
            each.exception() for each in ended if not each.cancelled() and each.exception()
        ] == []
        if not self._life.zombies:
            for view in world.tables[1:]:
                assert contents(view) == contents(world.tables[0]), "a view differs from the table"

    def poison(self) -> set[int]:
        """Return the offsets that ClickHouse refuses, unless they were set aside."""
        return set(self.world.refused) - set(offsets(self.world.duplicates))


def offsets(table: list[tuple[str, pa.Table]]) -> Counter[int]:
    """Return how often each offset is in a table."""
    return Counter(offset for _, rows in table for offset in rows["kafka_offset"].to_pylist())


def contents(table: list[tuple[str, pa.Table]]) -> dict[int, str]:
    """Return what each offset's model was taken for."""
    return {
        offset: vendor
        for _, rows in table
        for offset, vendor in zip(
            rows["kafka_offset"].to_pylist(), rows["vendor"].to_pylist(), strict=True
        )
    }
