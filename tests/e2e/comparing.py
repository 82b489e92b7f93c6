"""Compares what the recount expects with what ClickHouse and Kafka hold: exactly, or it says where."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
from aiokafka import AIOKafkaConsumer, TopicPartition
from clickhouse_connect.driver.httpclient import HttpClient

from tests.e2e.recount import DIMENSIONS, MEASURES, Counts, Recount

USAGE_TOPIC = "llm-usage-v1"
DEAD_LETTER_TOPIC = "llm-usage-v1-dead-letter"
SHOWN_MAX = 5
_RAW_MEASURES = (
    "count()",
    *(f"sum(ifNull({name}, 0))" for name in MEASURES[1:6]),
    "countIf(tool_use = 'called')",
    "countIf(status != 'ok')",
    "countIf(tokens_prompt IS NULL OR tokens_completion IS NULL)",
    "countIf(cost_nanousd IS NULL)",
)
_SUMMED = tuple(f"sum({name})" for name in MEASURES)
_OF_MODEL = DIMENSIONS[: DIMENSIONS.index("provider") + 1]
_OF_CONTEXT = ("app_id", "region", "category", "finish_reason", "tool_use")
TABLES = {
    "usage_events": ("occurred_at", _RAW_MEASURES, DIMENSIONS),
    "usage_1m": ("minute", _SUMMED, _OF_MODEL),
    "usage_1h": ("hour", _SUMMED, _OF_MODEL),
    "usage_1d": ("day", _SUMMED, _OF_MODEL),
    "usage_context_1h": ("hour", _SUMMED, _OF_CONTEXT),
    "usage_located_1d": ("day", _SUMMED, ("caller_country", "vendor", "origin")),
}
"""Table -> column of time, `MEASURES` as SQL, dimensions it has."""
SHARE_VIEWS = {
    "model": "model",
    "vendor": "vendor",
    "country": "vendor_country",
    "license": "license",
    "origin": "origin",
    "size_class": "size_class",
    "reasoning": "reasoning",
    "provider": "provider",
    "app": "app_id",
    "region": "region",
    "category": "category",
    "finish_reason": "finish_reason",
    "tool_use": "tool_use",
}
"""View ``share_by_<name>`` -> dimension. The list is that of the issue, not that of the code."""
EVERY_VALUE = 1_000_000
BILLIONTH = Decimal("0.000000001")
DAY_SECONDS = 86_400


@dataclass(frozen=True)
class Check:
    """One comparison.

    Attributes:
        compared: Numbers or records looked at.
        differences: The first few, as text; empty when all is equal.
    """

    name: str
    compared: int
    differences: tuple[str, ...] = ()


@dataclass(frozen=True)
class Letter:
    """A dead letter.

    Attributes:
        partition, offset: Where the refused record stands in the usage topic.
        origin_value: What stands there.
        fault: What is wrong with its place or its headers; ``""`` when nothing is.
    """

    partition: int
    offset: int
    value: bytes
    reason: str
    origin_value: bytes | None
    fault: str = ""


@dataclass(frozen=True)
class Topics:
    """What Kafka holds: the end offset of each usage partition, and all dead letters."""

    ends: Mapping[int, int]
    letters: Sequence[Letter]


def compare(expected: Recount, client: HttpClient, topics: Topics) -> list[Check]:
    """Return every comparison of the database and the topics with the recount."""
    checks = [
        check_books(expected, client, topics),
        check_offsets(client, topics),
        check_letters(expected, topics),
        check_event_ids(client),
    ]
    for table in TABLES:
        checks += [check_table(expected, client, table, name) for name in TABLES[table][2]]
    for view in SHARE_VIEWS:
        for grain_seconds in (0, DAY_SECONDS):
            for top_n in (EVERY_VALUE, 3):
                checks.append(check_shares(expected, client, view, grain_seconds, top_n))
    return checks


def faults(checks: Iterable[Check]) -> list[str]:
    """Return the differences of all checks, each with its check's name."""
    return [f"{check.name}: {each}" for check in checks for each in check.differences]


# --- Kafka -------------------------------------------------------------------------------------


def read_topics(bootstrap_servers: str, progress: Callable[[int], None] = lambda _: None) -> Topics:
    """Read the dead-letter topic, and the usage topic from its first to its last record."""
    return asyncio.run(_read_topics(bootstrap_servers, progress))


