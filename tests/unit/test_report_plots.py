"""Figures that many values would make unreadable."""

from datetime import date, timedelta

from deploy.report import plots

WEEKS = [date(2026, 9, 7) + timedelta(days=7 * n) for n in range(2)]
ROWS = [
    {"week": week, "value": f"value-{n:02}", "token_share": (30 - n) / 465, "is_partial": False}
    for week in WEEKS
    for n in range(30)
]


def test_shares_of_many_values_are_drawn_as_the_largest_and_other() -> None:
    """The largest have a colour of their own; bars still reach 100 %."""
    drawn = plots.stacked_shares("value")(ROWS)
    assert "value-10" in drawn
    assert "value-11" not in drawn
    assert "other" in drawn
    few = plots.stacked_shares("value")(ROWS[:5])
    assert "other" not in few


def test_lines_of_many_values_are_those_of_the_largest() -> None:
    """By their sum over all weeks."""
    drawn = plots.lines("value", "token_share", label="share")(ROWS)
    assert "value-10" in drawn
    assert "value-11" not in drawn


def test_parts_that_are_all_withheld_have_no_legend() -> None:
    """Small cells are withheld: then nothing is drawn, and nothing is warned of."""
    row = {"category": "programming", "subcategory": "other", "token_share": None}
    assert "<svg" in plots.parts("category", "subcategory")([row])
