"""The study, end to end: its market as requests through Kafka and a worker, its numbers out of SQL.

``make study`` runs it with 50 million requests and writes ``tests/benchmarks/STUDY.md``; ``make test``
a short form (test_study.py).
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from tests.conftest import run_tokentide, running_stack

OUT = Path(__file__).parents[1] / "benchmarks" / "STUDY.md"
EVENTS = 50_000_000
SEND_SECONDS_MAX = 3 * 3600
STORE_SECONDS_MAX = 3600


def main() -> None:
    """Run it and write the table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--events", type=int, default=EVENTS)
    options.add_argument("--out", type=Path, default=OUT)
    chosen = options.parse_args()
    console = Console()
    with (
        tempfile.TemporaryDirectory(prefix="tokentide-study-") as directory,
        loaded(Path(directory), chosen.events) as seconds,
    ):
        console.print(f"{chosen.events:,} requests stored in {seconds:,.0f} s")
        write(checked(Path(directory)), chosen.events, chosen.out)
    console.print(f"written to {chosen.out}")


@contextmanager
def loaded(directory: Path, events: int) -> Iterator[float]:
    """Run a stack that has stored the study's market; yields how many seconds that took."""
    with running_stack(directory, "--no-simulator"):
        begun = time.monotonic()
        at = ("--data-dir", str(directory))
        sent = run_tokentide(
            "replay", "study", "--events", str(events), *at, timeout_seconds=SEND_SECONDS_MAX
        )
        assert sent.returncode == 0, sent.stderr
        seconds = str(STORE_SECONDS_MAX)
        stored = run_tokentide(
            "status", "--wait", "--timeout", seconds, *at, timeout_seconds=STORE_SECONDS_MAX + 60
        )
        assert stored.returncode == 0, stored.stderr
        yield time.monotonic() - begun


def checked(directory: Path) -> str:
    """Return the table of published numbers and answers."""
    done = run_tokentide(
        "report", "--check", "--data-dir", str(directory), timeout_seconds=STORE_SECONDS_MAX
    )
    assert done.stdout, done.stderr
    return done.stdout


def write(text: str, events: int, out: Path) -> None:
    """Write the table with what it is of."""
    out.write_text(f"{text}\nOf {events:,} requests, sent by `make study`.\n", "utf-8")


if __name__ == "__main__":
    main()
