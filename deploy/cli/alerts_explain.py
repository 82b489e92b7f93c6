"""``tokentide alerts explain``: the evidence of an alert as a picture."""

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

from deploy.addresses import reader_address
from deploy.cli.alerts_svg import Panel, Span, picture
from deploy.cli.alerts_text import blocks, find_alert
from deploy.cli.stack import data_dir_option, settings_for
from schemas.share_alert import Contribution, ShareAlert
from sinks import clickhouse
from sinks.share_alerts import ShareAlerts
from sinks.share_bins import ShareBins
from streams.alerts.sentences import percent, series_name
from streams.alerts.share_window import BIN_SECONDS, bins_of
from streams.detection import BIN_MS, Bin

BEFORE_MS, AFTER_MS = 3 * 3_600_000, 3_600_000
ANY_DIMENSION = "vendor"
"""All traffic is the same sum in every dimension."""


@click.command()
@click.argument("alert_id", metavar="ID")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="SVG file to write [default: alert-ID.svg].",
)
@data_dir_option
def explain(alert_id: str, out: Path | None, data_dir: Path | None) -> None:
    """Draw the evidence of an alert: its share before, during and after, and what drove it.

    Writes an SVG picture with the sentence, and a small picture to the terminal.
    """
    settings = settings_for(data_dir)
    with closing(clickhouse.connect(reader_address(settings))) as client:
        stored = ShareAlerts(client, settings.clickhouse_database)
        transitions = stored.transitions(find_alert(client, alert_id))
        first, last = transitions[0], transitions[-1]
        table = ShareBins(client, settings.clickhouse_database).read(
            [first.dimension or ANY_DIMENSION],
            BIN_SECONDS,
            first.since_ms - BEFORE_MS,
            last.at_ms + AFTER_MS,
        )
    bins = [each for each in bins_of(table) if each.end_ms % BIN_MS == 0]
    file = out or Path(f"alert-{first.alert_id[:8]}.svg")
    file.write_text(picture(first.sentence, panels(transitions, bins)), "utf-8")
    console = Console()
    console.print(Text(first.sentence, style="bold"))
    shares = [value or 0.0 for _, value in series(first, bins)]
    if shares:
        console.print(Text(blocks(shares[-console.width :])))
    console.print(f"drawn to {file}")


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
