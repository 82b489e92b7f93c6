"""Check that no event is stored twice: the same source and identifier at two offsets.

Workers drop an event that was sent again into the same Kafka partition. A producer that changed its
key sends it into another one, where nobody looks: this check does.

Two rows are one event when their event times are no further apart than the duplicate window. The
rows are taken in chunks of event time of the window's length, each with the window after it, and a
chunk of more than `ROWS_MAX` rows in parts by hash of the identifier; what a GROUP BY needs beyond
`SPILL_BYTES` goes into files. Cost: each row is read twice per part, two strings of about 40 bytes;
parts are at most `PARTS_MAX`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sinks.reconciling import (
    CheckResult,
    Difference,
    Engine,
    Findings,
    Frontier,
    Say,
    month_of,
    settled,
    silent,
)

CHECK = "event_ids"
ROWS_MAX = 10_000_000
PARTS_MAX = 32
CHUNK_SECONDS_MIN = 3600
HASHES_PER_QUERY = 5000
COPIES_PER_EVENT_MAX = 1000
COPIES_MAX = 200_000
"""Rows to remove that one run returns; the next run finds the others."""


@dataclass(frozen=True, slots=True, order=True)
class StoredRow:
    """Where a row stands; ordered by that."""

    partition: int
    offset: int
    occurred_at_ms: int
    source: str
    event_id: str

    def at(self) -> str:
        """Return the place for people."""
        moment = datetime.fromtimestamp(self.occurred_at_ms / 1000, UTC)
        text = moment.isoformat(sep=" ", timespec="milliseconds").removesuffix("+00:00")
        return f"partition {self.partition} offset {self.offset} at {text}"


@dataclass(frozen=True)
class Copies:
    """One event that is stored several times: the row to keep, and the others."""

    kept: StoredRow
    others: tuple[StoredRow, ...]


def check_event_ids(
    engine: Engine,
    frontier: Frontier,
    *,
    window_seconds: int,
    say: Say = silent,
) -> tuple[CheckResult, list[Copies]]:
    """Look for events that are stored twice.

    Args:
        frontier: Committed offsets: rows at or above them are left to the next run.
        window_seconds: Two rows of one identifier further apart in event time are two events.

    Raises:
        SinkUnavailableError, FatalError: ClickHouse does not answer or refuses.
    """
    findings, copies, compared = Findings(), list[Copies](), 0
    seen: set[tuple[int, int]] = set()
    chunk_seconds = max(window_seconds, CHUNK_SECONDS_MIN)
    sizes = _sizes(engine, chunk_seconds)
    for number in sorted(sizes):
        start = number * chunk_seconds
        say(f"identifiers of events from {datetime.fromtimestamp(start, UTC):%Y-%m-%d %H:%M}")
        compared += sizes[number]
        times = (
            f"occurred_at >= toDateTime({start}, 'UTC')"
            f" AND occurred_at < toDateTime({start + chunk_seconds + window_seconds}, 'UTC')"
        )
        where = f"{times} AND {settled(frontier)}"
        rows = sizes[number] + sizes.get(number + 1, 0)
        hashes = _repeated(engine, where, rows, start + chunk_seconds)
        for event in _events(engine, where, hashes, window_seconds):
            _add(event, seen, findings, copies)
    return findings.result(CHECK, compared, "events"), copies


def check_recent_event_ids(
    engine: Engine, frontier: Frontier, *, window_seconds: int, since_seconds: int
) -> CheckResult:
    """Look for events that are stored twice with event times from a moment on.

    For a check that runs all the time: an event whose first copy is older than that is left to
    `check_event_ids`. A producer that sends again keeps the event time.
    """
    where = f"occurred_at >= toDateTime({since_seconds}, 'UTC') AND {settled(frontier)}"
    ((compared,),) = engine.rows(
        f"SELECT count() FROM {engine.table('usage_events')} WHERE {where}"
    )
    findings, copies = Findings(), list[Copies]()
    seen: set[tuple[int, int]] = set()
    for event in _events(engine, where, _repeated(engine, where, compared), window_seconds):
        _add(event, seen, findings, copies)
    return findings.result(CHECK, compared, "events")


# One number instead of a pair: seven times faster. Offsets stay below 2^48.
_PLACE = "bitOr(bitShiftLeft(toUInt64(kafka_partition), 48), kafka_offset)"
_AT_SEVERAL_OFFSETS = f"min({_PLACE}) != max({_PLACE})"


def _sizes(engine: Engine, chunk_seconds: int) -> dict[int, int]:
    """Return the number of rows in each chunk of event time that has any."""
    rows = engine.rows(
        f"SELECT intDiv(toUnixTimestamp64Milli(occurred_at), {chunk_seconds * 1000}) AS chunk, count()"
        f" FROM {engine.table('usage_events')} GROUP BY chunk"
    )
    return {int(chunk): int(count) for chunk, count in rows}


def _repeated(engine: Engine, where: str, rows: int, begins_before: int | None = None) -> list[int]:
    """Return hashes of identifiers that stand at several offsets.

    Args:
        rows: About how many rows there are.
        begins_before: Epoch seconds: the first event time of each lies before it.
    """
    begins = (
        ""
        if begins_before is None
        else f" AND min(occurred_at) < toDateTime({begins_before}, 'UTC')"
    )
    parts = min(-(-rows // ROWS_MAX), PARTS_MAX) or 1
    found: list[int] = []
    for part in range(parts):
        of_part = f" AND cityHash64(source, event_id) % {parts} = {part}" if parts > 1 else ""
        found += [
            row[0]
            for row in engine.rows(
                f"SELECT cityHash64(source, event_id) AS hash FROM {engine.table('usage_events')}"
                f" WHERE {where}{of_part} GROUP BY hash HAVING {_AT_SEVERAL_OFFSETS}"
                f"{begins} LIMIT {max(COPIES_MAX - len(found), 0)}"
            )
        ]
    return found


def _events(
    engine: Engine, where: str, hashes: Sequence[int], window_seconds: int
) -> Iterable[list[StoredRow]]:
    """Yield the rows of each event that has several, grouped by its identifier and time."""
    for at in range(0, len(hashes), HASHES_PER_QUERY):
        rows = engine.rows(
            "SELECT source, event_id, toUnixTimestamp64Milli(occurred_at) AS ms, kafka_partition,"
            f" kafka_offset FROM {engine.table('usage_events')} WHERE {where}"
            " AND cityHash64(source, event_id) IN {hashes:Array(UInt64)}"
            " ORDER BY source, event_id, ms, kafka_partition, kafka_offset"
            f" LIMIT {COPIES_PER_EVENT_MAX} BY source, event_id",
            {"hashes": list(hashes[at : at + HASHES_PER_QUERY])},
        )
        yield from events_of(
            [
                StoredRow(partition, offset, ms, source, event_id)
                for source, event_id, ms, partition, offset in rows
            ],
            window_seconds,
        )


def events_of(rows: Sequence[StoredRow], window_seconds: int) -> Iterable[list[StoredRow]]:
    """Yield the rows of each event that stands at several offsets.

    Args:
        rows: In the order of source, identifier and event time. Copies of one offset, which are
            another check's concern, count once.
        window_seconds: Rows of one identifier belong together while the next is no further away.
    """
    event: list[StoredRow] = []
    offsets: set[tuple[int, int]] = set()
    for row in rows:
        last = event[-1] if event else None
        if last is not None and (
            (last.source, last.event_id) != (row.source, row.event_id)
            or row.occurred_at_ms - last.occurred_at_ms > window_seconds * 1000
        ):
            if len(event) > 1:
                yield event
            event, offsets = [], set()
        if (row.partition, row.offset) not in offsets:
            offsets.add((row.partition, row.offset))
            event.append(row)
    if len(event) > 1:
        yield event


def _add(
    event: Sequence[StoredRow],
    seen: set[tuple[int, int]],
    findings: Findings,
    copies: list[Copies],
) -> None:
    """Note an event unless an earlier chunk has: two chunks may see its rows."""
    kept = min(event)
    others = tuple(
        sorted(each for each in event if each != kept and (each.partition, each.offset) not in seen)
    )
    if not others:
        return
    seen.update((each.partition, each.offset) for each in others)
    copies.append(Copies(kept, others))
    detail = "; ".join(each.at() for each in (kept, *others[:5]))
    month = month_of(datetime.fromtimestamp(kept.occurred_at_ms / 1000, UTC))
    place = f"{kept.source} {kept.event_id}"
    findings.add(Difference(CHECK, place, 1, len(others) + 1, detail, month))
