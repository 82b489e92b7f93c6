"""Workers that die at ordered step boundaries, or whenever, again and again, under load."""

import random
import signal
import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

from sinks.usage_events import TABLE
from tests.chaos.ledger import Mix
from tests.chaos.oracle import Verdict
from tests.chaos.orders import KILL_POINTS, Orders
from tests.chaos.proxy import ANSWER, Rule
from tests.chaos.rounds import running_round
from tests.chaos.stage import POLL_SECONDS, STOP_SECONDS_MAX, Stage, until

AT_RANDOM = "at random"
POISON_POINTS = (
    "inside_bisection",
    "before_cut_declaration",
    "after_cut_declaration",
    "between_pieces",
)
"""These are crossed only where ClickHouse refuses rows, which costs many small inserts."""
IDLE_POINTS = ("before_declaration", "after_declaration", "before_commit", "after_commit")
"""Under load one commit ends a range and declares the next: these are crossed by idle workers."""
WINDOW_POINTS = (
    "before_panes",
    "after_panes",
    "after_rebuild",
    "before_windows",
    "between_windows",
    "after_windows",
)
"""Of these those of windows are crossed every ten seconds, as windows close."""
BUSY_POINTS = tuple(
    point for point in KILL_POINTS if point not in (*POISON_POINTS, *IDLE_POINTS, *WINDOW_POINTS)
)
IDLE_RATE = 400
"""Records per second at which workers have caught up most of the time."""
REPEATED_MAX = {
    "before_assignment": 1,
    "after_assignment": 1,
    "before_repeat": 1,
    "inside_repeat": 2,
    "after_repeat": 1,
    "before_confirmation": 2,
    "after_confirmation": 2,
    "while_stopping": 1,
    **dict.fromkeys((*POISON_POINTS, *IDLE_POINTS, *WINDOW_POINTS), 1),
}
"""Highest crossing of points that a process crosses seldom; else `CROSSINGS_MAX`."""
CROSSINGS_MAX = 3
MISSED_SECONDS = 6.0
"""A worker that has not come to its point by then is killed where it is."""
RANDOM_SECONDS_MAX = 3.0
CHAIN_ROWS_MAX = 300
CHAIN_SECONDS_MAX = 120.0
TOO_MANY_PARTS = 252
POISON_SHARE = 0.001


@dataclass(frozen=True)
class Order:
    """One death to come.

    Attributes:
        point: Of `tests.chaos.orders.KILL_POINTS`, or `AT_RANDOM`.
        crossing: At which crossing of the point.
        seconds: After the start of the process: when it is killed at random, or asked to stop on
            its way to ``while_stopping``.
    """

    point: str
    crossing: int
    seconds: float


def draw(points: Iterable[str], random_: random.Random) -> list[Order]:
    """Return an order for each point, in random order."""
    orders = [
        Order(
            point,
            random_.randint(1, REPEATED_MAX.get(point, CROSSINGS_MAX)),
            random_.uniform(0, RANDOM_SECONDS_MAX),
        )
        for point in points
    ]
    random_.shuffle(orders)
    return orders


@dataclass
class _Slot:
    """A worker name and the death that its process is to die."""

    name: str
    order: Order | None = None
    started: float = 0.0


@dataclass
class Outcome:
    """What a round of kills did and found.

    Attributes:
        kills: Point -> processes that died there; those that were killed from outside are
            `AT_RANDOM`.
        missed: Point -> processes that were to die there, had not come there in time, and were
            killed at random.
    """

    kills: Counter[str] = field(default_factory=Counter)
    missed: Counter[str] = field(default_factory=Counter)
    verdict: Verdict = field(default_factory=Verdict)
    drain_seconds: float = 0.0


