"""Give stored rows what their model names mean now, and keep what they were.

A row's meaning is a function of its raw model name, and its cost, where no gateway told it, of its
tokens and time. So a restatement is a join with a table of names. A month is made anew in staging
tables as for a repair (`sinks.rebuilding`) and swapped in, rollups and all; the former versions of the
rows that change are kept in ``usage_restated`` first, and count once ``restatements`` says that the swap
was done. Windows and alerts stay as they were told.
"""

import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from schemas.model import Price
from sinks.rebuilding import EVENTS, ChangedRows, Rebuilt, rebuild_month
from sinks.reconciling import Engine, Frontier, Say, month_bounds, months_of, silent

log = structlog.get_logger()

NAMES = "restate_names_"
LOG, FORMER = "restatements", "usage_restated"
TEXTS = (
    "model",
    "vendor",
    "vendor_country",
    "license",
    "open_weights",
    "origin",
    "size_class",
    "reasoning",
)
SIZES = ("total_params_b", "active_params_b")
COSTS = ("cost_nanousd", "cost_source")
KNOWN_BY = (
    "event_id",
    "occurred_at",
    "ingested_at",
    "kafka_partition",
    "kafka_offset",
    "source",
    "model_raw",
)
BEGUN, DONE, DROPPED = "begun", "done", "dropped"


@dataclass(frozen=True)
class Meaning:
    """What a raw model name means now.

    Attributes:
        texts: In the order of `TEXTS`; ``unknown`` where nothing is known.
        prices: The list prices of the model that the name's variant has; oldest first.
        is_free: Costs 0, whatever the prices.
    """

    model_raw: str
    texts: tuple[str, ...]
    total_params_b: float | None = None
    active_params_b: float | None = None
    prices: tuple[Price, ...] = ()
    is_free: bool = False


@dataclass(frozen=True)
class NameChange:
    """What a restatement changes of one name in one month.

    Attributes:
        was, becomes: Model identifiers; equal if other attributes or the cost change.
        tokens: Of the rows that change; unknown ones add nothing.
        nanousd_before, nanousd_after: Their cost; unknown adds nothing.
    """

    month: int
    model_raw: str
    was: str
    becomes: str
    rows: int
    tokens: int
    nanousd_before: int
    nanousd_after: int


def stored_months(engine: Engine) -> list[int]:
    """Return the months of event time that have rows, ``YYYYMM``.

    Raises:
        SinkUnavailableError, FatalError: ClickHouse does not answer or refuses.
    """
    return sorted(months_of(engine, [EVENTS])[EVENTS])


def stored_names(engine: Engine, months: Sequence[int]) -> list[str]:
    """Return the raw model names of rows of some months.

    Raises:
        SinkUnavailableError, FatalError: ClickHouse does not answer or refuses.
    """
    listed = ", ".join(map(str, months))
    found = engine.rows(
        f"SELECT DISTINCT toString(model_raw) AS name FROM {engine.table(EVENTS)}"
        f" WHERE toYYYYMM(occurred_at) IN ({listed}) ORDER BY name"
    )
    return [str(name) for (name,) in found]


@contextmanager
def names_table(engine: Engine, meanings: Sequence[Meaning]) -> Iterator[str]:
    """Put meanings into a table that is dropped at the end; yield its qualified name."""
    name = NAMES + uuid.uuid4().hex
    texts = ", ".join(f"{each} LowCardinality(String)" for each in TEXTS)
    sizes = ", ".join(f"{each} Nullable(Float32)" for each in SIZES)
    engine.command(
        f"CREATE TABLE {engine.table(name)} (model_raw String, known UInt8, {texts}, {sizes},"
        " is_free UInt8, price_from_ms Array(Int64), prompt_picousd Array(Int64),"
        " completion_picousd Array(Int64)) ENGINE = MergeTree ORDER BY model_raw"
    )
    columns = ("model_raw", "known", *TEXTS, *SIZES, "is_free", "price_from_ms")
    try:
        engine.insert(
            name, (*columns, "prompt_picousd", "completion_picousd"), [_row(e) for e in meanings]
        )
        yield engine.table(name)
    finally:
        engine.command(f"DROP TABLE IF EXISTS {engine.table(name)} SYNC")


def _row(meaning: Meaning) -> list[object]:
    prices = meaning.prices
    return [
        meaning.model_raw,
        1,
        *meaning.texts,
        meaning.total_params_b,
        meaning.active_params_b,
        int(meaning.is_free),
        [price.valid_from_ms for price in prices],
        [price.prompt_picousd_per_token for price in prices],
        [price.completion_picousd_per_token for price in prices],
    ]


