"""``python -m tests.benchmarks.alerts.real_market``: the published market of 2026 through the detector.

The file has one number per model and day, so what happened within a day must be made up. It is done in
two ways: shares that stay for a day and step at midnight UTC (as ``tokentide replay openrouter-2026``
spreads them), and shares that move evenly from one noon to the next, where nothing is sudden that took
a day. What really happened lies between.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt

from deploy.local.published import OPENROUTER_CREDIT, PublishedDay, openrouter_days
from deploy.local.simulator.world import openrouter_world
from schemas.catalogue import load_shipped
from streams.detection import (
    BIN_MS,
    Bin,
    Kind,
    MarketDetector,
    Parameters,
    Relations,
    State,
    Transition,
)

Floats = npt.NDArray[np.float64]

REQUESTS_PER_BIN = 1_000
BINS_PER_DAY = 288
DAY_MS = BINS_PER_DAY * BIN_MS
TOKENS_SIGMA = 1.3
SEED = 2026
UNKNOWN = "unknown"
_TOP = 50
_PAGE = Path(__file__).parent.parent / "REAL_MARKET.md"


@dataclass(frozen=True)
class Wanted:
    """A launch or withdrawal, by hand from the file: shares of the day's tokens, per cent.

    Attributes:
        date: First day on which the published share had moved.
        shares: Of the day before, of that day and of the two after it; 0: not in the top 50.
    """

    date: str
    model: str
    what: str
    shares: tuple[float, float, float, float]


WANTED = (
    Wanted("2026-05-28", "anthropic/claude-4.8-opus-20260528", "launch", (0.0, 0.27, 2.00, 1.90)),
    Wanted("2026-05-30", "stepfun/step-3.7-flash-20260528", "launch", (0.0, 0.48, 1.72, 1.93)),
    Wanted("2026-06-01", "minimax/minimax-m3-20260531", "launch", (0.0, 1.12, 3.84, 9.41)),
    Wanted(
        "2026-06-04",
        "nvidia/nemotron-3-ultra-550b-a55b-20260604:free",
        "launch",
        (0.0, 0.43, 1.17, 2.10),
    ),
    Wanted("2026-06-10", "anthropic/claude-5-fable-20260609", "launch", (0.0, 1.79, 0.85, 0.86)),
    Wanted("2026-06-13", "anthropic/claude-5-fable-20260609", "withdrawal", (0.86, 0.0, 0.0, 0.0)),
    Wanted("2026-06-16", "z-ai/glm-5.2-20260616", "launch", (0.0, 0.44, 3.33, 4.13)),
    Wanted("2026-06-30", "anthropic/claude-sonnet-5-20260630", "launch", (0.0, 0.22, 1.56, 1.90)),
    Wanted("2026-06-30", "openrouter/owl-alpha", "withdrawal", (7.68, 3.16, 0.0, 0.0)),
    Wanted("2026-07-06", "tencent/hy3-20260706:free", "launch", (0.0, 0.95, 11.00, 12.34)),
    Wanted("2026-07-07", "tencent/hy3-preview-20260421", "withdrawal", (3.62, 1.44, 0.48, 0.0)),
    Wanted("2026-07-10", "openai/gpt-5.6-sol-20260709", "launch", (0.0, 0.65, 0.53, 0.64)),
    Wanted("2026-07-17", "moonshotai/kimi-k3-20260715", "launch", (0.0, 0.75, 1.76, 2.11)),
    Wanted("2026-07-21", "tencent/hy3-20260706", "launch", (0.0, 7.13, 7.91, 8.26)),
    Wanted("2026-07-21", "tencent/hy3-20260706:free", "withdrawal", (20.79, 0.0, 0.0, 0.0)),
    Wanted(
        "2026-07-24", "inclusionai/ling-3.0-flash-20260723:free", "launch", (0.0, 1.52, 1.76, 2.02)
    ),
    Wanted("2026-07-25", "anthropic/claude-opus-5-20260723", "launch", (0.0, 1.00, 0.94, 1.31)),
    Wanted(
        "2026-07-25", "anthropic/claude-4.7-opus-20260416", "withdrawal", (1.07, 0.0, 0.0, 0.29)
    ),
    Wanted("2026-07-31", "deepseek/deepseek-v4-flash-20260731", "launch", (0.0, 1.41, 6.97, 9.77)),
    Wanted("2026-07-31", "openai/gpt-5.6-luna-pro-20260709", "launch", (0.0, 1.40, 0.86, 0.69)),
    Wanted("2026-08-05", "google/gemini-3.6-flash-20260721", "surge", (0.48, 6.93, 8.26, 4.05)),
    Wanted(
        "2026-08-07",
        "inclusionai/ling-3.0-flash-20260723:free",
        "withdrawal",
        (0.90, 0.0, 0.0, 0.0),
    ),
    Wanted("2026-08-13", "deepseek/deepseek-v4-pro-20260813", "launch", (0.0, 1.28, 1.49, 1.68)),
    Wanted("2026-08-14", "google/gemini-3.7-flash-20260813", "launch", (0.0, 1.02, 1.34, 1.38)),
    Wanted("2026-08-17", "anthropic/claude-opus-5-20260723", "fall", (7.65, 1.96, 1.8, 2.09)),
    Wanted("2026-08-21", "stealth/ox-alpha", "launch", (0.0, 14.33, 0.0, 0.0)),
)
"""A selection of what a reader of the file would want to be told: models that come with 0.5 % or more
within three days, that go from 0.5 % or more, and two steps of models that are there."""


def day_shares(days: list[PublishedDay]) -> tuple[tuple[str, ...], Floats]:
    """Return the models, ``other`` as ``unknown``, and their token shares ``[days, models]``."""
    names = sorted({name for day in days for name in day.models})
    shares = np.zeros((len(days), len(names)))
    for row, day in enumerate(days):
        for name, tokens in zip(day.models, day.tokens, strict=True):
            shares[row, names.index(name)] = tokens
    shares /= shares.sum(axis=1, keepdims=True)
    return tuple(UNKNOWN if name == "other" else name for name in names), shares


def share_at(shares: Floats, bin_number: int, *, ramps: bool) -> Floats:
    """Return token shares in a bin, counted from the first midnight."""
    if not ramps:
        return np.asarray(shares[bin_number // BINS_PER_DAY])
    place = float(np.clip((bin_number + 0.5) / BINS_PER_DAY - 0.5, 0.0, len(shares) - 1.0))
    before = min(int(place), len(shares) - 2)
    part = place - before
    return np.asarray((1 - part) * shares[before] + part * shares[before + 1])


def market_bins(*, ramps: bool) -> Iterator[Mapping[str, Bin]]:
    """Return the market's bins by model and by vendor."""
    days = openrouter_days()
    names, shares = day_shares(days)
    world = openrouter_world(days, load_shipped(), seed=SEED, drift_scale=0.0)
    mean = dict(zip(world.names, world.mean_tokens.tolist(), strict=True))
    means = np.array([mean.get("other" if name == UNKNOWN else name, 20_000.0) for name in names])
    vendors = tuple(sorted({_vendor(name) for name in names}))
    belongs = np.array([[_vendor(name) == vendor for name in names] for vendor in vendors])
    rng = np.random.default_rng(SEED)
    cap = 4.0 * float(np.median(means))
    for number in range(len(days) * BINS_PER_DAY):
        weight = share_at(shares, number, ramps=ramps) / means
        requests = rng.poisson(REQUESTS_PER_BIN * weight / weight.sum())
        sums = _token_sums(rng, requests, means, cap)
        end_ms = days[0].start_ms + (number + 1) * BIN_MS
        columns = np.stack([requests.astype(np.float64), *sums])
        yield {
            "model": _bin("model", end_ms, names, columns),
            "vendor": _bin("vendor", end_ms, vendors, columns @ belongs.T),
        }


