"""``tokentide kafka``: a real broker on this machine."""

from pathlib import Path

import click

from schemas.errors import ConfigurationError
from streams.settings import Settings


@click.command()
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="Broker data goes to its kafka/, the log to its logs/ "
    "[default: $TOKENTIDE_DATA_DIR or .tokentide].",
)
@click.option(
    "--port", type=click.IntRange(1, 65535), default=9092, show_default=True, help="Client port."
)
def kafka(data_dir: Path | None, port: int) -> None:
    """Run Apache Kafka (one KRaft broker, loopback only) in the foreground.

    Needs no Java: the runtime and the jars are fetched once, checked against their locked SHA-256
    sums and kept in $XDG_CACHE_HOME or ~/.cache. The process becomes the broker. Ctrl-C and
    SIGTERM stop it; after a crash start it again on the same directory, nothing acknowledged is
    lost.
    """
    try:  # Not needed on machines that only run workers.
        from deploy.local.kafka import run_broker
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"package {error.name} is not installed: make install, or install tokentide[local]"
        ) from None

    run_broker(data_dir or Settings.load().data_dir, port)
