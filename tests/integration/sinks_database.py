"""A migrated database on the session's ClickHouse, and plain answers from it."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from typing import Any

from clickhouse_connect.driver.httpclient import HttpClient

from deploy.self_check.all_checks import refuse_unsafe
from deploy.self_check.clickhouse import clickhouse_checks
from sinks.clickhouse import ClickHouseAddress, connect
from sinks.migrate import migrate
from tests.conftest import ClickHouseAddress as Server


def writer_at(server: Server, database: str = "default") -> ClickHouseAddress:
    """Return the writer's address."""
    return ClickHouseAddress(
        server.host, server.port, server.writer_user, server.writer_password, database
    )


def reader_at(server: Server, database: str) -> ClickHouseAddress:
    """Return the reader's address."""
    return dataclasses.replace(
        writer_at(server, database), user=server.reader_user, password=server.reader_password
    )


@contextmanager
def client_at(address: ClickHouseAddress) -> Iterator[HttpClient]:
    """A client that is closed at the end of the block."""
    client = connect(address)
    try:
        yield client
    finally:
        client.close()


@contextmanager
def migrated(server: Server, database: str) -> Iterator[HttpClient]:
    """A writer's client in a new, migrated database, which is dropped at the end."""
    with client_at(writer_at(server)) as client:
        list(migrate(client, database))
    with client_at(writer_at(server, database)) as client:
        try:
            yield client
        finally:
            client.command(f"DROP DATABASE IF EXISTS {database}")


def verify(client: HttpClient, database: str) -> None:
    """Refuse what a worker that starts on this database would refuse."""
    refuse_unsafe(clickhouse_checks(client, database, "writer"))


def rows_of(client: HttpClient, sql: str, **parameters: Any) -> list[dict[str, Any]]:
    """Return the answer as dictionaries."""
    return list(client.query(sql, parameters=parameters).named_results())


def one_of(client: HttpClient, sql: str, **parameters: Any) -> Any:
    """Return the single value of an answer."""
    ((value,),) = client.query(sql, parameters=parameters).result_rows
    return value


def ask_study(
    client: HttpClient, view: str, from_day: date, to_day: date, **more: int
) -> list[dict[str, Any]]:
    """Return what a view of the study answers for a period."""
    arguments = {"from_day": f"'{from_day}'", "to_day": f"'{to_day}'", **more}
    text = ", ".join(f"{name} = {value}" for name, value in arguments.items())
    return rows_of(client, f"SELECT * FROM study_{view}({text})")
