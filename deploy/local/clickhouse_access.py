"""Who may use the embedded ClickHouse, and what a reader may do.

A reader is held by four things of the engine, none of which looks at the text of a query:

* Its role has SELECT, SHOW and dictGet, and nothing else: no table function that reaches out of
  the tables (file, url, s3, remote, executable, ...), not even to describe one.
* ``readonly = 1``, set last on a handle that lives for one query: no setting can be changed after
  it, by no clause, so that neither it nor the limits can be lifted.
* The engine's parser names the kind of a statement; a reader's must be one single statement that
  reads. This closes what readonly allows: INTO OUTFILE, SET ROLE, KILL of another's query.
* The scalar function ``file()``, which in an embedded engine reads any file and needs no grant,
  is replaced by one that takes no argument (``clickhouse_engine.py``).
"""

import hmac
import os
from collections.abc import Mapping
from dataclasses import dataclass

from deploy.local.clickhouse_errors import AUTHENTICATION_FAILED, refusal

READER_LIMITS = {
    "max_execution_time": 60,  # seconds, waiting for a slow client included
    "max_memory_usage": 4 << 30,
    "max_rows_to_read": 2_000_000_000,
    "max_result_rows": 50_000_000,
    "max_result_bytes": 4 << 30,
}
"""Limits of one query of a reader. A request may ask for less, never for more."""
_CEILINGS = {**READER_LIMITS, "max_threads": os.cpu_count() or 1}

_FREE_PREFIXES = ("output_format_", "date_time_", "format_csv_", "format_tsv_")
_FREE = {
    "bool_false_representation",
    "bool_true_representation",
    "extremes",
    "final",
    "http_write_exception_in_output_format",
    "join_use_nulls",
    "limit",
    "max_block_size",
    "offset",
    "result_overflow_mode",
    "session_timezone",
    "transform_null_in",
    "use_uncompressed_cache",
}
_NEVER_FREE = {"output_format_schema"}  # Names a file to write.


@dataclass(frozen=True)
class User:
    """A user of the HTTP interface.

    Attributes:
        role: The engine's role its queries run under.
        read_only: Whether the limits and checks of a reader hold.
    """

    name: str
    password: str
    role: str
    read_only: bool


def users(
    writer: str, writer_password: str, reader: str, reader_password: str
) -> Mapping[str, User]:
    """Return the users by name. ``default`` is a reader, as plain clients send that name."""
    return {
        "default": User("default", reader_password, "reader", read_only=True),
        reader: User(reader, reader_password, "reader", read_only=True),
        writer: User(writer, writer_password, "writer", read_only=False),
    }


def authenticate(known: Mapping[str, User], name: str, password: str) -> User:
    """Return the user.

    Raises:
        EngineError: Code 516, the same for a wrong name and a wrong password.
    """
    user = known.get(name)
    right = hmac.compare_digest(
        (user.password if user else "").encode(errors="surrogateescape"),
        password.encode(errors="surrogateescape"),
    )
    if user is None or not right:
        raise refusal(
            AUTHENTICATION_FAILED,
            f"{name[:100]}: Authentication failed: password is incorrect, or there is no user"
            " with such name",
        )
    return user


def reader_settings(asked: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Split a reader's settings into those set before and those set after ``readonly = 1``.

    The first are formats and limits, a limit tightened only. The second are all others: the engine
    refuses them, unless they change nothing.
    """
    before = {name: str(value) for name, value in READER_LIMITS.items()}
    after = {}
    for name, value in asked.items():
        if name in _CEILINGS and (wish := _whole_number(value)) is not None:
            if 0 < wish <= _CEILINGS[name]:  # 0 is no limit.
                before[name] = str(wish)
        elif name in _FREE or (name.startswith(_FREE_PREFIXES) and name not in _NEVER_FREE):
            before[name] = value
        else:
            after[name] = value
    return before, after


def _whole_number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() else None


# Source: ClickHouse, "users.xml". The engine runs everything as user default, whose rights are
# only those of the role a handle has taken.
USERS_XML = """\
<clickhouse>
  <profiles><default/></profiles>
  <quotas><default/></quotas>
  <roles>
    <reader><grants>
      <query>GRANT SELECT, SHOW, dictGet ON *.*</query>
    </grants></reader>
    <writer><grants><query>GRANT ALL ON *.*</query></grants></writer>
  </roles>
  <users><default>
    <password/>
    <networks><ip>::/0</ip></networks>
    <profile>default</profile>
    <quota>default</quota>
    <grants><query>GRANT reader</query><query>GRANT writer</query></grants>
  </default></users>
</clickhouse>
"""
