"""The committed report about the market of 2026: unchanged, and its shares are the published ones."""

import csv
from collections import defaultdict
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import pytest

from deploy.local.published import openrouter_days
from deploy.report.building import faults
from schemas.catalogue import load_shipped
from schemas.model import Model, origin, size_class

EXAMPLE = Path(__file__).parents[2] / "deploy" / "report" / "examples" / "market-2026"
SHARE_ERROR_MAX = 1e-6
Shares = dict[tuple[date, str], float]


def published(group: Callable[[Model], str], only: Callable[[Model], bool]) -> Shares:
    """Return the published shares of each week, by something that is known of a model."""
    catalogue = load_shipped()
    sums: Shares = defaultdict(float)
    totals: dict[date, float] = defaultdict(float)
    for day in openrouter_days():
        on = date.fromisoformat(day.date)
        week = on - timedelta(days=on.weekday())
        for name, tokens in zip(day.models, day.tokens, strict=True):
            resolution = catalogue.resolve(name)
            model = resolution.model if resolution else Model("unknown")
            if only(model):
                sums[week, group(model)] += tokens
                totals[week] += tokens
    return {(week, value): sums[week, value] / totals[week] for week, value in sums}


def reported(file: str, column: str) -> Shares:
    with (EXAMPLE / "data" / file).open() as lines:
        return {
            (date.fromisoformat(row["week"]), row[column]): float(row["token_share"])
            for row in csv.DictReader(lines)
        }


@pytest.mark.parametrize(
    ("file", "column", "group", "is_open"),
    [
        ("33_vendors.csv", "vendor", lambda model: model.vendor or "unknown", False),
        (
            "34_vendor_countries.csv",
            "country",
            lambda model: model.vendor_country or "unknown",
            False,
        ),
        ("01_open_and_closed.csv", "origin", origin, False),
        ("05_open_size_classes.csv", "size_class", size_class, True),
        ("04_top_open_models.csv", "model", lambda model: model.model_id, True),
    ],
)
def test_every_share_is_the_published_one(
    file: str, column: str, group: Callable[[Model], str], is_open: bool
) -> None:
    """Each row but ``other``, which is all that the report does not name."""
    wanted = published(group, lambda model: not is_open or model.open_weights is True)
    got = reported(file, column)
    assert len({week for week, _ in got}) == 14
    for (week, value), share in got.items():
        if value != "other":
            assert share == pytest.approx(wanted.get((week, value), 0.0), abs=SHARE_ERROR_MAX)
    named = {value for _, value in got}
    for (week, value), share in wanted.items():
        if value not in named and "other" not in named:
            assert share < SHARE_ERROR_MAX, (week, value)


def test_no_file_was_changed() -> None:
    """As `tokentide report --verify` says; nothing is there that the manifest does not know."""
    assert faults(EXAMPLE) == []
    for name in ("report.html", "report.md"):
        text = (EXAMPLE / name).read_text("utf-8")
        assert "public daily ranking" in text
        assert "http://" not in text.replace("http://www.w3.org", "")
