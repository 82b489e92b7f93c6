"""What a commit's metadata says."""

import pytest

from schemas.errors import FatalError
from streams.delivery import Declared, declare, declared, token


def test_a_declaration_comes_back() -> None:
    """The next owner reads the range that was declared."""
    assert declared(declare(4950), 4000) == Declared(4950, is_cut=False)
    assert declared(declare(4950, is_cut=True), 4000) == Declared(4950, is_cut=True)
    assert declared("", 4000) is None


def test_a_declaration_of_version_1_is_understood() -> None:
    """A worker of an earlier version died in the middle of a range: it is repeated like any other."""
    assert declared("tokentide/1 4950", 4000) == Declared(4950, is_cut=False)


@pytest.mark.parametrize(
    ("metadata", "word"),
    [
        ("something else", "TOKENTIDE_CONSUMER_GROUP"),
        ("tokentide/3 10 whole", "newer"),
        ("tokentide/2 4950", "not tokentide's"),
        ("tokentide/2 4950 half", "not tokentide's"),
        ("tokentide/0 4950", "not tokentide's"),
        ("tokentide/2 4000 cut", "empty"),
        ("tokentide/1 4000", "empty"),
        ("tokentide/1 4950 ", "not tokentide's"),
    ],
)
def test_a_declaration_that_is_not_understood_stops_the_worker(metadata: str, word: str) -> None:
    """A foreign or newer declaration is refused: guessing could double or lose a range."""
    with pytest.raises(FatalError, match=word):
        declared(metadata, 4000)


def test_a_token_names_one_month_of_one_range() -> None:
    """Two blocks of a range differ in their token, and two ranges do."""
    assert token("llm-usage-v1", 3, 4000, 4950, 202611) == "llm-usage-v1:3:4000-4949:202611"
