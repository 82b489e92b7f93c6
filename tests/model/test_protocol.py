"""The delivery protocol, every interleaving of it; and each of its rules, shown to be needed."""

from dataclasses import replace

import pytest

from tests.model.exploring import explore
from tests.model.protocol import Bounds, Protocol, Rules

COUNTS = ("lost", "doubled")
ALL_FAULTS = (*COUNTS, "differs")
ONE_AFTER_THE_OTHER = Bounds(former_inserts_overlap=False)
"""Once an owner has read back what is stored, no insert of a former one runs."""


@pytest.mark.parametrize(
    ("bounds", "watched"),
    [
        (replace(ONE_AFTER_THE_OTHER, log="axb"), ALL_FAULTS),
        (replace(ONE_AFTER_THE_OTHER, log="ax", generations=3), ALL_FAULTS),
        (Bounds("axb", catalogue_changes=False), COUNTS),
        (Bounds("ax", generations=3, catalogue_changes=False), COUNTS),
        (Bounds("xx", generations=4, catalogue_changes=False), COUNTS),
    ],
    ids=str,
)
def test_nothing_is_lost_doubled_or_differs_in_any_state(
    bounds: Bounds, watched: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """In every state each record is at most once where it belongs, and once if it is committed."""
    explored = explore(Protocol(bounds), *watched)
    with capsys.disabled():
        print(f"\n{bounds}: {len(explored.came_from):,} states, {explored.moves:,} moves")
    assert explored.fault is None, explored.way(explored.fault[1])
    assert explored.done > 0
    assert explored.stuck == [], "nobody can go on before all is committed"


BREAKAGES = {
    "tokens_follow_from_the_range": "row doubled",
    "commit_comes_last": "lost",
    "ranges_are_declared": "row doubled",
    "declaration_checks_generation": "doubled",
    "declared_range_is_repeated": "row doubled",
    "views_have_windows": "row doubled",
    "stored_rows_are_read_back": "row differs",
    "table_fills_before_views": "row differs",
    "dead_letters_are_fenced": "dead letter doubled",
    "fencing_is_confirmed": "dead letter doubled",
    "fencing_precedes_reading_dead_letters": "dead letter doubled",
    "dead_letters_are_looked_up": "dead letter doubled",
}


@pytest.mark.parametrize("rule", Rules.__dataclass_fields__)
def test_each_rule_is_needed(rule: str) -> None:
    """Without it, some interleaving loses a record, doubles one, or tells a view something else."""
    rules = replace(Rules(), **{rule: False})
    bounds = replace(ONE_AFTER_THE_OTHER, catalogue_changes="differs" in BREAKAGES[rule])
    explored = explore(Protocol(bounds, rules), BREAKAGES[rule])
    assert explored.fault is not None


def test_the_limit_of_reading_back() -> None:
    """A zombie that inserts between its successor's reading back and its insert, when the catalogue
    has changed in between, can leave a view with other attributes than the table: never other counts."""
    explored = explore(Protocol(Bounds("a")), "differs")
    assert explored.fault is not None
    way = [move.name for move in explored.way(explored.fault[1])]
    assert way.index("read_back") < len(way) - way[::-1].index("insert")
