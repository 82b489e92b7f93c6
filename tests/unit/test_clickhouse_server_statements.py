"""Where an INSERT's data starts, and which format a statement asks for."""

import pytest

from deploy.local.clickhouse_statements import (
    first_word,
    insert_head,
    output_format,
    reads_infile,
    writes_outfile,
)


@pytest.mark.parametrize(
    ("text", "target", "settings", "format_name", "data"),
    [
        (b"INSERT INTO t FORMAT Arrow\nARROW1", b"INSERT INTO t ", b"", b"Arrow", b"ARROW1"),
        (b"insert into t (a, b) values (1)", b"insert into t (a, b) ", b"", b"Values", b" (1)"),
        (
            b"INSERT INTO t SETTINGS a = 'FORMAT' FORMAT CSV 1",
            b"INSERT INTO t ",
            b"SETTINGS a = 'FORMAT' ",
            b"CSV",
            b"1",
        ),
        (b"INSERT INTO values VALUES (1)", b"INSERT INTO values ", b"", b"Values", b" (1)"),
        (b"INSERT INTO `FORMAT x` FORMAT CSV\n", b"INSERT INTO `FORMAT x` ", b"", b"CSV", b""),
        (b"/* FORMAT */ INSERT INTO t -- VALUES\nFORMAT TSV\n\n1", None, b"", b"TSV", b"\n1"),
        (b"INSERT INTO t FORMAT Native\r\n\x01", b"INSERT INTO t ", b"", b"Native", b"\x01"),
        (b"INSERT INTO FUNCTION null('a') VALUES (1)", None, b"", b"Values", b" (1)"),
        (b"INSERT INTO t", b"INSERT INTO t", b"", b"Values", b""),
    ],
)
def test_an_inserts_data_starts_after_its_head(
    text: bytes, target: bytes | None, settings: bytes, format_name: bytes, data: bytes
) -> None:
    """The head ends at FORMAT and one line break, or at VALUES; quoted words do not count."""
    head = insert_head(text, complete=True)
    assert head is not None
    assert head.target == target or target is None
    assert (head.settings, head.format, text[head.data_start :]) == (settings, format_name, data)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"SELECT 1 FORMAT CSV",
        b"INSERT INTO t SELECT 1",
        b"INSERT INTO t WITH 1 AS a SELECT a",
        b"INSERT INTO t FROM INFILE 'x' FORMAT CSV",
        b"WITH 1 AS a INSERT INTO t SELECT a",
    ],
)
def test_other_statements_have_no_data(text: bytes) -> None:
    """Only an INSERT with VALUES, FORMAT or nothing after its columns carries data."""
    assert insert_head(text, complete=True) is None


def test_a_head_is_found_however_the_body_is_cut() -> None:
    """Wherever the first chunk ends, the head is the same once it is found, and never early."""
    text = b"INSERT INTO t (a) SETTINGS x = 1 FORMAT JSONEachRow\n{}"
    whole = insert_head(text, complete=True)
    for end in range(len(text)):
        early = insert_head(text[:end], complete=False)
        assert early is None or early == whole
    assert insert_head(text, complete=False) == whole


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (b"SELECT 1 FORMAT JSON", "JSON"),
        (b"SELECT 1 format TSV;", "TSV"),
        (b"SELECT 1 FORMAT CSV SETTINGS max_threads = 1", "CSV"),
        (b"SELECT 1 -- FORMAT CSV", None),
        (b"SELECT 'x FORMAT CSV'", None),
        (b"SELECT (SELECT 1 FORMAT CSV)", None),
        (b"SELECT format FROM t", None),
        (b"SELECT $$ FORMAT CSV $$", None),
        (b"", None),
    ],
)
def test_the_format_of_a_result(text: bytes, name: str | None) -> None:
    """Only the trailing clause of the outer statement names the result's format."""
    assert output_format(text) == name


def test_files_named_in_statements_are_noticed() -> None:
    """INTO OUTFILE and FROM INFILE are seen as clauses, not inside text."""
    assert writes_outfile(b"SELECT 1 INTO /* */ OUTFILE 'x'")
    assert not writes_outfile(b"SELECT 'INTO OUTFILE'")
    assert reads_infile(b"INSERT INTO t from infile 'x'")
    assert not reads_infile(b"INSERT INTO `FROM INFILE`")
    assert not reads_infile(b"INSERT INTO t SELECT * FROM infile WHERE 1")
    assert first_word(b" /* a */ (SELECT 1)") == b"("
