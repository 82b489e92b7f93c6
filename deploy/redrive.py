"""Sending dead letters to their origin topic again, each once.

Guarantee, from the dead-letter topic to readers of the usage topic that read committed records, as
the workers do: once per refused record, whatever is killed and however many redrives run, as long
as the ledger in ClickHouse is kept and an interrupted run is followed by another before the usage
topic has dropped what it sent. How:

1. ``init_transactions`` under the one transactional id of the dead-letter topic: the broker aborts
   what an earlier redrive had begun, and takes nothing from it any more.
2. Attempts that the ledger has as intended only are settled: their records are looked for on the
   target partition, committed, from the end offset noted before sending up to now.
3. Per chunk: what the ledger has is left out; the rest is written down as intended; sent in one
   transaction; written down as sent, with the offsets.

A transaction holds up the readers of its partition until it ends. It spans nothing but sending, and
the broker ends that of a killed redrive after ``TRANSACTION_SECONDS_MAX``.
"""

import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import orjson
from kafka import KafkaProducer
from kafka.admin import OffsetSpec
from kafka.errors import (
    InvalidProducerEpochError,
    KafkaError,
    MessageSizeTooLargeError,
    ProducerFencedError,
    RecordListTooLargeError,
)

from deploy.dead_letters_reader import (
    CONNECT_TIMEOUT_MS,
    DeadLetter,
    Origin,
    Position,
    TopicReader,
    origin_of,
    topic_reader,
)
from deploy.kafka_admin import admin_client
from deploy.redrive_ledger import Entry, Ledger
from schemas.errors import ConfigurationError, FatalError, RecordError, RetryableError
from schemas.usage_event import decode, record_key

CHUNK_RECORDS_MAX = 1000
CHUNK_BYTES_MAX = 8 << 20
TRANSACTION_SECONDS_MAX = 20
"""The broker aborts a transaction that takes longer."""
DELIVERY_SECONDS_MAX = 15
INIT_SECONDS_MAX = 60
"""Longest wait for the broker to end what an earlier redrive had begun, and for metadata."""
REQUEST_BYTES_MAX = 64 << 20
"""Above the broker's limit, which counts compressed bytes: the broker decides."""
REDRIVEN_FROM = "redriven_from"

SENT = "sent"
WOULD_BE_SENT = "would_be_sent"
ALREADY_SENT = "already_sent"
STILL_INVALID = "still_invalid"
IN_DOUBT = "in_doubt"
NO_ORIGIN = "no_origin"
FAILED = "failed"
OUTCOMES = (SENT, WOULD_BE_SENT, ALREADY_SENT, STILL_INVALID, IN_DOUBT, NO_ORIGIN, FAILED)

