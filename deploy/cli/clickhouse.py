"""``tokentide clickhouse``: the ClickHouse engine of this machine."""

from pathlib import Path

import click

from schemas.errors import ConfigurationError
from streams import logs
from streams.settings import Settings


@click.command()
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="Tables go to its clickhouse/ [default: $TOKENTIDE_DATA_DIR or .tokentide].",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=8123,
    show_default=True,
    help="Port of the HTTP interface.",
)
def clickhouse(data_dir: Path | None, host: str, port: int) -> None:
    """Run ClickHouse (the engine in a wheel, HTTP interface) in the foreground.

    Any ClickHouse client over HTTP can use it. Users: the writer of the settings
    (TOKENTIDE_CLICKHOUSE_USER, _PASSWORD) may do everything; the reader and `default`
    (TOKENTIDE_CLICKHOUSE_READER_USER, _PASSWORD) may only query, with bounded time, memory and
    rows. Ctrl-C and SIGTERM let running requests finish; after a crash start it again on the same
    directory, nothing acknowledged is lost.
    """
    settings = Settings.load()
    try:  # Not needed on machines that only run workers.
        from deploy.local.clickhouse_access import users
        from deploy.local.clickhouse_server import run_server
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"package {error.name} is not installed: make install, or install tokentide[local]"
        ) from None

    logs.configure(settings.log_level)
    known = users(
        settings.clickhouse_user,
        settings.clickhouse_password.get_secret_value(),
        settings.clickhouse_reader_user,
        settings.clickhouse_reader_password.get_secret_value(),
    )
    run_server(data_dir or settings.data_dir, known, host, port)
