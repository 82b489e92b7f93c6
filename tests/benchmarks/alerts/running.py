"""The detector on worlds: its threshold from some, its score on others."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from streams.detection import Kind, MarketDetector, Parameters, State, Transition
from streams.detection.calibration import counted, threshold, trace
from tests.benchmarks.alerts import naive
from tests.benchmarks.alerts.scoring import SERIES, Alarm, Score, score
from tests.benchmarks.alerts.worlds import SCORED_DAYS, World, make_world

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
    for seed in seeds:
        world = make_world(seed, quiet=True)
        found, days = peaks(world)
        sizes += found
        series_days += days
        for name, statistic in naive.NAIVE.items():
            traces[name].append(naive.trace(world, statistic))
    own = threshold(sizes, series_days, BUDGET)
    allowed = BUDGET * SERIES * len(seeds) * SCORED_DAYS / 28
    return Thresholds(
        replace(Parameters(), thresholds={DIMENSION: own}),
        {name: naive.threshold_for(each, allowed) for name, each in traces.items()},
    )


def peaks(world: World) -> tuple[list[float], float]:
    """Return how far quiet series strayed, and the series-days they did so in."""
    return counted(trace(world.bins(), Parameters())[DIMENSION])


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


def transitions_of(world: World, parameters: Parameters) -> list[Transition]:
    """Return all that the detector says of a world, fed bin by bin."""
    detector = MarketDetector(parameters)
    return [each for bins in world.bins() for each in detector.observe(bins)]


def scores(seeds: Sequence[int], thresholds: Thresholds, *, quiet: bool) -> dict[str, Score]:
    """Return the score of the detector (``tokentide``) and of the naive ones on worlds."""
    totals = {name: Score() for name in ("tokentide", *naive.NAIVE)}
    for seed in seeds:
        world = make_world(seed, quiet=quiet)
        alarms = alarms_of(transitions_of(world, thresholds.parameters))
        totals["tokentide"].add(score(world, alarms))
        for name, statistic in naive.NAIVE.items():
            alarms = naive.trace(world, statistic).alarms(thresholds.naive[name])
            totals[name].add(score(world, alarms))
    return totals
