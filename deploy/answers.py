"""Values of ClickHouse's answers as text."""

from datetime import datetime
from decimal import Decimal
from typing import Any


def text_of(value: Any) -> str:
    """Return a value as a person reads it."""
    if value is None:
        return "null"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}" + (f".{value:%f}"[:4] if value.microsecond else "")
    # str() of a small decimal is 0E-9.
    return f"{value:f}" if isinstance(value, Decimal) else str(value)
