"""Results that can be sent piece by piece.

The engine hands a running query's result out in pieces, each a complete document of its format. For
formats without a header or a footer the pieces join to one document; a header that is repeated can
be cut off; for all other formats (JSON, Arrow files, Parquet) the result is sent when it is whole.
"""

from collections.abc import Callable

Join = Callable[[bytes, int], bytes | memoryview]

_END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"


def _plain(piece: bytes, _: int) -> bytes:
    return piece


def _without_lines(count: int) -> Join:
    """Cut off header lines. Names and types are escaped in these formats: no line break in them."""

    def join(piece: bytes, index: int) -> memoryview:
        end = 0
        for _ in range(count if index else 0):
            end = piece.index(b"\n", end) + 1
        return memoryview(piece)[end:]

    return join


def _arrow_stream(piece: bytes, index: int) -> memoryview:
    """Cut off the schema message of all but the first piece, and the end mark of each.

    Source: Arrow, "Encapsulated message format": 0xFFFFFFFF, length of the metadata (int32, little
    endian), metadata. A schema has no body.
    """
    start = 0 if index == 0 else 8 + int.from_bytes(piece[4:8], "little")
    return memoryview(piece)[start : len(piece) - len(_END_OF_STREAM)]


_LINES_0 = """
CSV JSONCompactEachRow JSONCompactStringsEachRow JSONEachRow JSONLines JSONL JSONStringsEachRow
LineAsString NDJSON Native RawBLOB RowBinary TSKV TSV TSVRaw TabSeparated TabSeparatedRaw
"""
_LINES_1 = """
JSONCompactEachRowWithNames JSONCompactStringsEachRowWithNames TSVWithNames TabSeparatedWithNames
"""
_LINES_2 = """
JSONCompactEachRowWithNamesAndTypes JSONCompactStringsEachRowWithNamesAndTypes
TSVWithNamesAndTypes TabSeparatedWithNamesAndTypes
"""

JOINS: dict[str, Join] = {
    **dict.fromkeys(_LINES_0.split(), _plain),
    **dict.fromkeys(_LINES_1.split(), _without_lines(1)),
    **dict.fromkeys(_LINES_2.split(), _without_lines(2)),
    "ArrowStream": _arrow_stream,
}
"""Format -> what to send of piece ``index`` of a result."""

TAILS = {"ArrowStream": _END_OF_STREAM}
"""Format -> what follows the last piece, if there was one."""
