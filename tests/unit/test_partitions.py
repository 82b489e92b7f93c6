"""The loop of a partition: declare, store, commit, in this order, whatever happens."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from faust.types import TP

from schemas.errors import FatalError
from streams import pane_topic, partitions
from streams.delivery import declare
from streams.health import Progress
from streams.held import HeldBytes
from streams.pane_topic import PaneTopic, tell_idle
from streams.partitions import Limits, PartitionLoop, PartitionLoops, StoreRequest
from streams.record_batches import RecordBatch
from streams.transport import Committed, Fetched, PartitionLostError
from tests.record_batch import record_batch

USAGE = TP("llm-usage-v1", 0)
NOTHING = Committed(-1, "")


class FakeConsumer:
    """Keeps what is asked of it, in order, in a journal shared with the store."""

    def __init__(self, journal: list[Any], committed: Committed) -> None:
        self.committed = {USAGE: committed}
        self.journal = journal
        self.is_lost = False

    async def commit_range(self, tp: TP, offset: int, metadata: str) -> None:
        if self.is_lost:
            raise PartitionLostError(f"{tp} is lost")
        self.journal.append(("commit", offset, metadata))

    def pause_partitions(self, tps: set[TP]) -> None:
        self.journal.append(("pause", len(tps)))

    def resume_partitions(self, tps: set[TP]) -> None:
        self.journal.append(("resume", len(tps)))


class Bench:
    """One loop with a fake consumer and a store that can be held up."""

    def __init__(
        self,
        committed: Committed = NOTHING,
        rows_max: int = 4,
        wait_ms: int = 10,
        held: HeldBytes | None = None,
    ) -> None:
        self.journal: list[Any] = []
        self.requests: list[StoreRequest] = []
        self.consumer = FakeConsumer(self.journal, committed)
        self.may_store = asyncio.Event()
        self.may_store.set()
        self.progress = Progress(stall_seconds=30)
        self.loop = PartitionLoop(
            USAGE,
            consumer=self.consumer,
            store=self.store,
            limits=Limits(rows_max, 1 << 20, wait_ms),
            progress=self.progress,
            held=held or HeldBytes(1 << 20),
        )

    async def store(self, request: StoreRequest) -> None:
        bounds = request.batch.first_offset, request.batch.next_offset
        self.requests.append(request)
        self.journal.append(("store", *bounds, request.is_repeat))
        await self.may_store.wait()

    def deliver(self, *batches: RecordBatch) -> None:
        self.loop.deliver(Fetched(USAGE, 1, batches, batches[-1].next_offset))

    async def run_until(self, condition: Callable[[], bool]) -> "asyncio.Task[None]":
        task = asyncio.create_task(self.loop.run())
        await self.wait(condition)
        return task

    async def wait(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition():  # noqa: ASYNC110 - conditions on several journals
                await asyncio.sleep(0.001)

    def journal_without_pauses(self) -> list[Any]:
        return [entry for entry in self.journal if entry[0] not in ("pause", "resume")]


async def test_a_range_is_declared_before_it_is_stored_and_committed_after() -> None:
    """At low traffic: declare, store, commit with nothing in flight."""
    bench = Bench()
    bench.deliver(record_batch(0, b"a", b"b"))
    task = await bench.run_until(lambda: len(bench.journal) >= 3)
    task.cancel()
    assert bench.journal == [("commit", 0, declare(2)), ("store", 0, 2, False), ("commit", 2, "")]


async def test_under_load_one_commit_ends_a_range_and_declares_the_next() -> None:
    """With the next range at hand, each range costs one commit."""
    bench = Bench(rows_max=2, wait_ms=1000)
    bench.deliver(*(record_batch(2 * i, b"a", b"b") for i in range(3)))
    task = await bench.run_until(lambda: ("commit", 6, "") in bench.journal)
    task.cancel()
    assert bench.journal_without_pauses() == [
        ("commit", 0, declare(2)),
        ("store", 0, 2, False),
        ("commit", 2, declare(4)),
        ("store", 2, 4, False),
        ("commit", 4, declare(6)),
        ("store", 4, 6, False),
        ("commit", 6, ""),
    ]


async def test_a_declared_range_is_repeated_first_and_exactly() -> None:
    """After a crash the new owner stores the declared range again, marked as a repeat."""
    bench = Bench(Committed(10, declare(13)), rows_max=2)
    bench.deliver(record_batch(10, b"a", b"b"), record_batch(12, b"c", b"d"))
    task = await bench.run_until(lambda: len(bench.journal_without_pauses()) >= 3)
    task.cancel()
    first, second, *_ = bench.journal_without_pauses()
    assert first == ("store", 10, 13, True), "no declaration: it is declared already"
    assert second[:2] == ("commit", 13)


async def test_nothing_is_committed_while_a_range_is_being_stored() -> None:
    """A store that hangs holds the offset where it is, and fetching stops when memory is full."""
    bench = Bench(rows_max=2)
    bench.may_store.clear()
    bench.deliver(record_batch(0, b"a", b"b"))
    task = await bench.run_until(lambda: ("store", 0, 2, False) in bench.journal)
    for offset in range(2, 8, 2):
        bench.deliver(record_batch(offset, b"a", b"b"))
    commits = [entry for entry in bench.journal if entry[0] == "commit"]
    assert commits == [("commit", 0, declare(2))]
    assert bench.journal[-1] == ("pause", 1)
    bench.may_store.set()
    await bench.wait(lambda: ("commit", 8, "") in bench.journal)
    assert bench.journal.count(("resume", 1)) == bench.journal.count(("pause", 1))
    task.cancel()


async def test_what_all_partitions_hold_bounds_what_is_fetched_ahead() -> None:
    """One that has a range in flight waits until any of them has landed one."""
    held = HeldBytes(20)
    (waiting, other), tasks = await _storing(2, held)
    waiting.deliver(record_batch(1, b"ahead"))
    assert waiting.journal[-1] == ("pause", 1)
    other.may_store.set()
    await waiting.wait(lambda: waiting.journal[-1] == ("resume", 1))
    assert ("commit", 1, "") in other.journal
    assert len(waiting.requests) == 1
    for task in tasks:
        task.cancel()


async def test_a_range_that_had_no_room_grows_before_it_is_due() -> None:
    """What was fetched of it had waited for its time, but only because nothing more was fetched."""
    held = HeldBytes(20)
    bench = Bench(rows_max=3, wait_ms=300, held=held)
    bench.may_store.clear()
    bench.deliver(record_batch(0, b"0", b"1", b"x" * 20))
    task = asyncio.create_task(bench.loop.run())
    await bench.wait(lambda: len(bench.requests) == 1)
    bench.deliver(record_batch(3, b"3"))
    assert ("pause", 1) in bench.journal
    assert ("resume", 1) not in bench.journal
    await asyncio.sleep(0.35)
    bench.may_store.set()
    await bench.wait(lambda: ("resume", 1) in bench.journal)
    bench.deliver(record_batch(4, b"4", b"5"))
    await bench.wait(lambda: len(bench.requests) == 2)
    assert bench.requests[1].batch.next_offset == 6
    task.cancel()


async def test_a_range_has_no_more_than_its_share() -> None:
    """Of four partitions each has a fourth; what a loop held is free when it ends."""
    held = HeldBytes(40)
    benches, tasks = await _started(4, held)
    benches[0].deliver(record_batch(0, b"0123456789"), record_batch(1, b"0"))
    await benches[0].wait(lambda: bool(benches[0].requests))
    assert benches[0].requests[0].batch.next_offset == 1
    for bench in benches[1:]:
        bench.deliver(record_batch(0, b"x" * 14))
    assert held.is_full
    await _ended(tasks)
    assert not held.is_full
    assert held.share == 40
    benches[0].deliver(record_batch(2, b"x" * 200))
    assert not held.is_full, "nobody will take it from a loop that has ended"


async def test_of_many_partitions_ranges_take_turns_to_grow() -> None:
    """Four grow at once; one more waits, though its time is up, until one of them has landed."""
    held = HeldBytes(1000)
    benches, tasks = await _four_of_ten_storing(held)
    growing, small = benches[4], benches[5]
    growing.deliver(record_batch(0, b"x" * 30))
    small.deliver(record_batch(0, b"x" * 10))
    await small.wait(lambda: bool(small.requests))
    await asyncio.sleep(0.05)
    assert growing.requests == []
    assert growing.journal == [("pause", 1)]
    benches[0].may_store.set()
    await growing.wait(lambda: growing.journal[-1] == ("resume", 1))
    growing.deliver(record_batch(1, b"x" * 100))
    await growing.wait(lambda: bool(growing.requests))
    assert growing.requests[0].batch.next_offset == 2
    await _ended(tasks)


async def test_what_a_decoded_range_does_not_need_is_for_others() -> None:
    """Its turn had reserved what it might take: two that hold less make room for one more."""
    held = HeldBytes(1000)
    benches, tasks = await _four_of_ten_storing(held)
    waiting = benches[4:6]
    for bench in waiting:
        bench.deliver(record_batch(0, b"x" * 30))
    for bench, journal in zip(
        benches, ([("pause", 1)], [("pause", 1), ("resume", 1)]), strict=False
    ):
        assert waiting[0].journal == [("pause", 1)]
        bench.requests[0].now_holds(5)
        assert waiting[0].journal == journal
    assert waiting[1].journal == [("pause", 1)]
    for bench in benches[:2]:
        bench.may_store.set()
        await bench.wait(lambda bench=bench: ("commit", 1, "") in bench.journal)  # type: ignore[misc]
    assert waiting[1].journal[-1] == ("resume", 1), "what was left of the two is free as well"
    await _ended(tasks)


async def test_rows_of_ranges_count_as_held_until_they_have_landed() -> None:
    """What is fetched ahead leaves room for them."""
    held = HeldBytes(40)
    (first, _), tasks = await _storing(2, held)
    first.requests[0].now_holds(18)
    assert not held.is_full
    first.requests[0].now_holds(20)
    assert held.is_full
    first.may_store.set()
    await first.wait(lambda: ("commit", 1, "") in first.journal)
    assert not held.is_full
    await _ended(tasks)
    held.take(39)
    assert not held.is_full, "all has been released"


async def test_the_turn_of_a_loop_that_ends_is_for_others() -> None:
    """A loop that has ended while it waited gets none."""
    held = HeldBytes(1000)
    benches, tasks = await _started(8, held, wait_ms=60_000)
    for bench in benches:
        bench.deliver(record_batch(0, b"x" * 60))
    waiting = benches[4:]
    assert [("pause", 1) in bench.journal for bench in benches] == [False] * 4 + [True] * 4
    await _ended(tasks[4:5])
    await _ended(tasks[:1])
    assert [bench.journal[-1] for bench in waiting[1:]] == [("resume", 1), *[("pause", 1)] * 2]
    await _ended(tasks[1:3])
    assert [bench.journal[-1] for bench in waiting[1:]] == [("resume", 1)] * 3
    await _ended(tasks[3:4] + tasks[5:])


async def _started(
    count: int, held: HeldBytes, wait_ms: int = 60_000
) -> "tuple[list[Bench], list[asyncio.Task[None]]]":
    benches = [Bench(rows_max=1000, wait_ms=wait_ms, held=held) for _ in range(count)]
    tasks = [asyncio.create_task(bench.loop.run()) for bench in benches]
    await asyncio.sleep(0)
    return benches, tasks


async def _storing(count: int, held: HeldBytes) -> "tuple[list[Bench], list[asyncio.Task[None]]]":
    """Loops that each have a range of ten bytes in flight, and nothing else."""
    benches: list[Bench] = []
    tasks = []
    for _ in range(count):
        bench = Bench(rows_max=100, wait_ms=1, held=held)
        benches.append(bench)
        bench.may_store.clear()
        bench.deliver(record_batch(0, b"0123456789"))
        tasks.append(await bench.run_until(lambda bench=bench: bool(bench.requests)))  # type: ignore[misc]
        assert ("pause", 1) not in bench.journal, "it had nothing in hand"
    return benches, tasks


async def _four_of_ten_storing(
    held: HeldBytes,
) -> "tuple[list[Bench], list[asyncio.Task[None]]]":
    """Ten loops, of which the first four have had their turn and a range in flight."""
    benches, tasks = await _started(10, held, wait_ms=20)
    for bench in benches[:4]:
        bench.may_store.clear()
        bench.deliver(record_batch(0, b"x" * 100))
        await bench.wait(lambda bench=bench: bool(bench.requests))  # type: ignore[misc]
    return benches, tasks


async def _ended(tasks: "list[asyncio.Task[None]]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def test_a_lost_partition_ends_the_loop_without_a_crash() -> None:
    """When the broker refuses the commit, somebody else owns the partition: stop, quietly."""
    bench = Bench()
    bench.consumer.is_lost = True
    bench.deliver(record_batch(0, b"a"))
    await asyncio.wait_for(bench.loop.run(), 5)
    assert bench.journal == [], "stored although the declaration was refused"


async def test_stopping_lets_the_range_in_flight_land() -> None:
    """A stop ends after the commit of the range in flight, and declares no other."""
    bench = Bench(rows_max=1, wait_ms=1000)
    bench.may_store.clear()
    bench.deliver(record_batch(0, b"a"), record_batch(1, b"b"))
    task = await bench.run_until(lambda: ("store", 0, 1, False) in bench.journal)
    bench.loop.stop()
    bench.may_store.set()
    await asyncio.wait_for(task, 5)
    assert bench.journal_without_pauses()[-1] == ("commit", 1, "")


async def test_a_new_owner_without_a_record_tells_that_nothing_is_unread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else windows would wait for the partition until somebody publishes to it."""
    bench = Bench(Committed(7, ""))
    told: list[tuple[int, int]] = []

    class Topic(PaneTopic):
        def __init__(self) -> None:
            pass

        async def publish_idle(self, partition: int, next_offset: int, now_ms: int) -> None:  # noqa: ARG002
            told.append((partition, next_offset))

    async def crash(error: BaseException) -> None:
        raise error

    monkeypatch.setattr(pane_topic, "IDLE_SECONDS", 0.01)
    loops = PartitionLoops(lambda _: bench.loop, crash, bench.progress)
    await loops.deliver(Fetched(USAGE, 1, (), 7))
    telling = asyncio.create_task(tell_idle(Topic(), bench.progress, lambda: True))
    await bench.wait(lambda: bool(told))
    telling.cancel()
    await loops.stop()
    assert told[0] == (0, 7)
    assert bench.journal == []


