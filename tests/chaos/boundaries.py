"""Where a worker can be told to die: the steps of a range and of a window, at the seams of the real code."""

import asyncio
import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import orjson
from aiokafka import AIOKafkaProducer

from agents import roll_windows, store_usage
from schemas.errors import RejectedBatchError, SinkUnavailableError
from schemas.topics import USAGE_TOPIC
from sinks.share_windows import ShareWindows
from sinks.usage_events import UsageEventWriter
from streams import partitions
from streams.dead_letters import DeadLetters
from streams.pane_topic import PaneTopic
from streams.transport import Committed, Consumer
from tests.chaos.orders import Orders

DURING_INSERT_SECONDS_MAX = 0.02


def around(owner: Any, name: str, wrap: Callable[[Any], Any]) -> None:
    """Replace a function or method by what ``wrap`` makes of it."""
    setattr(owner, name, wrap(getattr(owner, name)))


class Boundaries:
    """Counts the crossings of each boundary and dies at the one that was ordered."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._crossings: Counter[str] = Counter()
        self._lock = threading.Lock()

    def cross(self, point: str) -> None:
        """Pass a boundary; does not return where the process is to die."""
        if point != self._orders.kill_point:
            return
        with self._lock:
            self._crossings[point] += 1
            if self._crossings[point] == self._orders.crossing:
                self.die(point)

    def is_next(self, point: str) -> bool:
        """Return whether the next crossing of ``point`` is the one ordered."""
        ordered = self._orders
        return point == ordered.kill_point and self._crossings[point] + 1 == ordered.crossing

    def die(self, point: str) -> None:
        """Leave a mark, then end as a machine does that loses power, or hang."""
        mark = orjson.dumps({"point": point, "pid": os.getpid()}) + b"\n"
        handle = os.open(self._orders.marks, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(handle, mark)
        os.kill(os.getpid(), signal.SIGSTOP if self._orders.hangs else signal.SIGKILL)


def watch(boundaries: Boundaries) -> None:
    """Put the boundaries into the code."""
    cross = boundaries.cross
    _watch_assignment(cross)
    _watch_commits(cross)
    _watch_ranges(cross)
    _watch_inserts(boundaries)
    _watch_dead_letters(cross)
    _watch_windows(cross)


def _watch_assignment(cross: Callable[[str], None]) -> None:
    def seek(original: Any) -> Any:
        async def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
            cross("before_assignment")
            done = await original(self, *args, **kwargs)
            cross("after_assignment")
            return done

        return wrapped

    def stop(original: Any) -> Any:
        async def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
            if self._tasks:  # A worker that joins the group is asked as well, with nothing to stop.
                cross("while_stopping")
            return await original(self, *args, **kwargs)

        return wrapped

    around(Consumer, "perform_seek", seek)
    around(partitions.PartitionLoops, "stop", stop)


def _watch_commits(cross: Callable[[str], None]) -> None:
    last: dict[Any, tuple[int, str]] = {}

    def commit(original: Any) -> Any:
        async def wrapped(self: Any, tp: Any, offset: int, metadata: str) -> Any:
            if tp.topic != USAGE_TOPIC:
                return await original(self, tp, offset, metadata)
            at_start = self.committed.get(tp, Committed(-1, ""))
            known = last.get(tp, (at_start.offset, at_start.metadata))
            if known[0] < at_start.offset:  # It has come back from another owner.
                known = (at_start.offset, at_start.metadata)
            kind = _kind_of_commit(known, (offset, metadata))
            cross(f"before_{kind}")
            done = await original(self, tp, offset, metadata)
            cross(f"after_{kind}")
            last[tp] = (offset, metadata)
            return done

        return wrapped

    around(Consumer, "commit_range", commit)


def _kind_of_commit(before: tuple[int, str], now: tuple[int, str]) -> str:
    """Return what a commit is for, from what was committed before: offset and metadata."""
    if now == before:
        return "confirmation"
    if now[0] > max(before[0], 0):
        return "joint_commit" if now[1] else "commit"
    return "cut_declaration" if now[1].endswith(" cut") else "declaration"


_repeating: set[str] = set()
"""Starts of the tokens of ranges that are being repeated."""


def _watch_ranges(cross: Callable[[str], None]) -> None:
    def decode(original: Any) -> Any:
        def wrapped(*args: Any) -> Any:
            cross("before_decode")
            return original(*args)

        return wrapped

    def build(original: Any) -> Any:
        def wrapped(*args: Any) -> Any:
            done = original(*args)
            cross("after_decode")
            return done

        return wrapped

    def store(original: Any) -> Any:
        async def wrapped(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
            tp = request.batch.tp
            if request.is_repeat:
                cross("before_repeat")
                _repeating.add(f"{tp.topic}:{tp.partition}:")
            done = await original(self, request, *args, **kwargs)
            if request.is_repeat:
                _repeating.discard(f"{tp.topic}:{tp.partition}:")
                cross("after_repeat")
            return done

        return wrapped

    around(store_usage, "_decode", decode)
    around(store_usage, "build", build)
    around(store_usage.UsageStore, "store", store)


def _watch_inserts(boundaries: Boundaries) -> None:
    cross = boundaries.cross
    seen = _Tokens()

    def write(original: Any) -> Any:
        def wrapped(self: Any, rows: Any, token: str) -> Any:
            place = seen.place(token)
            cross("between_blocks" if place == "later block" else "before_insert")
            if place == "piece":
                cross("between_pieces")
            if any(token.startswith(start) for start in _repeating):
                cross("inside_repeat")
            _die_soon(boundaries)
            try:
                done = original(self, rows, token)
            except SinkUnavailableError:
                cross("while_retrying")
                raise
            except RejectedBatchError:
                seen.refused(token)
                cross("inside_bisection")
                raise
            seen.landed(token)
            cross("after_insert")
            return done

        return wrapped

    def duplicates(original: Any) -> Any:
        def wrapped(self: Any, rows: Any, token: str) -> Any:
            cross("before_duplicates")
            done = original(self, rows, token)
            cross("after_duplicates")
            return done

        return wrapped

    around(UsageEventWriter, "write", write)
    around(UsageEventWriter, "write_duplicates", duplicates)


def _die_soon(boundaries: Boundaries) -> None:
    """End the process while the insert that follows is on its way, if that was ordered."""
    if not boundaries.is_next("during_insert"):
        boundaries.cross("during_insert")
        return
    wait_seconds = random.uniform(0, DURING_INSERT_SECONDS_MAX)
    threading.Timer(wait_seconds, boundaries.cross, ("during_insert",)).start()


class _Tokens:
    """What the tokens of a partition tell of where in a range an insert stands."""

    def __init__(self) -> None:
        self._last: dict[str, str] = {}
        self._landed: Counter[str] = Counter()
        self._refused: dict[str, str] = {}

    def place(self, token: str) -> str:
        """Return ``first block``, ``later block`` or, of a block that was refused, ``piece``."""
        partition, offsets = self._split(token)
        refused = self._refused.get(partition)
        if refused is not None and self._is_inside(offsets, refused):
            return "piece" if self._landed[partition] else "first piece"
        return "later block" if self._last.get(partition) == offsets else "first block"

    def landed(self, token: str) -> None:
        """Note that an insert has landed."""
        partition, offsets = self._split(token)
        self._last[partition] = offsets
        self._landed[partition] += 1

    def refused(self, token: str) -> None:
        """Note that ClickHouse refuses a block."""
        partition, offsets = self._split(token)
        if partition not in self._refused or not self._is_inside(offsets, self._refused[partition]):
            self._refused[partition] = offsets
            self._landed[partition] = 0

    @staticmethod
    def _split(token: str) -> tuple[str, str]:
        topic, partition, offsets, _ = token.rsplit(":", 3)
        return f"{topic}:{partition}", offsets

    @staticmethod
    def _is_inside(inner: str, outer: str) -> bool:
        (first, last), (begin, end) = (map(int, each.split("-")) for each in (inner, outer))
        return begin <= first <= last <= end and inner != outer


def _watch_dead_letters(cross: Callable[[str], None]) -> None:
    def send(original: Any) -> Any:
        async def wrapped(self: Any, tp: Any, rejected: Any, *args: Any, **kwargs: Any) -> Any:
            if rejected:
                cross("before_dead_letters")
            done = await original(self, tp, rejected, *args, **kwargs)
            if rejected:
                cross("after_dead_letters")
            return done

        return wrapped

    def produce(original: Any) -> Any:
        async def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
            future = await original(self, *args, **kwargs)
            if self._txn_manager is not None and self._txn_manager.transactional_id:
                await asyncio.wait([future], timeout=1)
                cross("inside_dead_letters")
            return future

        return wrapped

    def end(original: Any) -> Any:
        async def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
            cross("before_dead_letters_end")
            return await original(self, *args, **kwargs)

        return wrapped

    around(DeadLetters, "send", send)
    around(AIOKafkaProducer, "send_batch", produce)
    around(AIOKafkaProducer, "commit_transaction", end)


def _watch_windows(cross: Callable[[str], None]) -> None:
    def tell(original: Any) -> Any:
        async def wrapped(self: Any, landed: Any, *args: Any) -> Any:
            if landed.batch.count:
                cross("before_panes")
            done = await original(self, landed, *args)
            if landed.batch.count:
                cross("after_panes")
            return done

        return wrapped

    def send(original: Any) -> Any:
        async def wrapped(self: Any, confirm: Any, windows: Any, *args: Any) -> Any:
            if windows:
                cross("before_windows")
            done = await original(self, confirm, windows, *args)
            if windows:
                cross("after_windows")
            return done

        return wrapped

    def write(original: Any) -> Any:
        def wrapped(self: Any, windows: Any) -> Any:
            cross("between_windows")
            return original(self, windows)

        return wrapped

    def rebuild(original: Any) -> Any:
        async def wrapped(self: Any, *args: Any) -> Any:
            done = await original(self, *args)
            cross("after_rebuild")
            return done

        return wrapped

    around(PaneTopic, "publish", tell)
    around(roll_windows.WindowRoller, "_send", send)
    around(roll_windows.WindowRoller, "_rebuild", rebuild)
    around(ShareWindows, "write", write)
