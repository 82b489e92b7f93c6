"""The detector on worlds: its threshold from some, its score on others."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import click

from streams.detection import Bin, Kind, MarketDetector, Parameters, State, Transition
from streams.detection.calibration import counted, threshold, trace
from tests.benchmarks.alerts import naive
from tests.benchmarks.alerts.scoring import SERIES, Alarm, Score, score
from tests.benchmarks.alerts.stream_path import stream_bins
from tests.benchmarks.alerts.worlds import SCORED_DAYS, make_world

Result = TypeVar("Result")
Bins = Iterator[Mapping[str, Bin]]
DIMENSION = "vendor"
BUDGET = 1.0
"""False alarms per series and 28 days."""


@dataclass(frozen=True)
class Thresholds:
    """What the calibration worlds gave."""

    parameters: Parameters
    naive: dict[str, float]


def calibrated(seeds: Sequence[int]) -> Thresholds:
    """Return thresholds that keep the budget on the quiet worlds of these seeds."""
    sizes: list[float] = []
    series_days = 0.0
    traces: dict[str, list[naive.Trace]] = {name: [] for name in naive.NAIVE}
    for found, days, traced in _side_by_side(_quiet_world, seeds):
        sizes += found
        series_days += days
        for name in naive.NAIVE:
            traces[name].append(traced[name])
    own = threshold(sizes, series_days, BUDGET)
    allowed = BUDGET * SERIES * len(seeds) * SCORED_DAYS / 28
    return Thresholds(
        replace(Parameters(), thresholds={DIMENSION: own}),
        {name: naive.threshold_for(each, allowed) for name, each in traces.items()},
    )


def _side_by_side(function: Callable[[int], Result], seeds: Sequence[int]) -> list[Result]:
    """Return what a function returns for each seed, one world per processor at a time."""
    found = []
    with ProcessPoolExecutor() as pool, click.progressbar(length=len(seeds)) as bar:
        for each in pool.map(function, seeds):
            found.append(each)
            bar.update(1)
    return found


def _quiet_world(seed: int) -> tuple[list[float], float, dict[str, naive.Trace]]:
    world = make_world(seed, quiet=True)
    traces = {name: naive.trace(world, statistic) for name, statistic in naive.NAIVE.items()}
    return *peaks(stream_bins(world)), traces


def peaks(bins: Bins) -> tuple[list[float], float]:
    """Return how far quiet series strayed, and the series-days they did so in."""
    return counted(trace(bins, Parameters())[DIMENSION])


def alarms_of(transitions: Sequence[Transition]) -> list[Alarm]:
    """Return what a person would have been told: each alert once, when it first fires."""
    told: set[str] = set()
    alarms = []
    for each in transitions:
        is_told = each.kind is Kind.SHARE_CHANGE and each.state is State.FIRING
        if is_told and each.id not in told:
            told.add(each.id)
            alarms.append(Alarm(each.value, each.direction, each.at_ms))
    return alarms


def transitions_of(bins: Bins, parameters: Parameters) -> list[Transition]:
    """Return all that the detector says of a world, fed bin by bin."""
    detector = MarketDetector(parameters)
    return [said for each in bins for said in detector.observe(each)]


def scores(seeds: Sequence[int], thresholds: Thresholds, *, quiet: bool) -> dict[str, Score]:
    """Return the score of the detector (``tokentide``) and of the naive ones on worlds."""
    totals = {name: Score() for name in ("tokentide", *naive.NAIVE)}
    for found in _side_by_side(partial(_scored_world, thresholds, quiet), seeds):
        for name, each in found.items():
            totals[name].add(each)
    return totals


def _scored_world(thresholds: Thresholds, quiet: bool, seed: int) -> dict[str, Score]:
    world = make_world(seed, quiet=quiet)
    alarms = alarms_of(transitions_of(stream_bins(world), thresholds.parameters))
    found = {"tokentide": score(world, alarms)}
    for name, statistic in naive.NAIVE.items():
        alarms = naive.trace(world, statistic).alarms(thresholds.naive[name])
        found[name] = score(world, alarms)
    return found
