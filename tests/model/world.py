"""The model's broker, ClickHouse and dead-letter topic in memory, with the real code as owners.

Whatever the code of an owner asks of the outside world is a `Call` that waits until somebody answers
it: the test decides when, in which order and how. The code is that of a worker, down to aiokafka's
clients: `PartitionLoop`, `RangeCutter`, `UsageStore`, `land`, `SeenIds`, `DeadLetters`.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest
from aiokafka.errors import ProducerFenced
from faust.types import TP

from agents import calling
from agents.store_usage import Parts, UsageStore
from schemas.catalogue import Catalogue, Model
from schemas.errors import RejectedBatchError, SinkUnavailableError
from schemas.topics import DEAD_LETTER_TOPIC
from sinks.usage_events import arrow_schema
from streams import dead_letters, partitions
from streams.health import Progress
from streams.held import HeldBytes
from streams.pane_topic import Landed
from streams.partitions import Confirm, Limits, PartitionLoop
from streams.record_batches import RecordBatch, keep_whole
from streams.transport import Committed, Fetched, PartitionLostError

USAGE = TP("llm-usage-v1", 0)
APPEND_TIME_MS = 1_795_521_600_000
"""2026-11-24T12:00:00Z."""
DAYS = {"a": "2026-10-31T12:00:0%dZ", "b": "2026-11-24T11:59:0%dZ"}
TABLES = 3
SETTLE_SECONDS_MAX = 20.0
ROWS_MAX = 1_000_000
BATCH_LETTERS_MAX = 2

_owner: "ContextVar[Owner]" = ContextVar("owner")


def event(letter: str, number: int) -> bytes:
    """Return a valid event of a letter's month; equal numbers are the same event."""
    return orjson.dumps(
        {
            "schema_version": 1,
            "event_id": f"e-{number}",
            "source": "synthetic",
            "occurred_at": DAYS[letter] % (number % 10),
            "model_raw": "vendor/model",
            "tokens_prompt": number,
            "tokens_completion": 5,
            "status": "ok",
        }
    )


@dataclass
class Call:
    """Something that an owner has asked for."""

    name: str
    details: tuple[Any, ...]
    answer: Callable[[Any], None]
    fail: Callable[[BaseException], None]


@dataclass
class Request:
    """An insert on its way; ``call`` waits for the answer, ``None`` when nobody does any more."""

    owner: "Owner"
    token: str
    rows: pa.Table
    call: Call | None
    filled: int = 0


