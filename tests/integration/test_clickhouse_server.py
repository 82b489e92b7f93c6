"""The embedded ClickHouse over HTTP, as stock clients see a server."""

import asyncio
import gzip
import os
import secrets
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import clickhouse_connect
import orjson
import pyarrow as pa
import pytest
import requests
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError, StreamFailureError

from deploy.local.processes import Child, wait_until
from tests.conftest import (
    ClickHouseAddress,
    environment,
    free_port,
    http_answers,
    running,
    tokentide,
)

ROLLUP = [
    "CREATE TABLE {db}.raw (k String, v UInt64) ENGINE = MergeTree ORDER BY k"
    " SETTINGS non_replicated_deduplication_window = 100",
    "CREATE TABLE {db}.sums (k String, n SimpleAggregateFunction(sum, UInt64))"
    " ENGINE = AggregatingMergeTree ORDER BY k SETTINGS non_replicated_deduplication_window = 100",
    "CREATE MATERIALIZED VIEW {db}.to_sums TO {db}.sums AS"
    " SELECT k, count() AS n FROM {db}.raw GROUP BY k",
]


def connect(address: ClickHouseAddress, **options: Any) -> Client:
    """Return a stock client of the writer."""
    return clickhouse_connect.get_client(
        host=address.host,
        port=address.port,
        username=address.writer_user,
        password=address.writer_password,
        **options,
    )


@pytest.fixture
def client(clickhouse: ClickHouseAddress) -> Iterator[Client]:
    """A writer's client."""
    with connect(clickhouse) as client:
        yield client


@pytest.fixture
def database(client: Client, fresh_database: str) -> Iterator[str]:
    """A database of its own for one test."""
    client.command(f"CREATE DATABASE {fresh_database}")
    yield fresh_database
    client.command(f"DROP DATABASE {fresh_database} SYNC")


class Post:
    """Plain HTTP requests as the writer."""

    def __init__(self, address: ClickHouseAddress) -> None:
        self.url = f"http://{address.host}:{address.port}/"
        self.auth = (address.writer_user, address.writer_password)

    def __call__(
        self, body: bytes | str | Iterator[bytes] = "", **options: Any
    ) -> requests.Response:
        headers = options.pop("headers", {})
        return requests.post(
            self.url,
            params=options,
            data=body.encode() if isinstance(body, str) else body,
            headers=headers,
            auth=self.auth,
            timeout=60,
        )


@pytest.fixture
def post(clickhouse: ClickHouseAddress) -> Post:
    """Plain HTTP requests as the writer."""
    return Post(clickhouse)


def batch(first: int, rows: int, key: str = "a") -> pa.Table:
    """Return rows for ``raw``, dictionary-encoded as the worker's."""
    keys = pa.array([key] * rows).dictionary_encode()
    return pa.table({"k": keys, "v": pa.array(range(first, first + rows), pa.uint64())})


def counts(client: Client, database: str) -> tuple[int, int]:
    """Return rows of the table and rows according to its view."""
    rows = client.query(
        f"SELECT (SELECT count() FROM {database}.raw), (SELECT sum(n) FROM {database}.sums)"
    ).result_rows
    return rows[0][0], rows[0][1]


# clickhouse-connect


def test_the_stock_client_inserts_and_queries_in_every_form(client: Client, database: str) -> None:
    """insert, insert_arrow and insert_df land; query, query_arrow and query_df give them back."""
    assert client.ping()
    client.command(f"CREATE TABLE {database}.t (x UInt64, s String) ENGINE = MergeTree ORDER BY x")
    client.insert(f"{database}.t", [[1, "a"], [2, "b'\\"]], column_names=["x", "s"])
    client.insert_arrow(f"{database}.t", pa.table({"x": pa.array([3], pa.uint64()), "s": ["c"]}))
    frame = client.query_df(f"SELECT * FROM {database}.t WHERE x = 3")
    frame["x"] = frame["x"] + 1
    client.insert_df(f"{database}.t", frame)
    expected = [(1, "a"), (2, "b'\\"), (3, "c"), (4, "c")]
    query = f"SELECT x, s FROM {database}.t ORDER BY x"
    assert client.query(query).result_rows == expected
    assert client.query_arrow(query).to_pydict() == {
        "x": [x for x, _ in expected],
        "s": [s for _, s in expected],
    }
    assert client.query(f"SELECT * FROM {database}.t LIMIT 0").column_names == ("x", "s")
    assert client.query(f"SELECT * FROM {database}.t WHERE x = 9").result_rows == []