async def test_a_foreign_declaration_stops_the_worker() -> None:
    """Metadata that is not ours crashes the worker with its reason instead of being overwritten."""
    errors: list[BaseException] = []

    async def crash(error: BaseException) -> None:
        errors.append(error)

    def new_loop(_: TP) -> PartitionLoop:
        return Bench(Committed(5, "mine")).loop

    loops = PartitionLoops(new_loop, crash, Progress(30))
    await loops.deliver(Fetched(USAGE, 1, (record_batch(5, b"a"),), 6))
    assert isinstance(errors[0], FatalError)


async def test_an_error_in_the_store_stops_the_worker_and_commits_nothing() -> None:
    """What nobody foresaw ends the worker; the range stays declared for the next owner."""
    bench = Bench()
    errors: list[BaseException] = []

    async def crash(error: BaseException) -> None:
        errors.append(error)

    async def fail(_: StoreRequest) -> None:
        raise ValueError("unforeseen")

    bench.loop._store = fail
    loops = PartitionLoops(lambda _: bench.loop, crash, bench.progress)
    await loops.deliver(Fetched(USAGE, 1, (record_batch(0, b"a"),), 1))
    await bench.wait(lambda: bool(errors))
    assert isinstance(errors[0], ValueError)
    assert bench.journal == [("commit", 0, declare(1))]
    await loops.stop()


