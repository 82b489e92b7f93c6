"""``make bench-compare REV=...``: what this checkout costs against another revision, in pairs.

Both read the same topic into the same engine, one after the other, and who goes first changes from
pair to pair, so that a noisy neighbour and a warm cache hit both. A ratio is taken within a pair.
The other revision runs with this checkout's installed packages.
"""

import argparse
import io
import statistics
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from streams.stages import STAGES
from tests.benchmarks.bench import Expected, Result, drain, fill, recount
from tests.benchmarks.parts import PROJECT, Machine, end_offsets, machine, put_away, tokentide

HERE, THERE = "this checkout", "revision"


def main() -> None:
    """Run the pairs and print their ratios."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("revision", help="a commit, a branch, a tag")
    options.add_argument("--events", type=int, default=1_000_000)
    options.add_argument("--pairs", type=int, default=5)
    chosen = options.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory(prefix="tokentide-bench-") as directory:
        checkout = Path(directory) / "revision"
        unpack(chosen.revision, checkout)
        with machine(Path(directory)) as parts:
            console.print(f"filling the topic with {chosen.events:,} events")
            expected = fill(parts, chosen.events)
            there = replace(parts, project=checkout)
            pairs = [run_pair(parts, there, number, expected) for number in range(chosen.pairs)]
    console.print(table([here for here, _ in pairs], [there for _, there in pairs]))


def unpack(revision: str, directory: Path) -> None:
    """Write the files of a revision into a new directory; stops if there is no such revision."""
    told = subprocess.run(
        ["git", "-C", str(PROJECT), "archive", "--format=tar", revision],
        capture_output=True,
        check=False,
    )
    if told.returncode:
        raise SystemExit(f"revision {revision}: {told.stderr.decode().strip()}")
    with tarfile.open(fileobj=io.BytesIO(told.stdout)) as files:
        files.extractall(directory, filter="data")


def run_pair(
    here: Machine, there: Machine, number: int, expected: Expected
) -> tuple[Result, Result]:
    """Return the results of both, each recounted."""
    events = sum(end_offsets(here.kafka).values())
    results = {}
    for name, parts in ((HERE, here), (THERE, there))[:: 1 if number % 2 else -1]:
        stack = name.replace(" ", "_")
        results[name], database = drain(parts, stack, number, tokentide("worker"), events)
        recount(parts, database, expected)
        put_away(parts.clickhouse_port, database)
    return results[HERE], results[THERE]


def table(here: Sequence[Result], there: Sequence[Result]) -> Table:
    """Return one row per figure: medians of both, and the ratio within pairs with its range."""
    shown = Table(title="all rows recounted", box=None, padding=(0, 2, 0, 0))
    for column in ("", HERE, THERE, "ratio"):
        shown.add_column(column, justify="right" if column else "left")
    figures = {
        "events/s": [[each.events_per_second for each in side] for side in (here, there)],
        "CPU us/event": [[each.cpu_us for each in side] for side in (here, there)],
        **{
            name: [[getattr(each, f"{name}_cpu_us") for each in side] for side in (here, there)]
            for name in ("worker", "engine", "broker")
        },
        "peak MiB": [[each.worker_peak_mib for each in side] for side in (here, there)],
        **{
            f"stage {stage}": [
                [each.stages_cpu_us[stage] for each in side] for side in (here, there)
            ]
            for stage in STAGES
        },
    }
    for name, (ours, theirs) in figures.items():
        ratios = [a / b for a, b in zip(ours, theirs, strict=True) if b]
        shown.add_row(
            name,
            f"{statistics.median(ours):,.2f}",
            f"{statistics.median(theirs):,.2f}",
            _ratio(ratios) if len(ratios) == len(ours) else "-",
        )
    return shown


def _ratio(values: Sequence[float]) -> str:
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


if __name__ == "__main__":
    main()
