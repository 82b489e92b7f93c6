"""A plain recount of usage events: what the tables must say, from the records alone.

It shares no code with the pipeline: its own check of records, its own reading of the catalogue's
CSV files, its own prices and groups, one record after the other, then sums by Polars. The only
thing it has in common with what it checks is the written specification.
"""

import csv
import functools
import re
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import islice
from pathlib import Path

import orjson
import polars as pl

CATALOGUE = Path(__file__).parents[2] / "schemas" / "catalogue_data"
CHUNK_RECORDS = 100_000
MEASURES = (
    "requests",
    "tokens_prompt",
    "tokens_completion",
    "tokens_reasoning",
    "tokens_cached",
    "cost_nanousd",
    "tool_call_requests",
    "errors",
    "tokens_unknown",
    "cost_unknown",
)
ATTRIBUTES = (
    "vendor",
    "vendor_country",
    "license",
    "open_weights",
    "origin",
    "size_class",
    "reasoning",
)
REPORTED = (
    "provider",
    "app_id",
    "region",
    "caller_country",
    "category",
    "finish_reason",
    "tool_use",
    "status",
    "cost_source",
)
DIMENSIONS = ("model", *ATTRIBUTES, *REPORTED)
"""Columns by which the tables can be divided; ``cost_source`` is in the raw table only."""

Counts = dict[tuple[str, str], tuple[int, ...]]
"""(ISO day, value of the dimension) -> `MEASURES`."""


@dataclass(frozen=True)
class Recount:
    """What the records say.

    Attributes:
        records: All of them, valid or not.
        refused: How often each (value, reason) must be in the dead-letter topic.
        duplicates: Valid records whose event had been sent before.
        sent: `MEASURES` of all valid records, those that were sent again too.
        counts: By dimension, each event once.
    """

    records: int
    refused: Counter[tuple[bytes, str]]
    duplicates: int
    sent: tuple[int, ...]
    counts: dict[str, Counts]

    @property
    def stored(self) -> int:
        """Return how many rows usage_events must have."""
        return sum(measures[0] for measures in self.counts["model"].values())


def recount(
    records: Iterable[bytes], *, now: datetime, progress: Callable[[int], None] = lambda _: None
) -> Recount:
    """Count the records again.

    Args:
        records: Values as produced.
        now: When they were produced, roughly: what starts more than five minutes later is refused.
        progress: Called with the number of records of each chunk done.
    """
    count = 0
    refused: Counter[tuple[bytes, str]] = Counter()
    partial: dict[str, list[pl.DataFrame]] = defaultdict(list)
    seen: set[int] = set()
    duplicates = 0
    sent = [0] * len(MEASURES)
    source = iter(records)
    while chunk := list(islice(source, CHUNK_RECORDS)):
        count += len(chunk)
        every = _frame(_valid(chunk, now, refused))
        sent = [a + b for a, b in zip(sent, _totals(every), strict=True)]
        frame = every.filter(pl.Series(_first_times(every["event_id"], seen), dtype=pl.Boolean))
        duplicates += every.height - frame.height
        for dimension in DIMENSIONS:
            partial[dimension].append(_sums(frame, dimension))
        progress(len(chunk))
    return Recount(
        records=count,
        refused=refused,
        duplicates=duplicates,
        sent=tuple(sent),
        counts={dimension: _counts(partial[dimension], dimension) for dimension in DIMENSIONS},
    )


# --- Records -----------------------------------------------------------------------------------

_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_HASH = re.compile(r"[0-9a-fA-F]{64}")
_BLANKS = " \t\n\r\f\v"
_EARLIEST = datetime(2015, 1, 1, tzinfo=UTC)
_AHEAD = timedelta(minutes=5)
_REQUIRED = ("schema_version", "event_id", "source", "occurred_at", "model_raw", "status")
_FINISH_REASONS = {"stop", "length", "tool_calls", "content_filter", "error", "cancelled", "other"}
_STATUSES = {"ok", "error", "cancelled", "timeout", "rate_limited"}


class _RefusedError(Exception):
    """The record is refused; the argument is the reason."""


Event = dict[str, object]


