"""The period of a report, and what its numbers are: rows of views as dictionaries."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

Row = dict[str, Any]
Rows = Sequence[Row]


@dataclass(frozen=True)
class Period:
    """Days, UTC, half-open."""

    from_day: date
    to_day: date

    @property
    def text(self) -> str:
        """As a person says it; the last day is in it."""
        last = self.to_day - timedelta(days=1)
        return f"{self.from_day:%-d %B %Y} to {last:%-d %B %Y}"

    def arguments(self, **more: int | str) -> str:
        """Return the arguments of a view of the study."""
        own = f"from_day = '{self.from_day}', to_day = '{self.to_day}'"
        return ", ".join([own, *(f"{name} = {value!r}" for name, value in more.items())])


def whole_weeks(rows: Rows) -> Rows:
    """Return the rows of weeks that lie in the period; all rows if no week does."""
    whole = [row for row in rows if not row["is_partial"]]
    return whole or rows


def weeks_of(rows: Rows) -> list[date]:
    """Return the weeks that rows have, oldest first."""
    return sorted({row["week"] for row in rows})
