"""The events of a round: made so that what must become of each is known, and written down.

A round has event times of its own, on two days on both sides of a month's end: what earlier rounds
left behind cannot hide what this one lost.
"""

import hashlib
import random
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

import numpy as np
import numpy.typing as npt
import polars as pl

STORED, DUPLICATE, REFUSED = 0, 1, 2
POISON = "poison"
"""In the event id of a row that the proxy refuses in ClickHouse's place."""
MONTHS = 12
DAYS_PER_MONTH = 14
WINDOWS = MONTHS * DAYS_PER_MONTH
DAY_MS = 86_400_000
SPREAD_MS = 600_000
RESENT_CHUNKS = 40
"""Chunks of a partition from which events are sent again."""

_BROKEN = (
    (b"no event %d", "invalid_json"),
    (b"[%d]", "not_an_object"),
    (b'{"number":%d}', "missing_field"),
    (
        b'{"schema_version":1,"event_id":"%d","source":"synthetic","model_raw":"m","status":"ok",'
        b'"occurred_at":"2099-01-01T00:00:00Z","tokens_prompt":1,"tokens_completion":1}',
        "from_the_future",
    ),
    (
        b'{"schema_version":1,"event_id":"%d","source":"synthetic","model_raw":"m","status":"ok",'
        b'"occurred_at":"2026-01-01T00:00:00Z","tokens_prompt":"1","tokens_completion":1}',
        "wrong_type",
    ),
)


@dataclass(frozen=True)
class Shape:
    """What many events have in common."""

    model_raw: str
    model: str
    provider: str
    app_id: str
    region: str
    category: str
    user_hash: str
    finish_reason: str
    status: str
    cost_nanousd: int | None

    def head(self) -> str:
        """Return the start of its events' JSON."""
        cost = "" if self.cost_nanousd is None else f'"cost_nanousd":{self.cost_nanousd},'
        sampled = f'"category":"{self.category}",' if self.category else ""
        return (
            f'{{"schema_version":1,"source":"synthetic","model_raw":"{self.model_raw}",'
            f'"provider":"{self.provider}","app_id":"{self.app_id}","region":"{self.region}",{sampled}'
            f'"user_hash":"{self.user_hash}",'
            f'"finish_reason":"{self.finish_reason}","status":"{self.status}",{cost}"event_id":"'
        )


def _shapes() -> tuple[Shape, ...]:
    models = (
        ("openai/gpt-4o", "openai/gpt-4o"),
        ("OpenAI/GPT-4o-mini", "openai/gpt-4o-mini"),
        ("anthropic/claude-3.5-haiku", "anthropic/claude-3.5-haiku"),
        ("nobody/knows-this", "unknown"),
    )
    return tuple(
        Shape(
            model_raw=model_raw,
            model=model,
            provider=("north", "south")[n % 2],
            app_id=f"app-{n % 5}",
            region=("eu", "us", "ap")[n % 3],
            category=("", "programming", "roleplay", "")[n % 4],
            # Those of four of the shapes are of the users that usage_users_1d counts.
            user_hash=hashlib.sha256(f"{n} {model}".encode()).hexdigest(),
            finish_reason=("stop", "length", "tool_calls")[n % 3],
            status="ok" if n % 7 else "error",
            cost_nanousd=None if model == "unknown" else 1000 + n,
        )
        for n in range(6)
        for model_raw, model in models
    )


SHAPES = _shapes()
SHAPE_FRAME = pl.DataFrame(
    {
        "shape": pl.Series(range(len(SHAPES)), dtype=pl.UInt8),
        "model": [each.model for each in SHAPES],
        "provider": [each.provider for each in SHAPES],
        "app_id": [each.app_id for each in SHAPES],
        "region": [each.region for each in SHAPES],
        "finish_reason": [each.finish_reason for each in SHAPES],
        "status": [each.status for each in SHAPES],
        "cost_nanousd": pl.Series([each.cost_nanousd for each in SHAPES], dtype=pl.Int64),
    }
)
_HEADS = [each.head() for each in SHAPES]