@pytest.mark.parametrize("compress", [False, "lz4", "zstd", "gzip"])
def test_packed_both_ways(
    clickhouse: ClickHouseAddress, database: str, compress: bool | str
) -> None:
    """Bodies and results packed in each encoding arrive whole."""
    with connect(clickhouse, compress=compress) as client:
        client.command(f"CREATE TABLE {database}.p (x UInt64) ENGINE = MergeTree ORDER BY x")
        client.insert(f"{database}.p", [[x] for x in range(200_000)], column_names=["x"])
        assert client.query(f"SELECT sum(x) FROM {database}.p").first_row == (19_999_900_000,)
        column = client.query(f"SELECT x FROM {database}.p ORDER BY x").result_columns[0]
        assert list(column) == list(range(200_000))


def test_bound_parameters_are_values(client: Client) -> None:
    """Quotes, tabs and backslashes in a parameter stay what they are."""
    for text in ("it's", "a\tb\nc", "\\n", "'); DROP TABLE x; --", "日本"):
        assert client.query("SELECT {x:String}", parameters={"x": text}).first_row == (text,)
    row = client.query("SELECT {a:Array(UInt8)}, {n:Nullable(UInt8)}", {"a": [1, 2], "n": None})
    assert row.first_row == ([1, 2], None)


def test_parameters_of_concurrent_queries_do_not_mix(clickhouse: ClickHouseAddress) -> None:
    """Each query sees its own parameters, however many run at once."""

    def ask(worker: int) -> list[Sequence[Any]]:
        with connect(clickhouse) as client:
            return [
                row
                for i in range(25)
                for row in client.query(
                    "SELECT {n:UInt64}, {s:String} WHERE sleepEachRow(0.001) = 0",
                    {"n": worker * 1000 + i, "s": f"{worker}-{i}"},
                ).result_rows
            ]

    with ThreadPoolExecutor(8) as pool:
        for worker, rows in enumerate(pool.map(ask, range(8))):
            assert rows == [(worker * 1000 + i, f"{worker}-{i}") for i in range(25)]


def test_results_of_concurrent_streams_do_not_mix(clickhouse: ClickHouseAddress) -> None:
    """Streams open at once each carry their own bytes."""

    def read(step: int) -> bool:
        query = f"SELECT number * {step}, toString(number) FROM numbers(150000)"
        with connect(clickhouse) as client, client.query_rows_stream(query) as rows:
            return all(row == (i * step, str(i)) for i, row in enumerate(rows))

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(read, range(1, 7)))


def test_the_async_client(clickhouse: ClickHouseAddress, database: str) -> None:
    """Queries and inserts of the async client run side by side."""

    async def run() -> None:
        client = await clickhouse_connect.get_async_client(
            host=clickhouse.host, port=clickhouse.port, username="writer", password="writer-local"
        )
        try:
            assert await client.ping()
            await client.command(f"CREATE TABLE {database}.a (k String, v UInt64) ENGINE = Memory")
            await asyncio.gather(
                *(client.insert_arrow(f"{database}.a", batch(i, 1)) for i in range(20))
            )
            rows = await client.query(f"SELECT sum(v) FROM {database}.a")
            assert rows.first_row == (190,)
            answers = await asyncio.gather(
                *(client.query("SELECT {x:UInt8}", {"x": i}) for i in range(40))
            )
            assert [answer.result_rows for answer in answers] == [[(i,)] for i in range(40)]
            with pytest.raises(DatabaseError) as caught:
                await client.query("SELECT * FROM no_such_table")
            assert caught.value.code == 60
        finally:
            await client.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("query", "code", "name"),
    [
        ("SELECT * FROM no_such_table", 60, "UNKNOWN_TABLE"),
        ("SELECT * FROM no_such_db.t", 81, "UNKNOWN_DATABASE"),
        ("SELECT no_such_column", 47, "UNKNOWN_IDENTIFIER"),
        ("SELEC 1", 62, "SYNTAX_ERROR"),
        ("SELECT 1; SELECT 2", 62, "SYNTAX_ERROR"),
        ("SELECT throwIf(number = 5) FROM numbers(10)", 395, None),
    ],
)
def test_errors_carry_the_engines_code(
    client: Client, query: str, code: int, name: str | None
) -> None:
    """A failing query raises with ClickHouse's code and name."""
    with pytest.raises(DatabaseError) as caught:
        client.command(query)
    assert caught.value.code == code
    assert name is None or caught.value.name == name


