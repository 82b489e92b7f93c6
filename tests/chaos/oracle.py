"""What must be there against what is there: lost, doubled, unexpected, each offset and each sum.

Independent of the code it judges: it knows what was produced and where each record stands, and asks
ClickHouse and Kafka.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from clickhouse_connect.driver.httpclient import HttpClient
from kafka import KafkaConsumer, TopicPartition

from schemas.topics import DEAD_LETTER_TOPIC, USAGE_TOPIC
from streams.settings import Settings
from tests.chaos.ledger import DUPLICATE, REFUSED, STORED
from tests.e2e.windows import differences
from tests.rollups import COUNTED

SHOWN_MAX = 20
READ_SECONDS_MAX = 120.0
PLACE = ["partition", "offset"]
Place = tuple[int, int]

_OF_MODEL = (
    "model",
    "vendor",
    "vendor_country",
    "license",
    "open_weights",
    "origin",
    "size_class",
    "reasoning",
    "provider",
)
_OF_SAMPLE = (
    "category",
    "model",
    "vendor",
    "vendor_country",
    "open_weights",
    "origin",
    "size_class",
    "reasoning",
)
ROLLUPS: Mapping[str, tuple[str, str, tuple[str, ...]]] = {
    "usage_1m": ("minute", "toStartOfMinute(occurred_at)", _OF_MODEL),
    "usage_1h": ("hour", "toStartOfHour(occurred_at)", _OF_MODEL),
    "usage_1d": ("day", "toDate(occurred_at)", _OF_MODEL),
    "usage_context_1h": (
        "hour",
        "toStartOfHour(occurred_at)",
        ("app_id", "region", "category", "finish_reason", "tool_use"),
    ),
    "usage_sampled_1d": ("day", "toDate(occurred_at)", _OF_SAMPLE),
    "usage_located_1d": ("day", "toDate(occurred_at)", ("caller_country", "vendor", "origin")),
    "usage_users_1d": ("day", "toDate(occurred_at)", ("model", "vendor", "origin", "user_hash")),
}
"""Table -> its time, the same of a raw row, its dimensions."""
_MEASURES = {
    "requests": "1",
    "tokens_prompt": "ifNull(tokens_prompt, 0)",
    "tokens_completion": "ifNull(tokens_completion, 0)",
    "tokens_reasoning": "ifNull(tokens_reasoning, 0)",
    "tokens_cached": "ifNull(tokens_cached, 0)",
    "cost_nanousd": "ifNull(cost_nanousd, 0)",
    "tool_call_requests": "tool_use = 'called'",
    "errors": "status != 'ok'",
    "tokens_unknown": "tokens_prompt IS NULL OR tokens_completion IS NULL",
    "cost_unknown": "cost_nanousd IS NULL",
}
_ROW_SQL = """
SELECT toInt64(kafka_partition) AS partition, toInt64(kafka_offset) AS offset, event_id,
    toUnixTimestamp64Milli(occurred_at) AS time_ms, toString(model) AS model,
    toString(provider) AS provider, toString(app_id) AS app_id, toString(region) AS region,
    toString(finish_reason) AS finish_reason, toString(status) AS status,
    toInt64(tokens_prompt) AS tokens_prompt, toInt64(tokens_completion) AS tokens_completion,
    toInt64(cost_nanousd) AS cost_nanousd
