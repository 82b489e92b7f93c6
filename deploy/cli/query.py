"""``tokentide query``: SQL in, a table, CSV or JSON out."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

import click
from clickhouse_connect.driver.httpclient import HttpClient
from rich.console import Console
from rich.table import Table
from rich.text import Text

from deploy.addresses import reader_address
from deploy.answers import text_of
from deploy.cli.stack import data_dir_option, settings_for
from schemas.errors import FatalError
from sinks.clickhouse import CAUGHT, connect, sorted_error

CHUNK_BYTES = 1 << 16
TABLE_ROWS_MAX = 1000
# How ClickHouse starts the text of an error that happens after the first rows were sent.
EXCEPTION_MARKER = b"__exception__"


@click.command("query")
@click.argument("sql")
@data_dir_option
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json", "csv"]),
    default="table",
    show_default=True,
    help="json is one array, a row an object on a line of its own; csv has a header.",
)
@click.option(
    "--param",
    "params",
    multiple=True,
    metavar="NAME=VALUE",
    help="Value of {NAME:Type} in the SQL; may be repeated.",
)
def query(sql: str, data_dir: Path | None, form: str, params: tuple[str, ...]) -> None:
    """Ask ClickHouse SQL, as the user who may only read; "-" takes the SQL from standard input.

    Times are UTC. In json and csv numbers are plain numbers and the whole answer is streamed; table
    shows at most 1000 rows.

    \b
    tokentide query "SELECT * FROM share_last_hour WHERE dimension = 'vendor'"
    tokentide query "SELECT count() FROM usage_events WHERE model = {m:String}" --param m=unknown
    tokentide query - --format csv < report.sql > report.csv

    Start with: SHOW TABLES, then DESCRIBE usage_1h (every column is explained there).
    """
    text = sys.stdin.read() if sql == "-" else sql
    if not text.strip():
        raise click.UsageError("the SQL is empty")
    values = _parameters(params)
    client = connect(reader_address(settings_for(data_dir)))
    try:
        if form == "table":
            print_table(client, text, values)
        else:
            out = click.get_binary_stream("stdout")
            for chunk in stream(client, text, values, form):
                out.write(chunk)
            out.flush()
    except BrokenPipeError:
        raise  # click ends quietly when the reader of a pipe has gone
    except CAUGHT as error:
        raise FatalError(str(sorted_error(error))) from error
    finally:
        client.close()


def _parameters(params: Sequence[str]) -> dict[str, str]:
    values = {}
    for param in params:
        name, equals, value = param.partition("=")
        if not equals or not name.isidentifier():
            raise click.BadParameter(f"{param!r} is not NAME=VALUE", param_hint="--param")
        values[name] = value
    return values


def stream(client: HttpClient, sql: str, values: dict[str, str], form: str) -> Iterator[bytes]:
    """Yield the answer as the server sends it.

    Raises:
        FatalError: The server broke off; what was yielded is not the whole answer.
    """
    name = "CSVWithNames" if form == "csv" else "JSONEachRow"
    response = client.raw_stream(sql, parameters=values, fmt=name)
    try:
        chunks = until_exception(iter(lambda: response.read(CHUNK_BYTES), b""))
        yield from chunks if form == "csv" else as_array(chunks)
    finally:
        response.close()


def until_exception(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield an answer's bytes up to an error in the middle of it, then raise that error."""
    held = b""
    source = iter(chunks)
    for chunk in source:
        held += chunk
        at = held.find(EXCEPTION_MARKER)
        if at >= 0:
            yield held[:at].rstrip(b"\r\n")
            text = b"".join([held[at:], *source]).decode(errors="replace")
            raise FatalError(str(sorted_error(OSError(text))))
        # The marker may be cut by the border of a chunk.
        keep = len(EXCEPTION_MARKER) - 1
        yield held[:-keep]
        held = held[-keep:]
    yield held


def as_array(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Turn JSON lines into one JSON array without parsing: line feeds occur only between rows."""
    yield b"["
    before = b"\n"
    for chunk in lines:
        body = chunk.rstrip(b"\n")
        if body:
            yield before + body.replace(b"\n", b",\n")
            before = b""
        if len(body) < len(chunk):
            before = b",\n"
    yield b"\n]\n"


def print_table(client: HttpClient, sql: str, values: dict[str, str]) -> None:
    """Print an answer as a table, cut after ``TABLE_ROWS_MAX`` rows."""
    with client.query_rows_stream(sql, parameters=values) as rows:
        names = rows.source.column_names
        first = list(islice(rows, TABLE_ROWS_MAX + 1))
    shown = first[:TABLE_ROWS_MAX]
    table = Table(box=None, header_style="bold", pad_edge=False)
    for at, name in enumerate(names):
        number = any(isinstance(row[at], int | float | Decimal) for row in shown)
        table.add_column(name, justify="right" if number else "left", overflow="fold")
    for row in shown:
        table.add_row(*map(_cell, row))
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console = Console(markup=False, highlight=False, width=10_000)
    console.print(table)
    if len(first) > len(shown):
        click.echo(f"first {TABLE_ROWS_MAX} rows; use --format csv or json for all", err=True)


def _cell(value: Any) -> Text:
    return Text(text_of(value), style="dim" if value is None else "")
