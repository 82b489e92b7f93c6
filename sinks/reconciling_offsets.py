"""Check that every committed offset is accounted for once, and that no row is stored twice.

Per Kafka partition every offset from the first one known up to the committed one is one row of
``usage_events``, one row of ``usage_duplicates``, or one dead letter; else it holds no record (the
marker of a transaction, compaction), or it is lost.

ClickHouse answers with a count and a sum of hashes for each bucket of `BUCKET_OFFSETS` offsets; the
dead letters are added, and both are compared with those of the whole numbers in the bucket. A bucket
in which an offset is missing, doubled, or one in another's place differs (but for a chance of 1 in
1.8e19); only then its offsets are fetched.

Cost: one pass over two columns of ``usage_events`` (about 3 bytes a row), a hash of every number (1
ns), and for each bucket that does not balance one more query of its event times and up to 100,000
numbers. Memory: 50 bytes a bucket, 8 bytes a dead letter.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Protocol

import numpy as np
import numpy.typing as npt

from sinks.reconciling import (
    CheckResult,
    Difference,
    Engine,
    Findings,
    Frontier,
    Say,
    not_before,
    settled,
    silent,
)

CHECK = "offsets"
CHECK_REPEATED = "repeated_offsets"
BUCKET_OFFSETS = 100_000

Offsets = npt.NDArray[np.uint64]
Range = tuple[int, int]
"""Offsets, half-open."""


class Log(Protocol):
    """The usage topic, for offsets that are in doubt."""

    def records(self, partition: int, offsets: Range) -> Iterator[tuple[int, bool]]:
        """Yield the records that Kafka still holds of a range, in order.

        Each is its offset and whether it decodes: then it was to be stored, not dead-lettered.
        """


@dataclass(frozen=True)
class Accounts:
    """What Kafka knows of the partitions of the usage topic.

    Attributes:
        committed: Partition -> committed offset, read before anything else.
        begins: Partition -> first offset that Kafka still holds.
        dead_letters: Partition -> offsets that its dead letters came from, sorted, each once.
        dead_letters_from: Partition -> offset from which on no dead letter has been removed.
    """

    committed: Frontier
    begins: Mapping[int, int]
    dead_letters: Mapping[int, Offsets]
    dead_letters_from: Mapping[int, int]


@dataclass(frozen=True)
class OffsetsChecked:
    """What the check has found, and what a repair needs of it.

    Attributes:
        lost: Partition, first and next offset of records that Kafka holds and nobody has stored.
    """

    offsets: CheckResult
    repeated: CheckResult
    repeats: tuple["RepeatedOffsets", ...]
    lost: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class RepeatedOffsets:
    """Offsets of which ``usage_events`` has several rows, as ``--repair`` needs them."""

    partition: int
    offsets: Offsets


@dataclass
class _Bucket:
    """Rows of both tables in a bucket, and the event times of those in ``usage_events``."""

    count: int = 0
    hash_sum: int = 0
    lowest: int = 0
    times: Range = (0, 0)


@dataclass
class _Tally:
    """What the check has found so far."""

    offsets: Findings
    repeated: Findings
    repeats: list[RepeatedOffsets]
    lost: list[tuple[int, int, int]]
    empty: int = 0
    untold: int = 0
    untold_ranges: int = 0

    def add_untold(self, number: int) -> None:
        """Count offsets of one range of which nobody can tell."""
        self.untold += number
        self.untold_ranges += number > 0

    def add_lost(self, partition: int, offsets: Range | None) -> None:
        """Note a range of consecutive records that Kafka holds and nobody has."""
        if offsets is None:
            return
        number = offsets[1] - offsets[0]
        place = f"partition {partition} offset {offsets[0]}"
        place += f" to {offsets[1] - 1}" if number > 1 else ""
        self.offsets.add(Difference(CHECK, place, number, 0, "lost: Kafka holds it"))
        self.lost.append((partition, *offsets))


def check_offsets(
    engine: Engine,
    accounts: Accounts,
    log: Log,
    *,
    since: Frontier | None = None,
    since_seconds: int = 0,
    say: Say = silent,
) -> OffsetsChecked:
    """Account for every committed offset.

    Args:
        since: Partition -> offset to begin with; the first one known by default.
        since_seconds: Event time, epoch seconds: a first look takes rows from it on, and only what
            does not balance then is looked at in all rows. Makes a check of the newest offsets
            cheap.

    Raises:
        SinkUnavailableError, FatalError: ClickHouse does not answer or refuses.
        RetryableError: Kafka does not answer.
    """
    say("offsets: counting rows by partition and offset")
    buckets = _buckets(engine, accounts.committed, since, since_seconds)
    tally = _Tally(Findings(), Findings(), [], [])
    compared = 0
    for partition, committed in sorted(accounts.committed.items()):
        own = {number: each for (of, number), each in buckets.items() if of == partition}
        dead = accounts.dead_letters.get(partition, np.empty(0, np.uint64))
        first = _first(partition, own, dead, accounts, since)
        compared += max(committed - first, 0)
        say(f"offsets: partition {partition}, {first:,} to {committed:,}")
        unbalanced = _unbalanced(own, dead, (first, committed))
        if unbalanced and since_seconds:
            again = _buckets(engine, accounts.committed, since, 0, (partition, unbalanced))
            own |= {number: each for (_, number), each in again.items()}
            unbalanced = _unbalanced(own, dead, (first, committed), set(unbalanced))
        missing: list[Range] = []
        for number in unbalanced:
            offsets = _clip(number, (first, committed))
            missing += _drill(engine, partition, own.get(number), dead, offsets, tally)
        _explain(partition, _joined(missing), accounts, log, tally)
    return _result(tally, compared, accounts)


def _result(tally: _Tally, compared: int, accounts: Accounts) -> OffsetsChecked:
    notes = []
    if tally.empty:
        notes.append(f"{tally.empty:,} offsets hold no record (transactions, compaction)")
    if tally.untold:
        notes.append(
            f"{tally.untold:,} offsets in {tally.untold_ranges:,} ranges can't be told: not stored,"
            " and Kafka no longer holds what would say whether they held a record"
        )
    if not accounts.committed:
        notes.append("the consumer group has committed nothing: no offset to account for")
    return OffsetsChecked(
        tally.offsets.result(CHECK, compared, "offsets", notes),
        tally.repeated.result(CHECK_REPEATED, compared, "offsets"),
        tuple(tally.repeats),
        tuple(tally.lost),
    )


def _buckets(
    engine: Engine,
    committed: Frontier,
    since: Frontier | None,
    since_seconds: int,
    only: tuple[int, Sequence[int]] | None = None,
) -> dict[tuple[int, int], _Bucket]:
    conditions = [settled(committed)]
    if since:
        conditions.append(not_before(since))
    if only:
        conditions.append(f"kafka_partition = {only[0]}")
        numbers = ", ".join(map(str, only[1]))
        conditions.append(f"intDiv(kafka_offset, {BUCKET_OFFSETS}) IN ({numbers})")
    if since_seconds:
        conditions.append(f"occurred_at >= toDateTime({since_seconds}, 'UTC')")
    found: dict[tuple[int, int], _Bucket] = {}
    for table in ("usage_events", "usage_duplicates"):
        rows = engine.rows(
            f"SELECT kafka_partition, intDiv(kafka_offset, {BUCKET_OFFSETS}) AS number, count(),"
            " sumWithOverflow(intHash64(kafka_offset)), min(kafka_offset),"
            " intDiv(toUnixTimestamp64Milli(min(occurred_at)), 1000),"
            " intDiv(toUnixTimestamp64Milli(max(occurred_at)), 1000) + 1"
            f" FROM {engine.table(table)} WHERE {' AND '.join(conditions)}"
            " GROUP BY kafka_partition, number"
        )
        for partition, number, count, hash_sum, lowest, start, end in rows:
            bucket = found.setdefault((partition, number), _Bucket(lowest=lowest))
            bucket.count += count
            bucket.hash_sum = (bucket.hash_sum + hash_sum) % (1 << 64)
            bucket.lowest = min(bucket.lowest, lowest)
            if table == "usage_events":
                bucket.times = (start, end)
    return found


def _first(
    partition: int,
    buckets: Mapping[int, _Bucket],
    dead: Offsets,
    accounts: Accounts,
    since: Frontier | None,
) -> int:
    """Return the first offset that a worker has read: everything Kafka still holds counts as read."""
    if since is not None and partition in since:
        return since[partition]
    known = [bucket.lowest for bucket in buckets.values()]
    known += [int(dead[0])] if len(dead) else []
    known += [accounts.begins[partition]] if partition in accounts.begins else []
    return min(known, default=accounts.committed[partition])


def _clip(number: int, offsets: Range) -> Range:
    start = number * BUCKET_OFFSETS
    return max(start, offsets[0]), min(start + BUCKET_OFFSETS, offsets[1])


def _unbalanced(
    buckets: Mapping[int, _Bucket], dead: Offsets, offsets: Range, only: set[int] | None = None
) -> list[int]:
    """Return the numbers of the buckets that do not hold each offset once."""
    if offsets[0] >= offsets[1]:
        return []
    first, last = offsets[0] // BUCKET_OFFSETS, (offsets[1] - 1) // BUCKET_OFFSETS
    found = []
    for number in range(first, last + 1):
        if only is not None and number not in only:
            continue
        start, end = _clip(number, offsets)
        letters = _within(dead, (start, end))
        bucket = buckets.get(number, _Bucket())
        count = bucket.count + len(letters)
        hash_sum = (bucket.hash_sum + hash_sum_of(letters)) % (1 << 64)
        expected = hash_sum_of(np.arange(start, end, dtype=np.uint64))
        if count != end - start or hash_sum != expected:
            found.append(number)
    return found


def hash_sum_of(offsets: Offsets) -> int:
    """Return the sum of ``intHash64`` modulo 2^64, as ClickHouse computes it.

    Source:
        ``IntHash64Impl`` of ClickHouse: MurmurHash3's 64-bit finaliser after an exclusive or.
    """
    x = offsets ^ np.uint64(0x4CF2D2BAAE6DA887)
    x ^= x >> np.uint64(33)
    x *= np.uint64(0xFF51AFD7ED558CCD)
    x ^= x >> np.uint64(33)
    x *= np.uint64(0xC4CEB9FE1A85EC53)
    x ^= x >> np.uint64(33)
    return int(x.sum(dtype=np.uint64)) if len(x) else 0


def _within(sorted_offsets: Offsets, offsets: Range) -> Offsets:
    start, end = np.searchsorted(sorted_offsets, np.array(offsets, np.uint64))
    return sorted_offsets[start:end]


def _drill(
    engine: Engine,
    partition: int,
    bucket: _Bucket | None,
    dead: Offsets,
    offsets: Range,
    tally: _Tally,
) -> list[Range]:
    """Look at each offset of a bucket; note those in several places, return those in none."""
    rows, rows_of = _stored(engine, "usage_events", partition, offsets, bucket)
    duplicates, _ = _stored(engine, "usage_duplicates", partition, offsets, None)
    letters = _within(dead, offsets)
    repeats = rows[rows_of > 1]
    if len(repeats):
        tally.repeats.append(RepeatedOffsets(partition, repeats))
    for offset, number in zip(repeats, rows_of[rows_of > 1], strict=True):
        place = f"partition {partition} offset {offset}"
        tally.repeated.add(Difference(CHECK_REPEATED, place, 1, int(number)))
    places = {"usage_events": rows, "usage_duplicates": duplicates, "dead letters": letters}
    for one, other in combinations(places, 2):
        for offset in np.intersect1d(places[one], places[other]):
            place = f"partition {partition} offset {offset}"
            tally.offsets.add(Difference(CHECK, place, 1, 2, f"in {one} and in {other}"))
    known = np.unique(np.concatenate([rows, duplicates, letters]))
    return gaps(known, offsets)


def _stored(
    engine: Engine, table: str, partition: int, offsets: Range, bucket: _Bucket | None
) -> tuple[Offsets, Offsets]:
    """Return the distinct offsets that a table has, sorted, and the number of rows of each."""
    times = ""
    if bucket is not None and bucket.times[1]:
        start, end = bucket.times
        times = (
            f" AND occurred_at >= toDateTime({start}, 'UTC')"
            f" AND occurred_at < toDateTime({end}, 'UTC')"
        )
    rows = engine.rows(
        f"SELECT kafka_offset, count() FROM {engine.table(table)} WHERE kafka_partition = {partition}"
        f" AND kafka_offset >= {offsets[0]} AND kafka_offset < {offsets[1]}{times}"
        " GROUP BY kafka_offset ORDER BY kafka_offset"
    )
    return (
        np.array([offset for offset, _ in rows], np.uint64),
        np.array([count for _, count in rows], np.uint64),
    )


def gaps(known: Offsets, offsets: Range) -> list[Range]:
    """Return the ranges of ``offsets`` without a number of ``known`` (sorted, distinct, within)."""
    edges = [offsets[0] - 1, *map(int, known), offsets[1]]
    return [(before + 1, after) for before, after in pairwise(edges) if after > before + 1]


def _joined(ranges: Sequence[Range]) -> list[Range]:
    joined: list[Range] = []
    for start, end in ranges:
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined


def _explain(
    partition: int, missing: Sequence[Range], accounts: Accounts, log: Log, tally: _Tally
) -> None:
    """Sort missing offsets: no record, lost, or nobody can tell."""
    begin = accounts.begins.get(partition, 0)
    complete_from = accounts.dead_letters_from.get(partition, 0)
    for start, end in missing:
        held_from = min(max(begin, start), end)
        tally.add_untold(held_from - start)
        held = untold = 0
        lost: Range | None = None
        for offset, is_event in log.records(partition, (held_from, end)):
            held += 1
            # A refused record whose dead letter has been removed since is not lost.
            if not is_event and offset < complete_from:
                untold += 1
            elif lost is not None and lost[1] == offset:
                lost = (lost[0], offset + 1)
            else:
                tally.add_lost(partition, lost)
                lost = (offset, offset + 1)
        tally.add_lost(partition, lost)
        tally.add_untold(untold)
        tally.empty += end - held_from - held