def read_event(value: bytes, now: datetime) -> tuple[Event, datetime]:
    """Return the members of a valid record, and when the request started.

    Raises:
        _RefusedError: With the reason that a dead letter must have.
    """
    if not value:
        raise _RefusedError("empty_value")
    try:
        event = orjson.loads(value)
    except orjson.JSONDecodeError:
        raise _RefusedError("invalid_json") from None
    if not isinstance(event, dict):
        raise _RefusedError("not_an_object")
    for name in _REQUIRED:
        if event.get(name) is None:
            raise _RefusedError("missing_field")
    for name, member in event.items():
        if member is not None and (check := _CHECKS.get(name)):
            check(member)
    moment = _time(event["occurred_at"])
    if moment < _EARLIEST:
        raise _RefusedError("out_of_range")
    if moment > now + _AHEAD:
        raise _RefusedError("from_the_future")
    tokens = (event.get("tokens_prompt"), event.get("tokens_completion"))
    if event["status"] == "ok" and None in tokens:
        raise _RefusedError("missing_field")
    return event, moment


def _time(text: str) -> datetime:
    if not _TIME.fullmatch(text):
        raise _RefusedError("bad_timestamp")
    try:
        return datetime.fromisoformat(text.upper()).astimezone(UTC)
    except ValueError:
        raise _RefusedError("bad_timestamp") from None


def _whole(lowest: int, highest: int) -> Callable[[object], None]:
    def check(member: object) -> None:
        if type(member) is not int:
            raise _RefusedError("wrong_type")
        if not lowest <= member <= highest:
            raise _RefusedError("out_of_range")

    return check


def _text(
    longest: int, *, required: bool = False, trimmed: bool = False
) -> Callable[[object], None]:
    def check(member: object) -> None:
        if type(member) is not str:
            raise _RefusedError("wrong_type")
        if "\0" in member:
            raise _RefusedError("invalid_json")
        text = member.strip(_BLANKS) if trimmed else member
        if required and not text:
            raise _RefusedError("empty_text")
        if len(text) > longest:
            raise _RefusedError("too_long")

    return check


def _yes_or_no(member: object) -> None:
    if type(member) is not bool:
        raise _RefusedError("wrong_type")


def _hashed(member: object) -> None:
    if type(member) is not str:
        raise _RefusedError("wrong_type")
    if "@" in member:
        raise _RefusedError("raw_identifier")
    if member and not _HASH.fullmatch(member):
        raise _RefusedError("bad_hash")


def _tags(member: object) -> None:
    if not isinstance(member, dict):
        raise _RefusedError("wrong_type")
    if len(member) > 16:
        raise _RefusedError("too_many_tags")
    for name, text in member.items():
        _text(64)(name)
        _text(256)(text)


def _version(member: object) -> None:
    if type(member) is not int:
        raise _RefusedError("wrong_type")
    if member != 1:
        raise _RefusedError("unsupported_version")


_ANY_LENGTH = 1 << 20
_CHECKS: dict[str, Callable[[object], None]] = {
    "schema_version": _version,
    "event_id": _text(160, required=True),
    "source": _text(_ANY_LENGTH, required=True),
    "occurred_at": _text(_ANY_LENGTH),
    "model_raw": _text(256, required=True, trimmed=True),
    "status": _text(_ANY_LENGTH, required=True),
    "tags": _tags,
    "user_hash": _hashed,
    "session_hash": _hashed,
    "attempt": _whole(0, 50),
    "tokens_prompt": _whole(0, 50_000_000),
    "tokens_completion": _whole(0, 10_000_000),
    "tokens_reasoning": _whole(0, 10_000_000),
    "tokens_cached": _whole(0, 50_000_000),
    "tokens_cache_write": _whole(0, 50_000_000),
    "cost_nanousd": _whole(0, 10**12),
    "latency_ms": _whole(0, 86_400_000),
    "ttft_ms": _whole(0, 86_400_000),
    "tool_calls": _whole(0, 1000),
    "status_code": _whole(100, 599),
    **dict.fromkeys(("streamed", "cancelled", "is_byok", "cache_hit"), _yes_or_no),
    **{name: _text(_ANY_LENGTH) for name in ("operation", "cost_source", "finish_reason")},
    "request_id": _text(160),
    "model_requested": _text(256),
    "provider": _text(64),
    "finish_reason_native": _text(64),
    "error_type": _text(64),
    "app_id": _text(128),
    "region": _text(32),
    "country": _text(2),
    "service_tier": _text(32),
    "category": _text(128),
}


# --- Models ------------------------------------------------------------------------------------

_VARIANTS = (
    "free",
    "batch",
    "extended",
    "thinking",
    "beta",
    "exacto",
    "nitro",
    "floor",
    "online",
)
_SOURCE_ORDER = ("or-", "orlist-", "modelsdev", "genai-prices", "hand")