def test_an_error_in_the_middle_of_a_stream_is_told(client: Client) -> None:
    """A stream that fails after its first rows raises; it does not end early as if complete."""
    query = "SELECT throwIf(number = 900000) FROM numbers(1000000)"
    with (
        pytest.raises(StreamFailureError) as caught,
        client.query_row_block_stream(query) as blocks,
    ):
        for _ in blocks:
            pass
    assert caught.value.code == 395


def test_streams_join_to_the_whole_result(client: Client) -> None:
    """Rows, Arrow and text streams of many blocks carry each row once, in order."""
    query = "SELECT number, toString(number % 7)::LowCardinality(String) AS s FROM numbers(300000)"
    with client.query_row_block_stream(query) as blocks:
        assert [row[0] for block in blocks for row in block] == list(range(300_000))
    with client.query_arrow_stream(query) as tables:
        table = pa.Table.from_batches(list(tables))
    assert table["number"].to_pylist() == list(range(300_000))
    for format_name, header in (("TSV", 0), ("TSVWithNames", 1), ("TSVWithNamesAndTypes", 2)):
        lines = client.raw_query(query, fmt=format_name).splitlines()
        assert len(lines) == 300_000 + header
    rows = client.raw_query(query, fmt="JSONCompactEachRowWithNames").splitlines()
    assert orjson.loads(rows[0]) == ["number", "s"]
    assert orjson.loads(rows[-1])[0] in (299_999, "299999")


# Exactly once


def test_an_insert_repeated_with_its_token_lands_once(client: Client, database: str) -> None:
    """The same token drops the repeat, in the table and behind its view; another does not."""
    for statement in ROLLUP:
        client.command(statement.format(db=database))
    for token in ("one", "one", "two"):
        settings = {"insert_deduplication_token": token, "async_insert": 0}
        client.insert_arrow(f"{database}.raw", batch(0, 10), settings=settings)
    assert counts(client, database) == (20, 20)


def test_a_token_does_not_stay_for_the_next_insert(clickhouse: ClickHouseAddress) -> None:
    """Settings of a request end with it: a token that stayed would drop other rows for ever."""
    with connect(clickhouse) as client:
        database = f"leak_{secrets.token_hex(6)}"
        client.command(f"CREATE DATABASE {database}")
        for statement in ROLLUP:
            client.command(statement.format(db=database))

        def insert(number: int) -> None:
            settings = {"insert_deduplication_token": "same"} if number % 2 == 0 else {}
            with connect(clickhouse) as own:
                own.insert_arrow(
                    f"{database}.raw", batch(number, 1, f"k{number}"), settings=settings
                )

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(insert, range(40)))
        # Of the twenty with the token one lands, the twenty without all do.
        assert counts(client, database) == (21, 21)
        changed = client.query("SELECT value FROM system.settings WHERE name = 'log_comment'")
        assert "same" not in str(changed.result_rows)
        client.command(f"DROP DATABASE {database} SYNC")


@contextmanager
def server(directory: Path, port: int) -> Iterator[tuple[ClickHouseAddress, Child]]:
    """Run a server of our own until the block ends."""
    command = tokentide("clickhouse", "--data-dir", str(directory), "--port", str(port))
    answers = f"http://127.0.0.1:{port}/ping"
    with running("ch", command, directory / "out.log", lambda: http_answers(answers)) as child:
        address = ClickHouseAddress("127.0.0.1", port, "writer", "writer-local", "reader", "")
        yield address, child


