"""The evidence of an alert: its share before, during and after, and what drove it."""

from collections.abc import Iterable
from dataclasses import dataclass

from clickhouse_connect.driver.httpclient import HttpClient

from deploy.share_pictures import Panel, Span, picture
from schemas.share_alert import Contribution, ShareAlert
from sinks.share_alerts import ShareAlerts
from sinks.share_bins import ShareBins
from streams.alerts.sentences import percent, series_name
from streams.alerts.share_window import BIN_SECONDS, bins_of
from streams.detection import BIN_MS, Bin

BEFORE_MS, AFTER_MS = 3 * 3_600_000, 3_600_000
ANY_DIMENSION = "vendor"
"""All traffic is the same sum in every dimension."""


@dataclass(frozen=True)
class Evidence:
    """An alert and what it was about.

    Attributes:
        transitions: All that are stored, oldest first; at least one.
        bins: Five-minute windows from three hours before to an hour after.
    """

    transitions: list[ShareAlert]
    bins: list[Bin]

    @property
    def svg(self) -> str:
        """The picture, an SVG document."""
        return picture(self.transitions[0].sentence, panels(self.transitions, self.bins))

    @property
    def shares(self) -> list[float]:
        """Its share by bin, 0 where it is not known."""
        return [value or 0.0 for _, value in series(self.transitions[0], self.bins)]


def read_evidence(client: HttpClient, database: str, alert_id: str) -> Evidence | None:
    """Return the evidence of an alert, or ``None`` if there is no such alert.

    Raises:
        SinkUnavailableError, FatalError: ClickHouse does not answer or refuses.
    """
    transitions = ShareAlerts(client, database).transitions(alert_id)
    if not transitions:
        return None
    first, last = transitions[0], transitions[-1]
    table = ShareBins(client, database).read(
        [first.dimension or ANY_DIMENSION],
        BIN_SECONDS,
        first.since_ms - BEFORE_MS,
        last.at_ms + AFTER_MS,
    )
    return Evidence(transitions, [each for each in bins_of(table) if each.end_ms % BIN_MS == 0])


def series(alert: ShareAlert, bins: Iterable[Bin]) -> list[tuple[int, float | None]]:
    """Return the share of tokens of an alert's series by bin end; requests when it is of all."""
    if not alert.dimension:
        return [(each.end_ms, float(each.requests.sum())) for each in bins]
    return [(each.end_ms, _share(each, alert.value)) for each in bins]


def _share(each: Bin, value: str) -> float | None:
    total = float(each.tokens.sum())
    if not total:
        return None
    return float(each.tokens[each.values.index(value)]) / total if value in each.values else 0.0


def panels(transitions: list[ShareAlert], bins: list[Bin]) -> list[Panel]:
    """Return what is drawn: the series with the alert, and the contributions as bars of text."""
    first, last = transitions[0], transitions[-1]
    name = series_name(first.dimension, first.value) if first.dimension else "All traffic"
    unit = "share of tokens" if first.dimension else "requests"
    band = None
    if first.share_low is not None and first.share_high is not None:
        band = (first.since_ms, first.at_ms, first.share_low, first.share_high)
    legend = [(0, f"{each.at[11:16]} {each.state}") for each in transitions]
    return [
        Panel(
            title=f"{name}: {unit} per five minutes",
            points=series(first, bins),
            spans=[Span(first.since_ms, last.at_ms, 0, first.sentence)],
            is_share=bool(first.dimension),
            band=band,
            level=first.share_before,
            legend=[*legend, *((5, text) for text in _drivers(first))],
        )
    ]


def _drivers(alert: ShareAlert) -> list[str]:
    explanation = alert.explanation
    if explanation is None:
        return []
    found = []
    for breakdown in explanation.breakdowns:
        if breakdown.contributions:
            top: Contribution = breakdown.contributions[0]
            change = f"{percent(top.share_before)} to {percent(top.share_after)}"
            found.append(f"{breakdown.dimension} {top.value}: {change}")
    return found
