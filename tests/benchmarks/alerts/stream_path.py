"""Worlds on the way that a worker's detector is fed: panes, rolling windows, records, bins.

What comes before, from events to panes, is held to a recount by tests of its own.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import orjson
import pyarrow as pa

from schemas.panes import MEASURES, PANES
from streams.alerts.share_window import as_bin, decode_window
from streams.detection import BIN_MS, Bin
from streams.panes import NO_PANES, by_dimension, user_entries
from streams.share_window import as_record
from streams.windows import SIZES, Windows
from tests.benchmarks.alerts.worlds import NAMES, START_MS, TOP, Int64s, World

USERS_PART = 0.3
"""Distinct users of a bin, of its requests."""
_FIVE_MINUTES = next(size for size in SIZES if size.length_ms == BIN_MS)
_USERS_MAX = 4_096


def stream_bins(world: World) -> Iterator[Mapping[str, Bin]]:
    """Yield what a detector is fed of a world, one bin end after the other."""
    entries = [_entries(vendor) for vendor in range(len(NAMES))]
    windows = Windows(
        "vendor",
        top=TOP,
        given_ms=dict.fromkeys(SIZES, START_MS),
        revisions={},
        history={},
    )
    for row in range(len(world.requests)):
        start_ms, end_ms = START_MS + row * BIN_MS, START_MS + (row + 1) * BIN_MS
        # Windows of other lengths are not looked at, and cost most.
        windows.given_ms |= {size: end_ms for size in SIZES if size != _FIVE_MINUTES}
        panes = by_dimension(_panes(world, row, start_ms, entries))
        windows.add(panes.get("vendor", NO_PANES))
        *_, window = windows.close(end_ms, is_complete=True)
        record = as_record(window, watermark_ms=end_ms, given_ms=end_ms)
        found = decode_window(orjson.dumps(record))
        assert found.is_bin
        yield {found.dimension: as_bin(found)}


def _entries(vendor: int) -> Int64s:
    """Return sketch entries of different users, no two vendors' the same."""
    users = np.arange(_USERS_MAX, dtype=np.uint64) + np.uint64(vendor * _USERS_MAX)
    return user_entries(users * np.uint64(0x9E3779B97F4A7C15))


def _panes(world: World, row: int, start_ms: int, entries: list[Int64s]) -> pa.Table:
    """Return the requests of a bin as if all had come in its first ten seconds."""
    present = np.flatnonzero(world.requests[row])
    counts = world.requests[row, present]
    users = np.minimum(np.ceil(counts * USERS_PART).astype(np.int64), _USERS_MAX)
    sums = dict.fromkeys(MEASURES, np.zeros(len(present), np.int64)) | {
        "requests": counts,
        "tokens_prompt": world.tokens[row, present],
        "errors": world.errors[row, present],
        "tokens_capped": world.tokens_capped[row, present],
        "tokens_capped_squared": world.tokens_capped_squared[row, present],
    }
    mine = [entries[vendor][:count] for vendor, count in zip(present, users.tolist(), strict=True)]
    return pa.table(
        {
            "dimension": pa.array(["vendor"] * len(present)).dictionary_encode(),
            "pane_ms": pa.array([start_ms] * len(present), pa.int64()),
            "value": pa.array([NAMES[vendor] for vendor in present]).dictionary_encode(),
            **{name: pa.array(sums[name]) for name in MEASURES},
            "users": pa.array(mine, pa.list_(pa.uint16())),
        },
        schema=PANES,
    )