@dataclass
class World:
    """What the owners share.

    Attributes:
        log: Values of the usage topic, one record batch each.
        refused: Offsets of rows that ClickHouse refuses.
        tables: The table and its two views: rows by token, in the order they came.
        letters: The dead-letter topic: values by origin offset, in order.
        settings: See `Parts`.
    """

    log: list[bytes]
    refused: frozenset[int] = frozenset()
    settings: dict[str, Any] = field(default_factory=dict)
    committed: Committed = field(default_factory=lambda: Committed(-1, ""))
    owners: list["Owner"] = field(default_factory=list)
    tables: list[list[tuple[str, pa.Table]]] = field(
        default_factory=lambda: [[] for _ in range(TABLES)]
    )
    duplicates: list[tuple[str, pa.Table]] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    letters: list[tuple[int, dict[str, bytes], bytes]] = field(default_factory=list)
    producer: "Producer | None" = None
    catalogue: int = 0
    inserts: int = 0
    running: int = 0
    """Threads that are not waiting for an answer."""

    def __post_init__(self) -> None:
        self.batches = [
            keep_whole([value], None, offset, offset + 1, APPEND_TIME_MS)
            for offset, value in enumerate(self.log)
        ]

    def assign(self, rows_max: int = ROWS_MAX) -> "Owner":
        """Give the partition to a new owner."""
        owner = Owner(self, len(self.owners) + 1)
        self.owners.append(owner)
        owner.start(rows_max)
        return owner

    async def settle(self) -> None:
        """Return when every owner waits for an answer, for records, or has ended."""
        async with asyncio.timeout(SETTLE_SECONDS_MAX):
            quiet = 0
            while quiet < 25:
                await asyncio.sleep(0.0001 if self.running else 0)
                quiet = 0 if self.running else quiet + 1

    def give(self, call: Call) -> None:
        """Answer a call as a healthy world does; an insert is only sent by it."""
        owner = call.details[0]
        owner.call = None
        match call.name, call.details[1:]:
            case "commit", (offset, metadata):
                if owner is not self.owners[-1]:
                    call.fail(PartitionLostError("an old generation"))
                else:
                    self.committed = Committed(offset, metadata)
                    call.answer(None)
            case "make", ():
                model = Model("vendor/model", vendor=f"catalogue-{self.catalogue}")
                call.answer(Catalogue.of([model]))
            case "fence", (producer,):
                self.producer = producer
                call.answer(None)
            case "send", (producer, letters):
                if producer is not self.producer:
                    call.fail(ProducerFenced())
                else:
                    self.letters += letters
                    call.answer(None)
            case "read_dead_letters", ():
                call.answer(list(self.letters))
            case "read_back", (first, following, times_ms):
                call.answer(self.stored(first, following, times_ms))
            case "ids", (before_offset, seconds):
                call.answer(self.ids(before_offset, seconds))
            case "insert", (rows, token):
                self.inserts += 1
                self.requests.append(Request(owner, token, rows, call))
            case "insert_duplicates", (rows, token):
                if token not in dict(self.duplicates):
                    self.duplicates.append((token, rows))
                call.answer(None)
            case other:
                raise AssertionError(other)

    def fill(self, request: Request) -> None:
        """Put the rows of a request into the next table, unless that knows the token."""
        if request.filled == 0 and self.refused & set(request.rows["kafka_offset"].to_pylist()):
            self.requests.remove(request)
            if request.call:
                request.call.fail(RejectedBatchError("clickhouse: code 469 VIOLATED_CONSTRAINT"))
            return
        table = self.tables[request.filled]
        if request.token not in dict(table):
            table.append((request.token, request.rows))
        request.filled += 1
        if request.filled == TABLES and request.call is None:
            self.requests.remove(request)

    def answer(self, request: Request) -> None:
        """Tell the owner that all tables have the rows."""
        assert request.filled == TABLES
        assert request.call is not None
        self.requests.remove(request)
        request.call.answer(None)

    def die(self, request: Request) -> None:
        """End a request where it is."""
        self.requests.remove(request)
        if request.call:
            request.call.fail(SinkUnavailableError("died"))

    def give_up(self, request: Request, reason: BaseException | None = None) -> None:
        """Let the owner stop waiting for a request, which goes on."""
        assert request.call is not None
        request.call.fail(reason or SinkUnavailableError("timed out"))
        request.call = None
        if request.filled == TABLES:
            self.requests.remove(request)

    def stored(self, first: int, following: int, times_ms: tuple[int, int] | None) -> pa.Table:
        """Return rows of the table by offset and event time."""
        nothing = pa.table({each.name: pa.array([], each.type) for each in arrow_schema()})
        found = pa.concat_tables([nothing, *(rows for _, rows in self.tables[0])])
        offsets = found["kafka_offset"].to_numpy()
        inside = (offsets >= first) & (offsets < following)
        if times_ms is not None:
            occurred_at_ms = found["occurred_at"].cast(pa.int64()).to_numpy()
            inside &= (occurred_at_ms >= times_ms[0]) & (occurred_at_ms <= times_ms[1])
        return found.filter(pa.array(inside))

    def ids(self, before_offset: int, seconds: Sequence[tuple[int, int]]) -> pa.Table:
        """Return the ids of stored rows, see `StoredIds.ids`."""
        rows = self.stored(0, before_offset, None)
        second = rows["occurred_at"].cast(pa.int64()).to_numpy() // 1000
        inside = np.zeros(len(second), dtype=np.bool_)
        for begin, end in seconds:
            inside |= (second >= begin) & (second < end)
        found = {
            "event_id": rows["event_id"],
            "source": rows["source"].cast(pa.string()),
            "second": pa.chunked_array([pa.array(second, pa.uint32())]),
        }
        return pa.table(found).filter(pa.array(inside))

    async def end(self) -> None:
        """Stop every owner and its threads."""
        for owner in self.owners:
            owner.kill()
        for request in [each for each in self.requests if each.call]:
            self.die(request)
        await self.settle()
        await asyncio.gather(*(each.task for each in self.owners), return_exceptions=True)


