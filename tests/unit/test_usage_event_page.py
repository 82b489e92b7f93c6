"""The page for producers says what the schema says."""

from schemas.producers_page import PAGE_FILE, field_table, page
from schemas.usage_event import FIELDS


def test_tables_on_the_page_are_up_to_date() -> None:
    """PRODUCERS.md equals what ``python -m schemas.producers_page`` writes."""
    text = PAGE_FILE.read_text()
    assert page(text) == text


def test_every_field_has_a_row_of_equal_width() -> None:
    """The table of fields has one row of four cells per field."""
    rows = field_table().splitlines()[2:]
    assert len(rows) == len(FIELDS)
    for row, field in zip(rows, FIELDS, strict=True):
        assert f"`{field.name}`" in row
        assert row.count("|") == 5, row
