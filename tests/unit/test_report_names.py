"""Names in a report: what readers call countries, languages, vendors and origins."""

import csv
from datetime import date
from importlib.resources import files

import pytest

from deploy.report.names import ENGLISH, ORIGINS, VENDORS, named, shown
from schemas.continents import CONTINENT_OF
from schemas.model import Model, origin


@pytest.mark.parametrize(
    ("column", "value", "name"),
    [
        ("country", "CN", "China"),
        ("country", "unknown", "unknown"),
        ("language", "zh", "Chinese"),
        ("language", "pt-BR", "Brazilian Portuguese"),
        ("language", "en-x-pirate", "English (x-pirate)"),
        ("language", "qqq", "qqq"),
        ("language", "other", "other"),
        ("vendor", "z-ai", "Z.ai"),
        ("vendor", "somebody", "somebody"),
        ("origin", "chinese_open", "Chinese open models"),
        ("origin", "all", "all"),
        ("model", "openai", "openai"),
    ],
)
def test_a_value_has_the_name_that_readers_know(column: str, value: str, name: str) -> None:
    """And is itself where it has no other."""
    assert named(column, value) == name


def test_every_country_has_a_name() -> None:
    """No reader knows them all by their codes."""
    assert not [code for code in CONTINENT_OF if code not in ENGLISH.territories]


def test_names_are_of_what_there_is_and_differ() -> None:
    """A vendor of the shipped catalogue; two values of one name would be drawn as one."""
    with (files("schemas") / "catalogue_data" / "vendors.csv").open() as lines:
        vendors = {row["vendor"] for row in csv.DictReader(lines)}
    assert set(VENDORS) <= vendors
    assert len({*VENDORS.values(), *(vendors - set(VENDORS))}) == len(vendors)
    models = [
        Model("m", vendor_country=country, open_weights=is_open)
        for country in ("CN", "US")
        for is_open in (True, False)
    ]
    assert {origin(model) for model in models} == set(ORIGINS)


def test_rows_keep_their_numbers() -> None:
    """Only texts of columns that have names change; value is what the caller says."""
    row = {"week": date(2026, 9, 7), "vendor": "xai", "value": "xai", "model": "xai", "tokens": 5}
    assert shown([row], "vendor") == [{**row, "vendor": "xAI", "value": "xAI"}]
    assert shown([row]) == [{**row, "vendor": "xAI"}]