def kill_chain(
    stage: Stage,
    seed: int,
    points: Sequence[str],
    *,
    mix: Mix,
    backlog: int,
    is_now: bool = False,
    breakage: str = "",
) -> Verdict:
    """Let a worker die at each of ``points`` in turn, then judge.

    What each process finds forces it to come to its point, however slow the machine is: ``backlog``
    records, and the range that the one before it left declared.
    """
    slot = "worker-0"
    with running_round(stage, seed, mix=mix, waits=True, is_now=is_now) as round_:
        for point in points:
            round_.fill(backlog)
            if point == "while_retrying":
                stage.proxy.set(Rule(ANSWER, code=TOO_MANY_PARTS, table=TABLE, times=3))
            inserts = stage.proxy.inserts
            worker = stage.start_worker(
                slot, Orders(point, breakage=breakage), batch_rows_max=CHAIN_ROWS_MAX
            )
            if point == "while_stopping":
                until(partial(_has_inserted, stage, inserts), "an insert")
                stage.signal_worker(slot, signal.SIGTERM)
            code = stage.nursery.wait(worker.pid, CHAIN_SECONDS_MAX)
            died_at = stage.marked().get(worker.pid)
            assert died_at == point, f"{died_at} ({code}) instead of a death at {point}"
            stage.workers.pop(slot)
        stage.start_worker(slot, Orders(breakage=breakage))
    return round_.verdict


def _has_inserted(stage: Stage, before: int) -> bool:
    return stage.proxy.inserts > before


def kill_round(
    stage: Stage,
    seed: int,
    points: Sequence[str],
    *,
    rate: float = 8_000,
    slots: Sequence[str] = ("worker-0", "worker-1"),
    is_now: bool = False,
) -> Outcome:
    """Let a worker die at each of ``points``, two side by side, then judge.

    The workers of ``slots`` need not run; they do when it ends.
    """
    random_ = random.Random(seed)
    is_poisoned = any(point in POISON_POINTS for point in points)
    mix = Mix(poison=POISON_SHARE if is_poisoned else 0.0)
    outcome = Outcome()
    waiting = deque(draw(points, random_))
    with running_round(stage, seed, mix=mix, rate=rate, is_now=is_now) as round_:
        active = [_Slot(name) for name in slots]
        for slot in active:
            stage.kill_worker(slot.name)
        round_.produced(1)
        while waiting or any(slot.order for slot in active):
            for slot in active:
                _look_after(stage, slot, waiting, outcome, is_poisoned)
            time.sleep(POLL_SECONDS / 3)
        for slot in active:
            if not stage.is_running(slot.name):
                stage.start_worker(slot.name)
    outcome.verdict = round_.verdict
    outcome.drain_seconds = round_.drain_seconds
    return outcome


def _look_after(
    stage: Stage, slot: _Slot, waiting: deque[Order], outcome: Outcome, is_poisoned: bool
) -> None:
    order = slot.order
    if order is not None and stage.is_running(slot.name):
        _press(stage, slot, order, outcome)
        return
    if order is not None:
        _count(stage, slot, order, outcome)
        slot.order = None
    if waiting and not stage.is_running(slot.name):
        slot.order = waiting.popleft()
        slot.started = time.monotonic()
        if slot.order.point == "while_retrying" and not is_poisoned:
            stage.proxy.set(
                Rule(ANSWER, code=TOO_MANY_PARTS, table=TABLE, times=slot.order.crossing + 2)
            )
        point = "" if slot.order.point == AT_RANDOM else slot.order.point
        stage.start_worker(slot.name, Orders(point, slot.order.crossing))


def _press(stage: Stage, slot: _Slot, order: Order, outcome: Outcome) -> None:
    """Kill what is to be killed from outside, and what does not come to its point."""
    age_seconds = time.monotonic() - slot.started
    if order.point == "while_stopping" and age_seconds > 1 + order.seconds:
        stage.signal_worker(slot.name, signal.SIGTERM)
    limit = order.seconds if order.point == AT_RANDOM else MISSED_SECONDS
    if age_seconds > limit:
        if order.point != AT_RANDOM:
            outcome.missed[order.point] += 1
        stage.signal_worker(slot.name, signal.SIGKILL)
        stage.nursery.wait(stage.workers[slot.name].pid, STOP_SECONDS_MAX)


def _count(stage: Stage, slot: _Slot, order: Order, outcome: Outcome) -> None:
    worker = stage.workers.pop(slot.name)
    code = stage.nursery.exit_code(worker.pid)
    if code == -signal.SIGKILL:
        died_there = worker.pid in stage.marked()
        outcome.kills[order.point if died_there else AT_RANDOM] += 1
    elif order.point != "while_stopping":
        raise AssertionError(f"{slot.name} ended with {code} on its way to {order.point}")
