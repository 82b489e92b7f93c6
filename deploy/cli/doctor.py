"""``tokentide doctor``: would a worker start, and what should be known before?"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import click
import orjson
from rich.markup import escape
from rich.table import Table

from deploy.cli.stack import data_dir_option, settings_for
from deploy.self_check.check import Check, State

_STYLES = {State.OK: "green", State.WARNING: "yellow", State.UNSAFE: "bold red"}


@click.command()
@data_dir_option
@click.option(
    "--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True
)
@click.pass_context
def doctor(context: click.Context, data_dir: Path | None, form: str) -> None:
    """Check ClickHouse, Kafka and the clocks for what could lose or double events.

    A worker runs the same checks when it starts: it refuses to if one is unsafe, and logs warnings.
    Nothing is changed. Connects as the workers do, with the settings of the environment.

    Exit codes: 0 nothing is unsafe, 1 something is, with its fix.
    """
    # Imported here: the help stays quick.
    from rich.console import Console

    from deploy.self_check.all_checks import diagnose

    settings = settings_for(data_dir)
    with Console(stderr=True).status("checking clickhouse and kafka"):
        checks = diagnose(settings)
    if form == "json":
        click.echo(orjson.dumps([dataclasses.asdict(check) for check in checks]).decode())
    else:
        Console().print(_table(checks))
        # Below, not in the table: a command that is wrapped cannot be copied.
        for fix in dict.fromkeys(check.fix for check in checks if check.fix):
            for check in checks:
                if check.fix == fix:
                    click.echo(f"\n{check.state.value}: {check.found}", nl=False)
            click.echo(f"\n  {fix}")
    context.exit(int(any(check.state is State.UNSAFE for check in checks)))


def _table(checks: Sequence[Check]) -> Table:
    table = Table("check", "state", box=None, pad_edge=False)
    table.add_column("found", overflow="fold")
    for check in checks:
        state = f"[{_STYLES[check.state]}]{check.state.value}[/]"
        table.add_row(check.name, state, escape(check.found))
    return table