_RECORD_FAULTS = (MessageSizeTooLargeError, RecordListTooLargeError)
_FENCED = (ProducerFencedError, InvalidProducerEpochError)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a dead letter.

    Attributes:
        state: One of ``OUTCOMES``.
        target: Where its record stands now, if it was sent, by this redrive or an earlier one.
        detail: Why it was not sent.
    """

    letter: DeadLetter
    state: str
    target: Position | None = None
    detail: str = ""


class TooLargeError(Exception):
    """The broker took none of a transaction's records.

    Attributes:
        suspects: Those in the record batches it found too large.
    """

    def __init__(self, suspects: frozenset[Origin]) -> None:
        super().__init__()
        self.suspects = suspects


def verdict(letter: DeadLetter, append_time_ms: int) -> RecordError | None:
    """Return why a worker would refuse the value if it were appended at a time, or ``None``."""
    try:
        decode(letter.value, append_time_ms=append_time_ms)
    except RecordError as error:
        return error
    return None


def judge(letters: Sequence[DeadLetter], ledger: Ledger, *, everything: bool) -> Iterator[Outcome]:
    """Yield for each dead letter whether it is to be sent, in order. Changes nothing.

    Args:
        everything: Also send what the strict decoder would refuse again.
    """
    known = ledger.find(each.origin for each in letters if each.origin is not None)
    now_ms = time.time_ns() // 1_000_000
    seen: set[Origin] = set()
    for letter in letters:
        if letter.origin is None:
            yield Outcome(letter, NO_ORIGIN, None, "its headers do not say where it stood")
            continue
        entry = known.get(letter.origin)
        if letter.origin in seen:
            yield Outcome(letter, ALREADY_SENT, None, "the same record as another dead letter")
        elif entry is not None and entry.is_settled:
            yield Outcome(letter, ALREADY_SENT, entry.target)
        elif entry is not None:
            yield Outcome(letter, IN_DOUBT, None, "an earlier redrive was interrupted")
        elif not everything and (error := verdict(letter, now_ms)) is not None:
            yield Outcome(letter, STILL_INVALID, None, str(error))
        else:
            seen.add(letter.origin)
            yield Outcome(letter, WOULD_BE_SENT)


def plan(
    letters: Iterable[DeadLetter], ledger: Ledger, *, everything: bool, limit: int = 0
) -> Iterator[Outcome]:
    """Yield what ``Redrive.run`` would do. Changes nothing."""
    left = limit or -1
    for chunk in chunks(letters):
        for outcome in judge(chunk, ledger, everything=everything):
            yield outcome
            left -= outcome.state == WOULD_BE_SENT
            if left == 0:
                return


def chunks(letters: Iterable[DeadLetter]) -> Iterator[list[DeadLetter]]:
    """Yield dead letters in pieces of one origin partition, bounded in records and bytes."""
    chunk: list[DeadLetter] = []
    size = 0
    for letter in letters:
        size += len(letter.value or b"")
        if chunk and (
            len(chunk) >= CHUNK_RECORDS_MAX
            or size > CHUNK_BYTES_MAX
            or _target(letter) != _target(chunk[-1])
        ):
            yield chunk
            chunk, size = [], len(letter.value or b"")
        chunk.append(letter)
    if chunk:
        yield chunk


def _target(letter: DeadLetter) -> Any:
    return None if letter.origin is None else letter.origin.tp


class Redrive:
    """A redrive that holds the fence: use ``redrive()``."""

    def __init__(
        self,
        servers: str,
        dead_letter_topic: str,
        ledger: Ledger,
        open_readers: ExitStack,
        reached: Callable[[str], None],
    ) -> None:
        self._servers = servers
        self._topic = dead_letter_topic
        self._ledger = ledger
        self._open_readers = open_readers
        self._readers: dict[str, TopicReader] = {}
        self._reached = reached
        self._producer = fenced_producer(servers, dead_letter_topic)
        reached("fenced")

    def close(self) -> None:
        """Disconnect; the broker aborts a transaction that is open."""
        try:
            self._producer.close(timeout=DELIVERY_SECONDS_MAX)
        except KafkaError:
            # kafka-python 3.0.12 stays open, and says so at exit, if not all was acknowledged.
            self._producer._sender.force_close()
            self._producer.close(timeout=DELIVERY_SECONDS_MAX)

    def settle(self, advance: Callable[[int, int], None] = lambda _, __: None) -> tuple[int, int]:
        """Find out what interrupted redrives have sent, and write it down.

        Args:
            advance: Is told how many offsets have been read, and of how many.

        Returns:
            How many of their records were found on the topic, and how many not. Those that can't
            be told, because the topic has dropped where they would be, stay in doubt.
        """
        found = missing = 0
        for entries in _by_attempt(self._ledger.in_doubt()):
            offsets = self._find_sent(entries, advance)
            if offsets is not None:
                self._ledger.settle(entries, offsets)
                found += len(offsets)
                missing += len(entries) - len(offsets)
        self._reached("settled")
        return found, missing

    def run(
        self, letters: Iterable[DeadLetter], *, everything: bool, limit: int = 0
    ) -> Iterator[Outcome]:
        """Send dead letters again; yield the outcome of each when it is known for certain.

        Args:
            everything: Also send what the strict decoder would refuse again.
            limit: Send at most so many; 0 is no limit.

        Raises:
            FatalError: Another redrive has taken over, or Kafka or ClickHouse need a person.
            RetryableError: Kafka or ClickHouse do not answer. Run again: nothing is sent twice.
        """
        left = limit or -1
        for chunk in chunks(letters):
            outcomes = list(judge(chunk, self._ledger, everything=everything))
            due = [each.letter for each in outcomes if each.state == WOULD_BE_SENT]
            if left >= 0:
                due = due[:left]
            sent = dict(zip((each.position for each in due), self._send(due), strict=True))
            for outcome in outcomes:
                if outcome.state != WOULD_BE_SENT:
                    yield outcome
                elif outcome.letter.position in sent:
                    yield sent[outcome.letter.position]
            left -= len(due)
            if left == 0:
                return

    def _send(self, letters: Sequence[DeadLetter]) -> list[Outcome]:
        """Send dead letters of one partition; return the outcome of each."""
        if not letters:
            return []
        entries = self._ledger.intend(uuid.uuid4().hex, letters, self._end_offset(letters[0]))
        self._reached("intended")
        try:
            offsets = self._transact(letters)
        except TooLargeError as error:
            self._ledger.settle(entries, {})
            self._renew()
            return self._send_apart(letters, error.suspects)
        except _FENCED as error:
            raise _taken_over() from error
        except KafkaError as error:
            raise self._interrupted(error) from error
        self._ledger.settle(entries, offsets)
        self._reached("recorded")
        return [
            Outcome(each, SENT, Position(each.origin.position.partition, offsets[each.origin]))
            for each in letters
            if each.origin is not None
        ]

    def _send_apart(
        self, letters: Sequence[DeadLetter], suspects: frozenset[Origin]
    ) -> list[Outcome]:
        """Send one by one those that may be too large, together the others."""
        if len(letters) == 1:
            return [Outcome(letters[0], FAILED, None, "larger than the broker takes")]
        pieces = [[each for each in letters if each.origin not in suspects]]
        pieces += [[each] for each in letters if each.origin in suspects]
        outcomes = [outcome for piece in pieces for outcome in self._send_rest(piece)]
        return sorted(outcomes, key=lambda outcome: outcome.letter.position)

    def _send_rest(self, letters: Sequence[DeadLetter]) -> list[Outcome]:
        """Send what the ledger still has not: another redrive may have come and gone."""
        outcomes = list(judge(letters, self._ledger, everything=True))
        due = [each.letter for each in outcomes if each.state == WOULD_BE_SENT]
        return [each for each in outcomes if each.state != WOULD_BE_SENT] + self._send(due)

    def _renew(self) -> None:
        """Begin again with a new producer.

        After a record too large, kafka-python 3.0.12 counts a sequence number that the broker does
        not, and every later transaction fails. The new one may shut out a redrive that has shut out
        this one meanwhile, so what that one did is settled first.
        """
        self.close()
        self._producer = fenced_producer(self._servers, self._topic)
        self.settle()

    def _end_offset(self, letter: DeadLetter) -> int:
        assert letter.origin is not None
        topic, partition = letter.origin.topic, letter.origin.position.partition
        reader = self._reader(topic)
        if partition not in reader.partitions:
            raise FatalError(
                f"topic {topic} has no partition {partition}: dead letters of it cannot go back to"
                " where they stood; leave them out with --partition"
            )
        return reader.bounds(partition)[1]

    def _reader(self, topic: str) -> TopicReader:
        """Return a reader of a target topic."""
        if topic not in self._readers:
            self._readers[topic] = self._open_readers.enter_context(
                topic_reader(self._servers, topic)
            )
        return self._readers[topic]

    def _find_sent(
        self,
        entries: Sequence[Entry],
        advance: Callable[[int, int], None] = lambda _, __: None,
    ) -> dict[Origin, int] | None:
        """Return the offsets of an attempt's records on the topic, without those not there.

        Right only because nobody can send them any more: their redrive is fenced. Waits for other
        producers' open transactions: what was committed after they began can't be read before.

        Returns:
            ``None`` if it can't be told: the topic, or the part of it where they would be, is gone.
        """
        tp = entries[0].origin.tp
        try:
            reader = self._reader(tp.topic)
        except ConfigurationError:
            return None
        if tp.partition not in reader.partitions:
            return None
        begin, end = reader.bounds(tp.partition)[0], high_watermark(self._servers, tp)
        first = min(each.target_end_offset for each in entries)
        if not begin <= first <= end:
            return None
        records = reader.records(tp.partition, first, end, lambda n: advance(n, end - first))
        return match(entries, records)

    def _transact(self, letters: Sequence[DeadLetter]) -> dict[Origin, int]:
        """Send dead letters in one transaction; return the offset of each.

        Raises:
            TooLargeError: The broker does not take one of them; none was sent.
            KafkaError: Any or none were sent.
        """
        self._producer.begin_transaction()
        sending: dict[Origin, Any] = {}
        suspects: set[Origin] = set()
        for letter in letters:
            assert letter.origin is not None
            try:
                sending[letter.origin] = self._producer.send(
                    letter.origin.topic,
                    letter.value,
                    key=key_of(letter.value),
                    partition=letter.origin.position.partition,
                    headers=headers_of(letter),
                )
            except _RECORD_FAULTS:
                suspects.add(letter.origin)
            self._reached("sending")
        self._producer.flush(timeout=DELIVERY_SECONDS_MAX)
        suspects |= {
            origin for origin, each in sending.items() if isinstance(each.exception, _RECORD_FAULTS)
        }
        if suspects:
            self._producer.abort_transaction()
            raise TooLargeError(frozenset(suspects))
        offsets = {
            origin: int(each.get(timeout=DELIVERY_SECONDS_MAX).offset)
            for origin, each in sending.items()
        }
        self._reached("acknowledged")
        self._producer.commit_transaction()
        self._reached("committed")
        return offsets

    def _interrupted(self, error: KafkaError) -> RetryableError:
        text = f"{type(error).__name__}: {' '.join(str(error).split())}"[:160]
        return RetryableError(
            f"kafka at {self._servers}: {text}; run the same command again:"
            " what has been sent is not sent again"
        )


@contextmanager
def redrive(
    servers: str,
    dead_letter_topic: str,
    ledger: Ledger,
    reached: Callable[[str], None] = lambda _: None,
) -> Iterator[Redrive]:
    """Yield the one redrive of a dead-letter topic: an earlier one that still runs is stopped.

    Args:
        reached: Is told each step that was taken: fenced, settled; and per chunk intended, sending
            (per record), acknowledged, committed, recorded.

    Raises:
        RetryableError: Kafka does not answer.
    """
    with ExitStack() as open_readers:
        run = Redrive(servers, dead_letter_topic, ledger, open_readers, reached)
        try:
            yield run
        finally:
            run.close()


def fenced_producer(servers: str, dead_letter_topic: str) -> Any:
    """Return a producer; whoever had the transactional id before can commit nothing any more.

    Raises:
        RetryableError: Kafka does not answer, or does not give the id.
    """
    producer = None
    try:
        producer = KafkaProducer(
            bootstrap_servers=servers.split(","),
            bootstrap_timeout_ms=CONNECT_TIMEOUT_MS,
            transactional_id=f"tokentide-redrive-{dead_letter_topic}",
            transaction_timeout_ms=TRANSACTION_SECONDS_MAX * 1000,
            acks="all",
            compression_type="lz4",
            linger_ms=5,
            batch_size=256 << 10,
            max_request_size=REQUEST_BYTES_MAX,
            max_block_ms=INIT_SECONDS_MAX * 1000,
            request_timeout_ms=DELIVERY_SECONDS_MAX * 500,
            delivery_timeout_ms=DELIVERY_SECONDS_MAX * 1000,
            allow_auto_create_topics=False,
        )
        producer.init_transactions()
    except KafkaError as error:
        if producer is not None:
            producer.close(timeout=0)
        raise RetryableError(
            f"kafka at {servers} gives no transactional id: {type(error).__name__}: is its"
            " transaction coordinator up, and may this user write to transactional ids?"
        ) from error
    return producer


def high_watermark(servers: str, tp: Any) -> int:
    """Return the end offset of a partition, records of open transactions included."""
    with admin_client(servers) as admin:
        return int(admin.list_partition_offsets({tp: OffsetSpec.LATEST})[tp].offset)


def match(entries: Sequence[Entry], records: Iterable[Any]) -> dict[Origin, int]:
    """Return the offset of each entry's record among ``records``; reads no more than it must."""
    wanted = {each.origin: str(each.letter).encode() for each in entries}
    found: dict[Origin, int] = {}
    for record in records:
        headers = dict(record.headers)
        if REDRIVEN_FROM not in headers:
            continue
        origin = origin_of(headers)
        if origin is not None and headers[REDRIVEN_FROM] == wanted.get(origin):
            found[origin] = record.offset
            if len(found) == len(wanted):
                break
    return found


