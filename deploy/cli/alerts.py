"""``tokentide alerts``: what moved, why, whether people agree, and what a detector would have said."""

import getpass
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import click
import orjson
from clickhouse_connect.driver.httpclient import HttpClient
from rich.console import Console
from rich.table import Table
from rich.text import Text

from deploy.addresses import reader_address, writer_address
from deploy.cli.alerts_backtest import backtest
from deploy.cli.alerts_calibrate import calibrate
from deploy.cli.alerts_explain import explain
from deploy.cli.alerts_showing import print_alert
from deploy.cli.alerts_text import find_alert
from deploy.cli.dead_letters_text import Instant
from deploy.cli.stack import data_dir_option, settings_for
from schemas.share_alert import encode
from sinks import clickhouse
from sinks.clickhouse import CAUGHT, sorted_error
from sinks.share_alerts import ShareAlerts
from streams.settings import Settings

ROWS_MAX = 100
STATES = ("firing", "suppressed", "resolved", "rebaselined")
STYLES = {"firing": "red", "suppressed": "yellow", "resolved": "green", "rebaselined": "cyan"}

_form_option: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True
)


@click.group("alerts")
def alerts() -> None:
    """Look at alerts on sudden share changes, judge them, and try settings on the past.

    ID is an alert's identifier or its first characters.
    """


@contextmanager
def reading(settings: Settings) -> Iterator[tuple[HttpClient, ShareAlerts]]:
    """Yield the reader's client and what it finds of alerts."""
    with closing(clickhouse.connect(reader_address(settings))) as client:
        yield client, ShareAlerts(client, settings.clickhouse_database)


@alerts.command("list")
@data_dir_option
@click.option("--state", type=click.Choice(STATES), multiple=True, help="Only in this state now.")
@click.option("--kind", "kinds", multiple=True, help="Only of this kind, such as share_change.")
@click.option("--since", "since_ms", type=Instant(), help="Only those that changed since then.")
@click.option("--limit", type=click.IntRange(1), default=ROWS_MAX, show_default=True)
@_form_option
def list_alerts(
    data_dir: Path | None,
    state: tuple[str, ...],
    kinds: tuple[str, ...],
    since_ms: int | None,
    limit: int,
    form: str,
) -> None:
    """List alerts as they are now, newest first.

    \b
    tokentide alerts list                       the newest 100
    tokentide alerts list --state firing        what is wrong now
    tokentide alerts list --since 1d --format json
    """
    with reading(settings_for(data_dir)) as (client, _):
        rows = _rows(client, state or STATES, kinds, since_ms or 0, limit)
    if form == "json":
        sys.stdout.buffer.write(orjson.dumps(rows, option=orjson.OPT_INDENT_2) + b"\n")
        return
    if not rows:
        click.echo("no alerts")
        return
    table = Table("id", "state", "since (UTC)", "kind", box=None, pad_edge=False)
    table.add_column("alert", overflow="fold")
    table.add_column("verdict")
    for row in rows:
        verdict = {None: "", True: "true", False: "false"}[row["verdict"]]
        table.add_row(
            row["alert_id"][:8],
            Text(row["state"], style=STYLES[row["state"]]),
            f"{row['since']:%d %b %H:%M}",
            row["kind"],
            Text(row["sentence"]),
            verdict,
        )
    Console().print(table)


_LIST_SQL = """
SELECT s.*, v.verdict AS verdict
FROM share_alert_states AS s
LEFT JOIN
(
    SELECT alert_id, argMax(toNullable(verdict), labelled_at) AS verdict
    FROM share_alert_labels GROUP BY alert_id
) AS v ON v.alert_id = s.alert_id
WHERE s.state IN {states:Array(String)}
    AND (empty({kinds:Array(String)}) OR s.kind IN {kinds:Array(String)})
    AND s.at >= fromUnixTimestamp64Milli({since_ms:Int64})
ORDER BY s.at DESC, s.alert_id
LIMIT {limit:UInt32}
"""


def _rows(
    client: HttpClient, states: tuple[str, ...], kinds: tuple[str, ...], since_ms: int, limit: int
) -> list[dict[str, Any]]:
    parameters = {
        "states": list(states),
        "kinds": list(kinds),
        "since_ms": since_ms,
        "limit": limit,
    }
    try:
        found = client.query(_LIST_SQL, parameters=parameters).named_results()
        return [{key.removeprefix("s."): value for key, value in row.items()} for row in found]
    except CAUGHT as error:
        raise sorted_error(error) from error


@alerts.command()
@click.argument("alert_id", metavar="ID")
@data_dir_option
@_form_option
def show(alert_id: str, data_dir: Path | None, form: str) -> None:
    """Show one alert: its transitions, why it fired, who was told, what people said of it."""
    with reading(settings_for(data_dir)) as (client, stored):
        transitions = stored.transitions(find_alert(client, alert_id))
        if form == "json":
            lines = b",\n".join(encode(each) for each in transitions)
            sys.stdout.buffer.write(b"[" + lines + b"]\n")
            return
        print_alert(Console(), client, transitions)


@alerts.command()
@click.argument("alert_id", metavar="ID")
@click.argument("verdict", type=click.Choice(["true", "false"]))
@click.option("--note", default="", help="Why, in words.")
@data_dir_option
def label(alert_id: str, verdict: str, note: str, data_dir: Path | None) -> None:
    """Say whether an alert was right: true when something real had changed.

    The newest verdict counts. Precision of all is the view share_alert_precision.

    \b
    tokentide alerts label 3f2a90bc false --note "load test of the gateway"
    """
    settings = settings_for(data_dir)
    with closing(clickhouse.connect(writer_address(settings))) as client:
        full_id = find_alert(client, alert_id)
        ShareAlerts(client, settings.clickhouse_database).label(
            full_id,
            verdict=verdict == "true",
            note=note,
            labelled_by=_account(),
            labelled_at_ms=time.time_ns() // 1_000_000,
        )
    click.echo(f"{full_id[:8]} is labelled {verdict}")


def _account() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return ""  # A container's user may have no name.


for _command in (explain, calibrate, backtest):
    alerts.add_command(_command)
