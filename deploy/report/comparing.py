"""Two periods side by side: whose share changed."""

from dataclasses import dataclass

from deploy.report.periods import Period, Rows

DIMENSIONS = {
    "origin": "Open and closed",
    "vendor": "Vendors",
    "size_class": "Sizes",
    "reasoning": "Reasoning",
}
TOP = 10


@dataclass(frozen=True)
class Change:
    """A value's share of tokens in two periods; None where a period has no tokens."""

    value: str
    before: float | None
    now: float | None

    @property
    def points(self) -> float | None:
        """The change in percentage points."""
        if self.before is None or self.now is None:
            return None
        return 100 * (self.now - self.before)


def sql(column: str, period: Period) -> str:
    """Return the question for a period: more values than are shown, so that none hides in other."""
    return (
        f"SELECT value, token_share FROM study_shares(column = '{column}', only = '', top_n = 1000000,"
        f" {period.arguments()}, by_week = false)"
    )


def changes(before: Rows, now: Rows) -> list[Change]:
    """Return the values of both periods, the largest of now and of before, by their size now."""
    shares = [
        {
            row["value"]: None if row["token_share"] is None else float(row["token_share"])
            for row in rows
        }
        for rows in (before, now)
    ]
    nothing = [
        None if any(s is None for s in each.values()) or not each else 0.0 for each in shares
    ]
    found = [
        Change(value, shares[0].get(value, nothing[0]), shares[1].get(value, nothing[1]))
        for value in {*shares[0], *shares[1]}
    ]
    found.sort(key=lambda each: (-(each.now or 0), -(each.before or 0), each.value))
    largest_before = sorted(found, key=lambda each: -(each.before or 0))[:TOP]
    return [each for at, each in enumerate(found) if at < TOP or each in largest_before]
