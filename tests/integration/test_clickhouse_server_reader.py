"""Attempts of a reader to write, to read files, to reach out, or to lift its limits."""

import base64
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import clickhouse_connect
import pytest
import requests
from clickhouse_connect.driver.exceptions import DatabaseError

from deploy.local.clickhouse_access import READER_LIMITS
from tests.conftest import ClickHouseAddress, fresh_name

SECRET = "a-secret-of-the-machine"


class Reader:
    """Plain HTTP requests of the reader, and of the writer for comparison."""

    def __init__(self, address: ClickHouseAddress) -> None:
        self.url = f"http://{address.host}:{address.port}/"
        self.writer = (address.writer_user, address.writer_password)
        self.database = fresh_name("guarded")

    def __call__(self, body: str | bytes, **parameters: str | int) -> requests.Response:
        return requests.post(
            self.url, params={"user": "reader", **parameters}, data=body, timeout=90
        )

    def as_writer(self, body: str) -> str:
        """Run a statement of the writer that must work."""
        answer = requests.post(self.url, data=body, auth=self.writer, timeout=90)
        assert answer.ok, answer.text
        return answer.text

    def state(self) -> str:
        """Return what a reader might have changed."""
        return self.as_writer(
            "SELECT groupArray((database, name, total_rows)) FROM"
            f" (SELECT * FROM system.tables WHERE database = '{self.database}'"
            " OR is_temporary ORDER BY database, name)"
        ) + self.as_writer("SHOW DATABASES") + self.as_writer(
            "SELECT groupArray(name) FROM system.functions WHERE origin != 'System'"
        )  # fmt: skip


@pytest.fixture(scope="module")
def reader(clickhouse: ClickHouseAddress) -> Iterator[Reader]:
    """A reader, and a database with a table and a view to guard."""
    reader = Reader(clickhouse)
    reader.as_writer(f"CREATE DATABASE {reader.database}")
    reader.as_writer(
        f"CREATE TABLE {reader.database}.t (x UInt64, s String) ENGINE = MergeTree ORDER BY x"
    )
    reader.as_writer(f"INSERT INTO {reader.database}.t VALUES (1, 'a'), (2, 'b')")
    reader.as_writer(
        f"CREATE VIEW {reader.database}.v AS SELECT x FROM {reader.database}.t"
        " WHERE x >= {least:UInt64}"
    )
    yield reader
    reader.as_writer(f"DROP DATABASE {reader.database} SYNC")


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    """A file that no query of a reader may show or change."""
    path = tmp_path / "secret.csv"
    path.write_text(f"{SECRET},x\n1,2\n")
    return path


WRITES = """
INSERT INTO {db}.t VALUES (3, 'c')
INSERT INTO {db}.t SELECT 3, 'c'
INSERT INTO {db}.t FORMAT CSV 3,c
insert /* x */ into {db}.t values (3, 'c')
WITH 3 AS n INSERT INTO {db}.t SELECT n, 'c'
INSERT INTO {db}.t FROM INFILE '{file}' FORMAT CSV
INSERT INTO FUNCTION file('{out}', 'CSV', 'a String') SELECT 'x'
INSERT INTO FUNCTION null('a UInt8') SELECT 1
CREATE TABLE {db}.u (x UInt8) ENGINE = Memory
CREATE TEMPORARY TABLE u (x UInt8)
CREATE VIEW {db}.w AS SELECT 1
CREATE DATABASE reader_made_this
CREATE FUNCTION reader_made_this AS (x) -> x
CREATE DICTIONARY {db}.d (a String) PRIMARY KEY a SOURCE(FILE(path '{file}' format 'CSV')) LAYOUT(COMPLEX_KEY_HASHED()) LIFETIME(0)
CREATE TABLE {db}.u ENGINE = File(CSV, '{file}')
CREATE USER reader_made_this
ATTACH TABLE {db}.u FROM '{file}' (a String) ENGINE = File(CSV)
DROP TABLE {db}.t
DROP DATABASE {db}
TRUNCATE TABLE {db}.t
RENAME TABLE {db}.t TO {db}.u
EXCHANGE TABLES {db}.t AND {db}.v
ALTER TABLE {db}.t DELETE WHERE 1
ALTER TABLE {db}.t ADD COLUMN y UInt8
DELETE FROM {db}.t WHERE 1
UPDATE {db}.t SET s = '' WHERE 1
OPTIMIZE TABLE {db}.t FINAL
DETACH TABLE {db}.t
UNDROP TABLE {db}.t
BACKUP DATABASE {db} TO File('{out}')
SYSTEM FLUSH LOGS
SYSTEM STOP MERGES
SYSTEM SHUTDOWN
KILL QUERY WHERE 1
KILL MUTATION WHERE 1
GRANT ALL ON *.* TO default
GRANT writer TO default
SET readonly = 0
SET ROLE writer
SET ROLE ALL
SET ROLE DEFAULT
SET DEFAULT ROLE writer TO default
SET max_execution_time = 0
SET profile = 'default'
SET param_x = 1
USE system
BEGIN TRANSACTION
SELECT 1 INTO OUTFILE '{out}'
SELECT 1 into/**/outfile '{out}' TRUNCATE FORMAT CSV
SELECT 1 UNION ALL SELECT 2 INTO OUTFILE '{out}' AND STDOUT
(SELECT 1) INTO OUTFILE '{out}'
SHOW TABLES INTO OUTFILE '{out}'
EXPLAIN SELECT 1 INTO OUTFILE '{out}'
DESCRIBE {db}.t INTO OUTFILE '{out}'
SELECT 1 INTO OUTFILE '{out}'; SELECT 2
SELECT 1 INTO OUTFILE '{out}'; not even sql (
SELECT 1; SET ROLE writer; DROP TABLE {db}.t
SELECT 1; DROP TABLE {db}.t
;DROP TABLE {db}.t
EXECUTE AS default DROP TABLE {db}.t
EXPLAIN PLAN INSERT INTO {db}.t SELECT 3, 'c'
EXPLAIN INSERT INTO {db}.t SELECT 3, 'c'
PARALLEL WITH DROP TABLE {db}.t PARALLEL WITH SELECT 1
"""


