"""``tokentide alerts calibrate``: thresholds from one's own quiet past."""

import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

import click
import orjson
from rich.console import Console
from rich.table import Table

from agents.detect_share_changes import read_history
from deploy.addresses import reader_address
from deploy.alerting import read_parameters, watched_dimensions
from deploy.cli.dead_letters_text import Instant
from deploy.cli.stack import data_dir_option, settings_for
from schemas.errors import FatalError
from sinks import clickhouse
from sinks.share_bins import ShareBins
from streams.detection import BIN_MS, Bin, Parameters
from streams.detection import calibrate as calibrated

DAYS = 28


@click.command()
@click.option(
    "--from", "from_ms", type=Instant(), help="Start of quiet weeks [default: 28 days ago]."
)
@click.option("--to", "to_ms", type=Instant(), help="Their end [default: now].")
@click.option(
    "--budget",
    type=click.FloatRange(0, min_open=True),
    default=1.0,
    show_default=True,
    help="False alarms per series and 28 days.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("alert-parameters.json"),
    show_default=True,
    help="Parameters file to write.",
)
@data_dir_option
def calibrate(
    from_ms: int | None, to_ms: int | None, budget: float, out: Path, data_dir: Path | None
) -> None:
    """Set the detector's thresholds from quiet weeks of one's own traffic.

    Reads the five-minute windows that are kept, without alarms being raised, and finds how far quiet
    series stray. Choose weeks in which little happened: a real change makes thresholds too high.
    Workers use the file that TOKENTIDE_ALERT_PARAMETERS_FILE names, from their next start.
    """
    settings = settings_for(data_dir)
    now_ms = time.time_ns() // 1_000_000
    end_ms = (now_ms if to_ms is None else to_ms) // BIN_MS * BIN_MS
    begin_ms = end_ms - DAYS * 86_400_000 if from_ms is None else from_ms // BIN_MS * BIN_MS
    if begin_ms >= end_ms:
        raise click.UsageError("--from must be before --to")
    parameters = read_parameters(settings.alert_parameters_file)
    counted = [0]
    with closing(clickhouse.connect(reader_address(settings))) as client:
        bins = ShareBins(client, settings.clickhouse_database)
        history = read_history(bins, watched_dimensions(settings), begin_ms, end_ms)
        with Console(stderr=True).status("replaying quiet weeks") as _:
            try:
                found = calibrated(_counting(history, counted), parameters, budget)
            except ValueError as error:
                raise FatalError(f"can't calibrate: {error}") from None
    if not counted[0]:
        raise FatalError("can't calibrate: no five-minute windows are kept of this time")
    out.write_bytes(orjson.dumps(found.as_dict(), option=orjson.OPT_INDENT_2) + b"\n")
    _print(found, parameters, counted[0])
    click.echo(f"written to {out}: set TOKENTIDE_ALERT_PARAMETERS_FILE and restart the workers")


def _counting(
    history: Iterable[Mapping[str, Bin]], counted: list[int]
) -> Iterator[Mapping[str, Bin]]:
    for bins in history:
        counted[0] += 1
        yield bins


def _print(found: Parameters, before: Parameters, bins: int) -> None:
    console = Console(file=sys.stdout)
    console.print(f"{bins} bins of five minutes, {bins * BIN_MS / 86_400_000:.1f} days")
    table = Table("dimension", box=None, pad_edge=False)
    table.add_column("threshold before", justify="right")
    table.add_column("now", justify="right")
    for dimension, threshold in found.thresholds.items():
        table.add_row(dimension, f"{before.threshold_of(dimension):.2f}", f"{threshold:.2f}")
    console.print(table)
