"""``tokentide reconcile``: do Kafka, the rows and the rollups agree, and make them agree."""

import dataclasses
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import orjson
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from agents.reconcile import (
    CHECKS,
    Repair,
    Report,
    frontier_of,
)
from agents.reconcile import (
    reconcile as run_checks,
)
from agents.reconcile import (
    repair as run_repair,
)
from agents.resend_lost import resend_lost
from deploy.addresses import writer_address
from deploy.cli.stack import data_dir_option, settings_for
from sinks import clickhouse
from sinks.rebuilding import Rebuilt, rebuild_month
from sinks.reconciling import CheckResult, Engine, Say, record_differences, repaired
from sinks.rollups import ROLLUPS
from streams.settings import Settings
from streams.topic_offsets import UsageLog

QUERY_SECONDS_MAX = 3600.0
"""Longest wait for one query: it may read a month of rows."""
SHOWN_MAX = 20
TITLES = {
    "offsets": "each offset is one row, duplicate or dead letter",
    "repeated_offsets": "no offset is stored twice",
    "event_ids": "no event is stored twice",
    "rollups": "rollups hold what the rows hold",
}


class Month(click.ParamType):
    """``YYYY-MM`` as a number ``YYYYMM``."""

    name = "YYYY-MM"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        match = re.fullmatch(r"(\d{4})-(0[1-9]|1[0-2])", str(value))
        if match is None:
            self.fail(f"{value!r} is no month like 2026-08", param, ctx)
        return int(match[1] + match[2])


NOTHING_REPAIRED = Repair((), ())


@dataclass(frozen=True)
class Outcome:
    """What the command has done.

    Attributes:
        report: The checks as they are now: after the repair, if there was one.
        before: The checks before the repair.
        resent: Lost records that were sent again.
    """

    report: Report
    before: Report | None = None
    repair: Repair = NOTHING_REPAIRED
    resent: int = 0


@click.command()
@data_dir_option
@click.option(
    "--check",
    "checks",
    type=click.Choice(CHECKS),
    multiple=True,
    help="Run this check only; may be given several times [default: all].",
)
@click.option(
    "--deep", is_flag=True, help="Compare rollups also by model, provider and all other keys."
)
@click.option("--repair", is_flag=True, help="Repair what differs, then check again.")
@click.option(
    "--rebuild", "month", type=Month(), help="Make the rollups of a month anew from the rows."
)
@click.option(
    "--table",
    "tables",
    type=click.Choice([rollup.name for rollup in ROLLUPS]),
    multiple=True,
    help="With --rebuild: this rollup only; may be given several times [default: all].",
)
@click.option(
    "--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True
)
def reconcile(
    data_dir: Path | None,
    checks: tuple[str, ...],
    deep: bool,
    repair: bool,
    month: int | None,
    tables: tuple[str, ...],
    form: str,
) -> None:
    """Check that nothing is lost, nothing stored twice, and every rollup right.

    Works on a live system: what is in flight is left out. Exit code 0 only if all agree. Differences
    are also written to the table reconcile_differences.

    \b
    --repair adds what rollups lack; makes those anew that are wrong in another way, month by month;
    moves events that are stored twice to usage_duplicates, all but the one of the lowest partition
    and offset; keeps one row of an offset that is stored twice; and sends lost records again that
    Kafka still holds. A month that is made anew is swapped in only in a moment without a row in
    flight: under traffic that never pauses it changes nothing and says so.

    \b
    tokentide reconcile                            check everything
    tokentide reconcile --check rollups --deep     rollups only, by every key
    tokentide reconcile --repair                   check, repair, check again
    tokentide reconcile --rebuild 2026-08 --table usage_1h
    """
    if tables and month is None:
        raise click.UsageError("--table goes with --rebuild")
    if month is not None and (repair or checks):
        raise click.UsageError("--rebuild goes without --repair and --check")
    settings = settings_for(data_dir)
    with _parts(settings) as (engine, usage_log), telling("reconciling") as say:
        if month is not None:
            names = tables or [rollup.name for rollup in ROLLUPS]
            frontier = frontier_of(engine, usage_log)
            rebuilt = rebuild_month(engine, frontier, month, names, say=say)
            outcome = None
        else:
            outcome = _run(settings, engine, usage_log, checks or CHECKS, deep, repair, say)
    if outcome is None:
        _print_rebuilt([rebuilt], form)
    elif form == "json":
        click.echo(orjson.dumps(_as_json(outcome)).decode())
    else:
        _print(outcome)
    if outcome is not None and outcome.report.count:
        raise click.exceptions.Exit(1)


