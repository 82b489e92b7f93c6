"""Give a rollup what it lacks of the rows: a block whose token ClickHouse kept and whose part it lost.

The target of a view can lose a block as ``usage_events`` can (`sinks.lost_blocks`). Its rows are sums,
so nobody can ask it for one block; but what it lacks can be told, on a live system, without a moment
of rest: the settled rows are read first, by every key of the rollup, and then the rollup. Whatever is
settled has been counted by then, so where the rollup says less than the settled rows, by so much it
falls short, and rows in flight can only hide a part of it until they are settled too. That much is
added, measure by measure, as a part that comes from another table, which no view sees. So a key is
never given too much, and one that has more than all rows, read last, is a case for a rebuild.

Two that complete the same rollup would add it twice. Each fills a table of its own name, from which
its part is *moved*; before it creates it, it drops those of others, and gives up if another is there
afterwards. Of two at once, then, the later has taken the part away from the earlier or sees its table.
"""

import math
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import structlog
from prometheus_client import Counter

from schemas.errors import FatalError, RetryableError
from sinks.rebuilding import COMPLETING, EVENTS, ROWS, STAGING, select_of_view, tables_like
from sinks.reconciling import Engine, Frontier, month_of, settled
from sinks.reconciling_rollups import Bucket, Span, between
from sinks.rollups import ROLLUPS, Rollup

log = structlog.get_logger()

COMPLETED = Counter(
    "tokentide_rollup_requests_restored",
    "Requests counted once more in a rollup, because ClickHouse had lost their block.",
    ["table"],
)
_ROLLUP = {rollup.name: rollup for rollup in ROLLUPS}
_SETTLED, _FOUND, _ALL = 0, 1, 2


class RepairUnderWayError(RetryableError):
    """Somebody else repairs the rollup now."""


def complete_bucket(engine: Engine, frontier: Callable[[], Frontier], bucket: Bucket) -> int:
    """Add what one bucket of a rollup lacks; return how many requests those are.

    Args:
        frontier: Returns the committed offsets as they are now.

    Raises:
        FatalError: A key has more than the rows say, or a view is missing: nothing was changed.
        RepairUnderWayError: Later, or never if a repair that was killed has left its tables.
        SinkUnavailableError: ClickHouse does not answer.
    """
    name, start_seconds = bucket
    rollup = _ROLLUP[name]
    start = datetime.fromtimestamp(start_seconds, UTC)
    span = Span(start, start + timedelta(seconds=rollup.bucket_seconds))
    with _alone(engine, rollup) as (sides, adding):
        _read_sides(engine, rollup, span, frontier(), sides)
        _refuse_excess(engine, rollup, sides)
        engine.command(f"INSERT INTO {adding} {_lacking(rollup, sides)}")
        ((counted, rows),) = engine.rows(f"SELECT sum(requests), count() FROM {adding}")
        if not rows:
            return 0
        engine.command(
            f"ALTER TABLE {adding} MOVE PARTITION {month_of(start)} TO TABLE {engine.table(name)}"
        )
    requests = math.ceil(int(counted) / rollup.times)
    COMPLETED.labels(name).inc(requests)
    log.warning("rollup.completed", table=name, bucket=str(start), requests=requests)
    return requests


@contextmanager
def _alone(engine: Engine, rollup: Rollup) -> Iterator[tuple[str, str]]:
    """Make the tables in which a part is put together; yield their names; drop them at the end."""
    prefix = f"{COMPLETING}{rollup.name}_"
    for other in tables_like(engine, prefix):
        engine.command(f"DROP TABLE IF EXISTS {engine.table(other)} SYNC")
    own = prefix + uuid.uuid4().hex
    names = ", ".join((rollup.time, *rollup.keys, *rollup.measures))
    try:
        engine.command(f"CREATE TABLE {engine.table(own)} AS {engine.table(rollup.name)}")
        engine.command(
            f"CREATE TABLE {engine.table(own)}_sides ENGINE = MergeTree ORDER BY tuple() EMPTY AS"
            f" SELECT toUInt8(0) AS side, {names} FROM {engine.table(rollup.name)}"
        )
        others = set(tables_like(engine, prefix)) - {own, f"{own}_sides"}
        if others or tables_like(engine, STAGING):
            raise RepairUnderWayError(f"{rollup.name} is being repaired by somebody else")
        yield f"{engine.table(own)}_sides", engine.table(own)
    finally:
        for table in (own, f"{own}_sides"):
            engine.command(f"DROP TABLE IF EXISTS {engine.table(table)} SYNC")


def _read_sides(engine: Engine, rollup: Rollup, span: Span, frontier: Frontier, sides: str) -> None:
    """Read the settled rows, then the rollup, then all rows: the order is what makes it right."""
    names = ", ".join((rollup.time, *rollup.keys, *rollup.measures))
    rows = f"SELECT * FROM {engine.table(EVENTS)} WHERE {between('occurred_at', span)}"
    select = select_of_view(engine, rollup)
    of_settled = select.replace(ROWS, f"({rows} AND {settled(frontier)})")
    of_all = select.replace(ROWS, f"({rows})")
    found = between(rollup.time, span, rollup.time == "day")
    for side, source in (
        (_SETTLED, f"({of_settled})"),
        (_FOUND, f"{engine.table(rollup.name)} WHERE {found}"),
        (_ALL, f"({of_all})"),
    ):
        engine.command(f"INSERT INTO {sides} SELECT {side}, {names} FROM {source}")


def _refuse_excess(engine: Engine, rollup: Rollup, sides: str) -> None:
    keys = ", ".join((rollup.time, *rollup.keys))
    more = " OR ".join(
        f"sumIf({name}, side = {_FOUND}) > sumIf({name}, side = {_ALL})" for name in rollup.measures
    )
    ((number,),) = engine.rows(
        f"SELECT count() FROM (SELECT {keys} FROM {sides} GROUP BY {keys} HAVING {more})"
    )
    if number:
        raise FatalError(
            f"{number} keys of {rollup.name} have more than the rows: run tokentide reconcile --repair"
        )


def _lacking(rollup: Rollup, sides: str) -> str:
    """Return the rows by which the rollup falls short, in the order of its columns' names."""
    keys = ", ".join((rollup.time, *rollup.keys))
    short = {
        name: f"toUInt64(greatest(toInt64(sumIf({name}, side = {_SETTLED}))"
        f" - toInt64(sumIf({name}, side = {_FOUND})), 0))"
        for name in rollup.measures
    }
    values = ", ".join(f"{value} AS lacking_{name}" for name, value in short.items())
    any_short = " OR ".join(f"lacking_{name} > 0" for name in rollup.measures)
    return (
        f"({keys}, {', '.join(rollup.measures)})"
        f" SELECT {keys}, {values} FROM {sides} GROUP BY {keys} HAVING {any_short}"
    )