async def _read_topics(bootstrap_servers: str, progress: Callable[[int], None]) -> Topics:
    records: list[Any] = []
    await _scan(bootstrap_servers, DEAD_LETTER_TOPIC, records.extend)
    places = [_origin(record) for record in records]
    wanted = set(places)
    originals: dict[tuple[int, int], Any] = {}

    def keep(batch: Sequence[Any]) -> None:
        progress(len(batch))
        for record in batch:
            if (record.partition, record.offset) in wanted:
                originals[record.partition, record.offset] = record

    ends = await _scan(bootstrap_servers, USAGE_TOPIC, keep)
    letters = [
        _letter(record, place, originals.get(place))
        for record, place in zip(records, places, strict=True)
    ]
    return Topics(ends, letters)


def _origin(record: Any) -> tuple[int, int]:
    headers = dict(record.headers)
    return int(headers["origin_partition"]), int(headers["origin_offset"])


def _letter(record: Any, place: tuple[int, int], original: Any) -> Letter:
    headers = {name: value.decode() for name, value in record.headers}
    wanted = {
        "origin_topic": USAGE_TOPIC,
        "origin_partition": str(record.partition),
        "origin_timestamp_ms": str(original.timestamp) if original else "",
        "stage": "decode",
        "schema_version": "1",
    }
    wrong = [
        f"{name} is {headers.get(name)}" for name in wanted if headers.get(name) != wanted[name]
    ]
    return Letter(
        *place,
        value=record.value or b"",
        reason=headers["reason"],
        origin_value=(original.value or b"") if original else None,
        fault="; ".join(wrong),
    )


async def _scan(
    bootstrap_servers: str, topic: str, take: Callable[[Sequence[Any]], None]
) -> dict[int, int]:
    """Hand over all records of a topic; return the end offset of each partition."""
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=bootstrap_servers,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=4 << 20,
    )
    await consumer.start()
    try:
        tps = [TopicPartition(topic, each) for each in consumer.partitions_for_topic(topic)]
        ends = await consumer.end_offsets(tps)
        await consumer.seek_to_beginning(*tps)
        while any([await consumer.position(tp) < ends[tp] for tp in tps]):
            for batch in (await consumer.getmany(timeout_ms=500)).values():
                take(batch)
        return {tp.partition: end for tp, end in ends.items()}
    finally:
        await consumer.stop()


def check_letters(expected: Recount, topics: Topics) -> Check:
    """Every refused record is in the dead-letter topic once, byte for byte, with its reason."""
    found = Counter((letter.value, letter.reason) for letter in topics.letters)
    differences = [
        f"{found[key]} instead of {expected.refused[key]} of {key[1]}: {key[0][:80]!r}"
        for key in found | expected.refused
        if found[key] != expected.refused[key]
    ]
    for letter in topics.letters:
        place = f"{letter.partition}/{letter.offset}"
        if letter.value != letter.origin_value:
            differences.append(f"{place} is {letter.origin_value!r}, dead letter {letter.value!r}")
        if letter.fault:
            differences.append(f"{place}: {letter.fault}")
    places = Counter((letter.partition, letter.offset) for letter in topics.letters)
    differences += [f"{place} is there {n} times" for place, n in places.items() if n > 1]
    return _check("dead letters", len(topics.letters), differences)


# --- Tables ------------------------------------------------------------------------------------


def check_books(expected: Recount, client: HttpClient, topics: Topics) -> Check:
    """Produced = stored + sent again + dead-lettered, in the recount and in what is there."""
    (rows,) = client.query("SELECT count() FROM usage_events").result_rows[0]
    (duplicates,) = client.query("SELECT count() FROM usage_duplicates").result_rows[0]
    letters, produced = len(topics.letters), sum(topics.ends.values())
    facts = {
        "records produced": (expected.records, produced),
        "rows": (expected.stored, rows),
        "dead letters": (expected.refused.total(), letters),
        "sent again": (expected.duplicates, duplicates),
        "all records": (produced, rows + duplicates + letters),
    }
    differences = [
        f"{name}: {found}, expected {wanted}"
        for name, (wanted, found) in facts.items()
        if wanted != found
    ]
    return _check("books", len(facts), differences)


