"""Are the tables what migrations make? Compared with ``sinks/migrations/schema.json``.

That file is what ClickHouse itself says of a freshly migrated database. Write it anew after a new
migration: ``python -m tests.integration.write_schema``; a test holds the two equal.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from clickhouse_connect.driver.httpclient import HttpClient

from deploy.self_check.check import Check, unsafe, warning
from sinks.clickhouse import CAUGHT, sorted_error
from sinks.migrate import MIGRATIONS_DIR, render
from sinks.usage_events import DUPLICATES_TABLE, TABLE

SCHEMA_FILE = MIGRATIONS_DIR / "schema.json"
_RESTORE = "run: tokentide migrate --sql | clickhouse client --multiquery"
_REPAIR = "then compare the rollups: tokentide reconcile"


@dataclass(frozen=True)
class Table:
    """A table or materialised view.

    Attributes:
        engine: Without ``Replicated`` and ``Shared``, which the server may put before it.
        target: Of a materialised view: the table that it fills, of the same database. Else empty.
        select: Of a materialised view: its query, as ClickHouse formats it.
        columns: Name -> type, with ``ALIAS`` or the like before it when it is not stored plainly.
    """

    engine: str
    partition_key: str = ""
    sorting_key: str = ""
    target: str = ""
    select: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)


def expected_tables(client: HttpClient, database: str) -> dict[str, Table]:
    """Return what migrations make, by name; queries in this server's own formatting."""
    content: dict[str, dict[str, Any]] = orjson.loads(SCHEMA_FILE.read_bytes())
    tables = {name: Table(**values) for name, values in content.items()}
    views = [name for name, table in tables.items() if table.target]
    selects = [render(tables[name].select, {"database": database}) for name in views]
    # Formatted here: versions differ in where they put brackets and quotes.
    ((formatted,),) = _query(
        client,
        "SELECT arrayMap(q -> formatQuerySingleLine(q), {selects:Array(String)})",
        selects=selects,
    )
    for name, select in zip(views, formatted, strict=True):
        tables[name] = dataclasses.replace(tables[name], select=select)
    return tables


def read_tables(client: HttpClient, database: str) -> dict[str, Table]:
    """Return the tables and materialised views of a database, by name.

    Raises:
        SinkUnavailableError, FatalError: ClickHouse does not answer or refuses.
    """
    columns: dict[str, dict[str, str]] = {}
    for table, name, kind, default in _query(
        client,
        "SELECT table, name, type, default_kind FROM system.columns"
        " WHERE database = {database:String} ORDER BY table, position",
        database=database,
    ):
        # A default applies only where an insert names no value, and ours name all.
        stored = kind if default in ("", "DEFAULT") else f"{default} {kind}"
        columns.setdefault(table, {})[name] = stored
    tables = {}
    for name, engine, partition_key, sorting_key, select, ddl in _query(
        client,
        "SELECT name, engine, partition_key, sorting_key,"
        " if(engine = 'MaterializedView', formatQuerySingleLineOrNull(as_select), ''),"
        " create_table_query FROM system.tables"
        " WHERE database = {database:String} AND name != 'schema_migrations'"
        " AND (engine LIKE '%MergeTree' OR engine = 'MaterializedView') ORDER BY name",
        database=database,
    ):
        is_view = engine == "MaterializedView"
        tables[name] = Table(
            engine.removeprefix("Replicated").removeprefix("Shared"),
            partition_key,
            sorting_key,
            _target(ddl, database) if is_view else "",
            select or "",
            {} if is_view else columns.get(name, {}),
        )
    return tables


def _target(ddl: str, database: str) -> str:
    found = re.search(r"\bTO (?:INNER UUID '[^']*' )?([\w.`]+)", ddl)
    return found[1].replace("`", "").removeprefix(f"{database}.") if found else ""


def _query(client: HttpClient, sql: str, **parameters: Any) -> Any:
    try:
        return client.query(sql, parameters=parameters).result_rows
    except CAUGHT as error:
        raise sorted_error(error) from error


def written_tables(tables: Mapping[str, Table]) -> list[str]:
    """Return the tables that an insert of a worker reaches, through views too."""
    views = [table.target for table in tables.values() if table.target]
    return [TABLE, DUPLICATES_TABLE, *sorted(set(views))]


def schema_checks(database: str, name: str, wanted: Table, found: Table | None) -> Iterator[Check]:
    """Yield how a table differs from what migrations make."""
    kind = "materialised view" if wanted.target else "table"
    place = f"{kind} {database}.{name}"
    if found is None:
        fix = f"{_RESTORE}; {_REPAIR}" if wanted.target else _RESTORE
        yield unsafe("schema", f"{place} is missing", fix)
    elif wanted.target:
        yield from _view_checks(database, name, place, wanted, found)
    else:
        yield from _table_checks(database, name, place, wanted, found)


def _view_checks(
    database: str, name: str, place: str, wanted: Table, found: Table
) -> Iterator[Check]:
    fix = f"run: DROP VIEW {database}.{name}; then run: {_RESTORE[5:]}; {_REPAIR}"
    if found.target != wanted.target:
        problem = f"{place} fills {found.target or found.engine}, not {wanted.target}"
        yield unsafe("schema", problem, fix)
    elif found.select != wanted.select:
        yield unsafe("schema", f"{place} has another query than its migration", fix)


def _table_checks(
    database: str, name: str, place: str, wanted: Table, found: Table
) -> Iterator[Check]:
    alter = f"run: ALTER TABLE {database}.{name}"
    for what in ("engine", "partition_key", "sorting_key"):
        is_now, should_be = getattr(found, what), getattr(wanted, what)
        if is_now != should_be:
            problem = f"{place} has {what.replace('_', ' ')} {is_now}, not {should_be}"
            rename = f"run: RENAME TABLE {database}.{name} TO {database}.{name}_before;"
            yield unsafe("schema", problem, f"{rename} then run: {_RESTORE[5:]}; copy the rows")
    for column, type_wanted in wanted.columns.items():
        type_found = found.columns.get(column)
        if type_found is None:
            fix = f"{alter} ADD COLUMN {column} {type_wanted}"
            yield unsafe("schema", f"{place} lacks column {column}", fix)
        elif type_found != type_wanted:
            problem = f"column {column} of {place} is {type_found}, not {type_wanted}"
            # A new type leaves the expression of a column that is computed.
            kind = re.match("MATERIALIZED|ALIAS|EPHEMERAL", type_found)
            change = f"REMOVE {kind[0]}" if kind else type_wanted
            yield unsafe("schema", problem, f"{alter} MODIFY COLUMN {column} {change}")
    for column in found.columns:
        if column not in wanted.columns:
            # Inserts name their columns, so it only gets its default; a later migration may clash.
            yield warning(
                "schema",
                f"{place} has a column of its own: {column}",
                f"{alter} DROP COLUMN {column}",
            )
