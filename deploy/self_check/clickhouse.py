"""ClickHouse as a worker needs it: what makes a repeated insert count once, and only once.

Every check reads. Errors of the network are the caller's (``SinkUnavailableError``): nothing is
known then. A request that ClickHouse refuses is a finding of its own.
"""

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clickhouse_connect.driver.exceptions import ProgrammingError
from clickhouse_connect.driver.httpclient import HttpClient

from deploy.self_check.check import Check, State, clock_check, ok, unless, unsafe, warning
from deploy.self_check.schema import (
    Table,
    expected_tables,
    read_tables,
    schema_checks,
    written_tables,
)
from schemas.errors import ConfigurationError, FatalError, RejectedBatchError
from sinks import migrate
from sinks.clickhouse import CAUGHT, sorted_error
from sinks.usage_events import INSERT_SETTINGS, TABLE

# Release line -> first build with the fix of a defect in exactly what the rollups rely on: an
# insert through a materialised view into a partitioned table could read out of bounds and confuse
# its deduplication tokens (ClickHouse PR 112649, its backports 113259 to 113261). Older lines got
# the defect (PR 111049) and are not known to have the fix.
OLDEST_BUILDS: Mapping[tuple[int, ...], tuple[int, ...]] = {
    (26, 5): (26, 5, 7, 20),
    (26, 6): (26, 6, 3, 19),
    (26, 7): (26, 7, 3, 9),
}
OLDEST_LINE_WITHOUT_DEFECT = (26, 8)

WINDOW_MIN = 1000
"""Fewest remembered inserts per table that a worker accepts: minutes of repeats at full speed."""
WINDOW = 10_000
WINDOW_SECONDS_MIN = 86_400
"""Replicated tables also forget by age: a repeat after an outage of a day must still be known."""
WINDOW_SECONDS = 604_800

# What decides besides the settings that the writer sends, and the only values that are safe.
_MUST_BE: Mapping[str, Sequence[str]] = {
    # A view that fails must fail the insert, or its rollup misses the block for good.
    "materialized_views_ignore_errors": ("0",),
    # A block that is split by bytes can land half.
    "max_insert_block_size_bytes": ("0",),
    "readonly": ("0",),
}
_WRITING = ("SELECT", "INSERT")
_MENDING = ("CREATE TABLE", "DROP TABLE", "ALTER DELETE")
"""A part is made in another table and moved (`sinks.lost_blocks`, `sinks.completing`)."""
_REFUSED_SETTING_CODES = (164, 452)  # READONLY, SETTING_CONSTRAINT_VIOLATION

NEWEST_ROWS = 1_000_000
"""Rows whose offsets are looked at: 30 ms, whatever is stored (20,000,000 rows, one machine)."""

LARGE_PART_BYTES = 100 << 20
"""From here on parts are in ZSTD, if the server has `deploy/clickhouse/compression.xml`."""

_DEDUPLICATION_DEFAULTS = """
SELECT name, value FROM system.{kind}_settings
WHERE name IN ('non_replicated_deduplication_window', 'replicated_deduplication_window',
    'replicated_deduplication_window_seconds')
"""


def clickhouse_checks(
    client: HttpClient,
    database: str,
    user: str,
    now_ms: Callable[[], float] = lambda: time.time() * 1000,
) -> list[Check]:
    """Return what was found, most basic things first.

    Args:
        client: The writer's, connected to a database that exists.
        user: The writer's name, for the fixes.
        now_ms: The worker's clock, epoch milliseconds.

    Raises:
        SinkUnavailableError: ClickHouse does not answer now.
    """
    found = [
        *_guarded("clickhouse version", lambda: [_version(client)]),
        *_guarded("clickhouse clock", lambda: [_clock(client, now_ms)]),
        *_guarded("writer's rights", lambda: _rights(client, database, user)),
        *_guarded("writer's settings", lambda: unless(*_settings(client, user))),
    ]
    migrations = _guarded("migrations", lambda: _migrations(client, database))
    found += migrations
    if migrations[0].state is State.UNSAFE:
        return found  # Of tables that are another version's every difference would be told.
    return [*found, *_guarded("schema", lambda: _tables(client, database))]