@pytest.mark.parametrize("statement", WRITES.strip().splitlines())
def test_a_reader_changes_nothing(reader: Reader, tmp_path: Path, statement: str) -> None:
    """Whatever would change data, files, rights or other users' queries is refused."""
    out = tmp_path / "out"
    before = reader.state()
    file = tmp_path / "in.csv"
    file.write_text("3,c\n")
    body = statement.format(db=reader.database, file=file, out=out)
    for answer in (reader(body), reader("", query=body), reader(body, default_format="JSON")):
        assert not answer.ok, answer.text
        assert answer.headers["X-ClickHouse-Exception-Code"]
    assert reader.state() == before
    assert not out.exists()
    assert reader("SELECT currentRoles()").text == "['reader']\n"


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO {db}.t VALUES (3, 'c')",
        "DROP TABLE {db}.t",
        "CREATE TEMPORARY TABLE u (x UInt8)",
        "SET max_threads = 1",
        "KILL QUERY WHERE 1",
        "SELECT * FROM file('/etc/passwd', 'LineAsString')",
        "SELECT * FROM url('http://127.0.0.1:1/', 'CSV', 'a String')",
        "SELECT * FROM remote('127.0.0.1:1', 'system', 'one')",
        "SELECT * FROM executable('x', 'CSV', 'a String')",
        "SELECT 1 SETTINGS readonly = 0",
    ],
)
def test_a_refusal_is_code_164(reader: Reader, statement: str) -> None:
    """What a reader may not do has one code, READONLY."""
    answer = reader(statement.format(db=reader.database))
    assert answer.headers["X-ClickHouse-Exception-Code"] == "164"
    assert answer.text.startswith("Code: 164. DB::Exception: ")
    assert "(READONLY)" in answer.text