FROM usage_events WHERE """
_COMPARED = (
    "event_id",
    "time_ms",
    "model",
    "provider",
    "app_id",
    "region",
    "finish_reason",
    "status",
    "tokens_prompt",
    "tokens_completion",
    "cost_nanousd",
)


@dataclass(frozen=True)
class Letter:
    """A dead letter as a reader of committed transactions sees it."""

    partition: int
    offset: int
    reason: str
    stage: str
    is_in_place: bool


@dataclass
class Verdict:
    """What is not as it must be, in words, by kind.

    Attributes:
        records: Produced records looked at, by what must have become of them.
    """

    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    rollups: list[str] = field(default_factory=list)
    records: Counter[str] = field(default_factory=Counter)

    @property
    def differences(self) -> list[str]:
        """Return all of them, each with its kind."""
        return [
            f"{kind}: {each}"
            for kind in ("lost", "doubled", "unexpected", "rollups")
            for each in getattr(self, kind)
        ]

    @property
    def lacks_only(self) -> bool:
        """Return whether no sum of a rollup is too high."""
        return not any(" +" in each for each in self.rollups)

    def counts(self) -> dict[str, int]:
        """Return how many there are of each kind."""
        kinds = ("lost", "doubled", "unexpected", "rollups")
        return {kind: len(getattr(self, kind)) for kind in kinds}

    def shown(self) -> str:
        """Return the first `SHOWN_MAX`, one a line."""
        found = self.differences
        more = [f"and {len(found) - SHOWN_MAX} more"] if len(found) > SHOWN_MAX else []
        return "\n".join([*found[:SHOWN_MAX], *more])


@dataclass(frozen=True)
class Scope:
    """Where a round's records stand.

    Attributes:
        begins: First offset of each partition of the usage topic.
        letter_begins: The same of the dead-letter topic.
        days: ISO days of the events.
        lost: Places that retention took before anybody read them.
    """

    begins: Mapping[int, int]
    letter_begins: Mapping[int, int]
    days: Sequence[str]
    lost: frozenset[Place] = frozenset()


def judge(
    expected: pl.DataFrame, scope: Scope, client: HttpClient, letters: Sequence[Letter]
) -> Verdict:
    """Compare a round.

    Args:
        expected: `Ledger.expected` of all that was produced since ``scope.begins``.
        client: Of ClickHouse itself, not of the proxy.
        letters: `read_letters` since ``scope.letter_begins``.
    """
    verdict = Verdict()
    if scope.lost:
        gone = pl.DataFrame(sorted(scope.lost), schema=PLACE, orient="row")
        expected = expected.join(gone, on=PLACE, how="anti")
    verdict.records = Counter(
        stored=expected.filter(pl.col("kind") == STORED).height,
        duplicate=expected.filter(pl.col("kind") == DUPLICATE).height,
        refused=expected.filter(pl.col("kind") == REFUSED).height,
    )
    _judge_rows(verdict, expected.filter(pl.col("kind") == STORED), scope, client)
    _judge_duplicates(verdict, expected.filter(pl.col("kind") == DUPLICATE), scope, client)
    _judge_letters(verdict, expected.filter(pl.col("kind") == REFUSED), letters)
    verdict.rollups = unequal_rollups(client, scope.days)
    return verdict


def _judge_rows(verdict: Verdict, expected: pl.DataFrame, scope: Scope, client: HttpClient) -> None:
    wanted = expected.with_columns(tokens_completion=pl.col("tokens_prompt") // 3)
    found = _frame(client.query_arrow(_ROW_SQL + _since(scope.begins)))
    _judge_places(verdict, "row", wanted, found)
    both = wanted.join(found.unique(PLACE), on=PLACE, suffix="_found")
    unequal = pl.any_horizontal(
        pl.col(name).ne_missing(pl.col(f"{name}_found")) for name in _COMPARED
    )
    for row in both.filter(unequal).iter_rows(named=True):
        parts = [
            f"{name} {row[f'{name}_found']} instead of {row[name]}"
            for name in _COMPARED
            if row[name] != row[f"{name}_found"]
        ]
        verdict.unexpected.append(f"row {row['partition']}/{row['offset']}: {', '.join(parts)}")


def _judge_duplicates(
    verdict: Verdict, expected: pl.DataFrame, scope: Scope, client: HttpClient
) -> None:
    found = _frame(
        client.query_arrow(
            "SELECT toInt64(kafka_partition) AS partition, toInt64(kafka_offset) AS offset,"
            f" event_id FROM usage_duplicates WHERE {_since(scope.begins)}"
        )
    )
    _judge_places(verdict, "duplicate", expected, found)
    both = expected.join(found.unique(PLACE), on=PLACE, suffix="_found")
    for row in both.filter(pl.col("event_id") != pl.col("event_id_found")).iter_rows(named=True):
        verdict.unexpected.append(
            f"duplicate {row['partition']}/{row['offset']}: {row['event_id_found']}"
            f" instead of {row['event_id']}"
        )


def _judge_letters(verdict: Verdict, expected: pl.DataFrame, letters: Sequence[Letter]) -> None:
    found = pl.DataFrame(
        {
            "partition": [each.partition for each in letters],
            "offset": [each.offset for each in letters],
            "reason_found": [each.reason for each in letters],
            "fault": [_fault(each) for each in letters],
        },
        schema_overrides={
            "partition": pl.Int64,
            "offset": pl.Int64,
            "reason_found": pl.String,
            "fault": pl.String,
        },
    )
    _judge_places(verdict, "dead letter", expected, found)
    both = expected.join(found.unique(PLACE), on=PLACE)
    wrong = (pl.col("reason") != pl.col("reason_found")) | (pl.col("fault") != "")
    for row in both.filter(wrong).iter_rows(named=True):
        verdict.unexpected.append(
            f"dead letter {row['partition']}/{row['offset']}: {row['reason_found']} instead of"
            f" {row['reason']} {row['fault']}"
        )


def _fault(letter: Letter) -> str:
    stage = "insert" if letter.reason == "refused_by_clickhouse" else "decode"
    wrong = [] if letter.is_in_place else ["in another partition"]
    return ", ".join(wrong + [f"stage {letter.stage}"] * (letter.stage != stage))


def _judge_places(verdict: Verdict, what: str, wanted: pl.DataFrame, found: pl.DataFrame) -> None:
    """Note which places are missing, there more than once, or there although they must not be."""
    places = wanted.select(PLACE)
    for row in places.join(found, on=PLACE, how="anti").sort(PLACE).iter_rows():
        verdict.lost.append(f"{what} {row[0]}/{row[1]}")
    counts = found.group_by(PLACE).len()
    for row in counts.filter(pl.col("len") > 1).sort(PLACE).iter_rows():
        verdict.doubled.append(f"{what} {row[0]}/{row[1]} is there {row[2]} times")
    for row in counts.join(places, on=PLACE, how="anti").sort(PLACE).iter_rows():
        verdict.unexpected.append(f"{what} {row[0]}/{row[1]}")


def _since(begins: Mapping[int, int]) -> str:
    """Return the condition for offsets from ``begins`` on; other partitions count from 0."""
    known = ", ".join(map(str, begins)) or "-1"
    parts = [f"(kafka_partition = {p} AND kafka_offset >= {o})" for p, o in begins.items()]
    return " OR ".join([*parts, f"kafka_partition NOT IN ({known})"])


def _frame(table: Any) -> pl.DataFrame:
    found = pl.from_arrow(table)
    assert isinstance(found, pl.DataFrame)
    return found


def unequal_rollups(client: HttpClient, days: Sequence[str] | None) -> list[str]:
    """Return where any rollup differs from the raw table."""
    return [each for table in ROLLUPS for each in unequal_rollup(client, table, days)]


def unequal_rollup(client: HttpClient, table: str, days: Sequence[str] | None) -> list[str]:
    """Return where a rollup differs from the raw table, by every dimension together.

    Args:
        days: ISO days to compare, or ``None`` for all.
    """
    time, raw_time, dimensions = ROLLUPS[table]
    names = ", ".join(dimensions)
    sums = ", ".join(f"sum({name}_part) AS {name}_all" for name in _MEASURES)
    raw = ", ".join(f"sum(toInt64({sql})) AS {name}_part" for name, sql in _MEASURES.items())
    negative = ", ".join(f"-sum(toInt64({name})) AS {name}_part" for name in _MEASURES)
    differs = " OR ".join(f"{name}_all != 0" for name in _MEASURES)
    listed = ", ".join(f"toDate('{day}')" for day in days or ())
    raw_where = f"WHERE {COUNTED[table]}"
    raw_where += f" AND toDate(occurred_at) IN ({listed})" if days is not None else ""
    where = f"WHERE toDate({time}) IN ({listed})" if days is not None else ""
    rows = client.query(
        f"SELECT t, {names}, {sums} FROM ("
        f"SELECT {raw_time} AS t, {names}, {raw} FROM usage_events {raw_where} GROUP BY t, {names}"
        f" UNION ALL SELECT {time} AS t, {names}, {negative} FROM {table} {where}"
        f" GROUP BY t, {names})"
        f" GROUP BY t, {names} HAVING {differs} ORDER BY t, {names} LIMIT {SHOWN_MAX}"
    ).result_rows
    count = 1 + len(dimensions)
    return [
        f"{table} {' '.join(map(str, row[:count]))}: "
        + ", ".join(
            f"{name} {-value:+d}"
            for name, value in zip(_MEASURES, row[count:], strict=True)
            if value
        )
        for row in rows
    ]


# --- The whole topic at the end ------------------------------------------------------------------


def unequal_windows(client: HttpClient, from_ms: int, sample: int = 1) -> list[str]:
    """Return what is wrong with rolling windows that begin at a time or later.

    Args:
        client: Of ClickHouse itself.
        from_ms: Epoch milliseconds.
        sample: Look at every so-manieth window.
    """
    defaults = Settings.model_fields
    return list(
        differences(
            client,
            top=defaults["windows_top"].default,
            tokens_cap=defaults["tokens_cap"].default,
            from_ms=from_ms,
            sample=sample,
        )
    )


def unaccounted(
    client: HttpClient, ends: Mapping[int, int], letters: Sequence[Letter], lost: frozenset[Place]
) -> tuple[int, list[str]]:
    """Return how many offsets there are, and which are not in exactly one place.

    Args:
        letters: All there are.
        lost: Places that retention took, and those passed over after a step that failed.
    """
    differences: list[str] = []
    for partition, end in ends.items():
        times = np.zeros(end, np.int64)
        for table in ("usage_events", "usage_duplicates"):
            answer = client.query_arrow(
                f"SELECT toInt64(kafka_offset) AS offset FROM {table}"
                f" WHERE kafka_partition = {partition}"
            )
            times += _times(answer["offset"].to_numpy(), end)
        times += _times([each.offset for each in letters if each.partition == partition], end)
        times += _times([offset for where, offset in lost if where == partition], end)
        for offset in np.flatnonzero(times != 1)[:SHOWN_MAX]:
            differences.append(f"{partition}/{offset} is in {times[offset]} places")
    return sum(ends.values()), differences


def _times(offsets: Any, end: int) -> Any:
    return np.bincount(np.asarray(offsets, np.int64), minlength=end)[:end]


# --- Dead letters --------------------------------------------------------------------------------


def read_letters(bootstrap_servers: str, begins: Mapping[int, int]) -> list[Letter]:
    """Return the dead letters of committed transactions, from ``begins`` on.

    Raises:
        TimeoutError: If a transaction stays open.
    """
    consumer = KafkaConsumer(
        bootstrap_servers=bootstrap_servers.split(","),
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        consumer_timeout_ms=1000,
    )
    try:
        numbers = sorted(consumer.partitions_for_topic(DEAD_LETTER_TOPIC) or ())
        tps = [TopicPartition(DEAD_LETTER_TOPIC, number) for number in numbers]
        consumer.assign(tps)
        for tp in tps:
            consumer.seek(tp, begins.get(tp.partition, 0))
        return _read_to_end(consumer, tps)
    finally:
        consumer.close()


def _read_to_end(consumer: Any, tps: Sequence[Any]) -> list[Letter]:

    letters: list[Letter] = []
    ends = consumer.end_offsets(tps)
    deadline = time.monotonic() + READ_SECONDS_MAX
    while any(consumer.position(tp) < ends[tp] for tp in tps):
        if time.monotonic() > deadline:
            raise TimeoutError("the dead-letter topic has a transaction that stays open")
        for records in consumer.poll(timeout_ms=500).values():
            letters += [_letter(record) for record in records]
    return letters


def _letter(record: Any) -> Letter:
    headers = {name: value.decode() for name, value in record.headers}
    partition = int(headers["origin_partition"])
    is_in_place = record.partition == partition and headers["origin_topic"] == USAGE_TOPIC
    return Letter(
        partition, int(headers["origin_offset"]), headers["reason"], headers["stage"], is_in_place
    )
