"""Guarantees broken on purpose, one at a time: what the oracle of the chaos tests must notice."""

import secrets
from contextlib import suppress
from dataclasses import replace
from typing import Any

from aiokafka.errors import IllegalStateError

from agents import roll_windows, store_usage
from deploy import worker
from schemas.errors import RejectedBatchError, SinkUnavailableError
from sinks import stored_events
from sinks.lost_blocks import LostBlocks
from sinks.pane_counts import PaneCounts
from sinks.usage_events import UsageEventWriter
from streams import delivery, partitions, seen_ids
from streams.batches import RangeCutter
from streams.dead_letters import DeadLetters
from streams.transport import Consumer, PartitionLostError
from tests.chaos.boundaries import around


def break_on_purpose(name: str) -> None:
    """Break the guarantee called ``name``; see `tests.chaos.orders.BREAKAGES`.

    The self-check is off: it is a second line that would refuse to start on what many of them leave.
    """
    around(worker, "require_safe", lambda _: lambda *_: None)
    breakage = globals().get(f"_break_{name}")
    if breakage is not None:  # Some are made in the database.
        breakage()


def _break_panes_again() -> None:
    def wrap(original: Any) -> Any:
        async def wrapped(self: Any, confirm: Any, panes: Any, told: Any, *rest: Any) -> Any:
            if told.next_offset <= self._counted.get(told.partition, 0):
                self._add([panes])
            return await original(self, confirm, panes, told, *rest)

        return wrapped

    around(roll_windows.WindowRoller, "_count", wrap)


def _break_rebuild_all() -> None:
    def wrap(original: Any) -> Any:
        def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
            return original(self, *args, **{**kwargs, "below": None})

        return wrapped

    around(PaneCounts, "read", wrap)

    # Else what is in flight could be committed just before, and nothing would be wrong.
    async def settled() -> dict[int, int]:
        return {}

    def with_all_in_flight(original: Any) -> Any:
        def wrapped(self: Any, partition: int, parts: Any) -> None:
            original(self, partition, replace(parts, settled=settled))

        return wrapped

    around(roll_windows.WindowRoller, "__init__", with_all_in_flight)


def _break_trust_tokens() -> None:
    for name in ("make_good", "make_duplicates_good"):
        around(LostBlocks, name, lambda _: lambda *_: 0)


def _break_random_tokens() -> None:
    def wrap(original: Any) -> Any:
        return lambda self, rows, _: original(self, rows, secrets.token_hex(8))

    around(UsageEventWriter, "write", wrap)


def _break_no_declaration() -> None:
    around(delivery, "declare", lambda _: lambda *_, **__: "")
    around(delivery, "declared", lambda _: lambda *_: None)


def _break_cut_anew() -> None:
    around(delivery, "declared", lambda _: lambda *_: None)


def _break_skip_repeat() -> None:
    def wrap(original: Any) -> Any:
        async def wrapped(self: Any, request: Any, *args: Any) -> Any:
            if not request.is_repeat:
                return await original(self, request, *args)
            return None

        return wrapped

    around(store_usage.UsageStore, "store", wrap)


def _break_commit_first() -> None:
    def wrap(original: Any) -> Any:
        def wrapped(self: Any, tp: Any, *, consumer: Any, store: Any, **others: Any) -> Any:
            async def commit_and_store(request: Any) -> None:
                await consumer.commit_range(tp, request.batch.next_offset, "")
                await store(request)

            original(self, tp, consumer=consumer, store=commit_and_store, **others)

        return wrapped

    around(partitions.PartitionLoop, "__init__", wrap)


def _break_zombie() -> None:
    def wrap(original: Any) -> Any:
        async def wrapped(self: Any, *args: Any) -> None:
            with suppress(PartitionLostError, IllegalStateError):
                await original(self, *args)

        return wrapped

    def stop(_: Any) -> Any:
        async def wrapped(self: Any) -> None:
            del self

        return wrapped

    def as_if_assigned(original: Any) -> Any:
        def wrapped(self: Any, tps: Any) -> None:
            with suppress(IllegalStateError):
                original(self, tps)

        return wrapped

    around(Consumer, "commit_range", wrap)
    around(partitions.PartitionLoops, "stop", stop)
    around(Consumer, "pause_partitions", as_if_assigned)
    around(Consumer, "resume_partitions", as_if_assigned)


def _pass_over(kind: type[Exception]) -> None:
    def wrap(original: Any) -> Any:
        def wrapped(self: Any, *args: Any) -> None:
            try:
                original(self, *args)
            except kind:
                return

        return wrapped

    around(UsageEventWriter, "write", wrap)


def _break_acknowledge_refused() -> None:
    _pass_over(SinkUnavailableError)


def _break_drop_poison() -> None:
    _pass_over(RejectedBatchError)


def _break_dead_letters_again() -> None:
    def wrap(original: Any) -> Any:
        async def wrapped(self: Any, tp: Any, rejected: Any, **others: Any) -> Any:
            return await original(self, tp, rejected, **{**others, "is_repeat": False})

        return wrapped

    around(DeadLetters, "send", wrap)


def _break_no_dead_letters() -> None:
    def wrap(_: Any) -> Any:
        async def wrapped(*_: Any, **__: Any) -> None:
            return

        return wrapped

    around(DeadLetters, "send", wrap)


def _break_silent_gap() -> None:
    def wrap(original: Any) -> Any:
        def wrapped(self: Any, *args: Any) -> list[Any]:
            original(self, *args)
            return []

        return wrapped

    around(RangeCutter, "add", wrap)


def _break_no_duplicate_check() -> None:
    def wrap(original: Any) -> Any:
        def wrapped(self: Any, *args: Any) -> Any:
            checked = original(self, *args)
            checked.by_candidate[:] = False
            checked.is_duplicate[:] = False
            return checked

        return wrapped

    around(seen_ids.SeenIds, "check", wrap)


def _break_fresh_repeat() -> None:
    def wrap(original: Any) -> Any:
        return lambda self, *args, **kwargs: original(self, *args, **kwargs).slice(0, 0)

    around(stored_events.StoredEvents, "rows", wrap)