def planned(engine: Engine, names: str, month: int) -> list[NameChange]:
    """Return what a restatement of a month would change, by name.

    Args:
        names: Of `names_table`.

    Raises:
        SinkUnavailableError, FatalError: ClickHouse does not answer or refuses.
    """
    start, end = month_bounds(month)
    tokens = "sum(toUInt64(ifNull(tokens_prompt, 0)) + ifNull(tokens_completion, 0))"
    found = engine.rows(
        f"SELECT model_raw, was, becomes, count(), {tokens}, sum(ifNull(nanousd_before, 0)),"
        " sum(ifNull(nanousd_after, 0)) FROM ("
        f"SELECT toString(e.model_raw) AS model_raw, toString(e.model) AS was,"
        f" {_new('model')} AS becomes, e.tokens_prompt AS tokens_prompt,"
        " e.tokens_completion AS tokens_completion, e.cost_nanousd AS nanousd_before,"
        f" {_new('cost_nanousd')} AS nanousd_after FROM {engine.table(EVENTS)} AS e"
        f" INNER JOIN {names} AS m ON m.model_raw = e.model_raw"
        f" WHERE e.occurred_at >= toDateTime({int(start.timestamp())}, 'UTC')"
        f" AND e.occurred_at < toDateTime({int(end.timestamp())}, 'UTC') AND {_differs()})"
        " GROUP BY model_raw, was, becomes ORDER BY count() DESC, model_raw, was"
    )
    return [
        NameChange(month, str(row[0]), str(row[1]), str(row[2]), *map(int, row[3:]))
        for row in found
    ]


def restate_month(
    engine: Engine,
    frontier: Callable[[], Frontier],
    names: str,
    changes: Sequence[NameChange],
    note: str,
    *,
    say: Say = silent,
) -> Rebuilt:
    """Give the rows of a month their meaning of now; its rollups are made anew of them.

    Args:
        frontier: Returns the committed offsets as they are now.
        names: Of `names_table`.
        changes: What `planned` said of the month; at least one.
        note: Why, for the log.

    Raises:
        FatalError: Another repair is under way, or the result differs from the rows.
        RetryableError: No moment without a row in flight came; nothing was changed.
        SinkUnavailableError: ClickHouse does not answer.
    """
    month = changes[0].month
    restatement_id = uuid.uuid4().hex
    told = sorted({change.model_raw for change in changes})
    _record(engine, restatement_id, BEGUN, month, 0, told, note)
    changed = ChangedRows(
        rows=lambda rows: _restated(names, rows),
        before_swap=lambda: _keep_former(engine, restatement_id, names, month),
    )
    rebuilt = rebuild_month(engine, frontier, month, changed=changed, say=say)
    ((kept,),) = engine.rows(
        f"SELECT count() FROM {engine.table(FORMER)} WHERE restatement_id = {{id:String}}",
        {"id": restatement_id},
    )
    _record(engine, restatement_id, DONE, month, int(kept), told, note)
    log.info("month.restated", month=month, rows=int(kept), names=len(told))
    return rebuilt


def finish_stopped(
    engine: Engine, frontier: Callable[[], Frontier], say: Say = silent
) -> list[tuple[int, str]]:
    """Finish what restatements that were stopped have begun; return month and state of each.

    Rows are swapped after the rollups. If a row that was to change is still as it was, the swap did not
    come: what was kept of it does not count, and the rollups are made anew of the rows.

    Raises:
        As `restate_month`.
    """
    left = engine.rows(
        "SELECT restatement_id, any(month), any(names), any(note)"
        f" FROM {engine.table(LOG)} GROUP BY restatement_id HAVING NOT has(groupArray(state), {{done:String}})"
        " AND NOT has(groupArray(state), {dropped:String}) ORDER BY restatement_id",
        {"done": DONE, "dropped": DROPPED},
    )
    finished = []
    for restatement_id, month, told, note in left:
        say(f"finishing the restatement of {month} that was stopped")
        kept, unchanged = _kept_and_unchanged(engine, str(restatement_id))
        state = DONE if kept and not unchanged else DROPPED
        if state == DROPPED:
            rebuild_month(engine, frontier, int(month), say=say)
        _record(engine, str(restatement_id), state, int(month), kept, list(told), str(note))
        finished.append((int(month), state))
    return finished


def _kept_and_unchanged(engine: Engine, restatement_id: str) -> tuple[int, int]:
    """Return how many former versions were kept, and how many rows are still like theirs."""
    same = " AND ".join(
        f"{_comparable(name, f'f.{name}')} = {_comparable(name, f'e.{name}')}" for name in _CHANGING
    )
    ((kept,),) = engine.rows(
        f"SELECT count() FROM {engine.table(FORMER)} WHERE restatement_id = {{id:String}}",
        {"id": restatement_id},
    )
    ((unchanged,),) = engine.rows(
        f"SELECT count() FROM {engine.table(EVENTS)} AS e INNER JOIN"
        f" (SELECT * FROM {engine.table(FORMER)} WHERE restatement_id = {{id:String}}) AS f"
        " ON f.kafka_partition = e.kafka_partition AND f.kafka_offset = e.kafka_offset"
        f" WHERE {same}",
        {"id": restatement_id},
    )
    return int(kept), int(unchanged)


