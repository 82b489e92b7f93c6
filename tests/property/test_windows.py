"""Rolling windows equal a plain recount for any order and lateness of what arrives."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.panes import DIMENSIONS, MEASURES, OTHER, PANE_MS, PANES, UNKNOWN, decode, encode
from schemas.panes import RangeOfPanes as Told
from streams.panes import NO_PANES, CountedRows, PaneRows, by_dimension, pair_value, user_entries
from streams.shares import BILLION, billionths
from streams.users import estimate
from streams.windows import SIZES, Size, Window, Windows
from tests.usage_rows import Row, as_table, random_rows, tokens

START = datetime(2026, 11, 25, tzinfo=UTC)
START_MS = int(START.timestamp() * 1000)
CAP = 9_000
TOP = 2
LATENESS_MS = 30_000


def at_ms(row: Row) -> int:
    return int(row["occurred_at"].timestamp() * 1000 + 0.5)


def value_of(row: Row, dimension: str) -> str:
    names = DIMENSIONS[dimension]
    first, *second = (str(row[name]) for name in names)
    return pair_value(first, second[0]) if second else first


def counted(row: Row) -> list[int]:
    capped = min(tokens(row), CAP)
    plain = [row[name] or 0 for name in MEASURES[1:6]]
    return [
        1,
        *plain,
        int(row["tool_use"] == "called"),
        int(row["status"] != "ok"),
        capped,
        capped**2,
    ]


def add(first: list[int], second: list[int]) -> list[int]:
    return [a + b for a, b in zip(first, second, strict=True)]


def recount(rows: Iterable[Row], dimension: str) -> dict[str, list[int]]:
    """Return the sums of a window by value, the smaller values together."""
    sums: dict[str, list[int]] = defaultdict(lambda: [0] * len(MEASURES))
    for row in rows:
        value = value_of(row, dimension)
        sums[value] = add(sums[value], counted(row))
    named = sorted(
        (value for value in sums if value not in (OTHER, UNKNOWN)),
        key=lambda value: (-sums[value][1] - sums[value][2], value),
    )
    for value in named[TOP:]:
        sums[OTHER] = add(sums[OTHER], sums.pop(value))
    return dict(sums)


class Market:
    """Windows of one dimension, and what has been given out of them."""

    def __init__(self, dimension: str) -> None:
        self.dimension = dimension
        self.landed: list[Row] = []
        self.given: dict[tuple[Size, int], Window] = {}
        self.windows = self.new_windows()
        self.watermark_ms = START_MS

    def new_windows(self) -> Windows:
        """Return windows that go on behind those that were given out, without panes."""
        ends = {
            size: max(
                (end for at, end in self.given if at == size),
                default=START_MS // size.slide_ms * size.slide_ms,
            )
            for size in SIZES
        }
        revisions = {key: window.revision for key, window in self.given.items()}
        return Windows(self.dimension, top=TOP, given_ms=ends, revisions=revisions, history={})

    def panes(self, length_ms: int, from_ms: int, to_ms: int) -> PaneRows:
        """Return the panes of a length, as ClickHouse makes them of what has landed."""
        rows = [row for row in self.landed if from_ms <= at_ms(row) < to_ms]
        if not rows:
            return NO_PANES
        short = CountedRows(as_table(rows), tokens_cap=CAP).panes([self.dimension])
        starts = short["pane_ms"].to_numpy() // length_ms * length_ms
        return by_dimension(short.set_column(1, "pane_ms", pa.array(starts)))[self.dimension]

    def land(self, rows: list[Row]) -> None:
        """Tell of rows that have landed, and take what is due then."""
        self.landed += rows
        made = CountedRows(as_table(rows), tokens_cap=CAP).panes([self.dimension])
        told = decode(encode(made, Told(0, 0, 1, 0)))[0]
        self.windows.add(by_dimension(told)[self.dimension])
        self.watermark_ms = max(self.watermark_ms, *(at_ms(r) - LATENESS_MS for r in rows))
        self.take(self.windows.close(self.watermark_ms, is_complete=True))

    def revise(self) -> None:
        """Take what is due again, and what must be asked for."""
        self.take(self.windows.due_again(is_complete=True))
        for size in SIZES:
            ends = sorted(end for at, end in self.windows.ask_for if at == size)
            if ends:
                panes = self.panes(size.slide_ms, ends[0] - size.length_ms, ends[-1])
                self.take(self.windows.answered(size, ends, panes, is_complete=True))

    def rebuild(self) -> None:
        """Lose the state and make it anew of what has landed."""
        self.windows = self.new_windows()
        for size in SIZES:
            length_ms = size.slide_ms
            given_ms = self.windows.given_ms[size]
            from_ms = (given_ms - 8 * 86_400_000) // length_ms * length_ms
            to_ms = START_MS + 10**9 if length_ms == PANE_MS else given_ms
            self.windows.load(length_ms, self.panes(length_ms, from_ms, to_ms), from_ms)
        self.windows.note_late({at_ms(row) // PANE_MS * PANE_MS for row in self.landed})

    def take(self, windows: Iterator[Window]) -> None:
        for window in windows:
            key = window.size, window.end_ms
            before = self.given.get(key)
            assert window.revision == (0 if before is None else before.revision + 1)
            self.given[key] = window

    def check(self) -> None:
        for (size, end_ms), window in self.given.items():
            rows = [row for row in self.landed if end_ms - size.length_ms <= at_ms(row) < end_ms]
            found = {
                value: [int(each) for each in sums]
                for value, sums in zip(window.values, window.measures, strict=True)
            }
            assert found == recount(rows, self.dimension), (size, end_ms)
            assert ((window.shares >= 0) & (window.shares <= BILLION)).all()
            if rows:
                assert window.shares[:, 0].sum() == BILLION


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**32),
    dimension=st.sampled_from(["vendor", "model", "app", "vendor_region", "tool_use"]),
    hours=st.sampled_from([0.2, 2, 9]),
    late_ms=st.sampled_from([0, 60_000, 1_200_000, 7_200_000]),
    steps=st.lists(st.sampled_from(["revise", "rebuild", "go on"]), min_size=4, max_size=10),
)
def test_windows_equal_a_recount(
    seed: int, dimension: str, hours: float, late_ms: int, steps: list[str]
) -> None:
    """Whatever comes late, whenever it is revised and however often the state is lost."""
    rng = np.random.default_rng(seed)
    rows = random_rows(seed, 300, START, timedelta(hours=hours))
    arrives = [at_ms(row) + (late_ms * rng.random() if rng.random() < 0.3 else 0) for row in rows]
    rows = [rows[at] for at in np.argsort(arrives)]
    market = Market(dimension)
    for part, step in zip(np.array_split(np.arange(len(rows)), len(steps)), steps, strict=True):
        market.land([rows[at] for at in part])
        if step == "revise":
            market.revise()
        if step == "rebuild":
            market.rebuild()
    market.revise()
    market.check()
    assert market.given


@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(0, 2**53), min_size=1, max_size=60))
def test_shares_sum_to_one(parts: list[int]) -> None:
    """Exactly, and each is within a billionth of its quotient."""
    array = np.array(parts, dtype=np.int64)
    shares = billionths(array)
    assert shares.sum() == (BILLION if sum(parts) else 0)
    assert (shares >= 0).all()
    if sum(parts):
        for share, part in zip(shares.tolist(), parts, strict=True):
            assert abs(share * sum(parts) - part * BILLION) <= sum(parts)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**32), users=st.sampled_from([0, 1, 5, 100, 2_000, 60_000]))
def test_the_number_of_users_is_within_its_error(seed: int, users: int) -> None:
    """Six standard errors, and one: of five users two may share a register. A repetition adds
    nothing, and hashes may be as uneven as 1, 2, 3.
    """
    hashes = np.arange(seed, seed + users, dtype=np.uint64)
    entries = user_entries(np.concatenate([hashes, hashes]))
    ranks = np.zeros((1, 1024), dtype=np.uint8)
    np.maximum.at(ranks[0], entries >> 6, (entries & 63).astype(np.uint8))
    assert abs(int(estimate(ranks)[0]) - users) <= 1 + 6 * 0.0325 * users


def test_a_range_survives_its_encoding() -> None:
    """What is told of a range comes back as it was."""
    told: dict[str, Any] = {
        "partition": 3,
        "first_offset": 10,
        "next_offset": 2**40,
        "newest_ms": START_MS,
        "is_idle": True,
        "is_whole": False,
    }
    assert decode(encode(PANES.empty_table(), Told(**told)))[1] == Told(**told)
