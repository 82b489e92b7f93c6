"""The real code in the model's world: `PartitionLoop`, `UsageStore`, `DeadLetters` and what they use."""

import itertools
import math
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streams import delivery, partitions
from streams.dead_letters import DeadLetters
from tests.model.exploring import explore
from tests.model.protocol import Bounds, Protocol
from tests.model.replaying import longest_ways, replay
from tests.model.simulating import Life, Simulation, offsets
from tests.model.world import World, event, in_memory

SEED = 1


@pytest.fixture(autouse=True)
def _in_memory() -> Iterator[None]:
    with in_memory():
        yield


@pytest.mark.parametrize(
    ("bounds", "ways"),
    [
        (Bounds("ax"), 80),
        (Bounds("axa", former_inserts_overlap=False), 60),
        (Bounds("ax", generations=3, former_inserts_overlap=False), 60),
    ],
    ids=str,
)
async def test_the_real_code_goes_the_ways_of_the_model(bounds: Bounds, ways: int) -> None:
    """It asks for the same steps, and leaves offsets, tables and dead letters as the model does."""
    protocol = Protocol(bounds)
    explored = explore(protocol, "lost", "doubled")
    ends = Random(SEED).sample(longest_ways(explored), ways)
    await replay(protocol, (explored.way(end) for end in ends))


async def live(life: Life, seed: int) -> None:
    simulation = Simulation(life, Random(seed))
    try:
        await simulation.run()
    finally:
        await simulation.world.end()


@settings(max_examples=20, suppress_health_check=list(HealthCheck))
@given(
    st.builds(Life, records=st.sampled_from((5, 30, 60)), zombies=st.booleans()),
    st.booleans(),
    st.integers(0, 1 << 32),
)
async def test_the_books_balance_in_any_life(life: Life, asks_always: bool, seed: int) -> None:
    """Zombies, kills, late answers, poison rows, events sent again: each record once, in one place."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(partitions, "CONFIRM_SECONDS", -1.0 if asks_always else 3600.0)
        await live(life, seed)


async def live_until_doubled() -> None:
    for seed in range(20):
        await live(Life(), seed)


@pytest.mark.parametrize("breakage", ["random tokens", "declaration ignored"])
async def test_a_broken_protocol_is_noticed(breakage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A life that ends well says something: with the protocol broken some life soon does not."""
    numbers, token = itertools.count(), delivery.token

    def random_token(*arguments: Any) -> str:
        return f"{next(numbers)}{token(*arguments)}"

    if breakage == "random tokens":
        monkeypatch.setattr(delivery, "token", random_token)
    else:
        monkeypatch.setattr(delivery, "declared", lambda *_: None)
    with pytest.raises(AssertionError, match="doubled"):
        await live_until_doubled()


@pytest.mark.parametrize("left_out", ["looking up dead letters", "asking after fencing"])
async def test_a_step_left_out_is_noticed(left_out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ways of the model are gone with every step, or not at all."""
    start = DeadLetters._open

    async def nothing_sent(*_: Any) -> int:
        return -1

    async def unasked(self: DeadLetters, tp: Any, _: Any) -> Any:
        return await start(self, tp, owned)

    async def owned(**_: Any) -> None:
        pass

    if left_out == "looking up dead letters":
        monkeypatch.setattr(DeadLetters, "_sent_through", nothing_sent)
    else:
        monkeypatch.setattr(DeadLetters, "_open", unasked)
    protocol = Protocol(Bounds("x"))
    explored = explore(protocol, "lost", "doubled")
    with pytest.raises(AssertionError):
        await replay(protocol, map(explored.way, longest_ways(explored)))


@settings(max_examples=40)
@given(
    st.sets(st.integers(0, 39), max_size=5),
    st.integers(1, 40),
    st.lists(st.integers(1, 12), max_size=2),
)
async def test_poison_rows_and_crashes(poison: set[int], count: int, crashes: list[int]) -> None:
    """Exactly the poison rows are dead letters, whichever insert the worker dies at, again and again;
    and without a crash it takes at most ``2 k ceil(log2 n) + 1`` inserts."""
    world = World([event("b", number) for number in range(count)], frozenset(poison))
    bad = {offset for offset in poison if offset < count}
    world.assign().deliver(count)
    for crash in [*crashes, 1 << 30]:
        dies_at = world.inserts + crash
        while world.committed.offset != count or world.requests:
            await world.settle()
            if world.inserts >= dies_at:
                world.owners[-1].kill()
                world.assign().deliver(count)
                break
            step(world)
    assert [offset for offset, _, _ in world.letters] == sorted(bad)
    for table in world.tables:
        assert offsets(table) == dict.fromkeys(set(range(count)) - bad, 1)
    if not crashes:
        assert world.inserts <= 2 * len(bad) * math.ceil(math.log2(count)) + 1
    await world.end()


def step(world: World) -> None:
    """Let the oldest request, else the owner, go on."""
    for request in world.requests:
        if request.filled < len(world.tables):
            world.fill(request)
            return
        if request.call:
            world.answer(request)
            return
    call = world.owners[-1].call
    assert call is not None, "waits for nothing"
    world.give(call)