def _keep_former(engine: Engine, restatement_id: str, names: str, month: int) -> None:
    """Write the versions that are about to be replaced, those of rows that came since included."""
    start, end = month_bounds(month)
    kept = (
        f"SELECT kafka_partition, kafka_offset FROM {engine.table(FORMER)}"
        f" WHERE restatement_id = '{restatement_id}'"
    )
    columns = ", ".join(f"e.{name} AS {name}" for name in (*KNOWN_BY, *_CHANGING))
    engine.command(
        f"INSERT INTO {engine.table(FORMER)}"
        f" (restatement_id, restated_at, {', '.join((*KNOWN_BY, *_CHANGING))})"
        f" SELECT '{restatement_id}', now64(3, 'UTC'), {columns} FROM {engine.table(EVENTS)} AS e"
        f" INNER JOIN {names} AS m ON m.model_raw = e.model_raw"
        f" WHERE e.occurred_at >= toDateTime({int(start.timestamp())}, 'UTC')"
        f" AND e.occurred_at < toDateTime({int(end.timestamp())}, 'UTC') AND {_differs()}"
        f" AND (e.kafka_partition, e.kafka_offset) NOT IN ({kept})"
    )


def _record(
    engine: Engine,
    restatement_id: str,
    state: str,
    month: int,
    rows: int,
    names: list[str],
    note: str,
) -> None:
    columns = ("restatement_id", "recorded_at", "state", "month", "rows", "names", "note")
    row = (restatement_id, datetime.now(UTC), state, month, rows, names, note)
    engine.insert(LOG, columns, [row])


# --- What a row becomes, SQL ----------------------------------------------------------------------
# e is a row, m what its name means: m.known is 0 if that is not known here.

_CHANGING = (*TEXTS, *SIZES, *COSTS)
_PRICE_AT = (
    "arrayLastIndex(since -> since <= toUnixTimestamp64Milli(e.occurred_at), m.price_from_ms)"
)
_HAS_TOKENS = "isNotNull(e.tokens_prompt) AND isNotNull(e.tokens_completion)"
_HAS_PRICE = f"(m.is_free OR ({_PRICE_AT} > 0 AND {_HAS_TOKENS}))"
_PICO = (
    f"toInt64(ifNull(e.tokens_prompt, 0)) * m.prompt_picousd[{_PRICE_AT}]"
    f" + toInt64(ifNull(e.tokens_completion, 0)) * m.completion_picousd[{_PRICE_AT}]"
)
_LIST_COST = f"if(m.is_free, 0, toUInt64(intDiv({_PICO} + 500, 1000)))"
_OWN_COST = "(m.known AND (isNull(e.cost_nanousd) OR e.cost_source = 'list_price'))"
"""Whether the cost is ours to say: no gateway told it."""


def _new(column: str) -> str:
    """Return SQL for what a column of `_CHANGING` becomes."""
    if column == "cost_nanousd":
        return f"if({_OWN_COST}, if({_HAS_PRICE}, {_LIST_COST}, NULL), e.cost_nanousd)"
    if column == "cost_source":
        other = "if(e.cost_source = 'list_price', 'unknown', e.cost_source)"
        return f"if({_OWN_COST}, if({_HAS_PRICE}, 'list_price', {other}), e.cost_source)"
    return f"if(m.known, m.{column}, e.{column})"


def _comparable(column: str, value: str) -> str:
    """Return a value of a column, SQL, in a form in which null equals null."""
    return f"ifNull(toFloat64({value}), -1)" if column in (*SIZES, "cost_nanousd") else value


def _differs() -> str:
    """Return the condition that a row's meaning of now is not the one it has."""
    parts = [
        f"{_comparable(name, _new(name))} != {_comparable(name, f'e.{name}')}" for name in _CHANGING
    ]
    return f"({' OR '.join(parts)})"


def _restated(names: str, rows: str) -> str:
    """Return SQL for rows of usage_events, all columns in their order, with their meaning of now."""
    new = ", ".join(f"{_new(name)} AS {name}" for name in _CHANGING)
    return (
        f"SELECT e.* REPLACE ({new}) FROM ({rows}) AS e"
        f" LEFT JOIN {names} AS m ON m.model_raw = e.model_raw"
    )
