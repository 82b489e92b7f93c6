"""What rolling windows need of others: where panes come from, where windows go, when they do."""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, Protocol

import pyarrow as pa

from streams.health import Progress as Health
from streams.publishing import Publisher


class Panes(Protocol):
    """Panes made of what is stored."""

    def stored_ms(self) -> tuple[int, int]:
        """Return the event times ``[from, to)`` that anything is stored of; empty if nothing is."""

    def read(
        self,
        dimensions: Sequence[str],
        length_ms: int,
        from_ms: int,
        to_ms: int,
        *,
        above: Mapping[int, int] | None = None,
        below: Mapping[int, int] | None = None,
    ) -> pa.Table:
        """Return panes in the form of `schemas.panes.PANES`."""

    def late_panes_ms(
        self, from_ms: int, to_ms: int, *, above: Mapping[int, int], below: Mapping[int, int]
    ) -> list[int]:
        """Return the starts of panes that have rows of these times at offsets between these."""


class StoredPanes(Protocol):
    """Panes that were stored; see `sinks.share_panes.StoredPanes`."""

    @property
    def panes(self) -> pa.Table: ...
    @property
    def positions(self) -> Mapping[tuple[str, int], int]: ...


class PaneStore(Protocol):
    """Where panes are kept, so that a new owner need not count a week again."""

    def write(
        self,
        length_ms: int,
        places: Sequence[tuple[str, int]],
        panes: pa.Table,
        position: int,
        now_ms: int,
    ) -> None: ...

    def read(
        self, length_ms: int, dimensions: Sequence[str], from_ms: int, to_ms: int
    ) -> StoredPanes: ...


class GivenWindow(Protocol):
    """A window that was given out."""

    @property
    def dimension(self) -> str: ...
    @property
    def window_seconds(self) -> int: ...
    @property
    def window_end_ms(self) -> int: ...
    @property
    def revision(self) -> int: ...
    @property
    def shares(self) -> Mapping[str, tuple[int, int, int]]: ...


class Sink(Protocol):
    """Where windows are kept."""

    def write(self, windows: Sequence[Mapping[str, Any]]) -> None: ...

    def last_ends_ms(self, dimensions: Sequence[str]) -> dict[tuple[str, int], int]: ...

    def given(
        self, dimensions: Sequence[str], since_ms: Mapping[int, int], *, revised_since_ms: int
    ) -> Sequence[GivenWindow]: ...


class Progress(Protocol):
    """Where it is noted how far an owner has come: offsets of the usage topic, by partition."""

    def write(self, panes_partition: int, offsets: Mapping[int, int], now_ms: int) -> None: ...

    def read(self, panes_partition: int) -> dict[int, int] | None: ...


@dataclass(frozen=True)
class Rules:
    """When windows are given out.

    Attributes:
        top: Values with a row of their own.
        lateness_ms: See `Watermarks`.
        stalled_seconds: See `Watermarks`.
        revision_wait_seconds: Between two rounds of revisions.
        grace_ms: Later events revise nothing.
    """

    top: int
    lateness_ms: int
    stalled_seconds: float
    revision_wait_seconds: float
    grace_ms: int


@dataclass(frozen=True)
class Parts:
    """What all partitions of the panes topic share.

    Attributes:
        panes_noted: Below these offsets everything is in the stored panes.
        windows_noted: Below these everything is in the windows that were given out.
        settled: Returns the committed offset of each partition of the usage topic, its first offset
            if nothing is committed: everything below has landed.
        executor: Threads for counting and for calls to ClickHouse.
        now_ms: Wall-clock time, epoch milliseconds. It may be wrong and step: it stamps what is given
            out, and says how far back a new owner looks.
        clock: Seconds that never step.
    """

    panes: Panes
    stored: PaneStore
    panes_noted: Progress
    sink: Sink
    windows_noted: Progress
    publisher: Publisher
    settled: Callable[[], Awaitable[Mapping[int, int]]]
    executor: Executor
    progress: Health
    rules: Rules
    retry_wait_seconds_max: float
    now_ms: Callable[[], int] = field(default=lambda: time.time_ns() // 1_000_000)
    clock: Callable[[], float] = field(default=time.monotonic)
