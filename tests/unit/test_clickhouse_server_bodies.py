"""Request bodies unpacked chunk by chunk, results packed and joined, errors put in form."""

import gzip
import zlib
from collections.abc import Callable
from pathlib import Path

import cramjam
import pyarrow as pa
import pytest

from deploy.local.clickhouse_bodies import PACKERS, Spool, Unpacker, accepted_encoding
from deploy.local.clickhouse_errors import EngineError, from_engine, refusal
from deploy.local.clickhouse_formats import JOINS, TAILS

PACK: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "lz4": lambda data: bytes(cramjam.lz4.compress(data)),
    "zstd": lambda data: bytes(cramjam.zstd.compress(data)),
    "": bytes,
}


@pytest.mark.parametrize("encoding", PACK)
@pytest.mark.parametrize("step", [1, 7, 100_000])
def test_a_body_of_several_frames_is_unpacked(encoding: str, step: int) -> None:
    """Clients pack block by block: all frames count, wherever the chunks are cut."""
    body = PACK[encoding](b"first " * 50) + PACK[encoding](b"second")
    unpacker = Unpacker(encoding)
    parts = [unpacker.unpack(body[i : i + step]) for i in range(0, len(body), step)]
    unpacker.finish()
    assert b"".join(parts) == b"first " * 50 + b"second"


@pytest.mark.parametrize("encoding", [name for name in PACK if name])
def test_a_body_cut_off_is_refused(encoding: str) -> None:
    """Half an insert must not become rows."""
    unpacker = Unpacker(encoding)
    unpacker.unpack(PACK[encoding](b"abc" * 1000)[:-3])
    with pytest.raises(EngineError) as caught:
        unpacker.finish()
    assert caught.value.code == 271


@pytest.mark.parametrize("encoding", [name for name in PACK if name])
def test_a_broken_body_is_refused(encoding: str) -> None:
    """Bytes that are not what Content-Encoding says give the server's code."""
    with pytest.raises(EngineError) as caught:
        Unpacker(encoding).unpack(b"not packed at all, and long enough to tell")
    assert caught.value.code == 271


def test_an_unknown_encoding_is_refused() -> None:
    """An encoding nobody can unpack is named, not taken as plain bytes."""
    with pytest.raises(EngineError) as caught:
        Unpacker("snappy")
    assert caught.value.code == 89


@pytest.mark.parametrize(
    ("header", "chosen"),
    [
        ("", None),
        ("gzip, deflate, br, zstd", "zstd"),
        ("lz4,zstd,gzip,deflate", "lz4"),
        ("gzip;q=1.0, zstd;q=0", "gzip"),
        ("br, identity", None),
    ],
)
def test_the_encoding_of_the_answer(header: str, chosen: str | None) -> None:
    """The cheapest encoding the client accepts is taken; one with quality 0 is not."""
    assert accepted_encoding(header) == chosen


@pytest.mark.parametrize("encoding", PACKERS)
def test_what_is_flushed_can_be_read_at_once(encoding: str) -> None:
    """A client sees the rows sent so far while the query runs on."""
    packer, unpacker = PACKERS[encoding](), Unpacker(encoding)
    packer.compress(b"rows")
    assert unpacker.unpack(bytes(packer.flush())) == b"rows"
    packer.compress(b"more")
    assert unpacker.unpack(bytes(packer.finish())) == b"more"
    unpacker.finish()


def test_a_spool_is_read_by_its_path_and_leaves_nothing() -> None:
    """The data has a path while it is needed; it has no name that a kill could leave behind."""
    spool = Spool()
    spool.write(b"abc")
    spool.write(b"def")
    spool.rewind()
    assert Path(spool.path).read_bytes() == b"abcdef"
    spool.close()


def test_a_body_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept in memory has a limit."""
    monkeypatch.setattr("deploy.local.clickhouse_bodies.BODY_BYTES_MAX", 10)
    spool = Spool()
    spool.write(b"0123456789")
    with pytest.raises(EngineError) as caught:
        spool.write(b"x")
    assert (caught.value.code, caught.value.status) == (229, 413)
    spool.close()


def test_repeated_headers_are_cut_off() -> None:
    """Pieces that each carry a header join to one document with one header."""
    pieces = [b"a\tb\nUInt8\tString\n1\tx\n", b"a\tb\nUInt8\tString\n2\ty\n"]
    join = JOINS["TSVWithNamesAndTypes"]
    assert b"".join(join(p, i) for i, p in enumerate(pieces)) == pieces[0] + b"2\ty\n"
    assert bytes(JOINS["TSVWithNames"](b"a\n2\n", 1)) == b"2\n"


def test_arrow_streams_are_joined() -> None:
    """Complete Arrow streams join to one, dictionaries included."""

    def piece(values: list[str]) -> bytes:
        table = pa.table({"a": pa.array(values).dictionary_encode()})
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return bytes(sink.getvalue())

    pieces = [piece(["x", "y"]), piece(["z", "z"])]
    joined = b"".join(JOINS["ArrowStream"](p, i) for i, p in enumerate(pieces))
    table = pa.ipc.open_stream(joined + TAILS["ArrowStream"]).read_all()
    assert table["a"].to_pylist() == ["x", "y", "z", "z"]


def test_errors_of_the_engine_keep_their_code_and_lose_their_echo() -> None:
    """A text that chDB has wrapped twice is shown once, as a server shows it."""
    error = from_engine(
        "Code: 164. DB::Exception: Code: 164. DB::Exception: Cannot modify 'readonly' setting in"
        " readonly mode. (READONLY) (version 26.9.2.1). (READONLY)"
    )
    assert error.code == 164
    assert error.text == (
        "Code: 164. DB::Exception: Cannot modify 'readonly' setting in readonly mode. (READONLY)"
    )


@pytest.mark.parametrize(
    ("code", "status"),
    [(60, 404), (62, 400), (164, 500), (497, 403), (516, 403), (159, 408), (241, 500), (48, 501)],
)
def test_errors_have_the_servers_status(code: int, status: int) -> None:
    """Codes map to HTTP statuses as in ClickHouse's exceptionCodeToHTTPStatus.cpp."""
    assert EngineError(code, "").status == status


def test_a_text_without_a_code_is_an_unknown_exception() -> None:
    """What chDB says outside of the engine's form still has a code for the client."""
    assert from_engine("broken").code == 1002
    assert refusal(62, "no").text == "Code: 62. DB::Exception: no. (SYNTAX_ERROR)"
