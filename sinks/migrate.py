"""Bring a ClickHouse database to the schema of this version: numbered migrations, then views.

Migrations run in order, each once; what ran is kept in ``schema_migrations`` with its SHA-256. Views
hold no data and are replaced whenever their text changes.

A migration that stopped half-way runs again from its first statement, and two commands at once may
run the same one, so every statement in it must do nothing when it is done already
(``IF NOT EXISTS``). A migration recorded twice in that way counts once.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from clickhouse_connect.driver import Client

from schemas.continents import CONTINENT_OF
from schemas.errors import ConfigurationError
from sinks.clickhouse import CAUGHT, sorted_error
from sinks.inlining import body_of, inlined

MIGRATIONS_DIR = Path(__file__).parent / "migrations"
VIEWS_DIR = Path(__file__).parent / "views"


@dataclass(frozen=True)
class ShareView:
    """One ``share_by_<name>`` view: the column it divides by and what it reads."""

    name: str
    column: str
    table: str = "usage_for"
    time: str = "time"
    seconds: int = 60

    @property
    def source(self) -> str:
        """What it reads, SQL: ``usage_for`` is a view that wants to know the range and the grain."""
        if self.table != "usage_for":
            return f"{{database}}.{self.table}"
        types = ("from_time:DateTime('UTC')", "to_time:DateTime('UTC')", "grain_seconds:UInt32")
        values = (f"{each.split(':')[0]} = {{{each}}}" for each in types)
        return f"{{database}}.usage_for({', '.join(values)})"


def _hourly(name: str, column: str) -> ShareView:
    return ShareView(name, column, "usage_context_1h", "hour", 3600)


SHARE_VIEWS = (
    ShareView("model", "model"),
    ShareView("vendor", "vendor"),
    ShareView("country", "vendor_country"),
    ShareView("license", "license"),
    ShareView("origin", "origin"),
    ShareView("size_class", "size_class"),
    ShareView("reasoning", "reasoning"),
    ShareView("provider", "provider"),
    _hourly("app", "app_id"),
    _hourly("region", "region"),
    _hourly("category", "category"),
    _hourly("finish_reason", "finish_reason"),
    _hourly("tool_use", "tool_use"),
)


@dataclass(frozen=True)
class StudyShares:
    """What views of the study are made of: ``study_<name>``, from one rollup, or a view in its form.

    Attributes:
        day: The day of a row, SQL.
        during: Whether a row lies in the period, SQL.
        only: What the shares can be restricted to, and the condition for it, SQL.
        example: A column.
        has_squares: The table has ``tokens_squared`` too.
    """

    name: str
    table: str
    day: str
    during: str
    only: Mapping[str, str]
    example: str
    has_squares: bool = False


STUDY_SHARES = (
    StudyShares(
        "shares",
        "usage_1d",
        "day",
        "day >= {from_day:Date} AND day < {to_day:Date}",
        {
            "open": "open_weights = 'open'",
            "reasoning": "reasoning IN ('always', 'optional')",
        },
        "vendor",
    ),
    StudyShares(
        "request_shares",
        "usage_context_1h",
        "toDate(hour)",
        "hour >= toDateTime({from_day:Date}, 'UTC') AND hour < toDateTime({to_day:Date}, 'UTC')",
        {"tagged": "category != 'unknown'"},
        "region",
    ),
    StudyShares(
        "sampled_shares",
        "usage_sampled_1d",
        "day",
        "day >= {from_day:Date} AND day < {to_day:Date}",
        {
            "open": "open_weights = 'open'",
            "chinese_open": "origin = 'chinese_open'",
            "programming": "category = 'programming'",
            "roleplay": "category = 'roleplay'",
        },
        "category",
        has_squares=True,
    ),
    StudyShares(
        "located_shares",
        "study_located",
        "day",
        "day >= {from_day:Date} AND day < {to_day:Date}",
        {},
        "continent",
    ),
)


@dataclass(frozen=True)
class Script:
    """A migration (``version`` from 1) or a view (``version`` 0).

    Attributes:
        sql: Statements with ``{database}`` still in place, so that the hash says nothing about it.
    """

    version: int
    name: str
    sql: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()

    def statements(self, database: str) -> list[str]:
        """Return the statements to run; one ends where a line ends in a semicolon."""
        sql = render(self.sql, {"database": database})
        return [text for part in re.split(r";\s*$", sql, flags=re.M) if (text := part.strip())]


@dataclass(frozen=True)
class Applied:
    """What a database says about a script it has run."""

    version: int
    name: str
    sha256: str
    applied_at: datetime


@dataclass(frozen=True)
class Step:
    """A script and whether it has to run: ``applied_at`` is ``None`` when it has never run."""

    script: Script
    pending: bool
    applied_at: datetime | None


def render(template: str, values: Mapping[str, str]) -> str:
    """Fill ``{name}`` placeholders; a view's own ``{parameter:Type}`` stays as it is."""
    return re.sub(r"\{([a-z_]+)\}", lambda match: values[match[1]], template)


