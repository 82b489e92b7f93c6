"""When events happen: past time by the seasons, as fast as possible, or now at a rate."""

import threading
from collections.abc import Callable, Iterator

import numpy as np

from deploy.local.simulator.blocks import BLOCK_EVENTS, Block
from deploy.local.simulator.seasons import Calendar, Int64s

Batches = Iterator[tuple[int, Int64s]]
Clock = Callable[[], int]

_TICK_SECONDS = 0.1


def past_batches(calendar: Calendar, events: int, seed: int) -> Batches:
    """Yield event times in order: event k somewhere in its own slice of the traffic."""
    for first in range(0, events, BLOCK_EVENTS):
        count = min(BLOCK_EVENTS, events - first)
        jitter = np.random.default_rng([seed, 5, first]).random(count)
        yield first, calendar.times_ms((first + np.arange(count) + jitter) / events)


def live_batches(rate: float, events: int | None, now_ms: Clock, stop: threading.Event) -> Batches:
    """Yield the events that are due, for ever or until there are ``events`` of them.

    Event k is due ``k / rate`` seconds after the start: a delay is caught up with, so that the
    rate holds exactly, and is visible as a distance between event time and arrival.

    Args:
        rate: Events per second.
        now_ms: The wall clock, epoch milliseconds.
        stop: Ends the iteration when set.
    """
    start_ms, first = now_ms(), 0
    while not stop.wait(_TICK_SECONDS) and (events is None or first < events):
        due = int((now_ms() - start_ms) * rate / 1000)
        due = min(due, first + BLOCK_EVENTS, due if events is None else events)
        if due > first:
            yield first, (start_ms + np.arange(first, due) * 1000 / rate).astype(np.int64)
            first = due


def at_speed(
    blocks: Iterator[Block], speed: float, now_ms: Clock, stop: threading.Event
) -> Iterator[Block]:
    """Yield the events when they are due, time running ``speed`` times faster than it did.

    Args:
        blocks: Without faults, in order of time.
        speed: More than 0.
        now_ms: The wall clock, epoch milliseconds.
        stop: Ends the iteration when set.
    """
    start_ms, first_ms = now_ms(), None
    for block in blocks:
        first_ms = int(block.times_ms[0]) if first_ms is None else first_ms
        sent, count = 0, len(block.values)
        while sent < count:
            if stop.is_set():
                return
            reached_ms = first_ms + (now_ms() - start_ms) * speed
            due = int(np.searchsorted(block.times_ms, reached_ms, side="right"))
            if due > sent:
                yield block.take(list(range(sent, due)))
                sent = due
            else:
                stop.wait(_TICK_SECONDS)