class Owner:
    """The real code in one generation; it stands in for its consumer, ClickHouse and threads."""

    def __init__(self, world: World, generation: int) -> None:
        self.world = world
        self.generation = generation
        self.committed = {USAGE: world.committed}
        self.delivered = max(world.committed.offset, 0)
        self.call: Call | None = None
        self.is_dead = False
        self._event_loop = asyncio.get_running_loop()

    def start(self, rows_max: int) -> None:
        """Run the loop of the partition."""
        context = copy_context()
        context.run(_owner.set, self)
        settings = {
            "retry_wait_seconds_max": 0.0,
            "duplicate_window_ms": 0,
            "seen_ids_max": 100_000,
            "bad_records_ratio_max": 1.0,
            **self.world.settings,
        }
        parts = Parts(
            catalogue=self.catalogue,
            writer=self,
            stored=self,
            lost=_NothingLost(),
            dead_letters=dead_letters.DeadLetters("nowhere", "group"),
            panes=_Untold(),
            preparing=_Threads(self),
            inserting=_Threads(self),
            progress=Progress(30),
            **settings,
        )
        self.loop = PartitionLoop(
            USAGE,
            consumer=self,
            store=UsageStore(USAGE.partition, parts).store,
            limits=Limits(rows_max, 1 << 30, 0),
            progress=Progress(30),
            held=HeldBytes(1 << 30),
        )
        self.task = asyncio.get_running_loop().create_task(self.loop.run(), context=context)

    def deliver(self, end: int) -> None:
        """Let the loop fetch all records before ``end``."""
        if end > self.delivered:
            batches: list[RecordBatch] = self.world.batches[self.delivered : end]
            self.delivered = end
            self.loop.deliver(Fetched(USAGE, self.generation, tuple(batches), len(self.world.log)))

    def kill(self) -> None:
        """End the code where it stands; what it has sent goes on."""
        self.is_dead = True
        self.task.cancel()
        for request in list(self.world.requests):
            if request.owner is self and request.call:
                self.world.give_up(request, SystemExit())
        if self.call:
            call, self.call = self.call, None
            call.fail(SystemExit())

    # --- What its code calls, in the event loop --------------------------------------------------

    async def ask(self, name: str, *details: object) -> Any:
        """Wait for an answer."""
        future: asyncio.Future[Any] = self._event_loop.create_future()

        def fail(error: BaseException) -> None:
            if isinstance(error, SystemExit):
                future.cancel()
            elif not future.done():
                future.set_exception(error)

        assert self.call is None, "two calls at once"
        self.call = Call(name, (self, *details), future.set_result, fail)
        return await future

    async def commit_range(self, tp: TP, offset: int, metadata: str) -> None:
        """See `Commits`."""
        assert tp == USAGE
        await self.ask("commit", offset, metadata)

    def pause_partitions(self, tps: set[TP]) -> None:
        """See `Commits`."""

    def resume_partitions(self, tps: set[TP]) -> None:
        """See `Commits`."""

    async def catalogue(self) -> Catalogue:
        """See `Parts`."""
        found: Catalogue = await self.ask("make")
        return found

    # --- What its code calls, in threads ---------------------------------------------------------

    def ask_in_thread(self, name: str, *details: object) -> Any:
        """Wait for an answer, in a thread."""
        future: Future[Any] = Future()

        def answer(value: object) -> None:
            self.world.running += 1
            future.set_result(value)

        def fail(error: BaseException) -> None:
            self.world.running += 1
            future.set_exception(error)

        def arrive() -> None:
            self.world.running -= 1
            if self.is_dead:
                fail(SystemExit())
                return
            assert self.call is None, "two calls at once"
            self.call = Call(name, (self, *details), answer, fail)

        self._event_loop.call_soon_threadsafe(arrive)
        return future.result(SETTLE_SECONDS_MAX)

    def write(self, rows: pa.Table, token: str) -> None:
        """See `Writer`."""
        assert rows.schema.types == arrow_schema().types
        self.ask_in_thread("insert", rows, token)

    def write_duplicates(self, rows: pa.Table, token: str) -> None:
        """See `Writer`."""
        self.ask_in_thread("insert_duplicates", rows, token)

    def rows(
        self, partition: int, first_offset: int, next_offset: int, times_ms: tuple[int, int] | None
    ) -> pa.Table:
        """See `Stored`."""
        assert partition == USAGE.partition
        return self.ask_in_thread("read_back", first_offset, next_offset, times_ms)

    def inserts_since(self, ingested_at_ms: int) -> int:
        """See `Stored`."""
        assert ingested_at_ms > 0
        return 0

    def newest_second(self, partition: int) -> int | None:
        """See `StoredIds`."""
        found = self.ids(partition, before_offset=1 << 60, ranges=[(0, 1 << 32)])
        return max(found["second"].to_pylist(), default=None)

    def ids(
        self,
        partition: int,
        *,
        before_offset: int,
        ranges: Sequence[tuple[int, int]],
        event_ids: Sequence[str] | None = None,
        newest_max: int | None = None,
    ) -> pa.Table:
        """See `StoredIds`; more than asked for is no harm."""
        assert partition == USAGE.partition
        assert newest_max is None or newest_max >= len(self.world.log)
        del event_ids
        return self.ask_in_thread("ids", before_offset, ranges)


