"""``tokentide dead-letters``: what was refused, why, and sending it again."""

import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import click
import orjson
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from deploy.addresses import reader_address, writer_address
from deploy.cli.dead_letters_history import History, read_history
from deploy.cli.dead_letters_listing import (
    Count,
    JsonArray,
    Lookup,
    Newest,
    listed_json,
    print_counts,
    print_listed,
    value_chars,
)
from deploy.cli.dead_letters_report import Report
from deploy.cli.dead_letters_showing import print_shown, shown_json
from deploy.cli.dead_letters_text import Instant, OffsetRange, PositionType
from deploy.cli.stack import data_dir_option, settings_for
from deploy.dead_letters_reader import (
    DeadLetter,
    Filter,
    Position,
    TopicReader,
    parse,
    read_dead_letters,
    topic_reader,
)
from deploy.redrive import plan, redrive
from deploy.redrive_ledger import ledger_at
from schemas.errors import FatalError, Reason
from schemas.topics import DEAD_LETTER_TOPIC
from streams.settings import Settings

TABLE_ROWS = 100

_form_option = click.option(
    "--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True
)
_topic_option = click.option(
    "--topic", default=DEAD_LETTER_TOPIC, show_default=True, help="The dead-letter topic."
)


@click.group("dead-letters")
def dead_letters() -> None:
    """Look at the records that were refused, and send them again.

    A record is named by where it stood on the usage topic, PARTITION:OFFSET.
    """


