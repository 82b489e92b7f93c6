"""``tokentide validate``: what the worker would refuse, before it is sent."""

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import BinaryIO

import click
import orjson

from deploy.cli.lines import Line, file_argument, read_lines
from schemas.errors import Reason, RecordError
from schemas.usage_event import FIELDS, VALUE_BYTES_MAX, Field, decode

_FIELD = {each.name: each for each in FIELDS}
_EXPECTED = {
    "integer": "a JSON integer is expected",
    "boolean": "true or false is expected",
    "tags": "an object of texts is expected",
}
_HINTS = {
    Reason.EMPTY_VALUE: "the record has no value",
    Reason.INVALID_JSON: "not one UTF-8 JSON document without U+0000 in its texts",
    Reason.NOT_AN_OBJECT: "a JSON object is expected",
    Reason.UNSUPPORTED_VERSION: "schema_version must be 1",
    Reason.EMPTY_TEXT: "must not be empty",
    Reason.BAD_TIMESTAMP: "RFC 3339 with a zone is expected, like 2026-11-24T12:00:00.000Z",
    Reason.FROM_THE_FUTURE: "more than 5 minutes ahead of now",
    Reason.BAD_HASH: "64 hexadecimal digits are expected, of an HMAC-SHA-256",
    Reason.RAW_IDENTIFIER: "looks like an address: send its HMAC-SHA-256 instead",
    Reason.TOO_MANY_TAGS: "at most 16 tags",
}


@dataclass
class Tally:
    """Counts of what was checked: events, refusals by reason, quality flags of valid events."""

    events: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    flags: Counter[str] = field(default_factory=Counter)

    def check(self, line: Line) -> RecordError | None:
        """Count a line, as if it arrived now; return why it is refused, None if it is valid."""
        self.events += 1
        try:
            event = decode(line.value, append_time_ms=time.time_ns() // 1_000_000)
        except RecordError as error:
            self.refused[error.reason.value] += 1
            return error
        self.flags.update(event.quality)
        return None

    def summary(self) -> str:
        """Return the counts in one line."""
        refused = self.refused.total()
        parts = [f"{self.events} events: {self.events - refused} valid, {refused} refused"]
        if refused:
            parts[0] += f" ({_listed(self.refused)})"
        if self.flags:
            parts.append(f"flagged but valid: {_listed(self.flags)}")
        return "; ".join(parts)


@click.command(short_help="Check usage events in a file; print every refused line.")
@file_argument
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="json: one object per refused line, then one with the counts.",
)
@click.pass_context
def validate(context: click.Context, file: BinaryIO, output_format: str) -> None:
    """Check usage events, one JSON document per line, as the worker will.

    Prints each refused line with its number, field and reason, then the counts. A blank line is no
    event; a last line without a newline is one. Nothing is sent. Each event is checked as if it
    arrived now: events more than 7 days old are valid, and flagged as late.

    Exit codes: 0 all valid, 1 some refused, 2 wrong usage.

    \b
    tokentide validate events.jsonl
    zcat events.jsonl.gz | tokentide validate - --format json
    """
    tally = Tally()
    for line in read_lines(file, "checking"):
        error = tally.check(line)
        if error is not None:
            click.echo(refusal(line, error, output_format))
    if output_format == "json":
        counts = {
            "events": tally.events,
            "valid": tally.events - tally.refused.total(),
            "refused": dict(tally.refused),
            "flags": dict(tally.flags),
        }
        click.echo(orjson.dumps(counts))
    else:
        click.echo(tally.summary())
    context.exit(1 if tally.refused else 0)


def refusal(line: Line, error: RecordError, output_format: str = "text") -> str:
    """Return what to print for a refused line."""
    if output_format == "json":
        found = {"line": line.number, "field": error.field, "reason": error.reason.value}
        return orjson.dumps({**found, "hint": hint(error)}).decode()
    place = f"{error.field}: " if error.field else ""
    return f"line {line.number}: {place}{error.reason.value} ({hint(error)})"


def hint(error: RecordError) -> str:
    """Return what a producer should have sent."""
    field = _FIELD.get(error.field)
    if error.reason is Reason.MISSING_FIELD and field is not None:
        return "required" if field.required else "required when status is ok"
    if error.reason is Reason.WRONG_TYPE and field is not None:
        return _EXPECTED.get(field.kind, "a text is expected")
    if error.reason is Reason.OUT_OF_RANGE and field is not None:
        return _range(field)
    if error.reason is Reason.TOO_LONG:
        return _length(field)
    return _HINTS[error.reason]


def _range(field: Field) -> str:
    if field.kind == "timestamp":
        return "must not be before 2015"
    return f"must be {field.minimum} to {field.maximum}{f' {field.unit}' if field.unit else ''}"


def _length(field: Field | None) -> str:
    if field is None:
        return f"at most {VALUE_BYTES_MAX} bytes"
    if field.kind == "tags":
        return "keys of at most 64 characters, values of at most 256"
    return f"at most {field.max_length} characters"


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.most_common())