FILES = """
SELECT * FROM file('{file}')
SELECT * FROM file('{file}', 'LineAsString')
SELECT * FROM file('{file}', CSV, 'a String, b String')
SELECT * FROM (SELECT * FROM file('{file}', 'LineAsString') SETTINGS readonly = 0)
SELECT * FROM (SELECT * FROM file('{file}', 'LineAsString') SETTINGS readonly = 2)
SELECT * FROM view(SELECT * FROM file('{file}', 'LineAsString'))
SELECT (SELECT any(line) FROM file('{file}', 'LineAsString'))
SELECT 1 IN (SELECT line FROM file('{file}', 'LineAsString'))
WITH f AS (SELECT * FROM file('{file}', 'LineAsString')) SELECT * FROM f
SELECT * FROM `{file}`
SELECT * FROM '{file}'
SELECT * FROM {db}.t UNION ALL SELECT 1, line FROM file('{file}', 'LineAsString')
DESCRIBE file('{file}')
DESCRIBE file('{file}', 'CSVWithNames')
DESCRIBE (SELECT * FROM file('{file}', 'CSVWithNames'))
EXPLAIN SELECT * FROM file('{file}', 'CSVWithNames')
EXPLAIN QUERY TREE SELECT * FROM file('{file}', 'CSVWithNames')
EXPLAIN PIPELINE SELECT * FROM file('{file}', 'CSVWithNames')
EXPLAIN QUERY TREE SELECT file('{file}')
SELECT file('{file}')
SELECT file(materialize('{file}'))
SELECT file('{file}', 'default')
SELECT * APPLY file FROM (SELECT '{file}')
SELECT * APPLY(x -> file(x)) FROM (SELECT '{file}')
SELECT COLUMNS('p') APPLY file FROM (SELECT '{file}' AS p)
SELECT arrayMap(x -> file(x), ['{file}'])
WITH x -> file(x) AS f SELECT f('{file}')
SELECT b FROM generateRandom('a String, b String ALIAS file(\\'{file}\\')') LIMIT 1
SELECT * FROM {db}.v(least = length(file('{file}')))
SELECT x FROM {db}.t WHERE file('{file}') != ''
SHOW TABLES WHERE throwIf(1, file('{file}'))
SELECT 1 LIMIT length(file('{file}'))
SELECT 1 FORMAT Template SETTINGS format_template_resultset = '{file}'
SELECT * FROM format(CSVWithNames, file('{file}'))
SELECT * FROM fileCluster('default', '{file}', 'LineAsString')
SELECT * FROM executable('cat {file}', 'LineAsString', 'a String')
SELECT * FROM sqlite('{file}', 't')
SELECT * FROM filesystem('{folder}')
SELECT * FROM icebergLocal('{folder}')
SELECT * FROM deltaLakeLocal('{folder}')
SELECT * FROM paimonLocal('{folder}')
SELECT * FROM loop(file('{file}', 'LineAsString')) LIMIT 1
SELECT * FROM eval('SELECT * FROM file(\\'{file}\\')')
SELECT * FROM Python(_SERVER_DEFAULTS)
SELECT * FROM Python('open')
SELECT * FROM dictionary('{file}')
CHECK TABLE file('{file}')
SELECT dictGet('{file}', 'a', 1)
SELECT catboostEvaluate('{file}', 1)
"""


@pytest.mark.parametrize("statement", FILES.strip().splitlines())
def test_a_reader_sees_no_file(reader: Reader, secret_file: Path, statement: str) -> None:
    """No table function, scalar function, inference or format shows what a file holds."""
    file = str(secret_file)
    body = statement.format(db=reader.database, file=file, folder=secret_file.parent)
    answer = reader(body)
    # An EXPLAIN may print the plan; nothing may print a word of the file, its length or columns.
    assert SECRET not in answer.text
    assert base64.b64encode(SECRET.encode()).decode() not in answer.text
    if not statement.startswith("EXPLAIN QUERY TREE"):
        assert not answer.ok, answer.text


def test_the_writer_would_see_it(reader: Reader, secret_file: Path) -> None:
    """The attempts above are not empty: without the guard the same words show the file."""
    query = f"SELECT * FROM file('{secret_file}', 'LineAsString')"
    assert SECRET in reader.as_writer(query)