def migrations(directory: Path = MIGRATIONS_DIR) -> list[Script]:
    """Return the migrations of this version, in order.

    Raises:
        ConfigurationError: If a number is missing or used twice.
    """
    scripts = [
        Script(int(path.name[:4]), path.stem, path.read_text("utf-8"))
        for path in sorted(directory.glob("[0-9][0-9][0-9][0-9]_*.sql"))
    ]
    for expected, script in enumerate(scripts, 1):
        if script.version != expected:
            raise ConfigurationError(
                f"migration {script.name} found where number {expected:04} should be: reinstall tokentide"
            )
    return scripts


def views(directory: Path = VIEWS_DIR) -> list[Script]:
    """Return the views of this version, each after those it reads."""
    exact_shares = (directory / "exact_shares.sql").read_text("utf-8").rstrip()
    template = (directory / "share_by.sql").read_text("utf-8")
    template = template.replace("{exact_shares}", exact_shares)
    plain = [
        Script(0, path.stem, path.read_text("utf-8"))
        for path in sorted(directory.glob("*.sql"))
        if path.stem not in ("share_by", "share_last_hour", "exact_shares")
    ]
    last_hour = render(
        (directory / "share_last_hour.sql").read_text("utf-8"),
        {"database": "{database}", "branches": _last_hour_branches()},
    )
    bodies = {each.name: body_of(each.sql) for each in plain if each.name.startswith("usage_")}
    shares = [
        Script(0, f"share_by_{view.name}", inlined(_share_sql(template, view), bodies))
        for view in SHARE_VIEWS
    ]
    shares.append(Script(0, "share_as_of", inlined(_share_as_of_sql(template), bodies)))
    study = _study(directory / "study", exact_shares)
    return [*plain, *shares, Script(0, "share_last_hour", last_hour), *study]


def _study(directory: Path, exact_shares: str) -> list[Script]:
    """Return the views of the study, one file per analysis, behind what they are made of."""
    template = (directory / "00_shares.sql").read_text("utf-8")
    template = template.replace("{exact_shares}", exact_shares)
    snippets = {
        "database": "{database}",
        "intervals": (directory / "00_intervals.sql").read_text("utf-8").rstrip(),
        "countries": ", ".join(f"'{country}'" for country in CONTINENT_OF),
        "continents": ", ".join(f"'{continent}'" for continent in CONTINENT_OF.values()),
    }

    bodies: dict[str, str] = {}

    def script(name: str, sql: str) -> Script:
        whole = inlined(sql, bodies)
        bodies[name] = body_of(whole)
        return Script(0, name, whole)

    def rendered(stem: str) -> str:
        return render((directory / f"{stem}.sql").read_text("utf-8"), snippets)

    made_of = [
        script("study_located", rendered("00_located")),
        script("study_user_days", rendered("00_user_days")),
        *(script(f"study_{each.name}", _study_sql(template, each)) for each in STUDY_SHARES),
        script("study_sampled_estimates", rendered("00_estimates")),
    ]
    analyses = [
        script(f"study_{path.stem}", rendered(path.stem))
        for path in sorted(directory.glob("[0-9][0-9]_*.sql"))
        if not path.stem.startswith("00_")
    ]
    return [*made_of, *analyses]


def _study_sql(template: str, shares: StudyShares) -> str:
    choices = ("", *shares.only)
    conditions = [
        f"({{only:String}} != '{name}' OR {condition})" for name, condition in shares.only.items()
    ]
    return render(
        template,
        {
            "database": "{database}",
            "name": shares.name,
            "table": shares.table,
            "day": shares.day,
            "during": shares.during,
            "condition": " AND ".join(conditions) or "true",
            "choices": ", ".join(f"'{name}'" for name in choices),
            "choices_text": " or ".join(f"''{name}''" for name in choices),
            "example": shares.example,
            "squares": ", tokens_squared" if shares.has_squares else "",
            "sum_of_squares": f",\n            sum({shares.table}.tokens_squared) AS tokens_squared"
            if shares.has_squares
            else "",
            "sum_of_sums": ",\n            sum(p.tokens_squared) AS tokens_squared"
            if shares.has_squares
            else "",
        },
    )


def _share_sql(template: str, view: ShareView) -> str:
    return render(
        template,
        {
            "database": "{database}",
            "view": f"by_{view.name}",
            "name": view.name,
            "what": f"Share of traffic by {view.name}, per bucket of event time, from {view.table}.",
            "parameter": "",
            "argument": "",
            "column": view.column,
            "source": view.source,
            "table": view.table,
            "time": view.time,
            "seconds": str(view.seconds),
            "example_seconds": str(15 * view.seconds),
        },
    )