def newest_stored_offsets(client: HttpClient, database: str) -> dict[int, int]:
    """Return the highest Kafka offset among the newest rows, by Kafka partition.

    Read in the order of the table's key, backwards: newest are those of the newest event times. A
    partition that is not among them has none. Empty when there is no such table.

    Raises:
        SinkUnavailableError, FatalError: ClickHouse does not answer or refuses.
    """
    if not _rows(
        client,
        "SELECT 1 FROM system.tables WHERE database = {d:String} AND name = {t:String}",
        d=database,
        t=TABLE,
    ):
        return {}
    rows = _rows(
        client,
        "SELECT kafka_partition, max(kafka_offset) FROM ("
        f"SELECT kafka_partition, kafka_offset FROM {database}.{TABLE}"
        f" ORDER BY toStartOfSecond(occurred_at) DESC LIMIT {NEWEST_ROWS}"
        ") GROUP BY kafka_partition",
    )
    return {int(partition): int(offset) for partition, offset in rows}


def _guarded(name: str, look: Callable[[], list[Check]]) -> list[Check]:
    """Turn what ClickHouse refuses into a finding."""
    try:
        return look()
    except (FatalError, RejectedBatchError) as error:
        return [
            unsafe(name, str(error), "let the writer's user read its own and the system tables")
        ]


def _rows(client: HttpClient, sql: str, **parameters: Any) -> Sequence[Sequence[Any]]:
    try:
        return client.query(sql, parameters=parameters).result_rows
    except CAUGHT as error:
        raise sorted_error(error) from error


def _version(client: HttpClient) -> Check:
    ((text,),) = _rows(client, "SELECT version()")
    return version_check(text)


def version_check(text: str) -> Check:
    """Judge a version such as ``26.9.2.1``."""
    name = "clickhouse version"
    version = tuple(int(part) for part in re.findall(r"\d+", text)[:4])
    if version >= OLDEST_BUILDS.get(version[:2], OLDEST_LINE_WITHOUT_DEFECT):
        return ok(name, f"clickhouse {text}")
    return unsafe(
        name,
        f"clickhouse {text} may confuse the deduplication of rollups (ClickHouse PR 112649)",
        "upgrade ClickHouse to 26.8 or newer, or to 26.7.3.9, 26.6.3.19 or 26.5.7.20 of its line",
    )


def _clock(client: HttpClient, now_ms: Callable[[], float]) -> Check:
    before_ms = now_ms()
    ((server_ms,),) = _rows(client, "SELECT toUnixTimestamp64Milli(now64(3))")
    after_ms = now_ms()
    error_ms = (after_ms - before_ms) / 2
    return clock_check("clickhouse clock", "clickhouse", server_ms - before_ms - error_ms, error_ms)


def _rights(client: HttpClient, database: str, user: str) -> list[Check]:
    name = "writer's rights"
    problems = []
    if missing := _missing_rights(client, database, _WRITING):
        problems.append(
            unsafe(
                name,
                f"user {user} may not {' nor '.join(missing)} in {database}",
                f"run: GRANT {', '.join(missing)} ON {database}.* TO {user}",
            )
        )
    if missing := _missing_rights(client, database, _MENDING):
        problems.append(
            warning(
                name,
                f"user {user} may not {' nor '.join(missing)} in {database}: a block that ClickHouse"
                " loses when it is killed is found, and can't be stored again",
                f"run: GRANT {', '.join(missing)} ON {database}.* TO {user}",
            )
        )
    allowed = ", ".join((*_WRITING, *_MENDING))
    return unless(problems, name, f"user {user} may {allowed} in {database}")


def _missing_rights(client: HttpClient, database: str, rights: Sequence[str]) -> list[str]:
    return [
        right for right in rights if not _rows(client, f"CHECK GRANT {right} ON {database}.*")[0][0]
    ]