@pytest.mark.parametrize("offset", [0, 7])
async def test_readiness_knows_where_the_group_stands(offset: int) -> None:
    """Lag counts from the committed offset, before anything has landed."""
    bench = Bench(Committed(offset, ""))
    bench.deliver(record_batch(offset, b"a", b"b", b"c"))
    assert bench.progress.partitions[0].lag_records == 3


async def test_ownership_is_asked_for_before_a_write_that_comes_late() -> None:
    """A recent commit is proof enough; an old one, or an urgent question, asks the broker again."""
    bench = Bench()
    bench.may_store.clear()
    bench.deliver(record_batch(0, b"a", b"b"))
    task = await bench.run_until(lambda: bool(bench.requests))
    (request,) = bench.requests
    await request.confirm()
    assert bench.journal == [("commit", 0, declare(2)), ("store", 0, 2, False)]
    await request.confirm(is_urgent=True)
    bench.loop._last_commit_seconds -= partitions.CONFIRM_SECONDS
    await request.confirm()
    assert bench.journal[2:] == [("commit", 0, declare(2))] * 2
    bench.consumer.is_lost = True
    await request.confirm()
    bench.loop._last_commit_seconds -= partitions.CONFIRM_SECONDS
    with pytest.raises(PartitionLostError):
        await request.confirm()
    task.cancel()


