"""``tokentide dashboard``: live shares, trends and alerts in the browser."""

from pathlib import Path

import click
from aiohttp import web

from deploy.addresses import reader_address
from deploy.cli.stack import data_dir_option, settings_for
from deploy.dashboard.server import application
from deploy.local.processes import require_free_port


@click.command()
@click.option("--host", help="Address to listen on [default: $TOKENTIDE_DASHBOARD_HOST].")
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    help="Port to listen on [default: $TOKENTIDE_DASHBOARD_PORT].",
)
@data_dir_option
def dashboard(host: str | None, port: int | None, data_dir: Path | None) -> None:
    """Serve the dashboard until stopped: live shares, trends, alerts, retention and prices.

    It asks ClickHouse as the user who may only read, and knows no users of its own: put it behind
    something that does before it listens on more than this machine.
    """
    settings = settings_for(data_dir)
    host, port = host or settings.dashboard_host, port or settings.dashboard_port
    require_free_port(port, "--port")
    click.echo(f"dashboard: http://{host}:{port}")
    web.run_app(
        application(reader_address(settings)), host=host, port=port, print=None, access_log=None
    )
