"""What the long forms print: progress with the time gone by, and a table of what was compared."""

import time
from collections import defaultdict
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

from tests.e2e.comparing import Check


class Report:
    """Prints to the terminal."""

    def __init__(self) -> None:
        self._console = Console()
        self._started = time.monotonic()

    def say(self, line: str) -> None:
        """Print a line after the seconds since the start."""
        seconds = time.monotonic() - self._started
        text = f"{seconds:7.1f} s  {line}"
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def show(self, title: str, checks: Iterable[Check]) -> None:
        """Print one row per table, view or other thing compared."""
        groups: dict[str, list[Check]] = defaultdict(list)
        for check in checks:
            view_or_table = check.name.split(" ")[0].split(",")[0]
            is_one = view_or_table.startswith(("usage_", "share_"))
            groups[view_or_table if is_one else check.name].append(check)
        table = Table(box=None, padding=(0, 2, 0, 0))
        table.add_column(title, no_wrap=True)
        table.add_column("comparisons", justify="right")
        table.add_column("numbers", justify="right")
        table.add_column("")
        for name, group in groups.items():
            wrong = sum(bool(check.differences) for check in group)
            compared = sum(check.compared for check in group)
            outcome = f"[red]{wrong} differ" if wrong else "[green]equal"
            table.add_row(name, f"{len(group):,}", f"{compared:,}", outcome)
        self._console.print(table)
