"""``tokentide dead-letters list``: what is listed, counted and printed."""

import heapq
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

import click
import orjson

from deploy.addresses import reader_address
from deploy.cli.dead_letters_text import print_table, time_text, value_text
from deploy.dead_letters_reader import DeadLetter, Origin, Position
from deploy.redrive import IN_DOUBT, SENT
from deploy.redrive_ledger import Entry, Ledger
from schemas.errors import FatalError, RetryableError
from sinks.clickhouse import connect
from streams.settings import Settings

LOOKUP_RECORDS = 2000
"""Dead letters looked up in the ledger at once."""
TABLE_VALUE_CHARS = 60
JSON_VALUE_CHARS = 200


@dataclass(frozen=True, slots=True)
class Listed:
    """A dead letter and what the ledger says of it, without the whole value."""

    letter: DeadLetter
    redrive: str
    target: Position | None
    value_bytes: int | None
    value: str

    @property
    def order(self) -> tuple[int, Position]:
        """Oldest first."""
        return self.letter.refused_at_ms, self.letter.position


@dataclass(slots=True)
class Count:
    """How many dead letters of one reason and field there are, and of when."""

    records: int = 0
    sent_again: int = 0
    first_ms: int = 0
    last_ms: int = 0

    def add(self, listed: Listed) -> None:
        time_ms = listed.letter.refused_at_ms
        self.first_ms = min(self.first_ms, time_ms) if self.records else time_ms
        self.last_ms = max(self.last_ms, time_ms)
        self.records += 1
        self.sent_again += listed.redrive == SENT


def value_chars(form: str) -> int:
    return TABLE_VALUE_CHARS if form == "table" else JSON_VALUE_CHARS