def _settings(client: HttpClient, user: str) -> tuple[list[Check], str, str]:
    """Look at the settings that will be in force when this user inserts, ours included."""
    name, fine = "writer's settings", "inserts are synchronous, whole and deduplicated"
    names = [*INSERT_SETTINGS, *_MUST_BE]
    try:
        rows = client.query(
            "SELECT name, value FROM system.settings WHERE name IN {names:Array(String)}",
            parameters={"names": names},
            settings={**INSERT_SETTINGS, "insert_deduplication_token": "tokentide doctor"},
        ).result_rows
    except CAUGHT as error:
        is_refused = getattr(error, "code", None) in _REFUSED_SETTING_CODES
        if not is_refused and not isinstance(error, ProgrammingError):  # The driver's own refusal.
            raise sorted_error(error) from error
        problem = unsafe(
            name,
            f"user {user} may not set what its inserts need: {sorted_error(error)}",
            f"remove that constraint, or readonly, from the settings profile of user {user}",
        )
        return [problem], name, fine
    in_force = {str(setting): str(value) for setting, value in rows}
    return list(settings_checks(in_force, user)), name, fine


def settings_checks(found: Mapping[str, str], user: str) -> Iterator[Check]:
    """Yield what is unsafe of the settings in force, by name; one that is absent is not known yet."""
    wanted: dict[str, Sequence[str]] = {
        **{name: (str(value),) for name, value in INSERT_SETTINGS.items()},
        **_MUST_BE,
    }
    for name, values in wanted.items():
        if name in found and found[name] not in values:
            yield unsafe(
                "writer's settings",
                f"inserts of user {user} run with {name} = {found[name]}",
                f"run: ALTER USER {user} SETTINGS {name} = '{values[0]}', or set it in its profile",
            )


def _migrations(client: HttpClient, database: str) -> list[Check]:
    name = "migrations"
    try:
        steps = migrate.status(client, database)
    except ConfigurationError as error:
        found, _, fix = str(error).partition(": ")
        return [unsafe(name, found, fix)]
    pending = [step.script.name for step in steps if step.pending and step.script.version]
    views = [step.script.name for step in steps if step.pending and not step.script.version]
    if pending:
        found = f"database {database} lacks migration {pending[0]}"
        return [unsafe(name, found, "run: tokentide migrate")]
    if views:
        found = f"{len(views)} views of {database} are of another version, such as {views[0]}"
        return [warning(name, found, "run: tokentide migrate")]
    return [ok(name, f"{sum(step.script.version > 0 for step in steps)} in {database}, unchanged")]


def _tables(client: HttpClient, database: str) -> list[Check]:
    wanted = expected_tables(client, database)
    return [
        *_schema(client, database, wanted),
        *_windows(client, database, written_tables(wanted)),
        *_other_views(client, database, wanted),
        *_compression(client, database, written_tables(wanted)),
    ]


def _schema(client: HttpClient, database: str, wanted: Mapping[str, Table]) -> list[Check]:
    found = read_tables(client, database)
    views = sum(bool(table.target) for table in wanted.values())
    fine = f"{len(wanted) - views} tables and {views} materialised views as migrations make them"
    problems = [
        problem
        for name, table in wanted.items()
        for problem in schema_checks(database, name, table, found.get(name))
    ]
    return unless(problems, "schema", fine)


@dataclass(frozen=True)
class WrittenTable:
    """A table that inserts reach: its engine and the settings that were given to it."""

    name: str
    engine: str
    settings: Mapping[str, int]