@dataclass(frozen=True)
class Model:
    """A row of models.csv, blanks as ``unknown``, with its prices.

    Attributes:
        price_days: ISO days on which a price begins, ascending.
        prices: Pico-USD per prompt and per completion token from that day on.
    """

    model: str
    vendor: str
    vendor_country: str
    license: str
    open_weights: str
    origin: str
    size_class: str
    reasoning: str
    price_days: list[str] = field(repr=False)
    prices: list[tuple[int, int]] = field(repr=False)


_UNKNOWN = Model(
    model="unknown",
    vendor="unknown",
    vendor_country="unknown",
    license="unknown",
    open_weights="unknown",
    origin="unknown",
    size_class="unknown",
    reasoning="unknown",
    price_days=[],
    prices=[],
)


def _rows(name: str) -> Iterator[dict[str, str]]:
    with (CATALOGUE / name).open(encoding="utf-8", newline="") as lines:
        yield from csv.DictReader(lines)


@functools.cache
def models() -> dict[str, Model]:
    """Return the catalogue by model id."""
    prices = _prices()
    found = {}
    for row in _rows("models.csv"):
        days = sorted(prices[row["model_id"]])
        found[row["model_id"]] = Model(
            model=row["model_id"],
            vendor=row["vendor"] or "unknown",
            vendor_country=row["vendor_country"] or "unknown",
            license=row["license"] or "unknown",
            open_weights={"true": "open", "false": "closed"}.get(row["open_weights"], "unknown"),
            origin=_origin(row),
            size_class=_size_class(row["total_params_b"]),
            reasoning=row["reasoning"] or "unknown",
            price_days=days,
            prices=[prices[row["model_id"]][day][1] for day in days],
        )
    return found


def _origin(row: dict[str, str]) -> str:
    if row["open_weights"] == "false":
        return "proprietary"
    if row["open_weights"] == "" or row["vendor_country"] == "":
        return "unknown"
    return "chinese_open" if row["vendor_country"] == "CN" else "other_open"


def _size_class(total_params_b: str) -> str:
    if not total_params_b:
        return "unknown"
    billions = float(total_params_b)
    return "small" if billions < 15 else "medium" if billions < 70 else "large"


def _prices() -> dict[str, dict[str, tuple[int, tuple[int, int]]]]:
    """Return model -> day -> (rank of the source, price); the lowest rank counts, then the first."""
    found: dict[str, dict[str, tuple[int, tuple[int, int]]]] = defaultdict(dict)
    for row in _rows("price_history.csv"):
        starts = [row["source"].startswith(start) for start in _SOURCE_ORDER]
        rank = starts.index(True) if any(starts) else -1
        day = found[row["model_id"]]
        if row["as_of"] not in day or rank < day[row["as_of"]][0]:
            usd = (row["price_prompt_usd_per_mtok"], row["price_completion_usd_per_mtok"])
            prompt, completion = (int(Decimal(each) * 10**6) for each in usd)
            day[row["as_of"]] = (rank, (prompt, completion))
    return found


@functools.cache
def _aliases() -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for row in _rows("aliases.csv"):
        found[row["alias"].lower()].add(row["model_id"])
    for row in _rows("models.csv"):
        for alias in filter(None, row["aliases"].split("|")):
            found[alias.lower()].add(row["model_id"])
    return found


@functools.cache
def resolve(name: str) -> Model:
    """Return the model of a name: its id, an alias of one model, or either without ``:variant``.

    The rule about dates is left out: no name that is simulated or replayed needs it.
    """
    name = name.strip(_BLANKS).lower()
    if name in models():
        return models()[name]
    claimed_by = _aliases().get(name, set())
    if len(claimed_by) == 1:
        return models()[next(iter(claimed_by))]
    base, _, variant = name.rpartition(":")
    if not claimed_by and base and variant in _VARIANTS:
        return resolve(base)
    return _UNKNOWN


def list_price_nanousd(
    name: str, day: str, tokens_prompt: int | None, tokens_completion: int | None
) -> int | None:
    """Return what a request costs at the list price of its day, rounded half up."""
    model = resolve(name)
    variants = name.strip(_BLANKS).lower().split(":")[1:]
    if model is _UNKNOWN:
        return None
    if "free" in variants:
        return 0
    at = bisect_right(model.price_days, day)
    if at == 0 or {"batch", "extended"} & {*variants}:
        return None
    if tokens_prompt is None or tokens_completion is None:
        return None
    prompt, completion = model.prices[at - 1]
    return (tokens_prompt * prompt + tokens_completion * completion + 500) // 1000