def test_data_and_tokens_survive_kill_9(tmp_path: Path) -> None:
    """What was acknowledged is there after SIGKILL, and its repeat is still dropped."""
    settings = {"insert_deduplication_token": "t:0:0-9", "async_insert": 0}
    with server(tmp_path, free_port()) as (address, child), connect(address) as client:
        client.command("CREATE DATABASE d")
        for statement in ROLLUP:
            client.command(statement.format(db="d"))
        client.insert_arrow("d.raw", batch(0, 10), settings=settings)
        os.kill(child.pid, signal.SIGKILL)
    with server(tmp_path, free_port()) as (address, _), connect(address) as client:
        assert counts(client, "d") == (10, 10)
        client.insert_arrow("d.raw", batch(0, 10), settings=settings)
        assert counts(client, "d") == (10, 10)
        client.insert_arrow("d.raw", batch(10, 5), settings={**settings, "max_threads": 1})


# Plain HTTP


def test_a_body_of_any_format_is_inserted(post: Post, database: str) -> None:
    """The format's data may be in the body or after the statement, in one piece or chunked."""
    assert post(f"CREATE TABLE {database}.f (x UInt64, s String) ENGINE = Memory").ok
    insert = f"INSERT INTO {database}.f"
    binary = (5).to_bytes(8, "little") + b"\x01e"
    for body, options in (
        ("1,a\n", {"query": f"{insert} FORMAT CSV"}),
        ('{"x":2,"s":"b"}', {"query": f"{insert} (x, s) FORMAT JSONEachRow"}),
        (f"{insert} VALUES (3, 'c;d')", {}),
        (f"{insert} FORMAT TSV\n4\td\n", {}),
        (binary, {"query": f"{insert} FORMAT RowBinary"}),
        ("", {"query": f"{insert} VALUES (2 + 4, lower('F'))"}),
        (iter([b"7,", b"g\n8", b",h\n"]), {"query": f"{insert} FORMAT CSV"}),
        (f"{insert} SETTINGS input_format_skip_unknown_fields = 1 FORMAT JSONEachRow\n"
         '{"x":9,"s":"i","y":1}', {}),
    ):  # fmt: skip
        answer = post(body, **options)
        assert answer.ok, answer.text
        assert int(orjson.loads(answer.headers["X-ClickHouse-Summary"])["written_rows"]) >= 1
    rows = post(f"SELECT x, s FROM {database}.f ORDER BY x FORMAT TSV").text
    assert rows == "1\ta\n2\tb\n3\tc;d\n4\td\n5\te\n6\tf\n7\tg\n8\th\n9\ti\n"


def test_a_broken_body_leaves_no_row(post: Post, database: str) -> None:
    """A row that does not parse, or a packed body cut off, refuses the whole insert."""
    assert post(f"CREATE TABLE {database}.b (x UInt64) ENGINE = MergeTree ORDER BY x").ok
    bad = post("1\n2\nx\n", query=f"INSERT INTO {database}.b FORMAT CSV")
    assert (bad.status_code, bad.headers["X-ClickHouse-Exception-Code"]) == (400, "117")
    packed = gzip.compress(b"1\n2\n")[:-2]
    cut = post(
        packed,
        query=f"INSERT INTO {database}.b FORMAT CSV",
        headers={"Content-Encoding": "gzip"},
    )
    assert cut.headers["X-ClickHouse-Exception-Code"] == "271"
    missing = post("1\n", query=f"INSERT INTO {database}.nowhere FORMAT CSV")
    assert (missing.status_code, missing.headers["X-ClickHouse-Exception-Code"]) == (404, "60")
    assert post(f"SELECT count() FROM {database}.b").text == "0\n"


def test_a_client_that_leaves_in_the_middle_of_a_body_inserts_nothing(
    clickhouse: ClickHouseAddress, post: Post, database: str
) -> None:
    """Rows land only when the whole body has come."""
    assert post(f"CREATE TABLE {database}.l (x UInt64) ENGINE = MergeTree ORDER BY x").ok
    with socket.create_connection((clickhouse.host, clickhouse.port)) as connection:
        connection.sendall(
            f"POST /?user=writer&password=writer-local&query=INSERT+INTO+{database}.l+FORMAT+CSV"
            " HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n1\n2\n3\n".encode()
        )
    assert post(f"SELECT count() FROM {database}.l").text == "0\n"


