"""``tokentide alerts explain``: the evidence of an alert as a picture."""

from contextlib import closing
from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

from deploy.addresses import reader_address
from deploy.alert_evidence import read_evidence
from deploy.cli.alerts_text import blocks, find_alert
from deploy.cli.stack import data_dir_option, settings_for
from sinks import clickhouse


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
        found = find_alert(client, alert_id)
        evidence = read_evidence(client, settings.clickhouse_database, found)
    assert evidence is not None, "found a moment ago, and alerts are never deleted"
    file = out or Path(f"alert-{found[:8]}.svg")
    file.write_text(evidence.svg, "utf-8")
    console = Console()
    console.print(Text(evidence.transitions[0].sentence, style="bold"))
    if evidence.shares:
        console.print(Text(blocks(evidence.shares[-console.width :])))
    console.print(f"drawn to {file}")
