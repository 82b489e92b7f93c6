"""``tokentide dead-letters redrive``: what became of each dead letter."""

from collections import Counter
from typing import Any

import click
import orjson

from deploy.cli.dead_letters_listing import origin_text
from deploy.cli.dead_letters_text import print_table, value_text
from deploy.redrive import FAILED, IN_DOUBT, OUTCOMES, WOULD_BE_SENT, Outcome


class Report:
    """What became of each dead letter, for the end of the command."""

    def __init__(self, dry_run: bool) -> None:
        self._dry_run = dry_run
        self._rows: list[dict[str, Any]] = []
        self._counts: Counter[str] = Counter()
        self.settled = (0, 0)

    @property
    def has_failed(self) -> bool:
        return bool(self._counts[FAILED] or self._counts[IN_DOUBT])

    @property
    def has_rows(self) -> bool:
        return bool(self._rows)

    def add(self, outcome: Outcome) -> None:
        letter = outcome.letter
        self._counts[outcome.state] += 1
        self._rows.append(
            {
                "record": origin_text(letter),
                "dead_letter": str(letter.position),
                "reason": letter.reason,
                "field": letter.field,
                "outcome": outcome.state,
                "sent_to": str(outcome.target) if outcome.target else None,
                "detail": outcome.detail,
            }
        )

    def print(self, form: str) -> None:
        """Print every outcome, then the counts."""
        found, missing = self.settled
        if form == "json":
            report = {
                "dry_run": self._dry_run,
                "outcomes": {state: self._counts[state] for state in OUTCOMES},
                "interrupted_before": {"sent": found, "not_sent": missing},
                "records": self._rows,
            }
            click.echo(orjson.dumps(report))
            return
        if self._rows:
            names = ("record", "dead_letter", "reason", "field", "outcome", "sent_to", "detail")
            rows = [[_cell(row[name]) for name in names] for row in self._rows]
            print_table([name.replace("_", " ") for name in names], rows, ())
            click.echo()
        if found or missing:
            click.echo(f"an interrupted redrive had sent {found:,} records, and {missing:,} not")
        click.echo(self._summary())

    def _summary(self) -> str:
        counts = [
            f"{self._counts[state]:,} {state.replace('_', ' ')}"
            for state in OUTCOMES
            if self._counts[state]
        ]
        if not counts:
            return "no dead letters match"
        text = ", ".join(counts)
        if self._counts[IN_DOUBT] and not self._dry_run:
            text += (
                "; in doubt: the usage topic has dropped the offsets where an interrupted redrive"
                " may have put them. Look for them in usage_events; if one is missing, publish it"
                " by hand: tokentide dead-letters show POSITION --raw | tokentide produce -"
            )
        if self._counts[IN_DOUBT] and self._dry_run:
            text += "; what is in doubt is found out first when sending"
        if self._dry_run:
            text += "; nothing was sent" + (
                ": --yes sends them" if self._counts[WOULD_BE_SENT] else ""
            )
        return text


def _cell(text: str | None) -> str:
    return value_text(text.encode(errors="replace"), 200) if text else ""