def _windows(client: HttpClient, database: str, names: Sequence[str]) -> list[Check]:
    rows = _rows(
        client,
        "SELECT name, engine, create_table_query FROM system.tables"
        " WHERE database = {database:String} AND name IN {names:Array(String)} ORDER BY name",
        database=database,
        names=names,
    )
    tables = [
        WrittenTable(
            name,
            engine,
            {key: int(value) for key, value in re.findall(r"\b(\w*dedup\w+) = (\d+)", ddl)},
        )
        for name, engine, ddl in rows
    ]
    replicated = any(_is_replicated(table) for table in tables)
    kind = "replicated_merge_tree" if replicated else "merge_tree"
    defaults = {
        name: int(v) for name, v in _rows(client, _DEDUPLICATION_DEFAULTS.format(kind=kind))
    }
    fewest = min((_window(table, defaults) for table in tables), default=0)
    fine = f"the last {fewest:,} inserts into each of {len(tables)} tables are remembered"
    problems = [each for table in tables for each in window_checks(database, table, defaults)]
    return unless(problems, "deduplication windows", fine)


def _is_replicated(table: WrittenTable) -> bool:
    return table.engine.startswith(("Replicated", "Shared"))


def _window_setting(table: WrittenTable) -> str:
    prefix = "" if _is_replicated(table) else "non_"
    return f"{prefix}replicated_deduplication_window"


def _window(table: WrittenTable, defaults: Mapping[str, int]) -> int:
    setting = _window_setting(table)
    return table.settings.get(setting, defaults.get(setting, 0))


def window_checks(
    database: str, table: WrittenTable, defaults: Mapping[str, int]
) -> Iterator[Check]:
    """Yield what would make a repeated insert count twice in a table.

    Args:
        defaults: The server's values of the settings that the table was not given.
    """
    name, place = "deduplication windows", f"{database}.{table.name}"
    alter = f"run: ALTER TABLE {place} MODIFY SETTING"
    setting, window = _window_setting(table), _window(table, defaults)
    if window < WINDOW_MIN:
        found = f"table {place} would count repeated inserts twice ({setting} = {window})"
        yield unsafe(name, found, f"{alter} {setting} = {WINDOW}")
    if not _is_replicated(table):
        return
    setting = "replicated_deduplication_window_seconds"
    seconds = table.settings.get(setting, defaults.get(setting, 0))
    if seconds < WINDOW_SECONDS_MIN:
        found = f"table {place} forgets an insert after {seconds} s: a repeat after a longer outage"
        yield unsafe(name, f"{found} would count twice", f"{alter} {setting} = {WINDOW_SECONDS}")


def _other_views(client: HttpClient, database: str, tables: Mapping[str, Table]) -> list[Check]:
    """Look for materialised views that are not ours and read what workers write."""
    rows = _rows(
        client,
        "SELECT arrayJoin(arrayZip(dependencies_database, dependencies_table)) AS view, name"
        " FROM system.tables WHERE database = {database:String} AND name IN {names:Array(String)}"
        " ORDER BY view",
        database=database,
        names=written_tables(tables),
    )
    problems = [
        warning(
            "other views",
            f"materialised view {owner}.{view} reads {source}: an error in it stops the workers",
            "give its target a deduplication window, or fill it from a copy: see SHOW CREATE VIEW"
            f" {owner}.{view}",
        )
        for (owner, view), source in rows
        if owner != database or view not in tables
    ]
    return unless(problems, "other views", "nothing else hangs on the workers' inserts")


def _compression(client: HttpClient, database: str, names: Sequence[str]) -> list[Check]:
    """Look for large parts that are compressed as small ones: nothing is wrong with them but their size."""
    rows = _rows(
        client,
        "SELECT table, count(), formatReadableSize(sum(bytes_on_disk)) FROM system.parts"
        " WHERE active AND database = {database:String} AND table IN {names:Array(String)}"
        " AND bytes_on_disk > {large:UInt64} AND default_compression_codec LIKE 'LZ4%'"
        " GROUP BY table ORDER BY table",
        database=database,
        names=names,
        large=LARGE_PART_BYTES,
    )
    problems = [
        warning(
            "compression",
            f"{count} large parts of {database}.{table}, {size}, are in LZ4: half as large again as they need be",
            "copy deploy/clickhouse/compression.xml into the server's config.d and restart it: parts"
            " are in ZSTD from their next merge on",
        )
        for table, count, size in rows
    ]
    return unless(problems, "compression", "no large part is in LZ4")
