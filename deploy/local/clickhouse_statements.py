"""What the HTTP layer must know of a statement: where an INSERT's data starts, and the format asked.

Nothing here guards anything: what a user may do is decided by the engine. A wrong guess costs a
slower path or an error, never a different result.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

QUERY_BYTES_MAX = 262_144
"""Longest statement: ClickHouse's default of ``max_query_size``."""

_TOKEN = re.compile(
    rb"""
    (?P<space> \s+ | --[^\n]*(?:\n|\Z) | \#[\ !][^\n]*(?:\n|\Z) | /\*.*?(?:\*/|\Z) )
    | (?P<word> [A-Za-z_]\w* )
    | (?P<quoted> '(?:[^'\\]|\\.|'')*(?:'|\Z) | "(?:[^"\\]|\\.|"")*(?:"|\Z)
        | `(?:[^`\\]|\\.|``)*(?:`|\Z) | \$(?P<tag>\w*)\$.*?(?:\$(?P=tag)\$|\Z) )
    | (?P<other> . )
    """,
    re.VERBOSE | re.DOTALL,
)
_OPENING = b"([{"
_CLOSING = b")]}"


@dataclass(frozen=True)
class Token:
    """A word in upper case, or another token as it stands, with its place and nesting depth."""

    text: bytes
    word: bool
    depth: int
    start: int
    end: int


@dataclass(frozen=True)
class InsertHead:
    """An INSERT whose data follows it.

    Attributes:
        target: The statement up to its SETTINGS or FORMAT: ``INSERT INTO t (a, b)``.
        settings: ``SETTINGS a = 1`` or ``b""``.
        format: Name of the data's format.
        data_start: Where the data starts in the text.
    """

    target: bytes
    settings: bytes
    format: bytes
    data_start: int


def tokens(text: bytes) -> Iterator[Token]:
    """Yield the tokens of ``text`` that are not space or comment."""
    depth = 0
    for match in _TOKEN.finditer(text):
        if match.lastgroup == "space":
            continue
        raw = match.group()
        if match.group("other") and raw in _CLOSING:
            depth -= 1
        is_word = match.group("word") is not None
        yield Token(raw.upper() if is_word else raw, is_word, depth, match.start(), match.end())
        if match.group("other") and raw in _OPENING:
            depth += 1


def first_word(text: bytes) -> bytes:
    """Return the first word of ``text`` in upper case, ``b"("`` and the like included."""
    return next((token.text for token in tokens(text)), b"")


def output_format(text: bytes) -> str | None:
    """Return the name in the trailing ``FORMAT name`` of a statement, or ``None``."""
    top = [token for token in tokens(text) if token.depth == 0 and token.text != b";"]
    for index in range(len(top) - 2, -1, -1):
        if top[index].text != b"FORMAT" or not top[index + 1].word:
            continue
        if index + 2 == len(top) or top[index + 2].text == b"SETTINGS":
            name = top[index + 1]
            return text[name.start : name.end].decode()
    return None


def writes_outfile(text: bytes) -> bool:
    """Return whether the statement ends in ``INTO OUTFILE``, which a server refuses over HTTP."""
    top = [token.text for token in tokens(text) if token.depth == 0]
    return (b"INTO", b"OUTFILE") in pairwise(top)


def reads_infile(text: bytes) -> bool:
    """Return whether an INSERT names a file, which a server refuses over HTTP."""
    top = [token.text for token in tokens(text) if token.depth == 0]
    named = (at for at in range(len(top) - 2) if top[at : at + 2] == [b"FROM", b"INFILE"])
    return top[:1] == [b"INSERT"] and any(top[at + 2][:1] in b"'\"$" for at in named)


def insert_head(text: bytes, *, complete: bool) -> InsertHead | None:
    """Return the head of an INSERT that carries data, or ``None``.

    Args:
        text: The statement, with or without the data after it.
        complete: Whether nothing can follow. Else a head that ends with ``text`` is not taken:
            its last word may go on, or a newline that is not data may follow.

    Returns:
        ``None`` also for INSERT SELECT, and for a text that ends before the data.
    """
    stream = tokens(text)
    if next(stream, None) is None or first_word(text) != b"INSERT":
        return None
    settings_start: int | None = None
    seen_name = False
    for token in stream:
        if token.depth != 0:
            continue
        if not seen_name:  # The table may be called values: its name is skipped unread.
            seen_name = token.text not in (b"INTO", b"TABLE", b"FUNCTION")
            continue
        if token.text in (b"SELECT", b"WITH", b"FROM"):
            return None
        if token.text == b"SETTINGS":
            settings_start = token.start
        elif token.text in (b"VALUES", b"FORMAT"):
            break
    else:
        if not complete or not seen_name:
            return None
        return _head(text, settings_start, len(text), b"Values", len(text))
    format_name, data_start = b"Values", token.end
    if token.text == b"FORMAT":
        name = next(stream, None)
        if name is None:
            return None
        format_name = text[name.start : name.end]
        data_start = name.end + _blank_to_newline(text[name.end : name.end + 64])
    if data_start == len(text) and not complete:
        return None
    return _head(text, settings_start, token.start, format_name, data_start)


def _head(
    text: bytes, settings_start: int | None, end: int, format_name: bytes, data_start: int
) -> InsertHead:
    target_end = end if settings_start is None else settings_start
    settings = b"" if settings_start is None else text[settings_start:end]
    return InsertHead(text[:target_end], settings, format_name, data_start)


def _blank_to_newline(after: bytes) -> int:
    """Return how much of the text after a format's name is not data: blanks and one newline."""
    blank = re.match(rb"[ \t\r\f]*;?[ \t\r\f]*\n?", after)
    assert blank is not None
    return blank.end()