def _share_as_of_sql(template: str) -> str:
    moment = "as_of = {as_of:DateTime64(3, 'UTC')}"
    return render(
        template,
        {
            "database": "{database}",
            "view": "as_of",
            "name": "value of the column",
            "what": "Share of traffic as it stood at a moment, by any column of usage_as_of, per bucket of"
            " event time: an answer that was given then, given again. Reads usage_events: its cost grows"
            " with the requests of the range.",
            "parameter": "column: such as model, vendor or origin. as_of: the moment, UTC. ",
            "argument": "column = ''vendor'', as_of = now64(3) - INTERVAL 1 HOUR, ",
            "column": "{column:Identifier}",
            "source": f"{{database}}.usage_as_of({moment})",
            "table": "usage_as_of",
            "time": "minute",
            "seconds": "60",
            "example_seconds": "86400",
        },
    )


def _last_hour_branches() -> str:
    columns = "value, tokens, requests, spend_usd, token_share, request_share, spend_share"
    arguments = "from_time = now() - 3600, to_time = now(), grain_seconds = 0, top_n = 20"
    return "\nUNION ALL\n".join(
        f"SELECT '{view.name}' AS dimension, {columns}\n"
        f"FROM {{database}}.share_by_{view.name}({arguments})"
        for view in SHARE_VIEWS
        if view.seconds == 60
    )


def plan(scripts: Sequence[Script], applied: Sequence[Applied]) -> list[Step]:
    """Return every script with whether it has to run, migrations first.

    Raises:
        ConfigurationError: If a migration that ran has changed or is not known here, or if one
            between them has not run: the data may not be what the code believes.
    """
    ran = {item.version: item for item in applied if item.version > 0}
    known = {script.version: script for script in scripts if script.version > 0}
    for version, item in sorted(ran.items()):
        if version not in known:
            raise ConfigurationError(
                f"the database has migration {item.name}, which this version of tokentide does not "
                "know: install the newer tokentide"
            )
        if known[version].sha256 != item.sha256:
            raise ConfigurationError(
                f"migration {item.name} was changed after it ran: restore the file and put the "
                "change into a new migration"
            )
    for version in range(1, max(ran, default=0)):
        if version not in ran:
            raise ConfigurationError(
                f"migration {known[version].name} did not run but a later one did: restore table "
                "schema_migrations"
            )
    view_of = {item.name: item for item in applied if item.version == 0}
    return [
        _step(script, ran.get(script.version) or view_of.get(script.name)) for script in scripts
    ]


def _step(script: Script, applied: Applied | None) -> Step:
    pending = applied is None or applied.sha256 != script.sha256
    return Step(script, pending, applied.applied_at if applied else None)


def status(client: Client, database: str) -> list[Step]:
    """Return what ``migrate`` would do; changes nothing.

    Raises:
        ConfigurationError: As ``plan``.
        SinkUnavailableError, FatalError: The server does not answer or refuses.
    """
    return plan([*migrations(), *views()], _applied(client, database))


def migrate(client: Client, database: str) -> Iterator[Step]:
    """Run what is pending and yield each step when it is done.

    Args:
        client: Connected to a database that exists, such as ``default``; its user may create.
        database: The database to bring up to date; made if it does not exist.

    Raises:
        ConfigurationError: As ``plan``; nothing has been changed then.
        SinkUnavailableError, FatalError: The server does not answer or refuses a statement. What
            was yielded has been recorded; running again goes on from there.
    """
    try:
        for statement in _BOOKKEEPING:
            client.command(render(statement, {"database": database}))
        for step in status(client, database):
            if step.pending:
                for statement in step.script.statements(database):
                    client.command(statement)
                _record(client, database, step.script)
                yield step
    except CAUGHT as error:
        raise sorted_error(error) from error


_BOOKKEEPING = (
    "CREATE DATABASE IF NOT EXISTS {database} COMMENT 'LLM usage: see SHOW TABLES, then DESCRIBE'",
    """
CREATE TABLE IF NOT EXISTS {database}.schema_migrations
(
    version UInt32 COMMENT 'Number of the migration; 0 for a view',
    name String COMMENT 'Name of the migration or view',
    sha256 String COMMENT 'SHA-256 of its text before the database name is filled in, hexadecimal',
    applied_at DateTime64(3, 'UTC') COMMENT 'When it ran, UTC'
)
ENGINE = MergeTree
ORDER BY (version, name)
COMMENT 'What tokentide migrate has run, one row per run'
""",
)


def _record(client: Client, database: str, script: Script) -> None:
    client.command(
        f"INSERT INTO {database}.schema_migrations "
        "SELECT {version:UInt32}, {name:String}, {sha256:String}, now64(3, 'UTC')",
        parameters={"version": script.version, "name": script.name, "sha256": script.sha256},
    )


def _applied(client: Client, database: str) -> list[Applied]:
    try:
        if not client.command(f"EXISTS TABLE {database}.schema_migrations"):
            return []
        rows = client.query(
            "SELECT version, name, argMax(sha256, applied_at), max(applied_at) AS last "
            f"FROM {database}.schema_migrations GROUP BY version, name ORDER BY version, last"
        ).result_rows
    except CAUGHT as error:
        raise sorted_error(error) from error
    return [Applied(*row) for row in rows]