@dataclass(frozen=True)
class Mix:
    """Shares of the records of a round, 0 to 1.

    Attributes:
        resent: Sent again byte for byte, up to `RESENT_CHUNKS` chunks later.
        refused: No valid event.
        poison: Valid, but the proxy refuses them in ClickHouse's place.
    """

    resent: float = 0.02
    refused: float = 0.004
    poison: float = 0.0


@dataclass(frozen=True)
class Chunk:
    """Records of one partition in the order they are sent, in one record batch.

    Attributes:
        rows: What must become of each: ``kind``, ``number``, ``shape``, ``time_ms``,
            ``tokens_prompt``, ``reason``; see `Ledger`.
    """

    partition: int
    values: list[bytes]
    rows: pl.DataFrame


@dataclass(frozen=True)
class Window:
    """The event times of a round.

    Attributes:
        starts_ms: Where each of its days' times begin.
        days: The days, ISO; all of a round's events are on them.
    """

    starts_ms: tuple[int, ...]
    days: tuple[str, ...]


def window(round_number: int, today: date) -> Window:
    """Return the event times of a round: the last days of a month and the first of the next.

    Repeats after `WINDOWS` rounds.
    """
    months_back = round_number % MONTHS + 1
    month = today.year * 12 + today.month - 1 - months_back
    first = date(month // 12, month % 12 + 1, 1) + timedelta(0)
    distance = timedelta(round_number // MONTHS % DAYS_PER_MONTH)
    days = first - timedelta(1) - distance, first + distance
    midnight = [datetime(each.year, each.month, each.day, tzinfo=UTC) for each in days]
    starts = (
        int(midnight[0].timestamp() * 1000) + DAY_MS - SPREAD_MS,
        int(midnight[1].timestamp() * 1000),
    )
    return Window(starts, tuple(each.isoformat() for each in days))


def window_now(now_ms: int) -> Window:
    """Return event times that have just been."""
    begin = now_ms - SPREAD_MS
    days = {datetime.fromtimestamp(ms / 1000, UTC).date().isoformat() for ms in (begin, now_ms)}
    return Window((begin,), tuple(sorted(days)))


@dataclass
class Ledger:
    """Makes the records of one round and keeps what must become of them.

    ``rows`` columns: ``kind`` (`STORED`, `DUPLICATE`, `REFUSED`), ``number`` of the event,
    ``shape``, ``time_ms``, ``tokens_prompt`` (completion is a third of it), ``reason`` of a dead
    letter; once acknowledged also ``partition`` and ``offset``.
    """

    name: str
    window: Window
    mix: Mix
    seed: int
    _next_number: int = 0
    _earlier: dict[int, deque[Chunk]] = field(default_factory=dict)
    _acknowledged: list[pl.DataFrame] = field(default_factory=list)
    _random: random.Random = field(init=False)
    _rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._rng = np.random.default_rng(self.seed)

    def chunk(self, partition: int, count: int) -> Chunk:
        """Make ``count`` records for a partition."""
        rows = self._rows(count)
        values = self._values(rows)
        self._send_again(partition, values, rows)
        made = Chunk(partition, values, pl.DataFrame(rows))
        earlier = self._earlier.setdefault(partition, deque(maxlen=RESENT_CHUNKS))
        earlier.append(made)
        return made

    def acknowledged(self, chunk: Chunk, first_offset: int) -> None:
        """Note that a chunk is on the topic, from ``first_offset`` on."""
        count = len(chunk.values)
        offsets = np.arange(first_offset, first_offset + count)
        where = pl.DataFrame({"offset": offsets}).with_columns(
            partition=pl.lit(chunk.partition, pl.Int64)
        )
        self._acknowledged.append(pl.concat([where, chunk.rows], how="horizontal"))

    def expected(self) -> pl.DataFrame:
        """Return every acknowledged record, in no order."""
        rows = pl.concat(self._acknowledged) if self._acknowledged else self._empty()
        rows = rows.join(SHAPE_FRAME, on="shape", how="left")
        is_poison = (pl.col("kind") == REFUSED) & (pl.col("reason") == "refused_by_clickhouse")
        prefix = pl.when(is_poison).then(pl.lit(f"{POISON}-")).otherwise(pl.lit(""))
        return rows.with_columns(
            event_id=prefix + pl.lit(f"{self.name}-") + pl.col("number").cast(pl.String)
        )

    def _empty(self) -> pl.DataFrame:
        head = pl.DataFrame({"offset": [], "partition": []}, schema_overrides=_PLACE)
        return pl.concat([head, pl.DataFrame(self._rows(0))], how="horizontal")

    def _rows(self, count: int) -> dict[str, pl.Series]:
        starts = np.array(self.window.starts_ms)[
            self._rng.integers(len(self.window.starts_ms), size=count)
        ]
        draw = self._rng.random(count)
        refused, poison = self.mix.refused, self.mix.refused + self.mix.poison
        reasons = np.array([reason for _, reason in _BROKEN])
        chosen = reasons[self._rng.integers(len(reasons), size=count)]
        reason = np.where(draw < refused, chosen, "refused_by_clickhouse")
        kind = np.where(draw < poison, REFUSED, STORED).astype(np.uint8)
        numbers = np.arange(self._next_number, self._next_number + count)
        self._next_number += count
        return {
            "kind": pl.Series(kind),
            "number": pl.Series(numbers),
            "shape": pl.Series(self._rng.integers(len(SHAPES), size=count).astype(np.uint8)),
            "time_ms": pl.Series(starts + self._rng.integers(SPREAD_MS, size=count)),
            "tokens_prompt": pl.Series(self._rng.integers(1, 5000, size=count)),
            "reason": pl.Series(np.where(kind == REFUSED, reason, ""), dtype=pl.String),
        }

    def _values(self, rows: dict[str, pl.Series]) -> list[bytes]:
        times: npt.NDArray[np.str_] = np.datetime_as_string(
            rows["time_ms"].to_numpy().astype("datetime64[ms]"), unit="ms"
        )
        values = [
            f'{_HEADS[shape]}{self.name}-{number}","occurred_at":"{time}Z","tokens_prompt":{tokens},'
            f'"tokens_completion":{tokens // 3}}}'.encode()
            for shape, number, time, tokens in zip(
                rows["shape"].to_list(),
                rows["number"].to_list(),
                times.tolist(),
                rows["tokens_prompt"].to_list(),
                strict=True,
            )
        ]
        broken = {reason: value for value, reason in _BROKEN}
        reasons = rows["reason"].to_list()
        for row in np.flatnonzero(rows["kind"].to_numpy() == REFUSED).tolist():
            if reasons[row] in broken:
                values[row] = broken[reasons[row]] % rows["number"][row]
            else:
                name = f'"{self.name}-'.encode()
                values[row] = values[row].replace(name, f'"{POISON}-{self.name}-'.encode())
        return values

    def _send_again(self, partition: int, values: list[bytes], rows: dict[str, pl.Series]) -> None:
        """Replace some records by copies of earlier ones of the partition, or of this chunk."""
        count = len(values)
        again = np.flatnonzero(self._rng.random(count) < self.mix.resent).tolist()
        columns = {name: series.to_list() for name, series in rows.items()}
        for row in again:
            earlier = self._earlier.get(partition)
            if not earlier or (row > 10 and self._random.random() < 0.2):
                source_values, source = values, columns
                place = self._random.randrange(row) if row else -1
            else:
                chunk = self._random.choice(earlier)
                place = self._random.randrange(len(chunk.values))
                source_values = chunk.values
                source = {name: [chunk.rows[name][place]] for name in columns}
            at = place if source is columns else 0
            if place < 0 or source["kind"][at] == REFUSED:
                continue
            values[row] = source_values[place]
            for name in columns:
                columns[name][row] = source[name][at]
            columns["kind"][row] = DUPLICATE
        for name, series in rows.items():
            rows[name] = pl.Series(columns[name], dtype=series.dtype)


_PLACE = {"offset": pl.Int64, "partition": pl.Int64}
