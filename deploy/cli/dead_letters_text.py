"""Dead letters for people: values that may hold anything, positions, times, tables."""

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from deploy.dead_letters_reader import Position

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Unicode categories that a terminal obeys or does not show: controls, direction marks, ..."""


def escaped(value: bytes, chars_max: int) -> str:
    """Return a value as one printable line of at most ``chars_max`` characters, ``…`` included.

    Bytes that are not UTF-8 become ``\\xNN``, characters a terminal would obey or hide ``\\xNN``,
    ``\\uNNNN`` or ``\\UNNNNNNNN``.
    """
    # Four bytes are at least one character, and a character cut in two is beyond the last one.
    text = value[: 4 * chars_max + 4].decode("utf-8", errors="backslashreplace")
    shown: list[str] = []
    length = 0
    for position, char in enumerate(text):
        piece = _escape(char) if unicodedata.category(char) in _HIDDEN else char
        is_last = position == len(text) - 1 and len(value) <= 4 * chars_max + 4
        if length + len(piece) > chars_max - (not is_last):
            return "".join(shown) + "…"
        shown.append(piece)
        length += len(piece)
    return "".join(shown)


def _escape(char: str) -> str:
    code = ord(char)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def value_text(value: bytes | None, chars_max: int) -> str:
    """Return a value shortened and escaped; ``null`` and empty ones by their names."""
    if value is None:
        return "(null)"
    return escaped(value, chars_max) if value else "(empty)"


def time_text(time_ms: int) -> str:
    """Return epoch milliseconds as UTC text, RFC 3339 with milliseconds."""
    try:
        return (
            f"{datetime.fromtimestamp(time_ms / 1000, UTC):%Y-%m-%dT%H:%M:%S}.{time_ms % 1000:03d}Z"
        )
    except (ValueError, OverflowError, OSError):
        return str(time_ms)


class Instant(click.ParamType):
    """A time, ISO 8601 (UTC unless it says otherwise), or how long ago: ``90s``, ``2h``, ``7d``."""

    name = "time"

    def __init__(self, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._now = now

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return epoch milliseconds."""
        try:
            if ago := re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", str(value)):
                time = self._now() - timedelta(**{_UNITS[ago[2]]: float(ago[1])})
            else:
                time = datetime.fromisoformat(str(value))
                time = time if time.tzinfo else time.replace(tzinfo=UTC)
            return round(time.timestamp() * 1000)
        except (ValueError, OverflowError):
            self.fail(
                f"{value!r} is neither a time like 2026-11-24T12:00Z nor an age like 2h", param, ctx
            )


class OffsetRange(click.ParamType):
    """One offset, or the first and the last of some: ``17``, ``17-40``, ``17-``."""

    name = "offsets"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int | None]:
        found = re.fullmatch(r"(\d{1,19})(-(\d{1,19})?)?", str(value))
        if found is None:
            self.fail(
                f"{value!r} is neither an offset like 17 nor a range like 17-40 or 17-", param, ctx
            )
        first = int(found[1])
        last = first if found[2] is None else int(found[3]) if found[3] else None
        if last is not None and last < first:
            self.fail(f"{value!r} ends before it begins", param, ctx)
        return first, last


class PositionType(click.ParamType):
    """Partition and offset: ``0:17``."""

    name = "position"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Position:
        found = re.fullmatch(r"(\d{1,5}):(\d{1,18})", str(value))
        if found is None:
            self.fail(f"{value!r} is not PARTITION:OFFSET, like 0:17", param, ctx)
        return Position(int(found[1]), int(found[2]))


def print_table(names: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[str]) -> None:
    """Print a table; outside a terminal no line is folded.

    Args:
        right: Names of the columns that hold numbers.
    """
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in names:
        table.add_column(name, justify="right" if name in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console = Console(markup=False, highlight=False, width=10_000)
    console.print(table)