# --- Rows and sums -----------------------------------------------------------------------------

_TEXT = ("day", "event_id", "model", *REPORTED)
_NUMBERS = (
    "tokens_prompt",
    "tokens_completion",
    "tokens_reasoning",
    "tokens_cached",
    "cost_nanousd",
)
Row = tuple[object, ...]


def _first_times(event_ids: pl.Series, seen: set[int]) -> list[bool]:
    """Return for each event whether it comes for the first time; ``seen`` learns it."""
    first = []
    for each in event_ids.hash().to_list():
        first.append(each not in seen)
        seen.add(each)
    return first


def _valid(
    values: Iterable[bytes], now: datetime, refused: Counter[tuple[bytes, str]]
) -> Iterator[Row]:
    for value in values:
        try:
            yield _row(*read_event(value, now))
        except _RefusedError as refusal:
            refused[value, str(refusal)] += 1


def _row(event: Event, moment: datetime) -> Row:
    name, day = str(event["model_raw"]), moment.date().isoformat()
    prompt, completion = _number(event, "tokens_prompt"), _number(event, "tokens_completion")
    reasoning = _number(event, "tokens_reasoning")
    if reasoning is not None and completion is not None:
        reasoning = min(reasoning, completion)
    cost, cost_source = _number(event, "cost_nanousd"), event.get("cost_source") or "gateway"
    if cost is None:
        cost = list_price_nanousd(name, day, prompt, completion)
        cost_source = "unknown" if cost is None else "list_price"
    finish, status = event.get("finish_reason") or "unknown", event["status"]
    calls = _number(event, "tool_calls")
    called = finish == "tool_calls" or (calls or 0) > 0
    return (
        day,
        event["event_id"],
        resolve(name).model,
        str(event.get("provider") or "unknown").lower(),
        event.get("app_id") or "unknown",
        event.get("region") or "unknown",
        str(event["country"]).upper() if event.get("country") else "unknown",
        event.get("category") or "unknown",
        finish if finish == "unknown" or finish in _FINISH_REASONS else "other",
        "called" if called else "none" if calls == 0 else "unknown",
        status if status in _STATUSES else "unknown",
        cost_source,
        prompt,
        completion,
        reasoning,
        _number(event, "tokens_cached"),
        cost,
    )


def _number(event: Event, name: str) -> int | None:
    number = event.get(name)
    assert number is None or isinstance(number, int)
    return number


def _frame(rows: Iterable[Row]) -> pl.DataFrame:
    columns = list(zip(*rows, strict=True)) or [()] * (len(_TEXT) + len(_NUMBERS))
    types = [*((name, pl.String) for name in _TEXT), *((name, pl.Int64) for name in _NUMBERS)]
    frame = pl.DataFrame(
        [pl.Series(name, column, kind) for (name, kind), column in zip(types, columns, strict=True)]
    )
    return frame.join(_attributes(), on="model", how="left")


@functools.cache
def _attributes() -> pl.DataFrame:
    known = [*models().values(), _UNKNOWN]
    return pl.DataFrame(
        {name: [getattr(model, name) for model in known] for name in ("model", *ATTRIBUTES)}
    )


def _sums(frame: pl.DataFrame, dimension: str) -> pl.DataFrame:
    no_tokens = pl.col("tokens_prompt").is_null() | pl.col("tokens_completion").is_null()
    return frame.group_by("day", pl.col(dimension).alias("value")).agg(
        pl.len().cast(pl.Int64).alias("requests"),
        *(pl.col(name).sum() for name in _NUMBERS),
        (pl.col("tool_use") == "called").sum().cast(pl.Int64).alias("tool_call_requests"),
        (pl.col("status") != "ok").sum().cast(pl.Int64).alias("errors"),
        no_tokens.sum().cast(pl.Int64).alias("tokens_unknown"),
        pl.col("cost_nanousd").is_null().sum().cast(pl.Int64).alias("cost_unknown"),
    )


def _totals(frame: pl.DataFrame) -> tuple[int, ...]:
    sums = _sums(frame, "model")
    return tuple(int(sums[name].sum()) for name in MEASURES)


def _counts(parts: list[pl.DataFrame], dimension: str) -> Counts:
    if not parts:
        return {}
    sums = pl.concat(parts).group_by("day", "value").agg(pl.col(name).sum() for name in MEASURES)
    assert not sums["value"].has_nulls(), dimension
    return {(row[0], row[1]): row[2:] for row in sums.select("day", "value", *MEASURES).rows()}