def test_answers_have_a_servers_headers(post: Post) -> None:
    """Format, content type, query id and time zone are told as a server tells them."""
    answer = post("SELECT 1 AS x FORMAT JSON", query_id="my-query")
    assert answer.json()["data"] == [{"x": 1}]
    headers = answer.headers
    assert headers["X-ClickHouse-Query-Id"] == "my-query"
    assert headers["X-ClickHouse-Format"] == "JSON"
    assert headers["Content-Type"] == "application/json; charset=UTF-8"
    assert headers["X-ClickHouse-Timezone"]
    assert headers["X-ClickHouse-Server-Display-Name"]
    answer = post("SELECT 1", default_format="CSVWithNames")
    assert (answer.text, answer.headers["X-ClickHouse-Format"]) == ('"1"\n1\n', "CSVWithNames")
    answer = post("SELECT 2", headers={"X-ClickHouse-Format": "JSONEachRow"})
    assert answer.json() == {"2": 2}
    assert answer.headers["Content-Type"].startswith("application/x-ndjson")


def test_the_database_of_a_request(post: Post, database: str) -> None:
    """The database comes from the URL or a header; an unknown one is an error."""
    assert post("SELECT currentDatabase()", database=database).text == f"{database}\n"
    header = post("SELECT currentDatabase()", headers={"X-ClickHouse-Database": database})
    assert header.text == f"{database}\n"
    assert post("SELECT currentDatabase()").text == "default\n"
    assert post("SELECT 1", database="no`such").headers["X-ClickHouse-Exception-Code"] == "81"


def test_a_statement_may_come_by_url_and_body(post: Post) -> None:
    """GET and POST, the statement in the URL, in the body, or in both."""
    auth = post.auth
    assert requests.get(post.url + "ping", timeout=60).text == "Ok.\n"
    assert requests.get(post.url, timeout=60).text == "Ok.\n"
    assert requests.get(post.url, {"query": "SELECT 1"}, auth=auth, timeout=60).text == "1\n"
    assert post(" + 2", query="SELECT 1").text == "3\n"
    assert post("SELECT {a:UInt8} + {b:UInt8}", param_a=1, param_b=2).text == "3\n"
    form = {"query": (None, "SELECT {a:UInt8}"), "param_a": (None, "7")}
    answer = requests.post(post.url, files=form, auth=auth, timeout=60)
    assert answer.text == "7\n"
    written = requests.get(post.url, {"query": "CREATE DATABASE by_get"}, auth=auth, timeout=60)
    assert written.headers["X-ClickHouse-Exception-Code"] == "164"


def test_users_come_by_header_basic_or_url(post: Post) -> None:
    """All three ways of a server name the user; a wrong password is code 516."""
    query = {"query": "CREATE DATABASE IF NOT EXISTS default"}
    headers = {"X-ClickHouse-User": "writer", "X-ClickHouse-Key": "writer-local"}
    assert requests.post(post.url, params=query, headers=headers, timeout=60).ok
    url = {**query, "user": "writer", "password": "writer-local"}
    assert requests.post(post.url, params=url, timeout=60).ok
    assert requests.post(post.url, params=query, auth=post.auth, timeout=60).ok
    for options in (
        {"auth": ("writer", "wrong")},
        {"auth": ("nobody", "")},
        {"headers": {"X-ClickHouse-User": "writer"}},
        {"headers": {"Authorization": "Bearer x"}},
    ):
        answer = requests.post(post.url, params=query, timeout=60, **options)
        assert (answer.status_code, answer.headers["X-ClickHouse-Exception-Code"]) == (403, "516")


def test_what_a_server_refuses_over_http_is_refused(
    post: Post, database: str, tmp_path: Path
) -> None:
    """Files of the server's machine cannot be named, also by the writer; no setting is ignored."""
    target = tmp_path / "out"
    (tmp_path / "in").write_text("1\n")
    assert post(f"CREATE TABLE {database}.i (x UInt8) ENGINE = Memory").ok
    for body, code in (
        (f"SELECT 1 INTO OUTFILE '{target}'", "358"),
        (f"INSERT INTO {database}.i FROM INFILE '{tmp_path}/in' FORMAT CSV", "78"),
        ("SELECT 1" + " " * 300_000, "62"),
        ("", "62"),
    ):
        answer = post(body)
        assert answer.headers["X-ClickHouse-Exception-Code"] == code
    assert not target.exists()
    assert post("SELECT 1", no_such_setting=1).headers["X-ClickHouse-Exception-Code"] == "115"
    assert post("SELECT 1", **{"a b": 1}).headers["X-ClickHouse-Exception-Code"] == "115"
    assert post("SELECT 1", decompress=1).headers["X-ClickHouse-Exception-Code"] == "48"