def _vendor(model: str) -> str:
    return model.partition("/")[0]


def _token_sums(
    rng: np.random.Generator, requests: npt.NDArray[np.int64], means: Floats, cap: float
) -> Floats:
    """Return tokens, capped tokens and their squares by model, ``[3, models]``."""
    each = np.repeat(np.arange(len(means)), requests)
    tokens = np.exp(TOKENS_SIGMA * rng.standard_normal(len(each)) - TOKENS_SIGMA**2 / 2)
    tokens = np.ceil(tokens * means[each])
    capped = np.minimum(tokens, cap)
    return np.stack(
        [np.bincount(each, column, len(means)) for column in (tokens, capped, capped**2)]
    )


def _bin(dimension: str, end_ms: int, names: tuple[str, ...], columns: Floats) -> Bin:
    order = np.argsort(-columns[0], kind="stable")[:_TOP]
    order = order[columns[0, order] > 0]
    rest = columns.sum(axis=1) - columns[:, order].sum(axis=1)
    kept = np.concatenate([columns[:, order], rest[:, None]], axis=1)
    labels = (*(names[place] for place in order), "other")
    if rest[0] < 1:
        kept, labels = kept[:, :-1], labels[:-1]
    requests, tokens, capped, squared = kept
    users = np.ceil(requests / 3)
    return Bin(
        dimension, end_ms, labels, requests, tokens, capped, squared, users, np.zeros(len(labels))
    )


def alerts_of(*, ramps: bool) -> list[Transition]:
    """Return every alert on a model or vendor once, as it first fired."""
    detector = MarketDetector(Parameters(), relations=Relations(_vendor))
    first: dict[str, Transition] = {}
    for bins in market_bins(ramps=ramps):
        for each in detector.observe(bins):
            if each.state in (State.FIRING, State.SUPPRESSED):
                first.setdefault(each.id, each)
    return list(first.values())


