"""The delivery protocol: what a commit says, as pure functions.

A worker declares a range before it inserts it: it commits the range's first offset with the range
in the commit's metadata. Whoever owns the partition next reads the declaration, rebuilds exactly
that range and inserts it under the same token, which ClickHouse drops if it has landed. The commit
that ends a range declares the next one if it is already cut: one commit per batch under load.

Format of the metadata; the range is ``[committed offset, next offset)``:

* version 2: ``tokentide/2 <next offset> whole`` or ``tokentide/2 <next offset> cut``. Cut says that
  ClickHouse refused rows of the range, which is therefore landing in pieces;
* version 1: ``tokentide/1 <next offset>``, always whole;
* ``""``: nothing is in flight.
"""

import re
from dataclasses import dataclass

from schemas.errors import FatalError

VERSION = 2
_TOKENTIDE = re.compile(r"tokentide/(\d{1,9}) .*")
_FORMATS = {1: re.compile(r"tokentide/1 (\d+)"), 2: re.compile(r"tokentide/2 (\d+) (whole|cut)")}


@dataclass(frozen=True, slots=True)
class Declared:
    """A range that was declared: its end (exclusive), and whether it is landing in pieces."""

    next_offset: int
    is_cut: bool


def declare(next_offset: int, *, is_cut: bool = False) -> str:
    """Return the metadata that declares the range from the committed offset to ``next_offset``."""
    return f"tokentide/{VERSION} {next_offset} {'cut' if is_cut else 'whole'}"


def declared(metadata: str, committed_offset: int) -> Declared | None:
    """Return the range that is declared, or ``None``.

    Raises:
        FatalError: If the metadata is not ours, of a newer version, or declares an empty range.
    """
    if not metadata:
        return None
    version = _TOKENTIDE.fullmatch(metadata)
    if version is not None and int(version[1]) > VERSION:
        raise FatalError(
            f"commit metadata has version {version[1]}, this worker knows {VERSION}: a newer worker"
            " ran in this consumer group; run that version or let it finish its ranges"
        )
    form = _FORMATS.get(int(version[1])) if version else None
    match = form.fullmatch(metadata) if form else None
    if match is None:
        raise FatalError(
            f"commit metadata {metadata[:60]!r} is not tokentide's: another program commits in this"
            " consumer group; set TOKENTIDE_CONSUMER_GROUP to a group of its own"
        )
    next_offset = int(match[1])
    if next_offset <= committed_offset:
        raise FatalError(f"commit metadata declares [{committed_offset}, {next_offset}): empty")
    return Declared(next_offset, is_cut=match.groups()[1:] == ("cut",))


def token(topic: str, partition: int, first_offset: int, next_offset: int, month: int) -> str:
    """Return the deduplication token of one insert: one month (YYYYMM) of a range or of its piece.

    A token always comes with the same rows.
    """
    return f"{topic}:{partition}:{first_offset}-{next_offset - 1}:{month}"
