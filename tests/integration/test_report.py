"""``tokentide report`` against the engine."""

import csv
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from clickhouse_connect.driver.httpclient import HttpClient

from deploy.answers import text_of
from deploy.report.analyses import ANALYSES
from deploy.report.building import NOTHING
from deploy.report.names import shown
from sinks.usage_events import UsageEventWriter
from tests.conftest import ClickHouseAddress as Server
from tests.conftest import free_port, fresh_name, run_tokentide
from tests.integration.sinks_database import migrated, rows_of
from tests.usage_rows import as_table, random_rows

START = datetime(2026, 9, 2, 5, 30, tzinfo=UTC)
# A model that is away in the first days of the period counts as launched in it.
AWAY = (datetime(2026, 9, 7, tzinfo=UTC), datetime(2026, 9, 15, tzinfo=UTC))
ROWS = [
    {
        **row,
        "cost_nanousd": row["cost_nanousd"] or 5,
        "tags": '{"language":"en","subcategory":"Adult"}' if row["kafka_offset"] % 2 else "",
    }
    for row in random_rows(40, 6000, START, timedelta(days=28))
    if row["model"] != "loup/24b" or not AWAY[0] <= row["occurred_at"] < AWAY[1]
]
NEED_MONTHS = {"28_retention_patterns"}
PERIOD = ("--from", "2026-09-07", "--to", "2026-09-28")


@pytest.fixture(scope="module")
def client(clickhouse: Server) -> Iterator[HttpClient]:
    """A database that holds ROWS."""
    database = fresh_name("report")
    with migrated(clickhouse, database) as client:
        UsageEventWriter(client, database).write(as_table(ROWS), "rows")
        yield client


@pytest.fixture(scope="module")
def settings(client: HttpClient, clickhouse: Server) -> dict[str, Any]:
    """How the command finds it."""
    return {"clickhouse_port": clickhouse.port, "clickhouse_database": client.database}


@pytest.fixture(scope="module")
def written(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of three whole weeks, against the days before."""
    out = tmp_path_factory.mktemp("report") / "september"
    before = ("--compare-from", "2026-09-02")
    done = run_tokentide("report", *PERIOD, *before, "--out", str(out), **settings)
    assert done.returncode == 0, done.stderr
    assert f"{len(ANALYSES)} figures of 7 September 2026 to 27 September 2026" in done.stdout
    return out


def test_every_figure_has_its_numbers_its_sql_and_its_plot(
    written: Path, client: HttpClient
) -> None:
    """The numbers beside it are those of the SQL under it, and both pages have its paragraph."""
    pages = [(written / name).read_text() for name in ("report.html", "report.md")]
    for analysis in ANALYSES:
        with (written / "data" / f"{analysis.file or analysis.view}.csv").open() as file:
            numbers = list(csv.DictReader(file))
        sql = pages[1].split(f"### {analysis.title}\n")[-1].split("```sql\n")[1].split("\n```")[0]
        answer = rows_of(client, sql)
        if analysis.view in NEED_MONTHS:
            assert not answer
            assert pages[1].split(f"### {analysis.title}\n")[-1].startswith(f"\n{NOTHING}")
            continue
        assert answer
        assert numbers == [
            {name: "" if value is None else text_of(value) for name, value in row.items()}
            for row in answer
        ]
        svg = (written / "figures" / f"{analysis.file or analysis.view}.svg").read_text()
        assert svg.count("<path") > 3
        text = analysis.say(shown(answer, analysis.more.get("column", "")))
        assert text != NOTHING
        assert text in pages[1]
        assert analysis.title in pages[0]
    assert "http://" not in pages[0].replace("http://www.w3.org", ""), "loads from elsewhere"
    assert "<script" not in pages[0]


def test_two_periods_side_by_side(written: Path, client: HttpClient) -> None:
    """Shares of tokens then and now, and their difference in points."""
    page = (written / "report.md").read_text()
    table = page.split("### Vendors\n")[1].split("\n### ")[0]
    shares = {}
    for name, days in (
        ("then", ("2026-09-02", "2026-09-07")),
        ("now", ("2026-09-07", "2026-09-28")),
    ):
        rows = rows_of(
            client,
            "SELECT vendor, sum(tokens_prompt + tokens_completion) AS n FROM usage_1d"
            f" WHERE day >= '{days[0]}' AND day < '{days[1]}' GROUP BY vendor",
        )
        whole = sum(row["n"] for row in rows)
        shares[name] = {row["vendor"]: row["n"] / whole for row in rows}
    for vendor, now in shares["now"].items():
        then = shares["then"][vendor]
        assert f"| {vendor} | {then:.2%} | {now:.2%} | {100 * (now - then):+.2f} |" in table


def test_a_report_can_be_verified(written: Path, settings: dict[str, Any]) -> None:
    """Whoever has it can tell that no file was changed since."""
    assert run_tokentide("report", "--verify", str(written)).returncode == 0
    manifest = json.loads((written / "manifest.json").read_text())
    on_disk = {str(path.relative_to(written)) for path in written.rglob("*.*")}
    assert set(manifest["sha256"]) == on_disk - {"manifest.json"}
    data = written / "data" / "01_open_and_closed.csv"
    before = data.read_text()
    data.write_text(before.replace("1", "2", 1))
    changed = run_tokentide("report", "--verify", str(written))
    data.write_text(before)
    assert changed.returncode == 1
    assert "data/01_open_and_closed.csv was changed" in changed.stderr
    again = run_tokentide("report", *PERIOD, "--out", str(written.parent / "again"), **settings)
    assert again.returncode == 0
    for path in (written / "figures").iterdir():
        same = written.parent / "again" / "figures" / path.name
        assert same.read_bytes() == path.read_bytes(), "not the same bytes for the same numbers"


def test_without_requests(clickhouse: Server, fresh_database: str, tmp_path: Path) -> None:
    """It says so, and draws nothing."""
    with migrated(clickhouse, fresh_database):
        settings: dict[str, Any] = {
            "clickhouse_port": clickhouse.port,
            "clickhouse_database": fresh_database,
        }
        done = run_tokentide("report", *PERIOD, "--out", str(tmp_path / "out"), **settings)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "out" / "report.md").read_text()
    assert "There are no requests in this period." in page
    assert page.count(NOTHING) == len(ANALYSES)
    assert not (tmp_path / "out" / "figures").exists()


def test_without_clickhouse(tmp_path: Path) -> None:
    """One line, and no page: a failed question is never a zero."""
    done = run_tokentide(
        "report", *PERIOD, "--out", str(tmp_path / "out"), clickhouse_port=free_port()
    )
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("Error: clickhouse")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--from", "2026-09-07", "--to", "2026-09-07"), "is not before"),
        ((*PERIOD, "--compare-to", "2026-09-07"), "--compare-to needs --compare-from"),
        (("--verify", "."), "is no manifest"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: tuple[str, ...], said: str) -> None:
    """In one line that says what is wrong."""
    done = run_tokentide("report", *arguments)
    assert done.returncode == 1
    assert said in done.stderr


def test_other_files_are_not_overwritten(settings: dict[str, Any], tmp_path: Path) -> None:
    """A directory that is no report's stays as it is."""
    (tmp_path / "thesis.txt").write_text("mine")
    done = run_tokentide("report", *PERIOD, "--out", str(tmp_path), **settings)
    assert done.returncode == 1
    assert "holds other files" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