def check_offsets(client: HttpClient, topics: Topics) -> Check:
    """Each offset of the usage topic is stored, or set aside, or dead-lettered, once."""
    differences = []
    dead: dict[int, list[int]] = defaultdict(list)
    for letter in topics.letters:
        dead[letter.partition].append(letter.offset)
    for partition, end in topics.ends.items():
        answer = client.query_arrow(
            "SELECT kafka_offset FROM usage_events WHERE kafka_partition = {p:UInt16} UNION ALL"
            " SELECT kafka_offset FROM usage_duplicates WHERE kafka_partition = {p:UInt16}",
            parameters={"p": partition},
        )
        stored = answer["kafka_offset"].to_numpy().astype(np.int64)
        seen = np.bincount(np.concatenate([stored, np.array(dead[partition], np.int64)]))
        times = np.zeros(max(end, len(seen)), np.int64)
        times[: len(seen)] = seen
        differences += [
            f"{partition}/{offset} is there {times[offset]} times"
            for offset in np.flatnonzero(times != 1)[:SHOWN_MAX]
        ]
    (others,) = client.query(
        "SELECT count() FROM usage_events WHERE kafka_partition NOT IN {p:Array(UInt16)}",
        parameters={"p": list(topics.ends)},
    ).result_rows[0]
    if others:
        differences.append(f"{others} rows of partitions that there are not")
    return _check("offsets", sum(topics.ends.values()), differences)


def check_event_ids(client: HttpClient) -> Check:
    """No event is stored twice, and what was set aside is stored in the same partition, earlier."""
    rows, ids = client.query("SELECT count(), uniqExact(event_id) FROM usage_events").result_rows[0]
    (strange,) = client.query(
        "SELECT count() FROM usage_duplicates AS d LEFT JOIN usage_events AS e"
        " ON e.event_id = d.event_id AND e.source = d.source"
        " AND e.kafka_partition = d.kafka_partition"
        " WHERE e.event_id = '' OR e.kafka_offset >= d.kafka_offset"
    ).result_rows[0]
    differences = [f"{rows} rows of {ids} events"] * (rows != ids)
    differences += [f"{strange} records set aside without an earlier one"] * (strange > 0)
    return _check("event ids", ids, differences)


def check_table(expected: Recount, client: HttpClient, table: str, dimension: str) -> Check:
    """Counts and sums of a table by day and one of its dimensions."""
    time, measures, _ = TABLES[table]
    rows = client.query(
        f"SELECT toString(toDate({time})) AS d, toString({dimension}) AS v, {', '.join(measures)}"
        f" FROM {table} GROUP BY d, v"
    ).result_rows
    found: Counts = {(row[0], row[1]): tuple(row[2:]) for row in rows}
    return _check(
        f"{table} by {dimension} and day",
        len(expected.counts[dimension]) * len(MEASURES),
        _unequal(expected.counts[dimension], found),
    )


def _unequal(expected: Counts, found: Counts) -> list[str]:
    nothing = (0,) * len(MEASURES)
    return [
        f"{' '.join(key)}: {measure} is {is_}, expected {wanted}"
        for key in sorted(expected.keys() | found.keys())
        for measure, wanted, is_ in zip(
            MEASURES, expected.get(key, nothing), found.get(key, nothing), strict=True
        )
        if is_ != wanted
    ]


# --- Shares ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Part:
    """One value of one bucket."""

    tokens: int
    requests: int
    nanousd: int
    tokens_unknown: int
    cost_unknown: int

    def __add__(self, other: "_Part") -> "_Part":
        return _Part(*(a + b for a, b in zip(_numbers(self), _numbers(other), strict=True)))


def _numbers(part: _Part) -> tuple[int, ...]:
    return part.tokens, part.requests, part.nanousd, part.tokens_unknown, part.cost_unknown


