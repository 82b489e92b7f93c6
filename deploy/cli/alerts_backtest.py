"""``tokentide alerts backtest``: settings compared on the past, as it had landed."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path

import click
import orjson
from clickhouse_connect.driver.httpclient import HttpClient
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from deploy.addresses import reader_address
from deploy.alerting import read_parameters, watched_dimensions
from deploy.backtest import DAY_MS, Outcome, landed_history, replay
from deploy.cli.alerts_text import ask, blocks
from deploy.cli.dead_letters_text import Instant
from deploy.cli.stack import data_dir_option, settings_for
from deploy.share_pictures import Panel, Span, picture
from schemas.errors import ConfigurationError
from sinks import clickhouse
from sinks.landed_bins import LandedBins
from streams.alerts.sentences import percent, series_name
from streams.detection import BIN_MS, Bin, Parameters, Relations
from streams.settings import Settings

BUILT_IN = "built-in"
PANELS_MAX = 8
PLOT_COLUMNS = 72
SHOWN_MAX = 200

Shares = dict[tuple[str, str], list[tuple[int, float | None]]]


@click.command()
@click.option("--from", "from_ms", type=Instant(), required=True, help="Start of what is judged.")
@click.option("--to", "to_ms", type=Instant(), required=True, help="Its end.")
@click.option(
    "--settings",
    "files",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    multiple=True,
    help="Parameters file of `alerts calibrate`; may be repeated [default: those in force].",
)
@click.option(
    "--learn-days",
    type=click.IntRange(0),
    help="Days before --from that are learnt from [default: TOKENTIDE_ALERT_HISTORY_DAYS].",
)
@click.option(
    "--as-stored",
    is_flag=True,
    help="Count all that is stored now, for events that were loaded long after they happened.",
)
@click.option(
    "--svg", type=click.Path(path_type=Path, dir_okay=False), help="Write the plot to this file."
)
@click.option(
    "--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True
)
@data_dir_option
def backtest(
    from_ms: int,
    to_ms: int,
    files: tuple[Path, ...],
    learn_days: int | None,
    as_stored: bool,
    svg: Path | None,
    form: str,
    data_dir: Path | None,
) -> None:
    """Replay the past and print the alarms that settings would have raised, and when.

    Events count only if they had landed when their five minutes were closed: what came later did not
    help at the time either. They are counted anew from usage_events, day by day.

    \b
    tokentide alerts backtest --from 2026-11-01 --to 2026-11-24
    tokentide alerts backtest --from 7d --to 0h --settings a.json --settings b.json --svg plot.svg
    """
    settings = settings_for(data_dir)
    from_ms, to_ms = from_ms // BIN_MS * BIN_MS, to_ms // BIN_MS * BIN_MS
    if from_ms >= to_ms:
        raise click.UsageError("--from must be before --to")
    days = settings.alert_history_days if learn_days is None else learn_days
    named = parameters_by_name(settings, files)
    shares: Shares = {}
    with closing(clickhouse.connect(reader_address(settings))) as client:
        landed = LandedBins(
            client,
            settings.clickhouse_database,
            tokens_cap=settings.tokens_cap,
            lateness_ms=None if as_stored else round(settings.allowed_lateness_seconds * 1000),
        )
        relations = _relations(client)
        with _telling(from_ms - days * DAY_MS, to_ms) as reached:
            history = landed_history(
                landed,
                watched_dimensions(settings),
                from_ms - days * DAY_MS,
                to_ms,
                top=settings.windows_top,
                on_day=reached,
            )
            outcomes = replay(
                _kept(history, from_ms, shares),
                named,
                from_ms=from_ms,
                relations=relations,
            )
    if svg is not None:
        svg.write_text(plot(outcomes, shares, to_ms), "utf-8")
    if form == "json":
        found = [
            {"settings": each.name, "alerts": [asdict(alert) for alert in each.alerts]}
            for each in outcomes
        ]
        sys.stdout.buffer.write(orjson.dumps(found, option=orjson.OPT_INDENT_2) + b"\n")
        return
    print_outcomes(Console(), outcomes, from_ms, to_ms)
    if svg is not None:
        click.echo(f"plotted to {svg}")


def parameters_by_name(settings: Settings, files: Sequence[Path]) -> dict[str, Parameters]:
    """Return the parameters to compare.

    Raises:
        ConfigurationError: A file is no parameters file, or two have one name.
    """
    if not files:
        path = settings.alert_parameters_file
        return {path.name if path else BUILT_IN: read_parameters(path)}
    found = {str(path): read_parameters(path) for path in files}
    if len(found) != len(files):
        raise ConfigurationError("--settings names one file twice")
    return found


def _relations(client: HttpClient) -> Relations:
    """Return what belongs to what, as the events of all time say."""
    sql = "SELECT DISTINCT model, vendor, origin FROM usage_1d WHERE vendor != ''"
    vendors: dict[str, str] = {}
    origins: dict[str, set[str]] = {}
    for row in ask(client, sql):
        vendors[row["model"]] = row["vendor"]
        origins.setdefault(row["vendor"], set()).add(row["origin"])
    return Relations(
        lambda model: vendors.get(model, ""), lambda vendor: origins.get(vendor, frozenset())
    )


def _kept(
    history: Iterator[dict[str, Bin]], from_ms: int, shares: Shares
) -> Iterator[dict[str, Bin]]:
    """Pass a history on, keeping the shares of the time that is judged for the plot."""
    for bins in history:
        for dimension, each in bins.items():
            total = float(each.tokens.sum())
            if each.end_ms > from_ms and total:
                for value, tokens in zip(each.values, each.tokens, strict=True):
                    line = shares.setdefault((dimension, value), [])
                    line.append((each.end_ms, float(tokens) / total))
        yield bins


@contextmanager
def _telling(from_ms: int, to_ms: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on a terminal; yield the function that moves it."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, transient=True, disable=not sys.stderr.isatty()
    ) as progress:
        task = progress.add_task("replaying", total=to_ms - from_ms)

        def reached(time_ms: int) -> None:
            progress.update(task, completed=time_ms - from_ms)

        yield reached


def print_outcomes(console: Console, outcomes: Sequence[Outcome], from_ms: int, to_ms: int) -> None:
    """Print the alarms of each settings, then all settings side by side."""
    for outcome in outcomes:
        console.print(Text(f"{outcome.name} ({outcome.parameters.version})", style="bold"))
        console.print(Text(timeline(outcome, from_ms, to_ms)))
        if outcome.fired:
            console.print(_alarms(outcome, to_ms))
        console.print()
    console.print(_summary(outcomes, (to_ms - from_ms) / DAY_MS))


def timeline(outcome: Outcome, from_ms: int, to_ms: int) -> str:
    """Return alarms over time as a line of blocks."""
    counts = [0.0] * PLOT_COLUMNS
    for alert in outcome.fired:
        place = (alert.at_ms - from_ms) * PLOT_COLUMNS // (to_ms - from_ms)
        counts[min(max(place, 0), PLOT_COLUMNS - 1)] += 1
    return f"|{blocks(counts)}| {len(outcome.fired)} alerts"


def _alarms(outcome: Outcome, to_ms: int) -> Table:
    table = Table("fired (UTC)", "kind", box=None, pad_edge=False)
    table.add_column("series", overflow="fold")
    for name in ("before", "after", "delay", "lasted"):
        table.add_column(name, justify="right")
    for alert in outcome.fired[:SHOWN_MAX]:
        ended_ms = outcome.end_ms(alert.alert_id, to_ms)
        table.add_row(
            alert.at.replace("T", " ").removesuffix("Z"),
            alert.kind,
            Text(series_name(alert.dimension, alert.value) if alert.dimension else "all traffic"),
            "" if alert.share_before is None else percent(alert.share_before),
            "" if alert.share_after is None else percent(alert.share_after),
            f"{(alert.at_ms - alert.since_ms) / 60_000:.0f} min",
            f"{(ended_ms - alert.at_ms) / 60_000:.0f} min",
        )
    if len(outcome.fired) > SHOWN_MAX:
        table.add_row("...", f"{len(outcome.fired) - SHOWN_MAX} more", "", "", "", "", "")
    return table


def _summary(outcomes: Sequence[Outcome], days: float) -> Table:
    kinds = sorted({kind for outcome in outcomes for kind in outcome.kinds()})
    table = Table("settings", box=None, pad_edge=False)
    names = ("alerts", *kinds, "median delay", "series", "changes per series and 28 days")
    for name in names:
        table.add_column(name, justify="right")
    for outcome in outcomes:
        delay, rate = outcome.delay_minutes(), outcome.per_series(days)
        counts = outcome.kinds()
        table.add_row(
            outcome.name,
            str(len(outcome.fired)),
            *(str(counts.get(kind, 0)) for kind in kinds),
            "" if delay is None else f"{delay:.0f} min",
            str(outcome.series),
            "" if rate is None else f"{rate:.2f}",
        )
    return table


def plot(outcomes: Sequence[Outcome], shares: Shares, to_ms: int) -> str:
    """Return an SVG of the series that had most alarms, with those of each settings coloured."""
    counts: dict[tuple[str, str], int] = {}
    for outcome in outcomes:
        for alert in outcome.fired:
            if alert.dimension:
                key = alert.dimension, alert.value
                counts[key] = counts.get(key, 0) + 1
    chosen = sorted(counts, key=lambda key: (-counts[key], key))[:PANELS_MAX]
    panels = [
        Panel(
            title=f"{series_name(*key)}: share of tokens",
            points=shares.get(key, []),
            spans=[
                Span(
                    alert.since_ms,
                    outcome.end_ms(alert.alert_id, to_ms),
                    colour,
                    f"{outcome.name}: {alert.sentence}",
                )
                for colour, outcome in enumerate(outcomes)
                for alert in outcome.fired
                if (alert.dimension, alert.value) == key
            ],
            legend=[(colour, outcome.name) for colour, outcome in enumerate(outcomes)],
        )
        for key in chosen
    ]
    said = ", ".join(f"{outcome.name}: {len(outcome.fired)} alerts" for outcome in outcomes)
    return picture(said, panels)