@contextmanager
def listener() -> Iterator[tuple[int, list[str]]]:
    """Yield the port of an HTTP server and the paths it has been asked for."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(SECRET.encode())

        do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1], asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


REACHES = """
SELECT * FROM url('{url}/url', 'LineAsString')
SELECT * FROM url('{url}/url', CSV, 'a String')
DESCRIBE url('{url}/describe')
EXPLAIN SELECT * FROM url('{url}/explain')
INSERT INTO FUNCTION url('{url}/insert', CSV, 'a String') SELECT 'x'
SELECT * FROM s3('{url}/bucket/key', 'CSV', 'a String')
SELECT * FROM s3('{url}/bucket/key')
DESCRIBE s3('{url}/bucket/key', NOSIGN)
SELECT * FROM gcs('{url}/bucket/key', NOSIGN, 'CSV', 'a String')
SELECT * FROM deltaLake('{url}/bucket/table/', NOSIGN)
SELECT * FROM hudi('{url}/bucket/table/')
SELECT * FROM iceberg('{url}/bucket/table/', NOSIGN)
SELECT * FROM icebergS3('{url}/bucket/table/', NOSIGN)
SELECT * FROM azureBlobStorage('DefaultEndpointsProtocol=http;AccountName=a;AccountKey=YQ==;BlobEndpoint={url}/a;', 'c', 'p', 'CSV', 'auto', 'a String')
SELECT * FROM remote('127.0.0.1:{port}', 'system', 'one')
SELECT * FROM remote('127.0.0.1:{port}', view(SELECT 1))
SELECT * FROM remoteSecure('127.0.0.1:{port}', 'system', 'one')
SELECT * FROM mysql('127.0.0.1:{port}', 'd', 't', 'u', 'p')
SELECT * FROM postgresql('127.0.0.1:{port}', 'd', 't', 'u', 'p')
SELECT * FROM mongodb('127.0.0.1:{port}', 'd', 'c', 'u', 'p', 'a String')
SELECT * FROM redis('127.0.0.1:{port}', 'k', 'k String')
SELECT * FROM hdfs('hdfs://127.0.0.1:{port}/x', 'CSV', 'a String')
SELECT * FROM jdbc('jdbc:x://127.0.0.1:{port}', 's', 't')
SELECT * FROM odbc('DSN=x', 's', 't')
SELECT * FROM urlCluster('default', '{url}/x', 'CSV', 'a String')
SELECT * FROM cluster('default', 'system', 'one')
"""


@pytest.mark.parametrize("statement", REACHES.strip().splitlines())
def test_a_reader_reaches_no_other_machine(reader: Reader, statement: str) -> None:
    """No query of a reader opens a connection."""
    with listener() as (port, asked):
        answer = reader(statement.format(url=f"http://127.0.0.1:{port}", port=port))
        assert not answer.ok, answer.text
        assert SECRET not in answer.text
    assert asked == []


@pytest.mark.parametrize(
    "clause",
    [
        "allow_introspection_functions = 1",
        "log_comment = 'x'",
        "max_execution_time = 1000",
        "max_memory_usage = 0",
        "max_rows_to_read = 0",
        "max_threads = 1",
        "readonly = 0",
        "readonly = 1, max_result_rows = 0",
        "readonly = 2",
    ],
)
def test_no_clause_lifts_a_limit(reader: Reader, clause: str) -> None:
    """The engine itself refuses each SETTINGS clause that changes something."""
    for query in (f"SELECT 1 SETTINGS {clause}", f"SELECT 1 FORMAT JSON SETTINGS {clause}"):
        assert reader(query).headers["X-ClickHouse-Exception-Code"] == "164"


@pytest.mark.parametrize("name", [*READER_LIMITS, "readonly"])
def test_a_profile_lifts_no_limit(reader: Reader, name: str) -> None:
    """The engine takes the name of a profile in a query; the limits stay."""
    query = f"SELECT toString(getSetting('{name}')) SETTINGS profile = 'default'"
    assert reader(query).text == f"{setting(reader, name)}\n"
    nested = f"SELECT * FROM (SELECT toString(getSetting('{name}')) SETTINGS profile = 'default')"
    assert reader(nested).text == f"{setting(reader, name)}\n"


def test_a_fallback_view_shows_no_file(reader: Reader, secret_file: Path) -> None:
    """A view with a fallback answers with the fallback, not with the file."""
    query = f"SELECT * FROM file('{secret_file}', 'LineAsString')"
    answer = reader(f"SELECT * FROM viewIfPermitted({query} ELSE null('line String'))")
    assert (answer.ok, answer.text) == (True, "")


def setting(reader: Reader, name: str, **parameters: str | int) -> str:
    """Return the value a setting has in a reader's query."""
    answer = reader(f"SELECT toString(getSetting('{name}')) FORMAT TSVRaw", **parameters)
    assert answer.ok, answer.text
    return answer.text.strip()


@pytest.mark.parametrize("name", READER_LIMITS)
def test_the_url_only_tightens_limits(reader: Reader, name: str) -> None:
    """A limit in the URL is taken when it is lower; never when it is higher or none."""
    limit = str(READER_LIMITS[name])
    assert setting(reader, name) == limit
    for wish in ("0", str(READER_LIMITS[name] + 1), "18446744073709551615"):
        assert setting(reader, name, **{name: wish}) == limit
    lower = str(READER_LIMITS[name] - 1)
    assert setting(reader, name, **{name: lower}) == lower


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("readonly", "0"),
        ("readonly", "2"),
        ("max_execution_time", "1e9"),
        ("max_execution_time", "-1"),
        ("format_template_resultset", "/etc/passwd"),
        ("output_format_schema", "/tmp/x"),
        ("allow_experimental_eval_table_function", "1"),
        ("insert_deduplication_token", "x"),
        ("Readonly", "0"),
        ("max_execution_time = 5, readonly", "0"),
        ("output_format_x = 1, readonly", "0"),
    ],
)
def test_other_settings_of_the_url_are_refused(reader: Reader, name: str, value: str) -> None:
    """A setting that is no format and no limit is refused by the engine, or is unknown."""
    answer = reader("SELECT 1", **{name: value})
    assert answer.headers["X-ClickHouse-Exception-Code"] in ("164", "115")