class _Untold:
    """No rolling windows: they are in no state of the model."""

    async def publish(self, landed: Landed, confirm: Confirm) -> None:
        """Tell nobody."""


class _NothingLost:
    """An engine whose tokens and parts agree."""

    def make_good(self, rows: pa.Table, token: str) -> int:
        assert rows.num_rows
        assert token
        return 0

    make_duplicates_good = make_good


class _Threads(Executor):
    """Runs each function in a thread of its own and tells the world of it."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **_: Any) -> Future[Any]:
        """Start the function."""
        future: Future[Any] = Future()
        world, event_loop = self._owner.world, asyncio.get_running_loop()
        world.running += 1

        def finish(result: Any, error: BaseException | None) -> None:
            world.running -= 1
            if future.cancelled():
                return
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        def run() -> None:
            result, error = None, None
            try:
                result = function(*arguments)
            except BaseException as caught:
                error = caught
            with contextlib.suppress(
                RuntimeError
            ):  # The event loop is closed: the test has failed.
                event_loop.call_soon_threadsafe(finish, result, error)

        threading.Thread(target=run, daemon=True).start()
        return future


class Producer:
    """Stands in for `AIOKafkaProducer` with a transactional id."""

    def __init__(self, **_: Any) -> None:
        self._owner = _owner.get()
        self._letters: list[tuple[int, dict[str, bytes], bytes]] = []

    async def start(self) -> None:
        await self._owner.ask("fence", self)

    async def stop(self) -> None:
        pass

    async def partitions_for(self, topic: str) -> set[int]:
        assert topic == DEAD_LETTER_TOPIC
        return {USAGE.partition}

    @contextlib.asynccontextmanager
    async def transaction(self) -> Any:
        self._letters.clear()
        yield
        await self._owner.ask("send", self, list(self._letters))

    def create_batch(self) -> "Batch":
        return Batch()

    async def send_batch(self, batch: "Batch", _: str, *, partition: int) -> "asyncio.Future[None]":
        assert partition == USAGE.partition
        assert batch.letters, "an empty record batch"
        self._letters += batch.letters
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done


class Batch:
    """Stands in for `BatchBuilder`; it is full soon, so that a range has several."""

    def __init__(self) -> None:
        self.letters: list[tuple[int, dict[str, bytes], bytes]] = []

    def append(
        self, *, timestamp: None, key: bytes, value: bytes, headers: list[tuple[str, bytes]]
    ) -> object:
        assert timestamp is None
        assert key.startswith(USAGE.topic.encode())
        if len(self.letters) == BATCH_LETTERS_MAX:
            return None
        names = dict(headers)
        self.letters.append((int(names["origin_offset"]), names, value))
        return object()


class Consumer:
    """Stands in for `AIOKafkaConsumer` on the dead-letter topic."""

    def __init__(self, **options: Any) -> None:
        assert options["isolation_level"] == "read_committed"
        self._owner = _owner.get()
        self._letters: list[tuple[int, dict[str, bytes], bytes]] = []
        self._position = 0

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    def assign(self, _: Any) -> None:
        pass

    async def end_offsets(self, targets: list[Any]) -> dict[Any, int]:
        self._letters = await self._owner.ask("read_dead_letters")
        return {targets[0]: len(self._letters)}

    async def beginning_offsets(self, targets: list[Any]) -> dict[Any, int]:
        return {targets[0]: 0}

    def seek(self, _: Any, offset: int) -> None:
        self._position = offset

    async def position(self, _: Any) -> int:
        return self._position

    async def getmany(self, target: Any, **_: Any) -> dict[Any, list[Any]]:
        begin, self._position = self._position, len(self._letters)
        return {
            target: [
                SimpleNamespace(offset=begin + i, headers=tuple(headers.items()))
                for i, (_, headers, _) in enumerate(self._letters[begin:])
            ]
        }


@contextlib.contextmanager
def in_memory() -> Iterator[None]:
    """Let the real code meet these stand-ins, without waiting anywhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dead_letters, "AIOKafkaProducer", Producer)
        patch.setattr(dead_letters, "AIOKafkaConsumer", Consumer)
        patch.setattr(calling, "RETRY_WAIT_SECONDS_MIN", 0.0)
        patch.setattr(partitions, "CONFIRM_SECONDS", 3600.0)
        yield