def check_shares(
    expected: Recount, client: HttpClient, view: str, grain_seconds: int, top_n: int
) -> Check:
    """A share view over everything: sums, denominators, and shares that sum to exactly 1.

    Args:
        grain_seconds: 0 (one bucket) or a day.
        top_n: Largest values by tokens that stay; the rest is ``other``.
    """
    counts = expected.counts[SHARE_VIEWS[view]]
    days = sorted({day for day, _ in counts})
    begin = datetime.fromisoformat(days[0]).replace(tzinfo=UTC)
    end = datetime.fromisoformat(days[-1]).replace(tzinfo=UTC) + timedelta(days=1)
    answer = client.query(
        f"SELECT * FROM share_by_{view}(from_time = {{f:DateTime('UTC')}},"
        " to_time = {t:DateTime('UTC')}, grain_seconds = {g:UInt32}, top_n = {n:UInt32})",
        parameters={"f": begin, "t": end, "g": grain_seconds, "n": top_n},
    )
    buckets: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    rows = list(answer.named_results())
    for row in rows:
        buckets[f"{row['bucket_start']:%Y-%m-%d}"][row["value"]] = row
    wanted = _parts(counts, top_n, days[0] if grain_seconds == 0 else None)
    differences = _unequal_shares(wanted, buckets)
    if len(rows) != sum(map(len, buckets.values())):
        differences.append("a value has two rows in one bucket")
    what = "every value" if top_n == EVERY_VALUE else f"top {top_n}"
    grain = "by day" if grain_seconds else "in all"
    return _check(f"share_by_{view} {grain}, {what}", len(rows) * 11, differences)


def _parts(counts: Counts, top_n: int, only_bucket: str | None) -> dict[str, dict[str, _Part]]:
    """Return bucket -> value -> part, as the views define them."""
    tokens: Counter[str] = Counter()
    for (_, value), measures in counts.items():
        tokens[value] += measures[1] + measures[2]
    ranked = sorted((-count, value) for value, count in tokens.items() if value != "unknown")
    named = {value for _, value in ranked[:top_n]} | {"unknown"}
    parts: dict[str, dict[str, _Part]] = defaultdict(dict)
    for (day, value), measures in counts.items():
        requests, prompt, completion, _, _, nanousd, _, _, no_tokens, no_cost = measures
        part = _Part(prompt + completion, requests, nanousd, no_tokens, no_cost)
        bucket, name = parts[only_bucket or day], value if value in named else "other"
        bucket[name] = bucket[name] + part if name in bucket else part
    return parts


def _unequal_shares(
    wanted: Mapping[str, Mapping[str, _Part]], found: Mapping[str, Mapping[str, dict[str, Any]]]
) -> list[str]:
    differences = []
    for bucket in sorted(wanted.keys() | found.keys()):
        parts, rows = wanted.get(bucket, {}), found.get(bucket, {})
        if parts.keys() != rows.keys():
            differences.append(f"{bucket}: values {sorted(parts.keys() ^ rows.keys())}")
            continue
        whole = sum(parts.values(), _Part(0, 0, 0, 0, 0))
        for name, part in parts.items():
            differences += [
                f"{bucket} {name}: {each}" for each in _unequal_row(rows[name], part, whole)
            ]
        for share, total in _totals(whole).items():
            all_shares = sum(row[share] or 0 for row in rows.values())
            if all_shares != (1 if total else 0):
                differences.append(f"{bucket}: {share} adds up to {all_shares}")
    return differences


def _unequal_row(row: dict[str, Any], part: _Part, whole: _Part) -> list[str]:
    wanted = {
        "tokens": part.tokens,
        "requests": part.requests,
        "spend_usd": Decimal(part.nanousd) * BILLIONTH,
        "tokens_unknown": part.tokens_unknown,
        "cost_unknown": part.cost_unknown,
        "tokens_total": whole.tokens,
        "requests_total": whole.requests,
        "spend_total_usd": Decimal(whole.nanousd) * BILLIONTH,
    }
    differences = [
        f"{name} is {row[name]}, expected {value}"
        for name, value in wanted.items()
        if row[name] != value
    ]
    totals, numbers = _totals(whole), _totals(part)
    for share, total in totals.items():
        exact = Decimal(numbers[share]) / total if total else None
        is_ = row[share]
        if (is_ is None) != (exact is None) or (
            is_ is not None and exact is not None and abs(is_ - exact) > BILLIONTH
        ):
            differences.append(f"{share} is {is_}, expected {exact}")
    return differences


def _totals(part: _Part) -> dict[str, int]:
    return {
        "token_share": part.tokens,
        "request_share": part.requests,
        "spend_share": part.nanousd,
    }


def _check(name: str, compared: int, differences: Sequence[str]) -> Check:
    shown = tuple(differences[:SHOWN_MAX])
    if len(differences) > SHOWN_MAX:
        shown += (f"and {len(differences) - SHOWN_MAX} more",)
    return Check(name, compared, shown)
