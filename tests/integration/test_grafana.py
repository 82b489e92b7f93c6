"""Grafana's dashboards: as its ClickHouse data source takes them, and every query runs as the reader."""

import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest
from clickhouse_connect.driver.httpclient import HttpClient
from jsonschema import Draft202012Validator

from deploy.grafana.build import COLUMNS, DASHBOARDS, HERE, PLUGIN, dashboard, text
from tests.conftest import ClickHouseAddress as Server
from tests.conftest import fresh_name
from tests.dashboard_market import write_market
from tests.integration.sinks_database import client_at, migrated, reader_at

# The SQL query of grafana/clickhouse-datasource, src/types/sql.ts: CHSqlQuery. Its enum of query
# types writes time series in either way, depending on the version.
_SOURCE = {
    "type": "object",
    "required": ["type", "uid"],
    "properties": {"type": {"const": PLUGIN}, "uid": {"type": "string", "minLength": 1}},
}
TARGET = {
    "type": "object",
    "required": ["refId", "datasource", "editorType", "queryType", "rawSql", "format"],
    "properties": {
        "refId": {"type": "string", "minLength": 1},
        "datasource": _SOURCE,
        "editorType": {"enum": ["sql", "builder"]},
        "queryType": {"enum": ["table", "logs", "timeseries", "traces"]},
        "format": {"enum": [0, 1, 2, 3]},
        "rawSql": {"type": "string", "minLength": 1},
        "pluginVersion": {"type": "string"},
    },
    "additionalProperties": False,
}
# The macros of pkg/macros/macros.go that the dashboards use, and what they become.
MACROS: dict[str, Callable[[int], str]] = {
    "$__fromTime": lambda now: f"toDateTime({now - 3600})",
    "$__toTime": lambda now: f"toDateTime({now + 60})",
    "$__interval_s": lambda _: "30",
}


@pytest.fixture(scope="module")
def reader(clickhouse: Server) -> Iterator[HttpClient]:
    database = fresh_name("grafana")
    with migrated(clickhouse, database) as writer:
        write_market(writer)
        with client_at(reader_at(clickhouse, database)) as client:
            yield client


def queries(name: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the queries of a dashboard with the titles of what they are for."""
    found = dashboard(name)
    panels = [(each["title"], target) for each in found["panels"] for target in each["targets"]]
    return [*panels, *((each["name"], each["target"]) for each in found["annotations"]["list"])]


def filled(sql: str, variables: dict[str, str]) -> str:
    now = int(time.time())
    for macro, value in MACROS.items():
        sql = sql.replace(macro, value(now))
    for name, word in variables.items():
        sql = sql.replace(f"${{{name}}}", word)
    assert "$" not in sql, sql
    return sql


@pytest.mark.parametrize("name", DASHBOARDS)
def test_files_are_current_and_as_grafana_takes_them(name: str) -> None:
    """The file is what would be written now; panels have ids of their own and do not overlap."""
    assert (HERE / f"{name}.json").read_bytes() == text(name)
    found = orjson.loads(text(name))
    for _, target in queries(name):
        Draft202012Validator(TARGET).validate(target)
    assert len({panel["id"] for panel in found["panels"]}) == len(found["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in found["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert place["x"] + place["w"] <= COLUMNS
        taken |= cells
    names = {each["name"] for each in found["templating"]["list"]}
    used = set(re.findall(r"\$\{(\w+)\}", text(name).decode()))
    assert used == names


@pytest.mark.parametrize("name", DASHBOARDS)
def test_every_query_runs_as_the_reader(reader: HttpClient, name: str) -> None:
    """For every value of every variable; a time series has a time and numbers."""
    variables = [each for each in dashboard(name)["templating"]["list"] if each["type"] == "custom"]
    choices: list[dict[str, str]] = [{}]
    for variable in variables:
        choices = [
            {**chosen, variable["name"]: option["value"]}
            for chosen in choices
            for option in variable["options"]
        ]
    for title, target in queries(name):
        for chosen in choices:
            answer = reader.query(filled(target["rawSql"], chosen))
            if target["queryType"] == "timeseries" and answer.result_rows:
                assert answer.column_names[0] == "time", title
            if chosen in (
                {},
                {"dimension": "vendor"},
                {"dimension": "vendor", "window": "60"},
            ) and (title != "How often they were right"):
                assert answer.result_rows, title
