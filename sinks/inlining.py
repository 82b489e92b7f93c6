"""Put the text of a view in the place of a call of it.

ClickHouse analyses a view with parameters twice, once for its columns, so one that calls one that calls
one is planned eight times: 90 ms before anything is read, where the same text in one piece takes 40. So
the files call each other, for readers, and what is created is in one piece.
"""

import re
from collections.abc import Mapping

_PARAMETER = re.compile(r"\{(\w+):([^}]+)\}")
_ORDER = re.compile(r"\nORDER BY [^()]*\Z")
"""Of a view's rows as a whole: who calls it sorts anew, or needs no order."""
_CALL = re.compile(r"\{database\}\.(\w+)\(")


def body_of(create: str) -> str:
    """Return the SELECT of ``CREATE OR REPLACE VIEW ... AS ... COMMENT '...'``."""
    return create[create.index(" AS\n") + 4 : create.rindex("\nCOMMENT '")]


def inlined(sql: str, bodies: Mapping[str, str]) -> str:
    """Return SQL in which calls of known views are their text, with the arguments in place.

    Args:
        sql: With ``{database}`` in front of every name.
        bodies: View -> `body_of` it, itself in one piece.
    """
    text = ""
    while found := _CALL.search(sql):
        end = _closing(sql, found.end())
        if found[1] in bodies:
            arguments = _arguments(sql[found.end() : end])
            body = _ORDER.sub("", bodies[found[1]])
            text += sql[: found.start()] + f"(\n{_with(body, arguments)}\n)"
        else:
            text += sql[: end + 1]
        sql = sql[end + 1 :]
    return text + sql


def _closing(sql: str, start: int) -> int:
    """Return where the bracket closes that was opened before ``start``."""
    depth = 1
    for at in range(start, len(sql)):
        depth += {"(": 1, ")": -1}.get(sql[at], 0)
        if not depth:
            return at
    raise ValueError(f"a bracket is open: {sql[start - 40 : start]}")


def _arguments(text: str) -> dict[str, str]:
    """Return ``name = value, ...`` as a mapping; a value may have commas in brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += {"(": 1, "{": 1, ")": -1, "}": -1}.get(character, 0)
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    pairs = (part.split(" = ", 1) for part in parts)
    return {name.strip(): value.strip() for name, value in pairs}


def _with(body: str, arguments: Mapping[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        name, kind = match.groups()
        given = arguments[name]
        if kind != "Identifier":
            return given
        # The name of a column is given as text: 'vendor', or a parameter of the caller's.
        return re.sub(r":String\}$", ":Identifier}", given).strip("'")

    return _PARAMETER.sub(value, body)