@contextmanager
def _parts(settings: Settings) -> Iterator[tuple[Engine, UsageLog]]:
    address = dataclasses.replace(
        writer_address(settings), request_timeout_seconds=QUERY_SECONDS_MAX
    )
    with (
        UsageLog(settings.kafka_bootstrap_servers, settings.consumer_group) as usage_log,
        closing(clickhouse.connect(address)) as client,
    ):
        yield Engine(client, settings.clickhouse_database), usage_log


@contextmanager
def telling(doing: str) -> Iterator[Say]:
    """Say on stderr what is being done: on one line of a terminal."""
    console = Console(stderr=True)
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    with console.status(doing) as status:
        yield lambda text: status.update(Text(text))


def _run(
    settings: Settings,
    engine: Engine,
    usage_log: UsageLog,
    checks: Sequence[str],
    deep: bool,
    with_repair: bool,
    say: Say,
) -> Outcome:
    def check() -> Report:
        return run_checks(
            engine,
            usage_log,
            window_seconds=settings.duplicate_window_seconds,
            checks=checks,
            with_keys=deep,
            say=say,
        )

    before = check()
    record_differences(engine, before.run_id, before.checked_at, before.results)
    if not (with_repair and before.count):
        return Outcome(before)
    repair = run_repair(engine, usage_log, before, say=say)
    lost = before.offsets.lost if before.offsets else ()
    resent = resend_lost(engine, usage_log, settings.kafka_bootstrap_servers, lost, say=say)
    after = check()
    gone = [repaired(*pair) for pair in zip(before.results, after.results, strict=True)]
    record_differences(engine, before.run_id, before.checked_at, gone, "repaired")
    return Outcome(after, before, repair, resent)


def _as_json(outcome: Outcome) -> dict[str, Any]:
    report = outcome.report
    return {
        "run_id": (outcome.before or report).run_id,
        "checked_at": report.checked_at.isoformat(),
        "differences": report.count,
        "checks": [_check_as_json(result) for result in report.results],
        "before_repair": [_check_as_json(each) for each in outcome.before.results]
        if outcome.before
        else None,
        "completed": [each.place for each in outcome.repair.completed],
        "rebuilt": [_rebuilt_as_json(each) for each in outcome.repair.rebuilt],
        "records_sent_again": outcome.resent,
    }


def _check_as_json(result: CheckResult) -> dict[str, Any]:
    return {
        "check": result.check,
        "compared": result.compared,
        "unit": result.unit,
        "count": result.count,
        "differences": [dataclasses.asdict(each) for each in result.differences],
        "notes": result.notes,
    }


def _rebuilt_as_json(rebuilt: Rebuilt) -> dict[str, Any]:
    return {
        "month": rebuilt.month,
        "tables": rebuilt.tables,
        "rows": rebuilt.rows,
        "buckets_compared": rebuilt.proof.compared,
    }


def _print(outcome: Outcome) -> None:
    console = Console()
    if outcome.before is not None:
        console.print("[bold]before the repair[/bold]")
        _print_report(console, outcome.before)
        for each in outcome.repair.completed:
            console.print(Text(f"{each.place}: what was lacking is added"))
        _print_rebuilt(outcome.repair.rebuilt, "table")
        if outcome.resent:
            console.print(f"{outcome.resent:,} lost records were sent again")
        console.print("\n[bold]after the repair[/bold]")
    _print_report(console, outcome.report)


def _print_report(console: Console, report: Report) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("check", min_width=max(map(len, TITLES.values())))
    table.add_column("compared", justify="right")
    table.add_column("differences", justify="right")
    for result in report.results:
        title = TITLES[result.check]
        compared = f"{result.compared:,} {result.unit}"
        table.add_row(title, compared, f"{result.count:,}", style="red" if result.count else "")
    console.print(table)
    for result in report.results:
        for note in result.notes:
            console.print(Text(f"{result.check}: {note}"))
    differences = [each for result in report.results for each in result.differences]
    for each in differences[:SHOWN_MAX]:
        number = Text(f"  expected {each.expected:,}, found {each.found:,}")
        console.print(Text(each.place, style="red") + number)
        if each.detail:
            console.print(Padding(Text(each.detail), (0, 0, 0, 4)))
    hidden = report.count - min(len(differences), SHOWN_MAX)
    if hidden:
        console.print(f"{hidden:,} more: see --format json or the table reconcile_differences")


def _print_rebuilt(rebuilt: Sequence[Rebuilt], form: str) -> None:
    if form == "json":
        click.echo(orjson.dumps([_rebuilt_as_json(each) for each in rebuilt]).decode())
        return
    for each in rebuilt:
        month = f"{each.month // 100}-{each.month % 100:02}"
        click.echo(
            f"{month}: {', '.join(each.tables)} made anew from {each.rows:,} rows and swapped in;"
            f" {each.proof.compared:,} buckets compared since, all equal"
        )
