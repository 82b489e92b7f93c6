"""``tokentide restate``: give stored requests what the catalogue knows now."""

import dataclasses
from contextlib import closing
from pathlib import Path

import click
import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from agents.reconcile import accounts_of, frontier_of
from agents.resend_lost import resend_lost
from agents.restate import Restatement
from agents.restate import restate as run_restate
from deploy.addresses import writer_address
from deploy.cli.catalogue import printable
from deploy.cli.catalogue_topic import topic_catalogue
from deploy.cli.reconcile import QUERY_SECONDS_MAX, Month, telling
from deploy.cli.stack import data_dir_option, settings_for
from sinks import clickhouse
from sinks.reconciling import Engine, Say
from sinks.reconciling_offsets import check_offsets
from streams.topic_offsets import UsageLog

SHOWN_MAX = 30
NANOUSD_PER_USD = 1e9


@click.command()
@data_dir_option
@click.option(
    "--month",
    "months",
    type=Month(),
    multiple=True,
    help="This month of event time only; may be given several times [default: all].",
)
@click.option("--apply", is_flag=True, help="Change the rows; without it nothing is changed.")
@click.option("--note", default="", help="Why, for the log; needed with --apply.")
@click.option(
    "--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True
)
def restate(
    data_dir: Path | None, months: tuple[int, ...], apply: bool, note: str, form: str
) -> None:
    """Give stored requests what the catalogue knows now: models, attributes, list prices.

    For when the catalogue has learned a name that was unknown, or was corrected. Says what would
    change, by month and name; changes it with --apply. A cost that a gateway told stays as it is.

    \b
    Each month is made anew with its rollups and swapped in, in a moment without a row in flight.
    Former versions are kept: the views usage_as_of and share_as_of give an answer as it stood at a
    moment, and the table restatements says what was changed, when and why. Windows of live shares and
    alerts stay as they were told. A run that was stopped is finished by the next one.

    \b
    tokentide restate                                     what would change
    tokentide restate --apply --note "alias of acme-2"    change it
    tokentide restate --month 2026-08 --apply --note ...  of one month
    """
    if apply and not note.strip():
        raise click.UsageError("--apply needs --note: the log says why")
    settings = settings_for(data_dir)
    catalogue = topic_catalogue(
        settings.kafka_bootstrap_servers, lambda text: click.echo(text, err=True)
    )
    address = dataclasses.replace(
        writer_address(settings), request_timeout_seconds=QUERY_SECONDS_MAX
    )
    with (
        UsageLog(settings.kafka_bootstrap_servers, settings.consumer_group) as usage_log,
        closing(clickhouse.connect(address)) as client,
        telling("restating") as say,
    ):
        engine = Engine(client, settings.clickhouse_database)
        done = run_restate(
            engine,
            frontier_of(engine, usage_log),
            catalogue,
            months=months or None,
            apply=apply,
            note=note,
            say=say,
        )
        resent = 0
        if done.months:
            # A row that landed in the very moment of a swap went with the old rows: Kafka has it.
            say("looking for rows that landed during a swap")
            resent = _send_again(engine, usage_log, settings.kafka_bootstrap_servers, say)
    if form == "json":
        click.echo(orjson.dumps(_as_json(done, apply, resent)))
    else:
        _print(done, apply, resent)


def _send_again(engine: Engine, usage_log: UsageLog, servers: str, say: Say) -> int:
    found = check_offsets(engine, accounts_of(usage_log), usage_log, say=say)
    return resend_lost(engine, usage_log, servers, found.lost, say=say)


def _as_json(done: Restatement, applied: bool, resent: int) -> dict[str, object]:
    return {
        "applied": applied,
        "changes": [dataclasses.asdict(each) for each in done.changes],
        "months_restated": done.months,
        "finished": [{"month": month, "state": state} for month, state in done.finished],
        "records_sent_again": resent,
    }


def _print(done: Restatement, applied: bool, resent: int) -> None:
    console = Console()
    for month, state in done.finished:
        console.print(f"{_month(month)}: a restatement that was stopped is {state}")
    if not done.changes:
        console.print("Every row says of its model what the catalogue says.")
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("month", "name sent", "was", "is now" if applied else "becomes"):
        table.add_column(name, overflow="fold")
    for name in ("requests", "tokens", "USD before", "USD after"):
        table.add_column(name, justify="right")
    for change in done.changes[:SHOWN_MAX]:
        # Names come from producers: neither markup nor control characters may act.
        table.add_row(
            _month(change.month),
            Text(printable(change.model_raw)),
            Text(printable(change.was)),
            Text(printable(change.becomes)),
            f"{change.rows:,}",
            f"{change.tokens:,}",
            f"{change.nanousd_before / NANOUSD_PER_USD:,.2f}",
            f"{change.nanousd_after / NANOUSD_PER_USD:,.2f}",
        )
    console.print(table)
    if len(done.changes) > SHOWN_MAX:
        console.print(f"and {len(done.changes) - SHOWN_MAX:,} more: see --format json")
    rows = sum(change.rows for change in done.changes)
    if applied:
        months = "1 month" if len(done.months) == 1 else f"{len(done.months)} months"
        console.print(f"{rows:,} requests restated in {months}.")
        if resent:
            console.print(f"{resent:,} records that landed meanwhile were sent again")
    else:
        console.print(f'{rows:,} requests would change: run with --apply --note "why".')


def _month(month: int) -> str:
    return f"{month // 100}-{month % 100:02}"
