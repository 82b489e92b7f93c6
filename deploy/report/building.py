"""A report put together: questions asked, paragraphs and figures made, files written."""

import csv
import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import orjson
from clickhouse_connect.driver.httpclient import HttpClient

from deploy.answers import text_of
from deploy.report import comparing
from deploy.report.analyses import ANALYSES, Analysis
from deploy.report.comparing import Change
from deploy.report.names import shown
from deploy.report.periods import Period, Row
from schemas.errors import FatalError

MANIFEST = "manifest.json"
NOTHING = "There are no requests in this period that this could be said of."


@dataclass(frozen=True)
class Figure:
    """One analysis with its numbers.

    Attributes:
        text: The paragraph.
        svg: "" without rows.
    """

    analysis: Analysis
    sql: str
    columns: Sequence[str]
    rows: Sequence[Row]
    text: str
    svg: str

    @property
    def name(self) -> str:
        """Name of its files, without an ending."""
        return self.analysis.file or self.analysis.view


@dataclass(frozen=True)
class Report:
    """All that a page shows.

    Attributes:
        facts: Whether all has arrived, and how much is not known, as sentences.
        changes: By title of the dimension; empty without a period to compare with.
    """

    period: Period
    before: Period | None
    made_at: datetime
    facts: Sequence[str]
    figures: Sequence[Figure]
    changes: dict[str, list[Change]]


def build(
    client: HttpClient,
    period: Period,
    before: Period | None,
    done: Callable[[], object],
    note: str = "",
) -> Report:
    """Ask everything.

    Args:
        client: Of a reader.
        before: To compare with.
        done: Called after each figure.
        note: Said before all else.
    """
    figures = []
    for analysis in ANALYSES:
        figures.append(_figure(client, analysis, period))
        done()
    changes = {}
    if before is not None:
        for column, title in comparing.DIMENSIONS.items():
            then, now = (
                shown(list(client.query(comparing.sql(column, each)).named_results()), column)
                for each in (before, period)
            )
            changes[title] = comparing.changes(then, now)
    made_at = datetime.now(UTC).replace(microsecond=0)
    facts = [note] * bool(note) + _facts(client, period)
    return Report(period, before, made_at, facts, figures, changes)


def _figure(client: HttpClient, analysis: Analysis, period: Period) -> Figure:
    sql = f"SELECT * FROM study_{analysis.view}({period.arguments(**analysis.more)})"
    answer = client.query(sql)
    rows = list(answer.named_results())
    readable = shown(rows, analysis.more.get("column", ""))
    text = analysis.say(readable) if rows else NOTHING
    svg = analysis.plot(readable) if rows else ""
    return Figure(analysis, sql, answer.column_names, rows, text, svg)


def _facts(client: HttpClient, period: Period) -> list[str]:
    """Return what the numbers rest on."""
    ((requests, tokens_unknown, cost_unknown, unresolved, newest),) = client.query(
        "SELECT sum(requests), sum(tokens_unknown), sum(cost_unknown),"
        " sumIf(requests, model = 'unknown'), max(day) FROM usage_1d"
        f" WHERE day >= '{period.from_day}' AND day < '{period.to_day}'"
    ).result_rows
    if not requests:
        return ["There are no requests in this period."]
    return [
        f"{requests:,} requests; the newest day with any is {newest:%-d %B %Y}.",
        f"Of {unresolved / requests:.2%} of them the model is in no catalogue: they are in every"
        " denominator, as unknown.",
        f"Tokens are not known of {tokens_unknown / requests:.2%}, the cost of"
        f" {cost_unknown / requests:.2%}: these add nothing to sums.",
    ]


def csv_of(figure: Figure) -> str:
    """Return the numbers of a figure."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(figure.columns)
    for row in figure.rows:
        writer.writerow("" if row[n] is None else text_of(row[n]) for n in figure.columns)
    return text.getvalue()


def write(report: Report, directory: Path, pages: dict[str, str]) -> None:
    """Write pages, figures, numbers, and a manifest with the SHA-256 of each file.

    Args:
        pages: Name of a file and its text.

    Raises:
        FatalError: If the directory holds something else, or can't be written.
    """
    files = dict(pages)
    for figure in report.figures:
        files[f"data/{figure.name}.csv"] = csv_of(figure)
        if figure.svg:
            files[f"figures/{figure.name}.svg"] = figure.svg
    try:
        if directory.exists() and any(directory.iterdir()) and not (directory / MANIFEST).exists():
            raise FatalError(f"{directory} holds other files: choose another --out")
        for name, text in files.items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
        manifest = {
            "from_day": report.period.from_day,
            "to_day": report.period.to_day,
            "made_at": report.made_at,
            "tokentide": version("tokentide"),
            "sha256": {name: _sha256(text.encode()) for name, text in sorted(files.items())},
        }
        (directory / MANIFEST).write_bytes(orjson.dumps(manifest, option=orjson.OPT_INDENT_2))
    except OSError as error:
        raise FatalError(f"{error.filename or directory}: {error.strerror}") from None


def faults(directory: Path) -> list[str]:
    """Return what differs from the manifest of a report that was written.

    Raises:
        FatalError: If there is no manifest.
    """
    try:
        manifest = orjson.loads((directory / MANIFEST).read_bytes())
        wanted = dict(manifest["sha256"])
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        raise FatalError(f"{directory / MANIFEST} is no manifest of a report") from None
    found = []
    for name, sha256 in wanted.items():
        path = directory / name
        if not path.is_file():
            found.append(f"{name} is missing")
        elif _sha256(path.read_bytes()) != sha256:
            found.append(f"{name} was changed")
    return found


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
