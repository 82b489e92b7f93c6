"""The delivery protocol: what a commit says, as pure functions.

A worker declares a range before it inserts it: it commits the range's first offset with the range
in the commit's metadata. Whoever owns the partition next reads the declaration, rebuilds exactly
that range and inserts it under the same token, which ClickHouse drops if it has landed. The commit
that ends a range declares the next one if it is already cut: one commit per batch under load.

Format of the metadata, version 1: ``tokentide/1 <next offset>``, or ``""`` when nothing is in
flight. The range is ``[committed offset, next offset)``.
"""

import re

from schemas.errors import FatalError

_DECLARATION = re.compile(r"tokentide/(\d+) (\d+)")
VERSION = 1


def declare(next_offset: int) -> str:
    """Return the metadata that declares the range from the committed offset to ``next_offset``."""
    return f"tokentide/{VERSION} {next_offset}"


def declared_next_offset(metadata: str, committed_offset: int) -> int | None:
    """Return where the declared range ends (exclusive), or ``None`` if none is declared.

    Raises:
        FatalError: If the metadata is not ours, of a newer version, or declares an empty range.
    """
    if not metadata:
        return None
    match = _DECLARATION.fullmatch(metadata)
    if match is None:
        raise FatalError(
            f"commit metadata {metadata[:60]!r} is not tokentide's: another program commits in this"
            " consumer group; set TOKENTIDE_CONSUMER_GROUP to a group of its own"
        )
    version, next_offset = int(match[1]), int(match[2])
    if version != VERSION:
        raise FatalError(
            f"commit metadata has version {version}, this worker knows {VERSION}: a newer worker"
            " ran in this consumer group; run that version or let it finish its ranges"
        )
    if next_offset <= committed_offset:
        raise FatalError(f"commit metadata declares [{committed_offset}, {next_offset}): empty")
    return next_offset


def token(topic: str, partition: int, first_offset: int, next_offset: int, month: int) -> str:
    """Return the deduplication token of one insert: one month (YYYYMM) of one range.

    The outcome of a range depends on the range alone, so equal tokens mean equal rows.
    """
    return f"{topic}:{partition}:{first_offset}-{next_offset - 1}:{month}"
