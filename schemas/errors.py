"""Errors, named by what happens next.

``RecordError``: the record goes to the dead-letter topic. ``RetryableError``: back off and try the
same batch again. ``FatalError``: the process stops with one line and acknowledges nothing.
"""

from enum import StrEnum


class Reason(StrEnum):
    """Why a record is refused: the ``reason`` header of a dead letter and a metric label."""

    EMPTY_VALUE = "empty_value"
    INVALID_JSON = "invalid_json"
    NOT_AN_OBJECT = "not_an_object"
    UNSUPPORTED_VERSION = "unsupported_version"
    MISSING_FIELD = "missing_field"
    WRONG_TYPE = "wrong_type"
    OUT_OF_RANGE = "out_of_range"
    EMPTY_TEXT = "empty_text"
    TOO_LONG = "too_long"
    BAD_TIMESTAMP = "bad_timestamp"
    FROM_THE_FUTURE = "from_the_future"
    BAD_HASH = "bad_hash"
    RAW_IDENTIFIER = "raw_identifier"
    TOO_MANY_TAGS = "too_many_tags"
    REFUSED_BY_CLICKHOUSE = "refused_by_clickhouse"


class RecordError(Exception):
    """A record that can never succeed.

    Attributes:
        reason: What is wrong, from a fixed list.
        field: The field at fault, or ``""`` when it is the record as a whole.
    """

    def __init__(self, reason: Reason, field: str = "") -> None:
        super().__init__(reason, field)
        self.reason = reason
        self.field = field

    def __str__(self) -> str:
        return f"{self.reason}: {self.field}" if self.field else self.reason


class RetryableError(Exception):
    """The same request may succeed later: back off, acknowledge nothing."""


class SinkUnavailableError(RetryableError):
    """ClickHouse cannot take the batch now: network, timeout, overload, read-only."""


class RejectedBatchError(Exception):
    """ClickHouse refuses the rows themselves, and would refuse them again."""


class FatalError(Exception):
    """A person is needed. The message is one line: what is wrong and what to do."""


class ConfigurationError(FatalError):
    """A setting, schema or environment that cannot work."""