def filter_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that choose dead letters; the command gets a ``Filter`` as ``wanted``."""

    @click.option(
        "--reason",
        "reasons",
        type=click.Choice([each.value for each in Reason]),
        multiple=True,
        help="Refused for this reason; may be repeated.",
    )
    @click.option("--field", "fields", multiple=True, help="Field at fault; may be repeated.")
    @click.option(
        "--stage", "stages", multiple=True, help="Where it was refused: decode or insert."
    )
    @click.option(
        "--since",
        "since_ms",
        type=Instant(),
        help="Refused at this time or later: an ISO time (UTC), or an age like 90s, 2h, 7d.",
    )
    @click.option("--until", "until_ms", type=Instant(), help="Refused before this time.")
    @click.option(
        "--partition",
        "partitions",
        type=click.IntRange(min=0),
        multiple=True,
        help="Partition the record stood in; may be repeated.",
    )
    @click.option(
        "--offset",
        "origin_offsets",
        type=OffsetRange(),
        multiple=True,
        help="Offset the record stood at, or a range: 17, 17-40, 17-; may be repeated.",
    )
    @functools.wraps(command)
    def with_filter(
        reasons: tuple[str, ...],
        fields: tuple[str, ...],
        stages: tuple[str, ...],
        since_ms: int | None,
        until_ms: int | None,
        partitions: tuple[int, ...],
        origin_offsets: tuple[tuple[int, int | None], ...],
        **others: Any,
    ) -> None:
        wanted = Filter(
            frozenset(reasons),
            frozenset(fields),
            frozenset(stages),
            since_ms,
            until_ms,
            frozenset(partitions),
            origin_offsets,
        )
        command(wanted=wanted, **others)

    return with_filter


# --- list --------------------------------------------------------------------------------------


@dead_letters.command("list")
@filter_options
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    help=f"Only the newest so many, 0 for all [default: {TABLE_ROWS} in a table, all in json].",
)
@click.option("--summary", is_flag=True, help="Only count them, by reason and field.")
@_form_option
@_topic_option
@data_dir_option
def list_command(
    wanted: Filter,
    limit: int | None,
    summary: bool,
    form: str,
    topic: str,
    data_dir: Path | None,
) -> None:
    """List refused records, oldest first, and count them by reason and field.

    Values are shortened, and escaped: they may hold anything. "sent again" says where a redrive has
    put the record, or "in doubt" if it was interrupted and its end is not known yet. Without
    ClickHouse that column is unknown, and the rest is listed. json without --limit is in the
    topic's order.

    \b
    tokentide dead-letters list --since 2h --summary
    tokentide dead-letters list --reason missing_field --field occurred_at --format json
    """
    settings = settings_for(data_dir)
    counts: dict[tuple[str, str], Count] = {}
    members = JsonArray()
    is_streamed = form == "json" and not limit and not summary
    kept = Newest(limit if limit is not None else TABLE_ROWS if form == "table" else 0)
    with (
        topic_reader(settings.kafka_bootstrap_servers, topic) as reader,
        Reading() as bar,
        Lookup(settings, topic) as lookup,
    ):
        letters = read_dead_letters(reader, wanted, start=bar.start, advance=bar.advance)
        for listed in lookup.listed(letters, value_chars(form)):
            key = (listed.letter.reason, listed.letter.field)
            counts.setdefault(key, Count()).add(listed)
            if is_streamed:
                members.add(listed_json(listed))
            elif not summary:
                kept.add(listed)
    if is_streamed:
        members.close()
    elif summary:
        print_counts(counts, form)
    elif form == "json":
        click.echo(orjson.dumps([listed_json(each) for each in kept.oldest_first()]))
    elif counts:
        print_listed(kept.oldest_first(), counts)
    if not counts:
        click.echo("no dead letters match", err=True)


# --- show --------------------------------------------------------------------------------------


@dead_letters.command()
@click.argument("position", type=PositionType(), metavar="PARTITION:OFFSET")
@click.option(
    "--dead-letter",
    "is_own_position",
    is_flag=True,
    help="The position is the dead letter's own, as in the header redriven_from.",
)
@click.option("--raw", is_flag=True, help="Write the value to standard output, byte for byte.")
@_form_option
@_topic_option
@data_dir_option
def show(
    position: Position,
    is_own_position: bool,
    raw: bool,
    form: str,
    topic: str,
    data_dir: Path | None,
) -> None:
    """Show one refused record: headers, value, what the decoder says of it now, and its history.

    The history says where a redrive has put the record, what became of it there, and which redrive
    had put it where it was refused.

    \b
    tokentide dead-letters show 0:17
    tokentide dead-letters show 0:17 --raw | jq .
    """
    settings = settings_for(data_dir)
    with topic_reader(settings.kafka_bootstrap_servers, topic) as reader, Reading() as bar:
        found = _own(reader, position) if is_own_position else _newest_of(reader, position, bar)
        history = History() if raw else read_history(settings, reader, found)
    if raw:
        if found.value is None:
            click.echo("the value is null, not empty", err=True)
        out = click.get_binary_stream("stdout")
        out.write(found.value or b"")
        out.flush()
    elif form == "json":
        click.echo(orjson.dumps(shown_json(found, history)))
    else:
        print_shown(found, history)


def _own(reader: TopicReader, position: Position) -> DeadLetter:
    """Return the dead letter at a position of the dead-letter topic.

    Raises:
        FatalError: There is none.
    """
    if position.partition in reader.partitions:
        begin, end = reader.bounds(position.partition)
        if begin <= position.offset < end:
            for record in reader.records(position.partition, position.offset, position.offset + 1):
                return parse(record)
    raise FatalError(f"topic {reader.topic} has no record at {position}")


def _newest_of(reader: TopicReader, position: Position, bar: "Reading") -> DeadLetter:
    """Return the newest dead letter of the record that stood at a position.

    Raises:
        FatalError: There is none.
    """
    wanted = Filter(
        partitions=frozenset({position.partition}),
        origin_offsets=((position.offset, position.offset),),
    )
    found = [
        each
        for each in read_dead_letters(reader, wanted, start=bar.start, advance=bar.advance)
        if each.origin is not None and each.origin.position == position
    ]
    if not found:
        raise FatalError(
            f"no dead letter in {reader.topic} of a record at {position}: those there are:"
            f" tokentide dead-letters list --partition {position.partition}"
        )
    if len(found) > 1:
        others = ", ".join(str(each.position) for each in found[:-1])
        click.echo(f"also refused as dead letters {others}; show --dead-letter", err=True)
    return found[-1]


# --- redrive -----------------------------------------------------------------------------------


@dead_letters.command("redrive")
@filter_options
@click.option("--yes", is_flag=True, help="Send them; without it only say what would be sent.")
@click.option(
    "--all", "everything", is_flag=True, help="Also send what the decoder would refuse again."
)
@click.option("--limit", type=click.IntRange(min=1), help="Send at most so many.")
@_form_option
@_topic_option
@data_dir_option
@click.pass_context
def redrive_command(
    context: click.Context,
    wanted: Filter,
    yes: bool,
    everything: bool,
    limit: int | None,
    form: str,
    topic: str,
    data_dir: Path | None,
) -> None:
    """Send refused records to the usage topic again: same value, same partition, each once.

    Worth it for what time or an upgrade has made valid: from_the_future, a new schema version,
    refused_by_clickhouse. What the decoder would refuse again is left out. Running it again is
    safe, also after it was killed: table dead_letter_redrives knows what was sent. A second one at
    the same time takes over and the first one stops.

    Exit codes: 0 done, 1 something could not be sent or is in doubt, 2 wrong usage.

    \b
    tokentide dead-letters redrive --reason from_the_future
    tokentide dead-letters redrive --reason from_the_future --yes
    """
    settings = settings_for(data_dir)
    report = Report(dry_run=not yes)
    try:
        with topic_reader(settings.kafka_bootstrap_servers, topic) as reader, Reading() as bar:
            letters = read_dead_letters(reader, wanted, start=bar.start, advance=bar.advance)
            if yes:
                _send(settings, topic, letters, everything, limit or 0, report, bar)
            else:
                with ledger_at(reader_address(settings), topic) as (_, ledger):
                    for outcome in plan(letters, ledger, everything=everything, limit=limit or 0):
                        report.add(outcome)
    except BaseException:
        if report.has_rows:  # What is in it is certain.
            report.print(form)
        raise
    report.print(form)
    context.exit(1 if yes and report.has_failed else 0)


def _send(
    settings: Settings,
    topic: str,
    letters: Iterator[DeadLetter],
    everything: bool,
    limit: int,
    report: "Report",
    bar: "Reading",
) -> None:
    with (
        ledger_at(writer_address(settings), topic) as (_, ledger),
        redrive(settings.kafka_bootstrap_servers, topic, ledger) as run,
    ):
        report.settled = run.settle(bar.settling)
        for outcome in run.run(letters, everything=everything, limit=limit):
            report.add(outcome)


class Reading:
    """A progress bar on a terminal, nothing elsewhere."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:,.0f} of {task.total:,.0f} offsets"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
            transient=True,
            redirect_stdout=False,
        )
        self._task = self._progress.add_task("reading dead letters", total=0)
        self._settling: Any = None

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def start(self, total: int) -> None:
        self._progress.update(self._task, total=total)

    def advance(self, offsets: int) -> None:
        self._progress.update(self._task, advance=offsets)

    def settling(self, offsets: int, total: int) -> None:
        if self._settling is None:
            name = "looking for what an interrupted redrive has sent"
            self._settling = self._progress.add_task(name, total=total)
        self._progress.update(self._settling, advance=offsets)
