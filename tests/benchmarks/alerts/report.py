"""The measurement as a page."""

from dataclasses import dataclass

import numpy as np

from streams.detection.calibration import BUDGET_PART
from tests.benchmarks.alerts.running import DIMENSION, Thresholds
from tests.benchmarks.alerts.scoring import Score
from tests.benchmarks.alerts.worlds import CHANGES, HARD_NEGATIVES, VENDORS
from tests.benchmarks.drawing import line_chart

OWN = "tokentide"
_EVER_MINUTES = 1e9


@dataclass(frozen=True)
class Run:
    """All numbers of one measurement."""

    thresholds: Thresholds
    quiet: dict[str, Score]
    found: dict[str, Score]
    worlds: int
    seed: int
    quiet_worlds: int
    calibration_worlds: int


def table(run: Run) -> str:
    """Return all detectors side by side as a Markdown table."""
    head = (
        "| detector | threshold | false alarms per series and 28 days, fresh quiet worlds "
        "| <= 30 min | <= 60 min | ever | delay p50 / p90 | extra per change (chance) "
        "| hard negatives hit | precision |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    rows = []
    for name, score in run.found.items():
        threshold = (
            run.thresholds.parameters.thresholds[DIMENSION]
            if name == OWN
            else run.thresholds.naive[name]
        )
        changes = max(len(score.delays()), 1)
        rows.append(
            f"| {name} | {threshold:.2f} | {28 * run.quiet[name].false_per_series_day:.2f} "
            f"| {score.within(30):.2f} | {score.within(60):.2f} | {score.within(_EVER_MINUTES):.2f} "
            f"| {score.quantile(0.5):.0f} / {score.quantile(0.9):.0f} min "
            f"| {score.extra_per_change:.2f} ({score.chance / changes:.2f}) "
            f"| {score.negatives_hit} of {score.negatives} | {score.precision:.2f} |"
        )
    return "\n".join([head, *rows])


def kinds(score: Score) -> str:
    """Return what was found of each kind of change as a Markdown table."""
    head = (
        "| change | n | <= 15 min | <= 30 min | <= 60 min | ever | delay p50 / p90 |\n"
        "|---|---|---|---|---|---|---|"
    )
    rows = [
        f"| {kind} | {len(score.delays(kind))} | {score.within(15, kind):.2f} "
        f"| {score.within(30, kind):.2f} | {score.within(60, kind):.2f} "
        f"| {score.within(_EVER_MINUTES, kind):.2f} "
        f"| {score.quantile(0.5, kind):.0f} / {score.quantile(0.9, kind):.0f} min |"
        for kind in CHANGES
    ]
    return "\n".join([head, *rows])


def goals(score: Score) -> str:
    """Return the goals and what is reached as a Markdown table."""
    main = "8 to 14 %"
    hits, number = round(score.within(30, main) * len(score.delays(main))), len(score.delays(main))
    allowed = 4 / 88
    rows = [
        (f"{main} found within 30 minutes", "0.99", f"{hits} of {number}", hits >= 0.99 * number),
        (
            "all changes within 60 minutes",
            ">= 0.80",
            f"{score.within(60):.3f}",
            score.within(60) >= 0.8,
        ),
        ("precision", ">= 0.85", f"{score.precision:.3f}", score.precision >= 0.85),
        (
            "extra alarms per change",
            "<= 0.08",
            f"{score.extra_per_change:.3f}",
            score.extra_per_change <= 0.08,
        ),
        (
            "hard negatives with an alarm",
            "<= 4 of 88",
            f"{score.negatives_hit} of {score.negatives}",
            score.negatives_hit <= allowed * score.negatives,
        ),
    ]
    lines = [f"| {a} | {b} | {c} | {'yes' if d else '**no**'} |" for a, b, c, d in rows]
    return "\n".join(["| goal | wanted | measured | reached |", "|---|---|---|---|", *lines])


def plot(run: Run) -> str:
    """Return how many changes were found after how long, for every detector."""
    minutes = np.arange(0, 121, 5)
    lines = {
        name: [(float(each), score.within(float(each))) for each in minutes]
        for name, score in run.found.items()
    }
    return line_chart(
        "Changes found, at one false alarm per series and 28 days",
        "minutes since the change began",
        lines,
        x_max=120,
        y_max=1,
        x_step=15,
        y_step=0.2,
    )


def report(run: Run) -> str:
    """Return the page."""
    own = run.found[OWN]
    per_world = ", ".join(f"{count} {kind}" for kind, count in CHANGES.items())
    negatives = ", ".join(f"{count} {kind}" for kind, count in HARD_NEGATIVES.items())
    return f"""# How well sudden share changes are found

Written by `python -m tests.benchmarks.alerts --worlds {run.worlds} --seed {run.seed} --quiet-worlds {run.quiet_worlds} --calibration-worlds {run.calibration_worlds}`; do not edit.

{len(own.delays())} changes and {own.negatives} hard negatives in {run.worlds} worlds that no threshold and no choice was made on.

{goals(own)}

## Detectors side by side

Every detector's threshold is the one that gives one false alarm per series and 28 days on {run.calibration_worlds} quiet worlds; the column
of false alarms is measured on {run.quiet_worlds} other quiet worlds. The detector's own is set
for {BUDGET_PART} of the budget, because rates on fresh data scatter.

{table(run)}

![Changes found after so many minutes](alerts/found.svg)

## By kind of change

{kinds(own)}

## The worlds

Eight weeks of {len(VENDORS)} vendors (27 % to 0.2 %) and 48 tiny ones, 600 requests a minute with a day's and a week's rhythm. Each request has its own
tokens (lognormal, squared coefficient of variation 12; capped at the 95th percentile for the test). Shares have seasons of a day (5 to
20 %), half a day and a week, weekends, slow drift, and correlated noise (4 %, 20 minutes); twice a day one account adds 2 to 12 % to a vendor for 5 to 40 minutes.
Four quiet weeks are history; the four weeks after them are scored and hold {per_world} (changes), {negatives} (hard negatives). A change comes at a
random minute and is about a random vendor (8 to 14 %: one of three around 8 %; small x3: one below 2 %), up or down where that makes sense, whatever its size: a
quarter more of a vendor with six requests in five minutes cannot be seen in an hour by anyone. Changes stay for 3 to 10 hours, then fade over a week, and enter later baselines. Outages last 45 minutes.

The whole way of the stream is taken: the requests are counted in panes, rolled by the worker's own windows (50 values by tokens, `other`, sketches of users), written as
records of `llm-shares-v1`, read again as the worker's detector reads them, and judged by `MarketDetector.observe`. That panes equal a recount of events is tested elsewhere.

## How it is counted

* An alarm is right if it names the vendor and the direction of a change that is on, for the first time. All others are false: a second alarm on the same change, one on another vendor, one while a change fades.
* Delay: from the change's first minute to the end of the bin that alarms.
* *Extra*: false alarms on other vendors within two hours of a change; in brackets what chance would give.
* A hard negative is hit if there is any false alarm while it lasts and 30 minutes after. During a jump of all traffic share alarms are suppressed by design (the jump is told instead); huge requests are not.
* No point adjustment, no F1 over points.

## Limits

* The worlds are ours, and the detector was shaped on worlds of the same kind (seeds 501 to 505 and 6000). Measurements before this one decided two choices:
  seeds 7000 to 7005 (0.79 within 60 minutes, precision 0.88) the lower cap on tokens; seeds 7100 to 7102 (0.83 and 0.81, with a threshold for the whole budget) and 7400 to 7409 (0.83 and 0.83, for 0.7 of it) that half of it stays. Real correlated noise may be worse; thresholds must come from one's own history (`tokentide alerts calibrate`).
* {len(own.delays())} changes: about +-{98 / max(len(own.delays()), 1) ** 0.5:.0f} points on a part found (95 %). Precision depends on how often things happen: here about once in 13 hours.
* The naive detectors have a tuned threshold and no other settings.
* Kinds of alerts other than share changes, warm-up, gaps, and values that come and go have tests of their own, not numbers here.
"""