async def test_a_repeat_asks_first() -> None:
    """Nothing that this worker has committed says that the declared range is its own."""
    bench = Bench(Committed(10, declare(12)))
    bench.may_store.clear()
    bench.deliver(record_batch(10, b"a", b"b"))
    task = await bench.run_until(lambda: bool(bench.requests))
    bench.consumer.is_lost = True
    with pytest.raises(PartitionLostError):
        await bench.requests[0].confirm()
    task.cancel()


async def test_that_a_range_is_cut_is_declared_once_and_known_to_the_next_owner() -> None:
    """The declaration keeps its range and says that it lands in pieces, until the range ends."""
    bench = Bench()
    bench.may_store.clear()
    bench.deliver(record_batch(0, b"a", b"b"))
    task = await bench.run_until(lambda: bool(bench.requests))
    assert not bench.requests[0].is_cut
    for _ in range(2):
        await bench.requests[0].declare_cut()
    await bench.requests[0].confirm(is_urgent=True)
    cut = ("commit", 0, declare(2, is_cut=True))
    assert bench.journal[2:] == [cut, cut]
    bench.may_store.set()
    await bench.wait(lambda: ("commit", 2, "") in bench.journal)
    task.cancel()
    heir = Bench(Committed(0, declare(2, is_cut=True)))
    heir.deliver(record_batch(0, b"a", b"b", b"c"))
    task = await heir.run_until(lambda: len(heir.requests) == 2)
    assert [(each.is_repeat, each.is_cut) for each in heir.requests] == [
        (True, True),
        (False, False),
    ]
    task.cancel()


async def test_a_topic_that_begins_anew_stops_the_worker() -> None:
    """Its offsets, and with them the tokens, were used before: rows would be dropped unseen."""
    bench = Bench(Committed(100, ""))
    errors: list[BaseException] = []

    async def crash(error: BaseException) -> None:
        errors.append(error)

    loops = PartitionLoops(lambda _: bench.loop, crash, bench.progress)
    await loops.deliver(Fetched(USAGE, 1, (record_batch(0, b"a"),), 1))
    assert "was deleted and created again" in str(errors[0])
    await loops.stop()
    assert bench.journal == []
