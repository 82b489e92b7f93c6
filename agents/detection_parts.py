"""What the detection of share changes needs of others: the detector, where bins and alerts are kept."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from agents.rule_file import RuleFile
from schemas.share_alert import Explanation, ShareAlert
from sinks.explaining import Question
from streams.detection import Bin, Transition
from streams.health import Progress


class Detector(Protocol):
    """What judges bins: a `MarketDetector`."""

    def observe(self, bins: Mapping[str, Bin]) -> list[Transition]:
        """Judge the bins of one end, by dimension; ends come in order of time."""

    def hold(self, end_ms: int) -> list[Transition]:
        """Say that nothing complete came for an end."""

    def rebuild(self, history: Iterable[Mapping[str, Bin]]) -> list[Transition]:
        """Take what was judged before; return what must still be told."""


class Bins(Protocol):
    """Where windows are kept. Raises SinkUnavailableError when the call may succeed later."""

    def read(
        self, dimensions: Sequence[str], window_seconds: int, from_ms: int, to_ms: int
    ) -> pa.Table:
        """Return windows that end in ``(from_ms, to_ms]``."""


class Alerts(Protocol):
    """Where alerts are kept. All raise SinkUnavailableError when they may succeed later."""

    def write(self, alert: ShareAlert, recorded_at_ms: int) -> None:
        """Store a transition, once."""

    def write_bin(
        self,
        bin_end_ms: int,
        *,
        observed_at_ms: int,
        dimensions: int,
        is_complete: bool,
        transitions: int,
        parameters_version: str,
    ) -> None:
        """Note that a bin is judged."""

    def newest_bin_ms(self) -> int | None:
        """Return the newest bin that was judged."""

    def newest(self, at_from_ms: int) -> list[ShareAlert]:
        """Return the newest transition of alerts that are on or had one since."""


class Explainer(Protocol):
    """Explains a change."""

    def explain(self, question: Question) -> Explanation:
        """Return why; raises SinkUnavailableError or FatalError when it can't be had."""


@dataclass(frozen=True)
class Parts:
    """What detection needs.

    Attributes:
        new_detector: Makes a detector, given the alerts that are on.
        parameters: Of the detector, as JSON knows them.
        parameters_version: Their short hash.
        dimensions: Whose bins the detector takes.
        history_days: Days of bins that a new detector is fed.
        executor: Threads for the detector and for calls to ClickHouse.
        on_stored: Called after a transition was stored.
    """

    new_detector: Callable[[Sequence[Transition]], Detector]
    parameters: Mapping[str, Any]
    parameters_version: str
    dimensions: frozenset[str]
    history_days: int
    bins: Bins
    alerts: Alerts
    explainer: Explainer
    rules: RuleFile
    executor: Executor
    progress: Progress
    retry_wait_seconds_max: float
    on_stored: Callable[[], None]
