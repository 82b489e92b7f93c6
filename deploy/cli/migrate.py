"""``tokentide migrate``: bring ClickHouse to the schema of this version."""

import dataclasses
import time
from pathlib import Path

import click
from clickhouse_connect.driver import Client

from deploy.addresses import writer_address
from deploy.cli.stack import data_dir_option, settings_for
from schemas.errors import SinkUnavailableError
from sinks import migrate as schema
from sinks.clickhouse import ClickHouseAddress, connect

RETRY_SECONDS = 0.5


def connect_within(address: ClickHouseAddress, timeout_seconds: float) -> Client:
    """Connect, waiting for a server that is starting.

    Raises:
        SinkUnavailableError: It still does not answer after ``timeout_seconds``.
        FatalError: It answers and refuses.
    """
    deadline = time.monotonic() + timeout_seconds
    said = False
    while True:
        try:
            return connect(address)
        except SinkUnavailableError:
            if time.monotonic() + RETRY_SECONDS > deadline:
                raise
        if not said:
            click.echo(f"waiting for clickhouse at {address.host}:{address.port} ...", err=True)
            said = True
        time.sleep(RETRY_SECONDS)


@click.command("migrate")
@data_dir_option
@click.option(
    "--timeout",
    "timeout_seconds",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="Longest wait for ClickHouse to answer.",
)
@click.option(
    "--list",
    "--dry-run",
    "dry_run",
    is_flag=True,
    help="Print what is done and what would run; change nothing.",
)
@click.option(
    "--sql",
    "print_sql",
    is_flag=True,
    help="Print every statement of this version and exit; needs no server.",
)
def migrate(data_dir: Path | None, timeout_seconds: float, dry_run: bool, print_sql: bool) -> None:
    """Create or bring up to date the tables and views in ClickHouse.

    Safe to repeat and to run twice at once: what has run does not run again. Stops without a change
    if a migration was edited after it ran, or if the database is newer than this program.

    \b
    tokentide migrate              create everything, or bring it up to date
    tokentide migrate --dry-run    what would run
    """
    settings = settings_for(data_dir)
    database = settings.clickhouse_database
    if print_sql:
        for script in [*schema.migrations(), *schema.views()]:
            for statement in script.statements(database):
                click.echo(f"{statement};\n")
        return
    # The database itself may not exist yet.
    address = dataclasses.replace(writer_address(settings), database="default")
    client = connect_within(address, timeout_seconds)
    try:
        if dry_run:
            for step in schema.status(client, database):
                click.echo(_line(step))
            return
        count = 0
        for step in schema.migrate(client, database):
            kind = "migration" if step.script.version else "view"
            click.echo(f"{kind} {step.script.name}: done")
            count += 1
        click.echo(f"database {database} is up to date" + ("" if count else ": nothing to do"))
    finally:
        client.close()


def _line(step: schema.Step) -> str:
    kind = "migration" if step.script.version else "view     "
    if step.applied_at is None:
        state = "would run"
    else:
        state = (
            "would be replaced" if step.pending else f"done {step.applied_at:%Y-%m-%d %H:%M:%S}Z"
        )
    return f"{kind} {step.script.name:28} {state}"