def test_values_of_settings_are_quoted(reader: Reader) -> None:
    """A value cannot end its quotes and start a statement."""
    value = "x'; SET ROLE writer; SET format_csv_null_representation = '"
    query = "SELECT getSetting('format_csv_null_representation'), currentRoles(), getSetting('readonly')"
    answer = reader(query, format_csv_null_representation=value, default_format="JSONCompact")
    assert answer.json()["data"] == [[value, ["reader"], 1]]
    answer = reader("SELECT currentRoles()", database="default`; SET ROLE writer; USE `default")
    assert answer.headers["X-ClickHouse-Exception-Code"] == "81"
    answer = reader("SELECT {x:String}, currentRoles()", param_x="'; SET ROLE writer")
    assert answer.text == "\\'; SET ROLE writer\t['reader']\n"


def test_limits_end_a_query(reader: Reader) -> None:
    """Time, memory, rows read and rows returned are each bounded, with the engine's code."""
    slow = "SELECT count() FROM numbers(100000) WHERE sleepEachRow(0.001) = 0"
    for query, parameters, code in (
        (slow, {"max_execution_time": 1, "max_block_size": 100}, "159"),
        ("SELECT groupArray(number) FROM numbers(10000000)", {"max_memory_usage": 9999999}, "241"),
        ("SELECT sum(number) FROM numbers(100000)", {"max_rows_to_read": 10}, "158"),
        ("SELECT sum(number) FROM numbers(1000000000000)", {}, "158"),
        ("SELECT number FROM numbers(100000)", {"max_result_rows": 10}, "396"),
        ("SELECT number FROM numbers(100000) FORMAT JSON", {"max_result_rows": 10}, "396"),
    ):
        answer = reader(query, **parameters)
        assert answer.headers["X-ClickHouse-Exception-Code"] == code, answer.text


def test_what_readers_are_for_works(reader: Reader, clickhouse: ClickHouseAddress) -> None:
    """Tables, views with parameters, descriptions and plans are open to stock clients."""
    database = reader.database
    with clickhouse_connect.get_client(
        host=clickhouse.host, port=clickhouse.port, username="reader", database=database
    ) as client:
        assert client.query("SELECT x, s FROM t ORDER BY x").result_rows == [(1, "a"), (2, "b")]
        assert client.query("SELECT x FROM v(least = {l:UInt8})", {"l": 2}).result_rows == [(2,)]
        assert client.query_arrow("SELECT sum(x) AS n FROM t").to_pydict() == {"n": [3]}
        assert client.command("EXISTS t") == 1
        assert [row[0] for row in client.query("DESCRIBE TABLE t").result_rows] == ["x", "s"]
        assert {row[0] for row in client.query("SHOW TABLES").result_rows} == {"t", "v"}
        assert client.query("EXPLAIN SELECT x FROM t").result_rows
        with client.query_row_block_stream("SELECT number FROM numbers(200000)") as blocks:
            assert sum(len(block) for block in blocks) == 200_000
        with pytest.raises(DatabaseError) as caught:
            client.insert("t", [[3, "c"]], column_names=["x", "s"])
        assert caught.value.code == 164
    answer = reader(
        "SELECT toDateTime(0, 'UTC') AS t, toUInt64(1) AS n FORMAT JSONEachRow",
        date_time_output_format="iso",
        output_format_json_quote_64bit_integers=1,
        session_id="s",
        wait_end_of_query=1,
        send_progress_in_http_headers=1,
        max_threads=1,
    )
    assert answer.json() == {"t": "1970-01-01T00:00:00Z", "n": "1"}
    for user in ({}, {"user": "default"}, {"user": "reader"}):
        plain = requests.get(reader.url, {**user, "query": "SELECT currentRoles()"}, timeout=60)
        assert plain.text == "['reader']\n"