def found(wanted: Wanted, alerts: list[Transition], *, ramps: bool) -> Transition | None:
    """Return the first alert that tells of a launch or withdrawal, within two days of it."""
    day_ms = int(datetime.fromisoformat(wanted.date).replace(tzinfo=UTC).timestamp() * 1000)
    from_ms = day_ms - (DAY_MS // 2 if ramps else 0)
    way = "down" if wanted.what in ("withdrawal", "fall") else "up"
    for each in sorted(alerts, key=lambda alert: alert.at_ms):
        is_about = each.value == wanted.model and each.direction == way
        if is_about and from_ms < each.at_ms <= from_ms + 2 * DAY_MS:
            return each
    return None


def _cell(alert: Transition | None) -> str:
    if alert is None:
        return "not told"
    at = datetime.fromtimestamp(alert.at_ms / 1000, UTC).strftime("%m-%d %H:%M")
    kind = "new model" if alert.kind is Kind.NEW_MODEL else "share change"
    by = ", suppressed: its vendor told it" if alert.state is State.SUPPRESSED else ""
    return f"{at}, {kind}{by}"


def wanted_table(steps: list[Transition], ramps: list[Transition]) -> str:
    """Return what should have been told beside what was, as a Markdown table."""
    lines = [
        "| day | model | what | % of tokens the day before, that day, two after | told, steps | told, ramps |",
        "|---|---|---|---|---|---|",
    ]
    for each in WANTED:
        shares = ", ".join(f"{share:g}" for share in each.shares)
        lines.append(
            f"| {each.date} | {each.model} | {each.what} | {shares} "
            f"| {_cell(found(each, steps, ramps=False))} | {_cell(found(each, ramps, ramps=True))} |"
        )
    return "\n".join(lines)


def others_table(alerts: list[Transition], *, ramps: bool) -> str:
    """Return how many other alerts there were, by kind, dimension and size of the change."""
    told = {each.id for wanted in WANTED if (each := found(wanted, alerts, ramps=ramps))}
    rest = [each for each in alerts if each.id not in told]
    lines = [
        "| alert | number | of these suppressed | of these 1.5 times or more |",
        "|---|---|---|---|",
    ]
    groups = sorted({(each.kind.value, each.dimension) for each in rest})
    for kind, dimension in groups:
        mine = [each for each in rest if (each.kind.value, each.dimension) == (kind, dimension)]
        silent = sum(each.state is State.SUPPRESSED for each in mine)
        large = sum(_factor(each) >= 1.5 for each in mine)
        lines.append(f"| {kind}, {dimension or 'all traffic'} | {len(mine)} | {silent} | {large} |")
    return "\n".join(lines)


def _factor(alert: Transition) -> float:
    before, after = max(alert.requests_share_before, 1e-6), max(alert.requests_share_after, 1e-6)
    return max(before / after, after / before)


def report(steps: list[Transition], ramps: list[Transition]) -> str:
    """Return the page."""
    told = [
        sum(found(each, alerts, ramps=is_ramp) is not None for each in WANTED)
        for alerts, is_ramp in ((steps, False), (ramps, True))
    ]
    return f"""# The real market of 2026 through the detector

Written by `python -m tests.benchmarks.alerts.real_market`; do not edit. {OPENROUTER_CREDIT}

91 days, 23 May to 21 August 2026, one number per model and day. Each day is {BINS_PER_DAY} bins of {REQUESTS_PER_BIN:,} requests, drawn by the
published shares; tokens of requests are drawn around each model's mean. How shares moved within a day is not known, so it is done twice:
*steps* at midnight UTC, as `tokentide replay openrouter-2026` spreads them, and *ramps* from noon to noon, where a change takes a
whole day and is not sudden by this detector's measure. Dimensions model and vendor; default parameters, since a market that changes
every day has no quiet history to calibrate on. The first two days are warm-up.

## Launches, withdrawals and surges that should be told

A selection by hand from the file: models that came with at least 0.5 % of tokens within three days (not all of them), models that
went from at least 0.5 %, and two large steps of models that stayed. Of {len(WANTED)}, {told[0]} are told with steps and {told[1]} with ramps.

{wanted_table(steps, ramps)}

## What else was told

Real shares move every day: most models change by 15 % or more from one day to the next. With steps all of it happens in the
same minute. These are real changes of the published data, not false alarms, and too many to read: a daily grain is not what the detector is for.

Steps:

{others_table(steps, ramps=False)}

Ramps:

{others_table(ramps, ramps=True)}
"""


@click.command()
@click.option("--write/--no-write", default=True, show_default=True, help="Write REAL_MARKET.md.")
def main(write: bool) -> None:
    """Replay the published days through the detector; writes REAL_MARKET.md."""
    text = report(alerts_of(ramps=False), alerts_of(ramps=True))
    click.echo(text)
    if write:
        _PAGE.write_text(text)


if __name__ == "__main__":
    main()
