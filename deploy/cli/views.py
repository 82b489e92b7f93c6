"""``tokentide views``: what each view answers, from the database's own comments."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from clickhouse_connect.driver.httpclient import HttpClient

from deploy.addresses import reader_address
from deploy.answers import text_of
from deploy.cli.query import print_table
from deploy.cli.stack import data_dir_option, settings_for
from schemas.errors import FatalError
from sinks.clickhouse import CAUGHT, connect, sorted_error

EXAMPLE_ROWS = 5
NO_ROWS = "No rows now."
_EXAMPLE = re.compile(r"\s*\bExample: (SELECT .*)$", re.M)


@dataclass(frozen=True)
class View:
    """A view as the database describes it.

    Attributes:
        text: Its comment without the example: the first line or sentence says what it is.
        example: SQL that can be run as it is, "" if there is none.
    """

    name: str
    text: str
    example: str

    @property
    def title(self) -> str:
        """What it is, in one sentence."""
        return re.split(r"(?<=[.:])\s|\n", self.text, maxsplit=1)[0].rstrip(":")


@click.command("views")
@click.argument("name", required=False)
@data_dir_option
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "markdown"]),
    default="text",
    show_default=True,
    help="markdown is one page of all views, or of the one named.",
)
def views(name: str | None, data_dir: Path | None, form: str) -> None:
    """List the views, or explain one: definition, formula, source, and an example with its answer.

    \b
    tokentide views
    tokentide views study_01_open_and_closed
    tokentide views --format markdown > views.md

    All of it comes from the comments in the database, and each example is run.
    """
    client = connect(reader_address(settings_for(data_dir)))
    try:
        found = read_views(client)
        if name is not None:
            found = [view for view in found if view.name == name]
            if not found:
                raise FatalError(f"no view {name!r}: tokentide views lists them")
        if form == "markdown":
            for line in page(client, found):
                click.echo(line)
        elif name is None:
            width = max(len(view.name) for view in found)
            for view in found:
                click.echo(f"{view.name:<{width}}  {view.title}")
        else:
            explain(client, found[0])
    except CAUGHT as error:
        raise FatalError(str(sorted_error(error))) from error
    finally:
        client.close()


def read_views(client: HttpClient) -> list[View]:
    """Return the views of the client's database, by name."""
    rows = client.query(
        "SELECT name, comment FROM system.tables"
        " WHERE database = currentDatabase() AND engine = 'View' ORDER BY name"
    ).result_rows
    return [_view(name, comment) for name, comment in rows]


def _view(name: str, comment: str) -> View:
    example = _EXAMPLE.search(comment)
    return View(name, _EXAMPLE.sub("", comment).strip(), example[1] if example else "")


def explain(client: HttpClient, view: View) -> None:
    """Print a view's comment and the answer to its example."""
    click.echo(f"{view.text}\n")
    if view.example:
        click.echo(f"{view.example}\n")
        if client.query(_limited(view.example)).result_rows:
            print_table(client, _limited(view.example), {})
        else:
            click.echo(NO_ROWS)


def page(client: HttpClient, found: list[View]) -> Iterator[str]:
    """Yield the lines of a page about views, Markdown."""
    yield "# Views\n"
    yield "Written by `tokentide views --format markdown` out of the comments in the database.\n"
    for view in found:
        yield f"- [`{view.name}`](#{view.name}): {view.title}"
    for view in found:
        yield f"\n## {view.name}\n\n{view.text}"
        if view.example:
            yield f"\n```sql\n{view.example}\n```\n"
            yield from _answer(client, view.example)


def _answer(client: HttpClient, sql: str) -> Iterator[str]:
    answer = client.query(_limited(sql))
    if not answer.result_rows:
        yield NO_ROWS
        return
    yield _row(answer.column_names)
    yield _row("---" for _ in answer.column_names)
    for row in answer.result_rows:
        yield _row(map(text_of, row))


def _row(cells: Any) -> str:
    return f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in cells)} |"


def _limited(sql: str) -> str:
    return f"SELECT * FROM ({sql}) LIMIT {EXAMPLE_ROWS}"
