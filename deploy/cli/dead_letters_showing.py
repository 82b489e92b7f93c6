"""``tokentide dead-letters show``: one dead letter, for people and as JSON."""

import base64
import time
from collections.abc import Iterator
from typing import Any

import click
import orjson

from deploy.cli.dead_letters_history import History
from deploy.cli.dead_letters_listing import origin_text, place_json
from deploy.cli.dead_letters_text import time_text, value_text
from deploy.cli.validate import hint
from deploy.dead_letters_reader import DeadLetter
from schemas.errors import Reason, RecordError
from schemas.usage_event import decode

VALUE_CHARS = 4000


def print_shown(letter: DeadLetter, history: History) -> None:
    """Print a dead letter for a person."""
    rows = [
        ("record", origin_text(letter)),
        ("dead letter", f"{letter.position}"),
        ("refused at", time_text(letter.refused_at_ms)),
        *((f"header {name}", value_text(value, 200)) for name, value in _escaped_names(letter)),
        ("key", value_text(letter.key, 200)),
        ("decoder, then", _verdict_then(letter)),
        ("decoder, now", _verdict_now(letter)),
        *(("history", line) for line in history.lines()),
        ("value", "null" if letter.value is None else f"{len(letter.value):,} bytes"),
    ]
    width = max(len(name) for name, _ in rows) + 2
    for name, text in rows:
        click.echo(f"{name:<{width}}{text}")
    if letter.value:
        click.echo()
        text = value_text(letter.value, VALUE_CHARS)
        click.echo(text)
        if text.endswith("…"):
            click.echo("shortened; all of it, byte for byte: --raw", err=True)


def _escaped_names(letter: DeadLetter) -> Iterator[tuple[str, bytes | None]]:
    for name, value in letter.headers:
        yield value_text(name.encode(errors="replace"), 60), value


def _verdict_then(letter: DeadLetter) -> str:
    if letter.origin is None:
        return "unknown: no origin in the headers"
    return verdict_text(letter.value, letter.origin.append_time_ms)


def _verdict_now(letter: DeadLetter) -> str:
    return verdict_text(letter.value, time.time_ns() // 1_000_000)


def verdict_text(value: bytes | None, append_time_ms: int) -> str:
    """Return what the strict decoder says of a value, if it had been appended at a time."""
    try:
        event = decode(value, append_time_ms=append_time_ms)
    except RecordError as error:
        return f"refused: {error} ({_fault(value, error)})"
    flags = f", flags: {', '.join(event.quality)}" if event.quality else ""
    return f"accepted as event {value_text(event.event_id.encode(), 200)}{flags}"


def _fault(value: bytes | None, error: RecordError) -> str:
    if error.reason is Reason.INVALID_JSON and not error.field and value:
        try:
            orjson.loads(value)
        except orjson.JSONDecodeError as problem:
            return " ".join(str(problem).split())
    return hint(error)


def shown_json(letter: DeadLetter, history: History) -> dict[str, Any]:
    value = letter.value
    return {
        **place_json(letter),
        "key": None if letter.key is None else letter.key.decode(errors="backslashreplace"),
        "headers": {
            name: None if content is None else content.decode(errors="backslashreplace")
            for name, content in letter.headers
        },
        "decoder_then": _verdict_then(letter),
        "decoder_now": _verdict_now(letter),
        "history": history.lines(),
        "value_bytes": None if value is None else len(value),
        "value_base64": None if value is None else base64.b64encode(value).decode(),
    }
