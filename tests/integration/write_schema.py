"""Write ``sinks/migrations/schema.json`` anew: ``python -m tests.integration.write_schema``."""

import dataclasses
import re
import tempfile
from pathlib import Path

import orjson
from clickhouse_connect.driver.httpclient import HttpClient

from deploy.self_check.schema import SCHEMA_FILE, read_tables
from tests.conftest import (
    ClickHouseAddress,
    free_port,
    fresh_name,
    http_answers,
    running,
    tokentide,
)
from tests.integration.sinks_database import migrated


def schema_of(client: HttpClient) -> bytes:
    """Return what the file holds when the client's database is one freshly migrated."""
    database = client.database
    assert database is not None
    tables = {
        name: {
            **dataclasses.asdict(table),
            "select": re.sub(rf"\b{database}\.", "{database}.", table.select),
        }
        for name, table in read_tables(client, database).items()
    }
    return orjson.dumps(tables, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        server = ClickHouseAddress("127.0.0.1", free_port(), "writer", "writer-local", "reader", "")
        command = tokentide("clickhouse", "--data-dir", directory, "--port", str(server.port))
        log = Path(directory) / "out.log"
        url = f"http://{server.host}:{server.port}/ping"
        with (
            running("clickhouse", command, log, lambda: http_answers(url)),
            migrated(server, fresh_name("schema")) as client,
        ):
            SCHEMA_FILE.write_bytes(schema_of(client))


if __name__ == "__main__":
    main()