def test_of_several_statements_none_runs(post: Post, database: str) -> None:
    """Two statements in one request are refused before the first, as a server does."""
    make = f"CREATE TABLE {database}.{{}} (x UInt8) ENGINE = Memory"
    answer = post(f"{make.format('one')}; {make.format('two')}")
    assert (answer.status_code, answer.headers["X-ClickHouse-Exception-Code"]) == (400, "62")
    broken = post(f"{make.format('one')}; not a statement (")
    assert broken.headers["X-ClickHouse-Exception-Code"] == "62"
    assert post(f"SHOW TABLES FROM {database}").text == ""
    assert post(f"{make.format('one')};").ok


# The process


def ask_to_start(directory: Path, port: int) -> subprocess.CompletedProcess[str]:
    """Start a server that cannot start, to its end."""
    return subprocess.run(
        tokentide("clickhouse", "--data-dir", str(directory), "--port", str(port)),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def refused(directory: Path, port: int) -> str:
    """Return the one line on stderr of a server that cannot start."""
    done = ask_to_start(directory, port)
    assert done.returncode == 1, done.stderr
    (line,) = done.stderr.strip().splitlines()
    return line


def test_a_directory_has_one_owner(tmp_path: Path) -> None:
    """A second process on the directory stops with one line; the first is not disturbed."""
    with server(tmp_path, free_port()) as (address, child):
        line = refused(tmp_path, free_port())
        assert "in use" in line
        assert str(child.pid) in line
        assert http_answers(f"http://127.0.0.1:{address.port}/ping")


def test_a_start_that_cannot_work_says_why(tmp_path: Path) -> None:
    """A busy port, a file in the way and an odd name each give one line that says what to do."""
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        line = refused(tmp_path / "a", busy.getsockname()[1])
        assert "cannot listen" in line
        assert "--port" in line
    (tmp_path / "file").touch()
    assert "--data-dir" in refused(tmp_path / "file" / "x", free_port())
    assert "choose another" in refused(tmp_path / "a?b", free_port())


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine does not start where it would stop in the middle of a merge."""
    engine = pytest.importorskip("deploy.local.clickhouse_engine")
    monkeypatch.setattr(engine, "FREE_BYTES_MIN", 1 << 62)
    with pytest.raises(engine.FatalError, match="disk full"):
        engine._own(tmp_path / "full")
    monkeypatch.undo()
    engine._own(tmp_path / "full").close()  # The lock was given back.


def test_sigterm_lets_a_running_request_finish(tmp_path: Path) -> None:
    """A request that runs when the server is stopped gets its answer; the process then exits 0."""
    with server(tmp_path, free_port()) as (address, child):
        post = Post(address)
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(post, "SELECT sleep(2), 'done'")
            wait_for(lambda: "sleep(2)" in post("SELECT query FROM system.processes").text)
            os.kill(child.pid, signal.SIGTERM)
            assert answer.result().text == "0\tdone\n"
        wait_for(lambda: child.exit_code is not None)
        assert child.exit_code == 0


def wait_for(condition: Callable[[], bool]) -> None:
    """Poll ``condition`` until it holds."""
    assert wait_until(condition, 30)


def test_a_query_stops_when_its_client_leaves(clickhouse: ClickHouseAddress, post: Post) -> None:
    """An abandoned query does not go on eating the machine."""
    mark = secrets.token_hex(8)
    # 1000 seconds, in blocks of one; its own time limit would end it after 60.
    query = f"SELECT count() AS mark_{mark} FROM numbers(1000000) WHERE sleepEachRow(0.001) = 0"

    def runs() -> bool:
        mine = f"SELECT count() FROM system.processes WHERE query LIKE '%AS mark_{mark}%'"
        return post(f"{mine} AND query NOT LIKE '%system.processes%'").text != "0\n"

    with socket.create_connection((clickhouse.host, clickhouse.port)) as connection:
        body = query.encode()
        connection.sendall(
            b"POST /?max_block_size=1000 HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b"
            % (len(body), body)
        )
        wait_for(runs)
    wait_for(lambda: not runs())
