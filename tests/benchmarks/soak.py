"""``make soak``: what grows over minutes or hours.

The simulator fills the topic while a worker drains it: as fast as it can, so that both cores are busy
throughout, or at a steady rate. Memory, file handles, parts and lag are sampled; the verdict compares
the second half of the run with the first, after a warm-up. Exit code 1 if memory or handles grew by
more than a tenth, or, at a steady rate, the lag by more than two seconds of events.
"""

import argparse
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from deploy.local.processes import LOOPBACK, Child, free_port
from tests.benchmarks.parts import (
    STOP_SECONDS_MAX,
    Machine,
    client,
    http_text,
    machine,
    main_pid,
    metrics,
    resident_bytes,
    run,
    tokentide,
    wait_for,
)

MIB = 1 << 20
SAMPLE_SECONDS = 2.0
WARM_UP_SECONDS = 60.0
GROWTH_MAX = 1.1
LAG_GROWTH_SECONDS_MAX = 2.0
DATABASE = "soak"
LAG = "tokentide_consumer_lag_records{"


@dataclass(frozen=True)
class Sample:
    """One look at the worker."""

    seconds: float
    resident_mib: float
    handles: int
    committed: float
    parts: int
    lag: float


def main() -> None:
    """Run, print a row a minute, and judge."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--minutes", type=float, default=10.0)
    options.add_argument("--rate", type=int, help="events a second [default: as fast as it can]")
    chosen = options.parse_args()
    console = Console()
    with (
        tempfile.TemporaryDirectory(prefix="tokentide-soak-") as directory,
        machine(Path(directory)) as parts,
    ):
        samples = soak(parts, chosen.minutes * 60, chosen.rate, console)
    halves = [s for s in samples if s.seconds >= WARM_UP_SECONDS]
    middle = len(halves) // 2

    def medians(name: str) -> tuple[float, float]:
        first, second = (
            statistics.median(getattr(s, name) for s in half)
            for half in (halves[:middle], halves[middle:])
        )
        return first, second

    first, second = medians("resident_mib")
    events = samples[-1].committed
    console.print(
        f"{events:,.0f} events in {samples[-1].seconds:,.0f} s:"
        f" {events / samples[-1].seconds:,.0f} events/s beside the simulator\n"
        f"resident memory, median: first half {first:,.0f} MiB, second half {second:,.0f} MiB,"
        f" highest {max(s.resident_mib for s in samples):,.0f} MiB"
    )
    grew = [
        name
        for name in ("resident_mib", "handles")
        if medians(name)[1] > medians(name)[0] * GROWTH_MAX
    ]
    for name in ("handles", "parts", "lag"):
        console.print(
            f"{name}, median: first half {medians(name)[0]:,.0f}, second half {medians(name)[1]:,.0f}"
        )
    if chosen.rate and medians("lag")[1] > medians("lag")[0] + LAG_GROWTH_SECONDS_MAX * chosen.rate:
        grew.append("lag")
    sys.exit(f"grew: {', '.join(grew)}" if grew else 0)


def soak(parts: Machine, seconds: float, rate: int | None, console: Console) -> list[Sample]:
    """Return the samples of a run of ``seconds``."""
    port = free_port()
    settings = {"clickhouse_database": DATABASE, "consumer_group": DATABASE, "worker_port": port}
    for command in (("topics",), ("catalogue", "publish"), ("migrate",)):
        run(parts, *command, **settings)
    environment = parts.environment(**settings)
    worker = Child("worker", tokentide("worker"), parts.directory / "worker.out", environment)
    source = Child(
        "simulator",
        tokentide("simulate", "--events", "1000000000", *(("--rate", str(rate)) if rate else ())),
        parts.directory / "simulator.out",
        environment,
    )
    url = f"http://{LOOPBACK}:{port}/metrics"
    samples: list[Sample] = []
    worker.start()
    source.start()
    try:
        wait_for(lambda: http_text(url) is not None, worker)
        started = time.monotonic()
        reader = client(parts.clickhouse_port, DATABASE)
        while (now := time.monotonic() - started) < seconds:
            pid = main_pid(worker)
            told = metrics(url)
            (count,) = reader.query(
                "SELECT count() FROM system.parts WHERE active AND database = 'soak'"
            ).result_rows[0]
            samples.append(
                Sample(
                    now,
                    resident_bytes(pid) / MIB,
                    len(list(Path(f"/proc/{pid}/fd").iterdir())),
                    told.get("tokentide_records_committed_total", 0),
                    count,
                    sum(n for name, n in told.items() if name.startswith(LAG)),
                )
            )
            if int(now // 60) > int((now - SAMPLE_SECONDS) // 60):
                console.print(_row(samples[-1]))
            if worker.exit_code is not None or source.exit_code is not None:
                raise SystemExit(f"a process ended: see {worker.log} and {source.log}")
            time.sleep(SAMPLE_SECONDS)
    finally:
        source.stop(STOP_SECONDS_MAX)
        worker.stop(STOP_SECONDS_MAX)
    return samples


def _row(sample: Sample) -> Table:
    row = Table.grid(padding=(0, 2))
    row.add_row(
        f"{sample.seconds:5.0f} s",
        f"{sample.resident_mib:,.0f} MiB",
        f"{sample.handles} handles",
        f"{sample.parts} parts",
        f"{sample.committed:,.0f} events",
        f"{sample.lag:,.0f} behind",
    )
    return row


if __name__ == "__main__":
    main()
