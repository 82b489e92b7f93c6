"""Migrations against the engine."""

import re
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from clickhouse_connect.driver.httpclient import HttpClient

from schemas.errors import ConfigurationError
from sinks.migrate import migrate, migrations, status, views
from tests.conftest import ClickHouseAddress as Server
from tests.conftest import run_tokentide
from tests.integration.sinks_database import (
    client_at,
    migrated,
    one_of,
    rows_of,
    verify,
    writer_at,
)


@pytest.fixture
def client(clickhouse: Server, fresh_database: str) -> Iterator[HttpClient]:
    with migrated(clickhouse, fresh_database) as client:
        yield client


def test_a_second_run_does_nothing(client: HttpClient) -> None:
    """All scripts ran once, are recorded with their hash, and are not pending any more."""
    assert client.database is not None
    assert list(migrate(client, client.database)) == []
    assert not any(step.pending for step in status(client, client.database))
    recorded = rows_of(client, "SELECT version, name, sha256 FROM schema_migrations")
    assert sorted((row["version"], row["name"], row["sha256"]) for row in recorded) == sorted(
        (script.version, script.name, script.sha256) for script in [*migrations(), *views()]
    )


def test_an_altered_migration_is_refused_and_nothing_runs(client: HttpClient) -> None:
    """A hash that does not match stops before any statement."""
    assert client.database is not None
    client.command(
        "ALTER TABLE schema_migrations DELETE WHERE version = 0 SETTINGS mutations_sync = 2"
    )
    client.command(
        "ALTER TABLE schema_migrations UPDATE sha256 = 'other' WHERE version = 2 "
        "SETTINGS mutations_sync = 2"
    )
    with pytest.raises(ConfigurationError, match="0002_create_usage_1m was changed after it ran"):
        list(migrate(client, client.database))
    assert one_of(client, "SELECT count() FROM schema_migrations WHERE version = 0") == 0


def test_a_newer_database_is_refused(client: HttpClient) -> None:
    """migrate and verify both say to install the newer version."""
    assert client.database is not None
    client.command("INSERT INTO schema_migrations SELECT 99, '0099_later', 'x', now64(3)")
    for run in (lambda name: list(migrate(client, name)), lambda name: verify(client, name)):
        with pytest.raises(ConfigurationError, match="0099_later, which this version"):
            run(client.database)


def test_an_interrupted_migration_goes_on(client: HttpClient) -> None:
    """A script whose record was not written, or only half of it ran, runs again without harm."""
    assert client.database is not None
    client.command("DROP VIEW usage_1h_to_usage_1d")
    client.command(
        "ALTER TABLE schema_migrations DELETE WHERE version >= 4 SETTINGS mutations_sync = 2"
    )
    with pytest.raises(ConfigurationError, match="lacks migration 0004"):
        verify(client, client.database)
    pending = [script.version for script in migrations() if script.version >= 4]
    assert [step.script.version for step in migrate(client, client.database)] == pending
    assert one_of(client, "EXISTS TABLE usage_1h_to_usage_1d") == 1


def test_two_at_once(clickhouse: Server, fresh_database: str) -> None:
    """Two runs side by side both succeed and leave one complete schema."""
    failures: list[Exception] = []

    def run() -> None:
        try:
            with client_at(writer_at(clickhouse)) as client:
                list(migrate(client, fresh_database))
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with migrated(clickhouse, fresh_database) as client:
        assert not any(step.pending for step in status(client, fresh_database))


def test_the_schema_documents_itself(client: HttpClient) -> None:
    """Every table and view has a comment, and every column that DESCRIBE shows of them."""
    tables = rows_of(
        client,
        "SELECT name, engine, comment FROM system.tables WHERE database = currentDatabase()",
    )
    created = sum(len(re.findall(r"^CREATE ", each.sql, re.M)) for each in migrations())
    assert len(tables) == created + len(views()) + 1
    for table in tables:
        assert table["comment"], table["name"]
        # ClickHouse keeps no column comments for these two: a materialised view has those of its
        # target, a view with parameters explains its columns in its own comment.
        if table["engine"] == "MaterializedView" or table["name"].startswith(
            ("share_by_", "study_", "share_as_of", "usage_as_of", "usage_for")
        ):
            continue
        for column in rows_of(client, f"DESCRIBE {table['name']}"):
            assert column["comment"], f"{table['name']}.{column['name']}"


def test_no_table_keeps_statistics(client: HttpClient) -> None:
    """Statistics of columns are made at each insert and merge; the table of migrations is tiny."""
    keeping = rows_of(
        client,
        "SELECT DISTINCT table FROM system.columns WHERE database = currentDatabase()"
        " AND notEmpty(statistics) AND table != 'schema_migrations'",
    )
    assert keeping == []


def test_a_share_view_explains_its_columns(client: HttpClient) -> None:
    """The comment of a share view names every column it returns."""
    call = "share_by_model(from_time = now() - 60, to_time = now(), grain_seconds = 60, top_n = 1)"
    comment = one_of(
        client,
        "SELECT comment FROM system.tables "
        "WHERE database = currentDatabase() AND name = 'share_by_model'",
    )
    for column in rows_of(client, f"DESCRIBE {call}"):
        assert column["name"] in comment


def test_the_command(clickhouse: Server, fresh_database: str) -> None:
    """Dry run changes nothing, then everything runs, then nothing is left to do."""
    settings: dict[str, Any] = {
        "clickhouse_port": clickhouse.port,
        "clickhouse_database": fresh_database,
    }
    dry = run_tokentide("migrate", "--dry-run", **settings)
    assert dry.returncode == 0, dry.stderr
    assert "0001_create_usage_events     would run" in dry.stdout
    first = run_tokentide("migrate", **settings)
    assert first.returncode == 0, first.stderr
    assert "migration 0001_create_usage_events: done" in first.stdout
    second = run_tokentide("migrate", **settings)
    assert second.stdout == f"database {fresh_database} is up to date: nothing to do\n"
    with client_at(writer_at(clickhouse)) as client:
        client.command(f"DROP DATABASE {fresh_database}")


def test_the_command_with_nobody_there() -> None:
    """One line that says what does not answer, exit 1."""
    run = run_tokentide("migrate", "--timeout", "0", clickhouse_port=1)
    assert run.returncode == 1
    assert run.stderr == ("Error: clickhouse at 127.0.0.1:1 does not answer: connection refused\n")