class Newest:
    """Keeps the newest so many of what is added; 0 keeps all."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._heap: list[tuple[tuple[int, Position], Listed]] = []

    def add(self, listed: Listed) -> None:
        item = (listed.order, listed)
        if self._limit and len(self._heap) >= self._limit:
            heapq.heappushpop(self._heap, item)
        else:
            heapq.heappush(self._heap, item)

    def oldest_first(self) -> list[Listed]:
        return [listed for _, listed in sorted(self._heap, key=lambda item: item[0])]


class JsonArray:
    """Prints a JSON array as its members come, each on a line of its own."""

    def __init__(self) -> None:
        self._before = "[\n"

    def add(self, member: dict[str, Any]) -> None:
        click.echo(self._before + orjson.dumps(member).decode(), nl=False)
        self._before = ",\n"

    def close(self) -> None:
        click.echo("[]" if self._before == "[\n" else "\n]")


class Lookup:
    """What the ledger says of dead letters; unknown, with one warning, without ClickHouse."""

    def __init__(self, settings: Settings, topic: str) -> None:
        self._settings = settings
        self._topic = topic
        self._client: Any = None
        self._ledger: Ledger | None = None

    def __enter__(self) -> Self:
        try:
            self._client = connect(reader_address(self._settings))
            self._ledger = Ledger(self._client, self._settings.clickhouse_database, self._topic)
        except (RetryableError, FatalError) as error:
            _warn(error)
        return self

    def __exit__(self, *_: object) -> None:
        if self._client is not None:
            self._client.close()

    def find(self, letters: Iterable[DeadLetter]) -> dict[Origin, Entry] | None:
        """Return what is known; ``None`` without ClickHouse."""
        if self._ledger is None:
            return None
        try:
            return self._ledger.find(each.origin for each in letters if each.origin is not None)
        except (RetryableError, FatalError) as error:
            _warn(error)
            self._ledger = None
            return None

    def listed(self, letters: Iterable[DeadLetter], value_chars: int) -> Iterator[Listed]:
        """Yield dead letters with what is known of them."""
        rest = iter(letters)
        while chunk := list(_cheap_chunk(rest, value_chars)):
            known = self.find(letter for letter, _, _ in chunk)
            for letter, size, text in chunk:
                entry = known.get(letter.origin) if known and letter.origin else None
                yield Listed(letter, _redrive_state(known, entry), _target(entry), size, text)


def _cheap_chunk(
    letters: Iterator[DeadLetter], value_chars: int
) -> Iterator[tuple[DeadLetter, int | None, str]]:
    """Yield some dead letters without their values, which may be large."""
    for letter in itertools.islice(letters, LOOKUP_RECORDS):
        size = None if letter.value is None else len(letter.value)
        text = value_text(letter.value, value_chars)
        yield replace(letter, key=None, value=None, headers=()), size, text


def _redrive_state(known: dict[Origin, Entry] | None, entry: Entry | None) -> str:
    if known is None:
        return "unknown"
    if entry is None:
        return "none"
    return SENT if entry.is_settled else IN_DOUBT


def _target(entry: Entry | None) -> Position | None:
    return None if entry is None else entry.target


def _warn(error: Exception) -> None:
    click.echo(f"what was sent again is not known: {error}", err=True)


def listed_json(listed: Listed) -> dict[str, Any]:
    return {
        **place_json(listed.letter),
        "redrive": listed.redrive,
        "sent_to": str(listed.target) if listed.target else None,
        "value_bytes": listed.value_bytes,
        "value": listed.value,
    }


def place_json(letter: DeadLetter) -> dict[str, Any]:
    origin = letter.origin
    return {
        "record": str(origin.position) if origin else None,
        "origin_topic": origin.topic if origin else None,
        "appended_at": time_text(origin.append_time_ms) if origin else None,
        "dead_letter": str(letter.position),
        "refused_at": time_text(letter.refused_at_ms),
        "stage": letter.stage,
        "reason": letter.reason,
        "field": letter.field,
    }


def print_listed(rows: list[Listed], counts: dict[tuple[str, str], Count]) -> None:
    """Print dead letters and, below, how many there are of each kind."""
    print_table(
        ("record", "refused at", "stage", "reason", "field", "sent again", "bytes", "value"),
        [
            (
                origin_text(each.letter),
                time_text(each.letter.refused_at_ms),
                value_text(each.letter.stage.encode(), 12),
                value_text(each.letter.reason.encode(), 32) if each.letter.reason else "",
                value_text(each.letter.field.encode(), 32) if each.letter.field else "",
                _sent_text(each),
                "" if each.value_bytes is None else f"{each.value_bytes:,}",
                each.value,
            )
            for each in rows
        ],
        right=("bytes",),
    )
    total = sum(each.records for each in counts.values())
    click.echo()
    if len(rows) < total:
        click.echo(f"the newest {len(rows):,} of {total:,}; --limit 0 lists all\n")
    print_counts(counts, "table")


def origin_text(letter: DeadLetter) -> str:
    return str(letter.origin.position) if letter.origin else "?"


def _sent_text(listed: Listed) -> str:
    texts = {SENT: f"to {listed.target}", IN_DOUBT: "in doubt", "unknown": "?"}
    return texts.get(listed.redrive, "")


def print_counts(counts: dict[tuple[str, str], Count], form: str) -> None:
    """Print how many dead letters there are by reason and field, most first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1].records, item[0]))
    if form == "json":
        found = [
            {
                "reason": reason,
                "field": field,
                "records": count.records,
                "sent_again": count.sent_again,
                "first_refused_at": time_text(count.first_ms),
                "last_refused_at": time_text(count.last_ms),
            }
            for (reason, field), count in ordered
        ]
        click.echo(orjson.dumps(found))
        return
    rows = [
        (
            value_text(reason.encode(), 32) if reason else "?",
            value_text(field.encode(), 32) if field else "",
            f"{count.records:,}",
            f"{count.sent_again:,}",
            time_text(count.first_ms),
            time_text(count.last_ms),
        )
        for (reason, field), count in ordered
    ]
    total, sent = (
        sum(getattr(each, name) for each in counts.values()) for name in ("records", "sent_again")
    )
    names = ("reason", "field", "records", "sent again", "first refused at", "last refused at")
    print_table(names, [*rows, ("all", "", f"{total:,}", f"{sent:,}", "", "")], names[2:4])