def headers_of(letter: DeadLetter) -> list[tuple[str, bytes]]:
    """Return the headers of a record sent again: its dead letter, and where it stood first."""
    assert letter.origin is not None
    values = {
        REDRIVEN_FROM: letter.position,
        "origin_topic": letter.origin.topic,
        "origin_partition": letter.origin.position.partition,
        "origin_offset": letter.origin.position.offset,
        "origin_timestamp_ms": letter.origin.append_time_ms,
    }
    return [(name, str(value).encode()) for name, value in values.items()]


def key_of(value: bytes | None) -> bytes | None:
    """Return the key that producers give such an event; the first one is not kept by workers."""
    if value is None:
        return b""  # kafka-python sends no record without key and value.
    try:
        members = orjson.loads(value)
    except orjson.JSONDecodeError:
        return None
    return record_key(members) if isinstance(members, dict) else None


def _by_attempt(entries: Iterable[Entry]) -> list[list[Entry]]:
    attempts: dict[str, list[Entry]] = {}
    for entry in entries:
        attempts.setdefault(entry.attempt, []).append(entry)
    return list(attempts.values())


def _taken_over() -> FatalError:
    return FatalError(
        "another redrive of these dead letters has taken over, or Kafka gave this one up after"
        f" {TRANSACTION_SECONDS_MAX} s: run the same command again when no other one runs;"
        " what has been sent is not sent again"
    )
