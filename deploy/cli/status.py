"""``tokentide status``: has everything that was produced been stored?"""

import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import orjson
from kafka import TopicPartition
from kafka.admin import OffsetSpec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from deploy.addresses import reader_address
from deploy.cli.stack import data_dir_option, settings_for
from deploy.dead_letters_reader import Filter, read_dead_letters, topic_reader
from deploy.kafka_admin import admin_client
from schemas.errors import RetryableError
from schemas.topics import DEAD_LETTER_TOPIC, USAGE_TOPIC
from sinks import clickhouse
from streams.settings import Settings

POLL_SECONDS = 0.5
NOTHING = (0, 0, None)


@dataclass(frozen=True)
class PartitionStatus:
    """One partition of the usage topic; offsets are those of the next record."""

    partition: int
    end_offset: int
    committed_offset: int
    lag_records: int
    dead_letters: int
    duplicates: int
    rows: int
    watermark: str | None


@click.command()
@data_dir_option
@click.option("--wait", is_flag=True, help="Return when everything produced so far is dealt with.")
@click.option(
    "--timeout",
    "timeout_seconds",
    type=click.FloatRange(min=0),
    default=600.0,
    show_default=True,
    help="Seconds to wait at most.",
)
@click.option(
    "--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True
)
def status(data_dir: Path | None, wait: bool, timeout_seconds: float, form: str) -> None:
    """Show lag, rows, dead letters and the newest event time of each partition.

    With --wait the exit code is 0 only when every record produced before the call is stored or
    dead-lettered: when the committed offset has reached what was the end offset. Otherwise 1.
    """
    settings = settings_for(data_dir)
    if wait:
        _wait(settings, timeout_seconds)
    partitions = read_status(settings)
    if form == "json":
        click.echo(orjson.dumps([asdict(each) for each in partitions]).decode())
    else:
        Console().print(_table(partitions))


def _wait(settings: Settings, timeout_seconds: float) -> None:
    """Return when what is on the topic now is committed.

    Raises:
        RetryableError: If it is not within the time.
    """
    deadline = time.monotonic() + timeout_seconds
    with admin_client(settings.kafka_bootstrap_servers) as admin:
        ends = _ends(admin, USAGE_TOPIC)
        bar = Progress(
            TextColumn("storing"),
            BarColumn(),
            TextColumn("{task.completed:,.0f} of {task.total:,.0f} records"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        with bar:
            task = bar.add_task("", total=sum(ends.values()) or 1)
            while True:
                done = _committed(admin, settings.consumer_group, ends)
                lag = sum(max(end - done[tp], 0) for tp, end in ends.items())
                bar.update(task, completed=sum(ends.values()) - lag)
                if not lag:
                    return
                if time.monotonic() >= deadline:
                    raise RetryableError(
                        f"{lag} records are not stored after {timeout_seconds:g} s;"
                        " see /readyz of the workers"
                    )
                time.sleep(POLL_SECONDS)


def read_status(settings: Settings) -> list[PartitionStatus]:
    """Return the state of each partition now.

    Raises:
        RetryableError: If Kafka or ClickHouse does not answer.
    """
    with admin_client(settings.kafka_bootstrap_servers) as admin:
        ends = _ends(admin, USAGE_TOPIC)
        committed = _committed(admin, settings.consumer_group, ends)
    with topic_reader(settings.kafka_bootstrap_servers, DEAD_LETTER_TOPIC) as reader:
        # Counted, not subtracted: offsets are also taken by the markers of transactions.
        dead = Counter(each.position.partition for each in read_dead_letters(reader, Filter()))
    stored = _stored(settings)
    return [
        PartitionStatus(
            partition=tp.partition,
            end_offset=end,
            committed_offset=committed[tp],
            lag_records=max(end - committed[tp], 0),
            dead_letters=dead[tp.partition],
            duplicates=stored.get(tp.partition, NOTHING)[0],
            rows=stored.get(tp.partition, NOTHING)[1],
            watermark=stored.get(tp.partition, NOTHING)[2],
        )
        for tp, end in sorted(ends.items(), key=lambda item: item[0].partition)
    ]


def _ends(admin: Any, topic: str) -> dict[Any, int]:
    (description,) = admin.describe_topics([topic])
    if description["error_code"]:
        raise RetryableError(f"topic {topic} does not exist: run: tokentide topics")
    tps = [TopicPartition(topic, each["partition_index"]) for each in description["partitions"]]
    found = admin.list_partition_offsets(dict.fromkeys(tps, OffsetSpec.LATEST))
    return {tp: found[tp].offset for tp in tps}


def _committed(admin: Any, group: str, tps: dict[Any, int]) -> dict[Any, int]:
    found = admin.list_group_offsets(group)[group]
    return {tp: max(found[tp].offset, 0) if tp in found else 0 for tp in tps}


def _stored(settings: Settings) -> dict[int, tuple[int, int, str | None]]:
    """Return duplicates, rows and newest event time by partition."""
    client = clickhouse.connect(reader_address(settings))
    try:
        found = client.query(
            "SELECT kafka_partition, sum(duplicates), sum(rows), max(newest) FROM ("
            " SELECT kafka_partition, 0 AS duplicates, count() AS rows,"
            " toString(max(occurred_at)) AS newest FROM usage_events GROUP BY kafka_partition"
            " UNION ALL SELECT kafka_partition, count(), 0, ''"
            " FROM usage_duplicates GROUP BY kafka_partition) GROUP BY kafka_partition"
        )
    except clickhouse.CAUGHT as error:
        raise clickhouse.sorted_error(error) from error
    finally:
        client.close()
    return {row[0]: (row[1], row[2], row[3] or None) for row in found.result_rows}


def _table(partitions: list[PartitionStatus]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("partition")
    for name in ("end offset", "committed", "lag", "dead letters", "sent again", "rows"):
        table.add_column(name, justify="right")
    table.add_column("newest event, UTC", no_wrap=True)
    for each in partitions:
        numbers = (
            each.end_offset,
            each.committed_offset,
            each.lag_records,
            each.dead_letters,
            each.duplicates,
            each.rows,
        )
        table.add_row(
            str(each.partition),
            *(f"{number:,}" for number in numbers),
            (each.watermark or "-")[:19],
        )
    totals = [
        sum(getattr(each, name) for each in partitions)
        for name in ("lag_records", "dead_letters", "duplicates", "rows")
    ]
    table.add_row("all", "", "", *(f"{total:,}" for total in totals), style="bold")
    return table
