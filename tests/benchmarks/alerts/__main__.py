"""``python -m tests.benchmarks.alerts``: measure the detectors; writes ALERTS.md and its plot."""

from pathlib import Path

import click

from tests.benchmarks.alerts.report import Run, plot, report, table
from tests.benchmarks.alerts.running import calibrated, scores

_BENCHMARKS = Path(__file__).parent.parent
_CALIBRATION_SEED, _QUIET_SEED = 9_000, 8_000
"""Seeds of the quiet worlds follow these; those of the tests are apart from both."""


@click.command()
@click.option("--worlds", type=click.IntRange(min=1), default=10, show_default=True)
@click.option("--seed", type=int, default=7_000, show_default=True, help="Of the first world.")
@click.option("--quiet-worlds", type=click.IntRange(min=1), default=4, show_default=True)
@click.option("--calibration-worlds", type=click.IntRange(min=1), default=8, show_default=True)
@click.option(
    "--write/--no-write", default=True, show_default=True, help="Write ALERTS.md and its plot."
)
def main(worlds: int, seed: int, quiet_worlds: int, calibration_worlds: int, write: bool) -> None:
    """Fix thresholds on quiet worlds, then score all detectors on worlds they have not seen."""
    thresholds = calibrated(
        range(_CALIBRATION_SEED + 1, _CALIBRATION_SEED + calibration_worlds + 1)
    )
    quiet = scores(range(_QUIET_SEED + 1, _QUIET_SEED + quiet_worlds + 1), thresholds, quiet=True)
    found = scores(range(seed, seed + worlds), thresholds, quiet=False)
    run = Run(thresholds, quiet, found, worlds, seed, quiet_worlds, calibration_worlds)
    click.echo(table(run))
    if write:
        (_BENCHMARKS / "ALERTS.md").write_text(report(run))
        (Path(__file__).parent / "found.svg").write_text(plot(run))


if __name__ == "__main__":
    main()
