"""``tokentide topics``: create and check the topics."""

from pathlib import Path

import click

from deploy.cli.stack import data_dir_option, settings_for


@click.command()
@data_dir_option
def topics(data_dir: Path | None) -> None:
    """Create the topics that are missing, check the others and print them all.

    Safe to repeat: an existing topic is never changed. One whose cleanup policy, timestamp type or
    number of partitions would make results wrong is refused, with what to do.
    """
    from rich.console import Console
    from rich.table import Table

    from deploy.kafka_admin import ensure_topics

    settings = settings_for(data_dir)
    states = ensure_topics(
        settings.kafka_bootstrap_servers,
        usage_partitions=settings.usage_partitions,
        replication_factor=settings.replication_factor,
    )
    table = Table("topic", "partitions", "state", box=None, pad_edge=False)
    table.add_column("settings", overflow="fold")
    for state in states:
        config = "\n".join(f"{name}={value}" for name, value in state.config.items())
        found = "created" if state.created else "exists"
        table.add_row(state.name, str(state.partitions), found, config)
    Console().print(table)
