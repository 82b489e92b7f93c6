"""Records of llm-shares-v1 are as their published schema says."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
from jsonschema import Draft202012Validator

from schemas.panes import DIMENSIONS
from streams.panes import CountedRows, by_dimension
from streams.share_window import as_record, key
from streams.windows import SIZES, Windows
from tests.usage_rows import as_table, random_rows

SCHEMA = Path(__file__).parents[2] / "schemas" / "share_window" / "v1.json"
START = datetime(2026, 11, 25, tzinfo=UTC)
START_MS = int(START.timestamp() * 1000)
CAP = 9_000


def test_windows_are_as_their_schema_says() -> None:
    """Every dimension, windows with and without one before, without requests, and revised ones."""
    schema = orjson.loads(SCHEMA.read_bytes())
    Draft202012Validator.check_schema(schema)
    assert not set(DIMENSIONS) - set(schema["properties"]["dimension"]["enum"])
    strict = Draft202012Validator({**schema, "additionalProperties": False})
    rows = as_table(random_rows(1, 400, START, timedelta(minutes=7)))
    counted = CountedRows(rows, tokens_cap=CAP)
    revisions, empty = set(), 0
    for dimension in DIMENSIONS:
        panes = by_dimension(counted.panes([dimension]))[dimension]
        given_ms = {size: START_MS // size.slide_ms * size.slide_ms for size in SIZES}
        windows = Windows(dimension, top=2, given_ms=given_ms, revisions={}, history={})
        windows.add(panes)
        found = list(windows.close(START_MS + 20 * 60_000, is_complete=False))
        windows.add(panes)
        for window in [*found, *windows.due_again(is_complete=True)]:
            record = as_record(window, watermark_ms=START_MS, given_ms=START_MS)
            strict.validate(orjson.loads(orjson.dumps(record)))
            seconds, end = record["window_seconds"], record["window_end_ms"]
            assert key(window) == f"{dimension}/{seconds}/{end}".encode()
            revisions.add(record["revision"])
            empty += not record["values"]
    assert revisions == {0, 1}
    assert empty
